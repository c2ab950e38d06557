"""The test months of a walk-forward joined into one out-of-sample series, and judged as one.

A seed's series is what one account would have gone through that was handed from
the agent of one month to that of the next, in cash on the bar at whose close the
next one decides first. Rule baselines are played once over all months, and keep
their position from one to the next.
N = bars of the dataset, W = windows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs.errors import BadDataError
from configs.files import read_json
from configs.run_dir import RunDir
from configs.schema import Config
from configs.unit import Unit
from ppo.evaluate import Spans, Track, rollouts
from ppo.judge import compare, cost_levels, spread
from ppo.learner.policy import read_policy
from ppo.metrics import mean_track
from ppo.overfitting import overfitting
from ppo.rules import F_POSITION
from ppo.scoring import EQUITY, SingleAsset, dataset_facts
from ppo.statistics import max_drawdown, moments
from ppo.tape import Tape, build_tape, spans
from ppo.tracks import join_tracks
from ppo.walk_forward import AGENTS, load_monthly_vote, window_months
from training.features import FEATURE_NAMES
from training.scaling import Scaler
from training.splits import month_rows
from training.stages.prepare import Prepared

STAGE = "walk_forward"


@dataclass(frozen=True)
class WalkForward(SingleAsset):
    """The seeds' joined series."""

    months: dict[str, tuple[int, int]]
    """Test month -> its bars."""
    agents: dict[str, list[dict[str, Any]]]
    """Test month -> facts of each seed's agent, as the window's unit wrote them."""

    run: RunDir
    """Whose agents they are; other configurations' runs lie beside it."""

    def judge(self, trial_sharpes: dict[str, float]) -> dict[str, Any]:
        """`evaluation.json`, with the keys of this family beside those of all:

        windows     [{"month", "bars", "total_return", "sharpe", "max_drawdown" (of the seeds' mean), "trades" (mean),
                    "agents": [{"seed", "start", "total_return", "sharpe", "validation_sharpe"}], "spread": {"min",
                    "max", "sd"} of the seeds' total returns, "baselines": {name: total return}}]; ratios annualised
        pbo_of_configurations   `ppo.overfitting.overfitting` over the trials of exactly these bars whose series are
                    still in this runs directory, named by their runs: walk-forwards of other configurations beside
                    this one; null where there is none
        pbo_of_seeds            the same of choosing among this run's seeds, which nobody does here: the mean is
                    judged; null with fewer than two
        """
        t, equity = self.tape.t[self.scored.agents[0].row], mean_track(self.scored.agents)[1]
        own = {self.run.run_id: pd.DataFrame({"t": t, "equity_mean": equity})}
        kept = own | kept_series(self.run, t, trial_sharpes.keys() - {self.cache_key})
        return super().judge(trial_sharpes) | {
            "windows": [self._window(month) for month in self.months],
            "pbo_of_configurations": overfitting(distinct_returns(kept)),
            "pbo_of_seeds": overfitting({f"seed_{i}": track.returns for i, track in enumerate(self.scored.agents)}),
        }

    def _window(self, month: str) -> dict[str, Any]:
        start, stop = self.months[month]
        rows = self.scored.agents[0].row[~self.scored.agents[0].first]
        year, inside = math.sqrt(self.config.market.bars_per_year), (start <= rows) & (rows < stop)
        mean = mean_track(self.scored.agents)[0][inside]
        own = [track.returns[inside] for track in self.scored.agents]
        totals = [_total(returns) for returns in own]
        agents = [
            {
                "seed": seed,
                "start": facts["start"],
                "total_return": totals[seed],
                "sharpe": moments(own[seed]).sharpe * year,
                "validation_sharpe": facts["validation"]["sharpe"],
            }
            for seed, facts in enumerate(self.agents[month])
        ]
        return {
            "month": month,
            "bars": int(inside.sum()),
            "total_return": _total(mean),
            "sharpe": moments(mean).sharpe * year,
            "max_drawdown": max_drawdown(np.cumprod(np.r_[1.0, 1.0 + mean])),
            "trades": float(np.mean([_round_trips(track, start, stop) for track in self.scored.agents])),
            "agents": agents,
            "spread": spread(totals),
            "baselines": {name: _total(track.returns[inside]) for name, track in self.scored.baselines.items()},
        }


