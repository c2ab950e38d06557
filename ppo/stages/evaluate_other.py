"""`python -m ppo.stages.evaluate_other`: score a finished run's agents on another dataset.

It is no unit of a run: it prints one JSON object on stdout (the summary of
`ppo.stages.evaluate`, with what was scored and where it lies) and writes the
same files as that stage under `--out`. Predictions come from the run's final
classifiers, scaled as in the run; features are computed with the run's windows.
An asset class other than the run's brings its own calendar and costs.

Bars that the run learnt from are refused: on the run's own market (same pair, either
way round; for coins and commodities the same base in any quote) only bars after the
run's validation part are scored. Another market in the same years is scored whole,
and `bars_in_fit_period` says how many of its bars are no later than that.
Classifier scores are left out: their no-skill rules belong to the run's bars.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from configs.assets import DatasetName, asset_class_of, class_layer
from configs.errors import BadDataError, CannotWriteError, ConfigError, ExitCode, ProjectError
from configs.files import digest
from configs.run_dir import RunDir
from configs.schema import Config, CostsConfig, MarketConfig
from ppo.judge import score, summary
from ppo.scoring import SingleAsset, dataset_facts, enter, judge, write_evaluation
from ppo.stages.evaluate import load_agents, load_scaler
from ppo.tape import build_tape, spans
from training.artifacts import load_model
from training.chain import predict_with, ready_rows
from training.crossfit import soft_vote
from training.determinism import set_up_torch
from training.features import compute
from training.market import Bars, assign_segments
from training.metrics import CLASS_NAMES
from training.sources.catalog import locate
from training.sources.load import load_dataset
from training.stages.prepare import load_prepared

BEFORE_ANY_BAR = 0
"""`fitted_until` of a prediction for a series that its model has seen nothing of."""


@dataclass(frozen=True)
class Fitted:
    """What a run learnt from."""

    until: int
    """Close time of the last validation bar, Unix s."""
    same_market: bool
    """The other dataset is of the market that the run learnt from."""


def main(argv: list[str] | None = None) -> int:
    """Score the agents and print the answer; an error is one line on stderr and its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ppo.stages.evaluate_other", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--dataset", required=True, help="name of the other dataset, or a path")
    parser.add_argument("--data-dir", type=Path, action="append", default=[], help="repeatable, searched in order")
    parser.add_argument("--asset-class", default="", help="declare it where the symbol is not in the table")
    parser.add_argument("--out", type=Path, required=True, help="directory for evaluation.json and the rest")
    given = parser.parse_args(argv)
    try:
        answer = evaluate_other(RunDir(given.run_dir), given.dataset, given.data_dir, given.out, given.asset_class)
    except ProjectError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}", CannotWriteError.exit_code)
    print(json.dumps(answer, allow_nan=False))  # noqa: T201 -- the answer is this process's output
    return ExitCode.DONE


def evaluate_other(
    run: RunDir, dataset: str, data_dirs: list[Path], out: Path, asset_class: str = ""
) -> dict[str, Any]:
    """Score a run's agents on another dataset; writes under `out` and returns the summary.

    Raises:
        ConfigError: another timeframe, or an unknown symbol.
        DatasetNotFoundError: no such dataset.
        BadDataError: the run is not finished, or no bar is left to score.
    """
    located = locate(dataset, data_dirs)
    prepared, config = load_prepared(run), config_for(run.load_config(), located.name, asset_class)
    agents = [f"ppo/seed-{seed}" for seed in range(config.agent.seeds)]
    set_up_torch(config.compute.threads_per_unit)
    bars, report = load_dataset(located.name, data_dirs, options=config.dataset, path=located.path)
    bars = replace(bars, segment=assign_segments(bars.t, config.market.max_gap_s))
    last_seen = prepared.split.validation[1] - 1
    until = int(prepared.bars.t[last_seen]) + bars.timeframe_s - 1
    fitted = Fitted(until, is_same_market(run.load_config().dataset.name, config))
    features = compute(bars, config.features)
    predictions = predict_other(run, bars, features, fitted, config)
    tape = build_tape(bars, features, predictions, load_scaler(run, agents[0]), config)
    first = int(np.searchsorted(bars.t, fitted.until, side="right")) if fitted.same_market else 0
    played = spans(tape, first, len(bars))
    if not played:
        raise BadDataError(
            f"{located.name} has no bars to score after bar {first} of {len(bars)}: this run learnt from "
            f"bars up to {until} (Unix s); use a later or another market"
        )
    scored = score(tape, config, played, load_agents(run, agents), predictions)
    bounds = (played[0][0], played[-1][1])
    cache_key = digest([_agent_keys(run, agents), config.identity()])
    facts = dataset_facts(report.as_json() | {"digest": report.digest})
    family = SingleAsset(tape, config, scored, bounds, facts, cache_key)
    scope = {
        "run_id": run.run_id,
        "same_market": fitted.same_market,
        "fitted_until": until,
        "bars_in_fit_period": int((bars.t[scored.agents[0].row] <= until).sum()),
    }
    evaluation = {"scope": scope} | judge(family, enter([family], run.root.parent))
    write_evaluation(out, family, evaluation)
    shown = {name: evaluation[name] for name in ("scope", "dataset", "test_range")}
    return summary(evaluation) | shown | {"out": str(out)}


