"""Training speed of the classifiers beside a plain loop over materialised windows, in one run on one thread.

    python -m benchmarks.classifiers [--profile quick] [--windows 4096] [--rounds 3]

Both loops train the same net with the same batch, loss, clipping and optimizer. The plain one is what
tutorials show: all windows in memory, a shuffling DataLoader, `zero_grad / backward / step`.
FLOP = 2 per weight and bar forward, twice that backward; its rate is compared with a 1,024^3 product.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from configs.load import resolve
from configs.schema import ClassifiersConfig
from configs.unit import thread_environment
from training.features import FEATURE_NAMES
from training.fit import Schedule, Task, Windows, fit
from training.meter import Meter, Silent
from training.predictors import PREDICTORS, Architecture, Predictor, build_predictor

MATMUL_SIZE = 1024


def main() -> int:
    """Print one line per member."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--windows", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    config = resolve("DEMO-USD_1H", arguments.profile).config.classifiers
    torch.set_num_threads(1)
    task = random_task(arguments.windows, config)
    peak_flops = matmul_flops_per_s()
    print(
        f"one thread, {config.layers} x {config.units} units, windows {config.lookback_bars} x {len(FEATURE_NAMES)}, "
        f"batch {config.batch_size}; a {MATMUL_SIZE}^3 product runs at {peak_flops / 1e9:.0f} GFLOP/s"
    )
    table_bytes, windows_bytes = (
        task.windows.table.nbytes,
        arguments.windows * config.lookback_bars * len(FEATURE_NAMES) * 4,
    )
    print(f"resident data: {table_bytes / 1e6:.1f} MB here, {windows_bytes / 1e6:.1f} MB of windows in the plain loop")
    print(f"{'member':8} {'sequences/s':>12} {'plain loop':>12} {'ratio':>6} {'GFLOP/s':>8} {'of peak':>8}")
    for member in PREDICTORS:
        model = build_predictor(Architecture.of(member, len(FEATURE_NAMES), config), seed=0)
        loops = [partial(loop, model, task, config) for loop in (train_ours, train_plain)]
        ours, plain = (arguments.windows / seconds for seconds in best_seconds(loops, arguments.rounds))
        flops = ours * flops_per_sequence(model)
        print(
            f"{member:8} {ours:12,.0f} {plain:12,.0f} {ours / plain:6.2f} {flops / 1e9:8.1f} {flops / peak_flops:8.0%}"
        )
    return 0


def random_task(windows: int, config: ClassifiersConfig) -> Task:
    """A task of `windows` training windows with random features and classes."""
    rng = np.random.default_rng(0)
    bars = windows + config.lookback_bars
    return Task(
        name="benchmark",
        windows=Windows(
            torch.as_tensor(rng.normal(size=(bars, len(FEATURE_NAMES))).astype(np.float32)), config.lookback_bars
        ),
        targets=torch.as_tensor(rng.integers(3, size=bars)),
        class_weights=torch.ones(3),
        train_rows=np.arange(config.lookback_bars, bars),
        stop_rows=np.arange(bars - 1, bars),
    )


def train_ours(model: Predictor, task: Task, config: ClassifiersConfig) -> None:
    """One epoch of the project's loop."""
    fit(model, task, config, Schedule(epochs=1, warm=True, seed=0), Meter(Silent(), task.train_rows.size))


def train_plain(model: Predictor, task: Task, config: ClassifiersConfig) -> None:
    """One epoch over materialised windows."""
    ends = torch.as_tensor(task.train_rows)
    windows = torch.stack([task.windows.table[end - config.lookback_bars + 1 : end + 1] for end in ends])
    loader = DataLoader(TensorDataset(windows, task.targets[ends]), batch_size=config.batch_size, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    criterion = torch.nn.CrossEntropyLoss(weight=task.class_weights)
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()


def flops_per_sequence(model: Predictor) -> float:
    """Multiplications and additions of one forward and backward pass of one window; the head is not counted."""
    weights = sum(value.numel() for name, value in model.named_parameters() if ".weight_" in name)
    return 6 * weights * model.architecture.lookback_bars


def matmul_flops_per_s() -> float:
    """Measured fp32 rate of a square product, best of several."""
    a, b = torch.randn(2, MATMUL_SIZE, MATMUL_SIZE).unbind()
    return 2 * MATMUL_SIZE**3 / best_seconds([lambda: torch.mm(a, b)], 20)[0]


def best_seconds(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Fastest of `rounds` of each, in turns, after one that is not counted: other load on the machine only adds."""
    for work in works:
        work()
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for number, work in enumerate(works):
            began = time.perf_counter()
            work()
            best[number] = min(best[number], time.perf_counter() - began)
    return best


if __name__ == "__main__":
    wanted = thread_environment(1)
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        # The C library reads its settings once, when a process starts.
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.classifiers", *sys.argv[1:]], os.environ | wanted)
    raise SystemExit(main())
