"""The portfolio's assets as files of a run, and as the tape that agents play.

`write_assets` reads every asset's dataset and adds features and predictions; `load_portfolio` reads what it wrote.
The run's classifiers were fitted on its own dataset. Another asset is predicted by them by time: each model of the
chain predicts the bars that open in its own time range, all of which are later than anything it was fitted with.

Files of unit `multi_asset/data`: `<symbol>.parquet` (t, open, high, low, close, volume, segment, the 26 features, the
ensemble's prediction columns) and `assets.json`:

    split   {"train", "validation", "test": [first, stop) in Unix s}: the split of the run's own dataset, by time
    clock   {"rows", "first_t", "last_t", "timeframe_s"}
    assets  [{"symbol", "name", "digest", "bars", "first_t", "last_t": of the dataset, "test": [start, stop) bars of
            the dataset that lie in the test part, "listed_t": first bar that may be decided on, "ended": no bar at the
            end of the clock, "on_clock_frac": share of the clock's rows with a bar, "ready": {"train", "validation",
            "test": bars that may be decided on}}]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from configs.assets import DatasetName
from configs.errors import BadDataError
from configs.files import read_json, write_json
from configs.needs import test_bars
from configs.run_dir import RunDir
from configs.schema import Config
from ppo.evaluate import Spans
from ppo.portfolio.align import PortfolioTape, align, portfolio_spans
from ppo.portfolio.rules import PRESENT, READY
from ppo.tape import Tape, build_tape
from training.artifacts import FittedModel, load_model
from training.checkpoint import Arrays
from training.crossfit import predict_with, ready_rows, soft_vote
from training.features import FEATURE_NAMES, compute
from training.market import Bars
from training.metrics import CLASS_NAMES
from training.scaling import Scaler
from training.sources.stamps import day_name
from training.stages.prepare import Prepared, load_predictions, load_prepared, read_bars, write_table

UNIT = "multi_asset/data"
PARTS = ("train", "validation", "test")
Save = Callable[[int, int, Arrays], None]
"""Called between two models: (done, total, everything predicted so far); may raise to stop."""


@dataclass(frozen=True)
class Asset:
    """One asset of the portfolio."""

    symbol: str
    bars: Bars
    features: np.ndarray
    """(N, 26), NaN in warm-up rows."""
    predictions: pd.DataFrame


@dataclass(frozen=True)
class Portfolio:
    """What the agents of a run play."""

    tape: PortfolioTape
    scaler: Scaler
    """Of the market columns, fitted on all assets' training rows pooled."""
    parts: dict[str, tuple[int, int]]
    """Rows of the clock by part: train, validation, test."""

    def spans(self, part: str) -> Spans:
        """Runs of rows of a part that may be played."""
        return portfolio_spans(self.tape, *self.parts[part])


def write_assets(run: RunDir, config: Config, done: Arrays, save: Save) -> dict[str, Any]:
    """Write the files of `multi_asset/data`; returns what `assets.json` says.

    Args:
        run: with its prepared bars and fitted classifiers.
        config: names the assets.
        done: predictions of an earlier attempt, by name.
        save: hears of every further one.

    Raises:
        BadDataError: a dataset changed, does not overlap or is too short.
    """
    prepared, names = load_prepared(run), config.asset_datasets()
    models = {member: _chain(run, member, config) for member in config.ensemble.members}
    total = (len(names) - 1) * sum(len(chain) for chain in models.values())
    assets, facts = [own_asset(run, prepared, config)], [prepared.dataset | {"name": names[0]}]
    for name in names[1:]:
        bars, report = read_bars(run, config, name)
        symbol = DatasetName.parse(name).symbol
        features = compute(bars, config.features)
        frames: dict[str, pd.DataFrame] = {}
        for member, chain in models.items():
            for fitted in chain:
                key = f"{symbol}/{member}/{fitted.name}"
                if key not in done:
                    rows = rows_of(fitted, prepared.bars, bars, config)
                    done[key] = _probabilities(fitted, features, rows, config)
                    save(len(done), total, done)
            columns = {fitted.name: done[f"{symbol}/{member}/{fitted.name}"] for fitted in chain}
            frames[member] = _frame(chain, columns, prepared.bars, bars, config)
        assets.append(Asset(symbol, bars, features, soft_vote(frames)))
        facts.append(report | {"name": name})
    report = _report(assets, facts, prepared, config)
    for asset in assets:
        write_table(run.unit_dir(UNIT) / f"{asset.symbol}.parquet", _table(asset))
    write_json(run.unit_dir(UNIT) / "assets.json", report)
    return report


def own_asset(run: RunDir, prepared: Prepared, config: Config) -> Asset:
    """The run's own dataset, with the predictions that its classifiers stored."""
    members: dict[str, pd.DataFrame] = {member: load_predictions(run, member) for member in config.ensemble.members}
    symbol = DatasetName.parse(config.dataset.name).symbol
    return Asset(symbol, prepared.bars, prepared.features, soft_vote(members))


def rows_of(fitted: FittedModel, own: Bars, bars: Bars, config: Config) -> np.ndarray:
    """Rows of `bars` that a model of the run predicts: those that open in its time range and end a window."""
    start, stop = fitted.metadata["predict_start"], fitted.metadata["predict_stop"]
    rows = ready_rows(bars, config) & (bars.t >= own.t[start]) & (bars.t > fitted.metadata["fitted_until"])
    return np.flatnonzero(rows & (bars.t < own.t[stop]) if stop < len(own) else rows)


