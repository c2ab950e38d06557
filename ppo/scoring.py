"""Families of agents on their test bars: played, entered in the ledger as trials, judged, written.

All families of a run are played and entered before any is judged, so that each one's deflated
Sharpe ratio counts its siblings, whatever their order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from configs.assets import DatasetName
from configs.files import write_json
from configs.schema import Config
from ppo.evaluate import Track
from ppo.judge import Scored, judgement
from ppo.ledger import trades, write_trades
from ppo.metrics import Returns, mean_track
from ppo.statistics import moments
from ppo.tape import Tape
from ppo.trials import LEDGER_NAME, Trial, record, sharpes, touching
from training.stages.prepare import write_table

SCHEMA = 1
EQUITY = "equity.parquet"


class Played(Protocol):
    """A family's agents, played on its test bars and not judged yet."""

    @property
    def trials(self) -> list[Trial]:
        """What the ledger is told of it."""

    @property
    def returns(self) -> np.ndarray:
        """(T,) mean over the seeds of the return of each bar."""

    def judge(self, trial_sharpes: dict[str, float]) -> dict[str, Any]:
        """`evaluation.json`, given what `ppo.trials.sharpes` says of every trial that touches its bars."""

    def write(self, directory: Path) -> None:
        """Write `equity.parquet`, the trades and whatever else belongs to the family."""


@dataclass(frozen=True)
class SingleAsset:
    """Agents of the single-asset game on the test part."""

    tape: Tape
    config: Config
    scored: Scored
    bounds: tuple[int, int]
    """Half-open bars that were to be scored."""
    dataset: dict[str, Any]
    """Name, digest and so on, as `dataset_facts` gives them."""
    cache_key: str
    """Key of what was scored."""

    @property
    def returns(self) -> np.ndarray:
        """(T,) mean over the seeds of the return of each bar."""
        return mean_track(self.scored.agents)[0]

    @property
    def trials(self) -> list[Trial]:
        """One: the mean of the seeds, over all bars in `bounds`."""
        return [trial_of(self.dataset, self.tape.t, self.bounds, self.cache_key, self.returns)]

    def judge(self, trial_sharpes: dict[str, float]) -> dict[str, Any]:
        """`evaluation.json`."""
        scored = range_facts(self.tape.t, self.scored.agents[0], self.bounds, self.config.market.bars_per_year)
        facts = {"schema": SCHEMA, "dataset": self.dataset, "test_range": scored}
        return facts | judgement(self.scored, self.config, list(trial_sharpes.values()))

    def write(self, directory: Path) -> None:
        """Write `equity.parquet` and the seeds' trades."""
        write_table(directory / EQUITY, equity_table(self.tape, self.scored))
        for seed, track in enumerate(self.scored.agents):
            frame = trades(self.tape, track.fill_row, track.fills, int(track.row[-1]), track.account)
            write_trades(directory / f"trades-seed-{seed}.csv", frame)


def enter(played: Collection[Played], runs_dir: Path) -> list[Trial]:
    """Enter the trials of all families in the ledger of `runs_dir`; every entry that touches bars of theirs.

    Raises:
        CannotWriteError: the ledger cannot be written.
    """
    own = [trial for family in played for trial in family.trials]
    return touching(record(runs_dir / LEDGER_NAME, own), own)


def judge(family: Played, entries: Sequence[Trial]) -> dict[str, Any]:
    """The family's evaluation; of the entries, those that touch its own bars count."""
    return family.judge(sharpes(touching(entries, family.trials), family.trials))


def write_evaluation(directory: Path, family: Played, evaluation: dict[str, Any]) -> None:
    """Write all files of one family; `evaluation.json` is the last."""
    directory.mkdir(parents=True, exist_ok=True)
    family.write(directory)
    write_json(directory / "evaluation.json", evaluation)


def range_facts(t: np.ndarray, track: Returns, bounds: tuple[int, int], bars_per_year: float) -> dict[str, Any]:
    """`test_range` of an evaluation: which rows of a tape that opens at `t` were to be scored, and were."""
    returns = len(track.returns)
    return {
        "start": bounds[0],
        "stop": bounds[1],
        "first_t": int(t[track.row[0]]),
        "last_t": int(t[track.row[-1]]),
        "bars": len(track.row),
        "returns": returns,
        "spans": int(track.first.sum()),
        "years": returns / bars_per_year,
    }


def trial_of(
    dataset: dict[str, Any],
    t: np.ndarray,
    bounds: tuple[int, int],
    cache_key: str,
    returns: np.ndarray,
    first_row: int = 0,
) -> Trial:
    """A scoring of the bars in `bounds` of a tape that opens at `t` and begins at `first_row` of its dataset."""
    rows = bounds[0] + first_row, bounds[1] + first_row
    market = market_range(DatasetName.parse(dataset["name"]).symbol, dataset, t, bounds)
    return Trial(dataset["digest"], *rows, cache_key, moments(returns).sharpe, **market)


def market_range(symbol: str, dataset: dict[str, Any], t: np.ndarray, bounds: tuple[int, int]) -> dict[str, Any]:
    """Which bars of the market a trial scored: half-open `bounds` of a tape that opens at `t`."""
    first_t, last_t = int(t[bounds[0]]), int(t[bounds[1] - 1])
    return {"symbol": symbol, "timeframe_s": dataset["timeframe_s"], "first_t": first_t, "last_t": last_t}


def dataset_facts(dataset: dict[str, Any]) -> dict[str, Any]:
    """The dataset's part of an evaluation."""
    return {name: dataset[name] for name in ("name", "digest", "asset_class", "synthetic", "timeframe_s")}


def equity_table(tape: Tape, scored: Scored) -> pd.DataFrame:
    """One row per scored bar, as `ppo.stages.evaluate` describes it."""
    track = scored.agents[0]
    columns = {
        "t": tape.t[track.row],
        "close": tape.close[track.row],
        "span": (np.cumsum(track.first) - 1).astype(np.int32),
    }
    for seed, agent in enumerate(scored.agents):
        columns |= _columns(agent, f"seed_{seed}")
    columns["equity_mean"] = mean_track(scored.agents)[1]
    columns |= {f"equity_{name}": baseline.equity for name, baseline in scored.baselines.items()}
    return pd.DataFrame(columns)


def _columns(track: Track, name: str) -> dict[str, np.ndarray]:
    return {f"equity_{name}": track.equity, f"weight_{name}": track.weight, f"action_{name}": track.action}
