"""The test months of a walk-forward joined into one out-of-sample series, and judged as one.

A seed's series is what one account would have gone through that was handed from
the agent of one month to that of the next, in cash on the bar at whose close the
next one decides first. Rule baselines are played once over all months, and keep
their position from one to the next. The seeds' mean and each seed count as trials.
N = bars of the dataset, W = windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs.errors import BadDataError
from configs.files import read_json
from configs.schema import Config
from configs.unit import Unit
from ppo.evaluate import Spans, Track, rollouts
from ppo.judge import compare, cost_levels, spread
from ppo.learner.policy import read_policy
from ppo.metrics import mean_track
from ppo.overfitting import overfitting
from ppo.rules import F_POSITION
from ppo.scoring import SingleAsset, dataset_facts
from ppo.statistics import max_drawdown, moments
from ppo.tape import Tape, build_tape, spans
from ppo.tracks import join_tracks
from ppo.trials import Trial
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

    @property
    def trials(self) -> list[Trial]:
        """The judged mean of the seeds, and one for each seed."""
        return super().trials + [
            self.trial(f"{self.cache_key}/seed-{seed}", track.returns) for seed, track in enumerate(self.scored.agents)
        ]

    def judge(self, trial_sharpes: list[float]) -> dict[str, Any]:
        """`evaluation.json`, with the keys of this family beside those of all:

        windows     [{"month", "bars", "total_return", "sharpe", "max_drawdown" (of the seeds' mean), "trades" (mean),
                    "agents": [{"seed", "start", "total_return", "sharpe", "validation_sharpe"}], "spread": {"min",
                    "max", "sd"} of the seeds' total returns, "baselines": {name: total return}}]; ratios annualised
        pbo         `ppo.overfitting.overfitting` of choosing among the seeds; null with fewer than two
        """
        return super().judge(trial_sharpes) | {
            "windows": [self._window(month) for month in self.months],
            "pbo": overfitting({f"seed_{seed}": track.returns for seed, track in enumerate(self.scored.agents)}),
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