def load_portfolio(run: RunDir, config: Config) -> Portfolio:
    """What the unit `multi_asset/data` of a run made, ready to be played.

    Raises:
        BadDataError: a file is missing.
    """
    report = read_json(run.require_output(UNIT, "assets.json"))
    assets, timeframe_s = [], report["clock"]["timeframe_s"]
    for facts in report["assets"]:
        frame = pd.read_parquet(run.require_output(UNIT, f"{facts['symbol']}.parquet"))
        features = frame[list(FEATURE_NAMES)].to_numpy(np.float64)
        predictions = frame.drop(columns=[*FEATURE_NAMES, "open", "high", "low", "close", "volume", "segment"])
        assets.append(Asset(facts["symbol"], Bars.from_frame(frame, timeframe_s), features, predictions))
    return make_portfolio(assets, report["split"], config)


def make_portfolio(assets: list[Asset], split: dict[str, list[int]], config: Config) -> Portfolio:
    """Scale, join and cut assets, the run's own first; `split` has the parts in Unix s."""
    first_t, stop_t = split["train"]
    inside = [asset.features[(asset.bars.t >= first_t) & (asset.bars.t < stop_t)] for asset in assets]
    rows = np.concatenate(inside)
    scaler = Scaler.fit(rows[np.isfinite(rows).all(axis=1)], clip=config.features.clip)
    tapes = {asset.symbol: _tape(asset, scaler, config) for asset in assets}
    tape = align(tapes, config.market.max_gap_s)
    parts = {part: tuple(np.searchsorted(tape.t, split[part]).tolist()) for part in PARTS}
    return Portfolio(tape, scaler, parts)


def _probabilities(fitted: FittedModel, features: np.ndarray, rows: np.ndarray, config: Config) -> np.ndarray:
    if not rows.size:  # not listed yet, or not any more
        return np.zeros((0, len(CLASS_NAMES)))
    return predict_with(fitted, features, rows, config.compute.device)


def _tape(asset: Asset, scaler: Scaler, config: Config) -> Tape:
    return build_tape(asset.bars, asset.features, asset.predictions, scaler, config)


def _chain(run: RunDir, member: str, config: Config) -> list[FittedModel]:
    names = [*(f"fold-{number}" for number in range(config.classifiers.folds)), "final"]
    return [load_model(run.unit_dir(f"classifiers/{member}") / "models" / name) for name in names]


def _frame(chain: list[FittedModel], columns: Arrays, own: Bars, bars: Bars, config: Config) -> pd.DataFrame:
    probability = np.full((len(bars), len(CLASS_NAMES)), np.nan)
    fitted_until = np.full(len(bars), -1, np.int64)
    for fitted in chain:
        rows = rows_of(fitted, own, bars, config)
        probability[rows], fitted_until[rows] = columns[fitted.name], fitted.metadata["fitted_until"]
    named = {name: probability[:, column] for column, name in enumerate(CLASS_NAMES)}
    return pd.DataFrame({"t": bars.t, **named, "fitted_until": fitted_until})


def _table(asset: Asset) -> pd.DataFrame:
    features = pd.DataFrame(asset.features, columns=list(FEATURE_NAMES))
    return pd.concat([asset.bars.frame(), features, asset.predictions.drop(columns="t")], axis=1)


def _report(assets: list[Asset], facts: list[dict], prepared: Prepared, config: Config) -> dict[str, Any]:
    t, split = prepared.bars.t, prepared.split
    edges = {
        part: [int(t[first]), int(t[stop]) if stop < len(t) else int(t[-1]) + 1]
        for part, (first, stop) in vars(split).items()
    }
    portfolio = make_portfolio(assets, edges, config)
    tape, rows = portfolio.tape, []
    for k, (asset, known) in enumerate(zip(assets, facts, strict=True)):
        ready, present = tape.flags[:, k] & READY != 0, tape.flags[:, k] & PRESENT != 0
        counts = {part: int(ready[slice(*portfolio.parts[part])].sum()) for part in PARTS}
        if counts["train"] < test_bars(config):
            raise BadDataError(
                f"{known['name']} has {counts['train']:,} bars to decide on in the training part of "
                f"{config.dataset.name} ({day_name(edges['train'][0])} to {day_name(edges['train'][1])}), at least "
                f"{test_bars(config):,} are needed; leave the asset out, or use data that begin earlier"
            )
        rows.append(
            {name: known[name] for name in ("name", "digest")}
            | {
                "symbol": asset.symbol,
                "bars": len(asset.bars),
                "first_t": int(asset.bars.t[0]),
                "last_t": int(asset.bars.t[-1]),
                "test": np.searchsorted(asset.bars.t, edges["test"]).tolist(),
                "listed_t": int(tape.t[ready][0]),
                "ended": bool(tape.t[-1] - tape.t[present][-1] > tape.max_gap_s),
                "on_clock_frac": float(present.mean()),
                "ready": counts,
            }
        )
    clock = {
        "rows": len(tape),
        "first_t": int(tape.t[0]),
        "last_t": int(tape.t[-1]),
        "timeframe_s": tape.timeframe_s,
    }
    return {"split": edges, "clock": clock, "assets": rows}