def config_for(config: Config, name: str, asset_class: str = "") -> Config:
    """The run's configuration for another dataset; another asset class brings its calendar and costs.

    Raises:
        ConfigError: the timeframe is not the run's, or the symbol is unknown.
    """
    own, other = DatasetName.parse(config.dataset.name), DatasetName.parse(name)
    if other.timeframe != own.timeframe:
        raise ConfigError(
            f"{name} has timeframe {other.timeframe}, but the run's agents decide on {own.timeframe} bars; "
            f"use {other.symbol}_{own.timeframe}"
        )
    known = config.dataset.asset_class if other.symbol == own.symbol else ""
    asset_class = asset_class or known or asset_class_of(other.base, other.quote)
    dataset = {"name": name, "asset_class": asset_class, "synthetic": other.base == "DEMO"}
    changes: dict[str, Any] = {"dataset": config.dataset.model_copy(update=dataset)}
    if asset_class != config.dataset.asset_class:
        layer = class_layer(asset_class, other.timeframe)
        changes["market"] = MarketConfig.model_validate(layer["market"])
        changes["costs"] = CostsConfig.model_validate(layer["costs"])
    return config.model_copy(update=changes)


def is_same_market(own_name: str, config: Config) -> bool:
    """Whether a run's dataset and the one of `config` are prices of one thing."""
    own, other = DatasetName.parse(own_name), DatasetName.parse(config.dataset.name)
    same_pair = {own.base, own.quote} == {other.base, other.quote}  # a pair turned over is the same prices inverted
    return same_pair or (config.dataset.asset_class != "fx" and own.base == other.base)


def predict_other(run: RunDir, bars: Bars, features: np.ndarray, fitted: Fitted, config: Config) -> pd.DataFrame:
    """The ensemble's columns for bars that the run's final classifiers have not seen."""
    device = config.compute.device if torch.cuda.is_available() else "cpu"
    rows = np.flatnonzero(ready_rows(bars, config) & (not fitted.same_market or bars.t > fitted.until))
    frames: dict[str, pd.DataFrame] = {}
    for member in config.ensemble.members:
        model = load_model(run.unit_dir(f"classifiers/{member}") / "models" / "final")
        probability = np.full((len(bars), len(CLASS_NAMES)), np.nan)
        probability[rows] = predict_with(model, features, rows, device)
        fitted_until = np.full(len(bars), -1, np.int64)
        fitted_until[rows] = model.metadata["fitted_until"] if fitted.same_market else BEFORE_ANY_BAR
        columns = {name: probability[:, column] for column, name in enumerate(CLASS_NAMES)}
        frames[member] = pd.DataFrame({"t": bars.t, **columns, "fitted_until": fitted_until})
    return soft_vote(frames)


def _agent_keys(run: RunDir, agents: list[str]) -> list[str]:
    results = {unit_id: run.result(unit_id) for unit_id in agents}
    unfinished = [unit_id for unit_id, result in results.items() if result is None]
    if unfinished:
        raise BadDataError(f"run {run.run_id!r} has not finished {', '.join(unfinished)}; finish the run first")
    return [result.cache_key for result in results.values() if result is not None]


def _fail(message: str, exit_code: ExitCode) -> int:
    print(message, file=sys.stderr)  # noqa: T201 -- stderr is where a process says why it ended
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main())
