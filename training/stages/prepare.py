"""Unit `prepare`: bars, features and the split of a run, read by every later unit.

The bars are read again from the dataset and must be those the run was made for.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs.errors import BadDataError
from configs.files import atomic_path, read_json, write_json
from configs.needs import first_rows, test_bars, warmup_bars
from configs.run_dir import RunDir
from configs.schema import Config, DatasetConfig
from configs.unit import Unit, run_stage
from training.demo import demo_bars
from training.features import FEATURE_NAMES, compute
from training.labels import label_values
from training.market import VALUE_COLUMNS, Bars, assign_segments, segment_bounds
from training.sources.load import load_dataset
from training.splits import (
    Split,
    bars_needed,
    folds,
    split,
    training_rows,
    validation_bars,
    window_ready,
)

BASE_MEMORY_BYTES = 250_000_000
"""A process with numpy, pandas, pyarrow and TA-Lib loaded."""
BYTES_PER_BAR = 1_000
"""Bars and features, their tables on the way to the disk, and the source file's text; rounded up."""
NOMINAL_BARS = 100_000
WORK = "bars read and features computed"
BARS_PER_S = 100_000.0
"""Bars read, checked, computed and written per second on a 2-core machine; a long text file is slower to read."""


@dataclass(frozen=True)
class Prepared:
    """What the unit made."""

    bars: Bars
    features: np.ndarray
    """(N, 26) float64, NaN in warm-up rows."""
    split: Split
    dataset: dict
    """The data report, see `training.sources.report`."""


