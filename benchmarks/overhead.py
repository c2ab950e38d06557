"""What a store costs a run: paired runs with and without one, reference-size nets, the server on the same two cores.

Run with `python -m benchmarks.overhead`. Each pair trains two agents with nets [1280, 640] (some 28 MB a
checkpoint) once without a store and once with an S3 server on loopback, in turn first; prepare and the classifiers
are taken over from a run made before. Printed: wall time of the whole command and of training alone, each as the mean
of the pairs' ratios with a 95 % interval (Student's t), and what was sent.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from configs.events import read_events
from tests.servers import seaweed

SETTINGS = (
    *("classifiers.units=8", "classifiers.folds=2", "classifiers.epochs=1", "classifiers.fold_epochs=1"),
    *("classifiers.window_stride=8", "agent.seeds=2", "ppo.hidden=[1280,640]", "ppo.num_envs=16"),
    *(
        "ppo.minibatch_size=1024",
        "ppo.epochs=20",
        "ppo.eval_every_steps=5000",
        "ppo.checkpoint_every_steps=25000",
        "runtime.calibrate_s=0",
    ),
)
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


@dataclass(frozen=True)
class Turn:
    """One run: seconds of the command and of training, and the bytes of each snapshot that was sent."""

    wall_s: float
    training_s: float
    sent_bytes: list[int]


def main() -> None:
    """Print each pair and the two ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, choices=sorted(T_975))
    parser.add_argument("--timesteps", type=int, default=30_720)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, seaweed() as server:
        environment = os.environ | server.environment
        run(Path(folder) / "first", environment, arguments.timesteps, "--stages", "prepare,classifiers")
        pairs = []
        for number in range(arguments.pairs):
            order = [False, True] if number % 2 == 0 else [True, False]
            turns = {}
            for kept in order:
                option = ("--store", server.store_url()) if kept else ()
                runs = Path(folder) / f"pair-{number}-{int(kept)}"  # of its own: no agent is taken over
                shutil.copytree(Path(folder) / "first" / "run", runs / "earlier", ignore=shutil.ignore_patterns("lock"))
                turns[kept] = run(
                    runs, environment, arguments.timesteps, "--stages", "prepare,classifiers,ppo", *option
                )
                shutil.rmtree(runs)
            pairs.append((turns[False], turns[True]))
            print(f"pair {number}: {describe(turns[False])} without, {describe(turns[True])} with a store")
        for title, field in (("whole command", "wall_s"), ("training", "training_s")):
            print(f"{title}: {interval([getattr(b, field) / getattr(a, field) - 1 for a, b in pairs])}")


def run(runs: Path, environment: dict[str, str], timesteps: int, *more: str) -> Turn:
    """One command, start to end, in a runs directory of its own."""
    settings = [part for setting in (*SETTINGS, f"ppo.timesteps={timesteps}") for part in ("--set", setting)]
    command = [sys.executable, "-m", "runner.cli", "run", "--dataset", "DEMO-USD_1H", "--skip-preflight", "--offline"]
    command += ["--runs-dir", str(runs), "--run-id", "run", *settings, *more]
    started_s = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    wall_s = time.monotonic() - started_s
    if done.returncode:
        raise SystemExit(f"{runs.name} ended with {done.returncode}\n{done.stderr[-2000:]}")
    events = read_events(runs / "run" / "events")
    training = [event for event in events if event["unit"].startswith("ppo/")]
    sent = [event["sent_bytes"] for event in events if event["unit"] == "run" and event["kind"] == "checkpoint"]
    training_s = training[-1]["t"] - training[0]["t"] if training else math.nan
    return Turn(wall_s, training_s, sent)


def describe(turn: Turn) -> str:
    """One line of figures."""
    sent = f"; MB per snapshot: {', '.join(f'{size / 1e6:.1f}' for size in turn.sent_bytes)}" if turn.sent_bytes else ""
    return f"{turn.wall_s:.1f} s (training {turn.training_s:.1f} s{sent})"


def interval(ratios: list[float]) -> str:
    """Mean overhead and its 95 % interval."""
    half = T_975[len(ratios)] * statistics.stdev(ratios) / math.sqrt(len(ratios))
    mean = statistics.mean(ratios)
    return f"{mean:+.1%} with a store, 95 % interval {mean - half:+.1%} to {mean + half:+.1%} ({len(ratios)} pairs)"


if __name__ == "__main__":
    main()
