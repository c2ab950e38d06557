"""Datasets, asked of the process that knows them: `python -m training.stages.data`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs.assets import DatasetName
from configs.errors import ConfigError, DatasetNotFoundError, ExitCode
from configs.needs import bars_before_window
from configs.schema import Config
from runner.container import data_missing
from runner.data_dirs import fetched_into
from runner.process import ask, stage_environment

MODULE = "training.stages.data"


def check(
    config: Config,
    data_dirs: Sequence[Path],
    *,
    name: str = "",
    place: str = "",
    offline: bool = False,
    tell: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """What a dataset of the run is: name, path, digest, rows, range, gaps, and in Unix s
    where the training part ends (`train_stop_t`) and where its predictions begin (`predicted_t`); `months` as
    `training.splits.month_counts` gives them.

    Args:
        config: says how the file is read.
        data_dirs: looked through in order, at least one.
        name: of the dataset; the run's own by default.
        place: path of the file where the dataset was not given by name.
        offline: never fetch.
        tell: hears of a fetch in progress.

    Raises:
        DatasetNotFoundError: no directory and no source has it.
        BadDataError: it breaks the market rules.
    """
    dataset = config.dataset
    parsed = DatasetName.parse(name or dataset.name)
    arguments = ["check", "--json", "--dataset", place or name or dataset.name]
    if place:
        arguments += ["--symbol", parsed.symbol, "--timeframe", parsed.timeframe]
    arguments += ["--repair", dataset.repair, "--timezone", dataset.timezone, "--asset-class", dataset.asset_class]
    arguments += [part for path in data_dirs for part in ("--data-dir", str(path))]
    arguments += ["--fetch-dir", str(fetched_into(data_dirs))]
    arguments += ["--train-frac", repr(config.splits.train_frac), "--folds", str(config.classifiers.folds)]
    arguments += ["--max-gap-s", str(config.market.max_gap_s), "--before-bars", str(bars_before_window(config))]
    arguments += ["--horizon-bars", str(config.labels.horizon_bars)]
    arguments += ["--resample"] * dataset.resample + ["--offline"] * offline
    try:
        facts: dict[str, Any] = ask([sys.executable, "-m", MODULE, *arguments], heard=lambda line: _relay(line, tell))
    except DatasetNotFoundError as error:
        raise DatasetNotFoundError(f"{error}{data_missing()}") from error
    return facts


def name_of_file(path: str, symbol: str, timeframe: str) -> str:
    """The dataset name of a file given by its path.

    Raises:
        ProjectError: there is no such file, or neither its name nor the options say what it holds.
    """
    arguments = ["locate", "--json", "--dataset", path, "--symbol", symbol, "--timeframe", timeframe]
    try:
        name: str = ask([sys.executable, "-m", MODULE, *arguments])["name"]
    except ConfigError as error:
        raise ConfigError(f"{error}; or give a dataset name such as ADA-EUR_1H") from error
    return name


def hand_over(arguments: Sequence[str]) -> ExitCode:
    """Run the dataset process on this terminal and return its exit code."""
    process = subprocess.Popen([sys.executable, "-m", MODULE, *arguments], env=stage_environment(1))
    # Ctrl-C reaches both; the process says what became of it
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forward = signal.signal(signal.SIGTERM, lambda number, _frame: process.send_signal(number))
    try:
        return ExitCode(process.wait())
    except ValueError:
        return ExitCode.UNIT_FAILED
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, forward)


def _relay(line: str, tell: Callable[[str], None]) -> None:
    """Say what a fetch reports; anything else is the process's last words."""
    try:
        event = json.loads(line)
    except ValueError:
        return
    if isinstance(event, dict) and event.get("kind") == "progress":
        tell(f"fetching from {event.get('source')}: piece {event.get('done')} of {event.get('total')}")