def main(argv: list[str] | None = None) -> int:
    """Run the unit."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Read the dataset, check that it is the run's own and long enough, write bars, features and split."""
    config = unit.config
    bars, dataset = read_bars(unit.run, config)
    unit.progress(1, 3)
    check_enough(bars, config)
    features = compute(bars, config.features)
    unit.progress(2, 3)
    parts, warmup = split(len(bars), config.splits), warmup_bars(config.features)
    write_table(unit.dir / "bars.parquet", bars.frame())
    table = pd.DataFrame(features, columns=list(FEATURE_NAMES))
    table.insert(0, "t", bars.t)
    write_table(unit.dir / "features.parquet", table)
    write_json(unit.dir / "splits.json", asdict(parts) | {"warmup_bars": warmup})
    write_json(unit.dir / "dataset.json", dataset)
    unit.progress(3, 3)
    return {
        "bars": len(bars),
        "segments": len(segment_bounds(bars.segment)),
        "rows_with_features": int(np.count_nonzero(~np.isnan(features[:, 0]))),
        "warmup_bars": warmup,
        "dataset_digest": dataset["digest"],
    }


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`."""
    return {
        "bars_needed": bars_needed(config),
        "memory_bytes": BASE_MEMORY_BYTES + BYTES_PER_BAR * max(NOMINAL_BARS, bars_needed(config)),
        "work": [{"name": WORK, "amount": 1, "per": "bar", "rate_per_s": BARS_PER_S}],
    }


def calibrate(config: Config, budget_s: float) -> dict[str, float]:
    """Rate of the unit's work on this machine: the bars of DEMO-USD_1H as a file are read, computed and written."""
    bars = demo_bars()
    options = DatasetConfig(name="MADE-USD_1H", asset_class="crypto")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{options.name}.csv"
        bars.frame()[["t", *VALUE_COLUMNS]].to_csv(path, index=False)
        done, begun_s = 0, time.perf_counter()
        while not done or time.perf_counter() - begun_s < budget_s:
            read, _ = load_dataset(options.name, [], options=options, path=path)
            features = pd.DataFrame(compute(read, config.features), columns=list(FEATURE_NAMES))
            write_table(Path(folder) / "bars.parquet", read.frame())
            write_table(Path(folder) / "features.parquet", features)
            done += len(read)
        return {WORK: done / (time.perf_counter() - begun_s)}


def load_prepared(run: RunDir, rows: list[tuple] | None = None) -> Prepared:
    """Read what the unit `prepare` of a run made; bars and features of some rows only where a Parquet filter is given.

    Raises:
        BadDataError: a file is missing.
    """
    files = {name: run.require_output("prepare", name) for name in ("bars.parquet", "features.parquet")}
    dataset = read_json(run.require_output("prepare", "dataset.json"))
    parts = read_json(run.require_output("prepare", "splits.json"))
    return Prepared(
        bars=Bars.from_frame(pd.read_parquet(files["bars.parquet"], filters=rows), dataset["timeframe_s"]),
        features=pd.read_parquet(files["features.parquet"], filters=rows)[list(FEATURE_NAMES)].to_numpy(np.float64),
        split=Split(*(tuple(parts[name]) for name in ("train", "validation", "test"))),
        dataset=dataset,
    )


def load_predictions(run: RunDir, member: str) -> pd.DataFrame:
    """Read the predictions of one member of a run, or of its `ensemble`; one row per bar of `load_prepared`.

    Raises:
        BadDataError: the file is missing.
    """
    return pd.read_parquet(run.require_output(f"classifiers/{member}", "predictions.parquet"))


def read_bars(run: RunDir, config: Config, name: str = "") -> tuple[Bars, dict]:
    """Bars of a dataset of the run, its own by default, cut into segments by its longest gap, and the report on them.

    Raises:
        BadDataError: the dataset breaks the market rules, or is no longer the one the run was made for.
    """
    identity, name = read_json(run.run_json), name or config.dataset.name
    digests = {asset["name"]: asset["digest"] for asset in identity.get("assets", ())}
    digests[config.dataset.name] = identity["dataset_digest"]
    data_dirs = [Path(place) for place in identity["data_dirs"]]
    given = name == config.dataset.name and identity["data_path"]
    path = Path(identity["data_path"]) if given else None
    bars, report = load_dataset(name, data_dirs, options=config.dataset, path=path)
    if report.digest != digests[name]:
        raise BadDataError(
            f"{report.path or report.name} has digest {report.digest[:12]}, but this run was made for "
            f"{digests[name][:12]}: the data have changed; restore them or start a new run with --fresh"
        )
    segmented = replace(bars, segment=assign_segments(bars.t, config.market.max_gap_s))
    # The same bytes wherever the file lies: the directory stays in run.json.
    return segmented, report.as_json() | {"path": Path(report.path).name}


def check_enough(bars: Bars, config: Config) -> None:
    """Check that the first model and every part have enough rows to work with.

    Raises:
        BadDataError: they have not; the message says how many are needed.
    """
    needed, horizon = bars_needed(config), config.labels.horizon_bars
    warmup, lookback = warmup_bars(config.features), config.classifiers.lookback_bars
    name = config.dataset.name
    if len(bars) < needed:
        raise BadDataError(
            f"{name} has {len(bars):,} bars, the plan needs at least {needed:,} (feature warm-up {warmup}, "
            f"window {lookback}, label horizon {horizon}, {config.classifiers.folds} folds, "
            f"{config.ppo.eval_slices} validation slices); use a longer series, or a shorter window or fewer folds"
        )
    parts = split(len(bars), config.splits)
    first = folds(parts, config.classifiers.folds, horizon)[0].predict_start
    ready = window_ready(bars.segment, warmup, lookback)
    labelled = ~np.isnan(label_values(bars, config.labels))
    counts = {
        "training rows before the first fold": (
            training_rows(first, horizon, ready & labelled).size,
            first_rows(config),
        ),
        "bars to decide on in the validation part": (
            np.sum(ready[slice(*parts.validation)]),
            validation_bars(config) // 2,
        ),
        "bars to decide on in the test part": (np.sum(ready[slice(*parts.test)]), test_bars(config) // 2),
    }
    for what, (found, wanted) in counts.items():
        if found < wanted:
            raise BadDataError(
                f"{name} has {found:,} {what}, at least {wanted:,} are needed: its gaps cut {len(bars):,} bars into "
                f"{len(segment_bounds(bars.segment)):,} segments, and each spends {warmup + lookback - 1} bars on "
                "warm-up and the first window; use a series with fewer gaps or raise market.max_gap_s"
            )


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a Parquet file as a whole."""
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


if __name__ == "__main__":
    raise SystemExit(main())