def joined(name: str, unit: Unit, prepared: Prepared) -> WalkForward:
    """Play all test months of the run and join them.

    Raises:
        BadDataError: there is no window, one or a file of it is missing, or a month has nothing to play on.
    """
    run, config = unit.run, unit.config
    request = run.request(unit.id)
    done = window_months(config)
    missing = [month for month in done if f"{STAGE}/{month}" not in request.inputs]
    if missing or not done:
        found = f"lacks {', '.join(missing)}" if missing else "has none"
        raise BadDataError(f"all walk-forward windows of run {run.run_id!r} are joined, and it {found}; run them first")
    months = {month: month_rows(prepared.bars.t, month, month) for month in done}
    predictions, tracks = load_monthly_vote(run, config), list[list[list[Track]]]()
    for number, month in enumerate(done, start=1):
        tracks.append(play_month(run.unit_dir(f"{STAGE}/{month}"), months[month], prepared, predictions, config))
        unit.progress(number, len(done), playing=month)
    own, *sweep = ([join_tracks(seed) for seed in zip(*level, strict=True)] for level in zip(*tracks, strict=True))
    unscaled = Scaler(np.zeros(len(FEATURE_NAMES)), np.ones(len(FEATURE_NAMES)))  # baselines do not look at it
    tape = build_tape(prepared.bars, prepared.features, predictions, unscaled, config)
    played = without_seams(tape, [span for bounds in months.values() for span in spans(tape, *bounds)])
    return WalkForward(
        tape=tape,
        config=config,
        scored=compare(tape, config, played, own, sweep, predictions),
        bounds=(months[done[0]][0], months[done[-1]][1]),
        dataset=dataset_facts(prepared.dataset),
        cache_key=f"{request.cache_key}/{name}",
        months=months,
        agents={month: read_json(run.require_output(f"{STAGE}/{month}", AGENTS)) for month in done},
        run=run,
    )


def play_month(
    unit_dir: Path, bounds: tuple[int, int], prepared: Prepared, predictions: pd.DataFrame, config: Config
) -> list[list[Track]]:
    """Play a test month once with the agents of all seeds, at the run's own costs and at each level of the cost sweep.

    Args:
        unit_dir: what the month's unit wrote.
        bounds: the bars of the month; no other is read.
        prepared: the whole series.
        predictions: of the whole series.
        config: of the run.

    Returns:
        For each level of costs, the run's own first, the track of each seed.
    """
    start, stop = bounds
    scaler = Scaler.from_json(read_json(unit_dir / "scaler.json"))
    bars, voted = prepared.bars.slice(start, stop), predictions.iloc[start:stop].reset_index(drop=True)
    tape = build_tape(bars, prepared.features[start:stop], voted, scaler, config)
    played, levels = spans(tape, 0, stop - start), [config, *(level for _, level in cost_levels(config))]
    agents = [read_policy(unit_dir / f"seed-{seed}") for seed in range(config.agent.seeds)]
    tracks = [rollouts(tape, levels, played, agent) for agent in agents]
    return [
        [replace(track, row=track.row + start, fill_row=track.fill_row + start) for track in level]
        for level in zip(*tracks, strict=True)
    ]


def kept_series(run: RunDir, t: np.ndarray, keys: Collection[str]) -> dict[str, pd.DataFrame]:
    """Run id -> t and equity_mean of the walk-forwards over the bars `t` that are kept beside this run.

    Args:
        run: this run.
        t: opens of all its scored bars.
        keys: cache keys of the trials that count.
    """
    found: dict[str, pd.DataFrame] = {}
    for other in map(RunDir, sorted(path for path in run.root.parent.iterdir() if path.is_dir())):
        result = other.result("evaluate")
        if result is None or f"{result.cache_key}/{STAGE}" not in keys:
            continue
        try:
            series = pd.read_parquet(other.unit_dir("evaluate") / STAGE / EQUITY, columns=["t", "equity_mean"])
        except (OSError, ValueError):
            continue  # it is being made anew, or damaged: no fault of this run
        if np.array_equal(series["t"], t):
            found[other.run_id] = series
    return found


def distinct_returns(series: Mapping[str, pd.DataFrame]) -> dict[str, np.ndarray]:
    """(T - 1,) returns from row to row of `equity_mean`, 0 over a gap; equal ones are not of another configuration."""
    found: dict[str, np.ndarray] = {}
    for name, frame in series.items():
        equity = frame["equity_mean"].to_numpy()
        returns = equity[1:] / equity[:-1] - 1
        if not any(np.array_equal(returns, other) for other in found.values()):
            found[name] = returns
    return found


def without_seams(tape: Tape, played: Spans) -> list[tuple[int, int]]:
    """The spans of months, in order, with those joined that follow each other in one segment."""
    whole: list[tuple[int, int]] = []
    for start, stop in played:
        if whole and whole[-1][1] == start and tape.segment[start - 1] == tape.segment[start]:
            whole[-1] = whole[-1][0], stop
        else:
            whole.append((start, stop))
    return whole


def _total(returns: np.ndarray) -> float:
    return float(np.prod(1.0 + returns) - 1.0)


def _round_trips(track: Track, start: int, stop: int) -> int:
    inside = (start <= track.fill_row) & (track.fill_row < stop)
    return int((track.fills[inside, F_POSITION] == 0).sum())
