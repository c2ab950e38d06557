"""Numbers that describe one track, as finite plain values (METRICS of `ppo.stages.evaluate`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from configs.schema import Config
from ppo.evaluate import Track
from ppo.rules import (
    ACTION_NAMES,
    F_BORROW,
    F_CASH,
    F_FEE,
    F_NOTIONAL,
    F_POSITION,
    F_PRICE,
    F_QUANTITY,
    F_REASON,
    SEGMENT_END,
)
from ppo.statistics import (
    annual_return,
    bootstrap_sharpes,
    max_drawdown,
    moments,
    optimal_block_bars,
    probabilistic_sharpe,
    sharpe_standard_error,
    sortino,
)
from training.streams import stream

WEIGHT_DECIMALS = 2
"""Weights this close count as one: a part position drifts a little with every price."""


class Returns(Protocol):
    """What every kind of track has."""

    @property
    def row(self) -> np.ndarray:
        """(T,) rows of the tape."""

    @property
    def first(self) -> np.ndarray:
        """(T,) bool: first bar of a span, which has no return."""

    @property
    def equity(self) -> np.ndarray:
        """(T,) at the close."""

    @property
    def initial_equity(self) -> float:
        """Before the first bar."""

    @property
    def returns(self) -> np.ndarray:
        """Simple return of each bar but the first of each span."""


def track_metrics(track: Track, config: Config, name: str) -> dict[str, Any]:
    """METRICS of one track; `name` names its bootstrap stream."""
    return return_metrics(track.returns, track.equity, config, name) | trading_metrics(track, config)


def return_metrics(returns: np.ndarray, equity: np.ndarray, config: Config, name: str) -> dict[str, Any]:
    """The part of METRICS that returns alone decide."""
    bars_per_year, judging = config.market.bars_per_year, config.judging
    year, years = math.sqrt(bars_per_year), len(returns) / bars_per_year
    series = moments(returns)
    block = optimal_block_bars(returns)
    drawn = bootstrap_sharpes(
        returns, block, judging.bootstrap_samples, stream(config.seed, "judge", "bootstrap", name)
    )
    tail = 1 - judging.confidence
    total = float(equity[-1] / equity[0] - 1)
    drawdown, annual, downside = max_drawdown(equity), annual_return(total, years), sortino(returns)
    return {
        "returns": len(returns),
        "years": years,
        "total_return": total,
        "annual_return": annual,
        "annual_volatility": float(returns.std(ddof=1)) * year if len(returns) > 1 else 0.0,
        "sharpe": series.sharpe * year,
        "sharpe_standard_error": finite(sharpe_standard_error(series) * year),
        "sharpe_interval": [float(bound) * year for bound in np.quantile(drawn, [tail / 2, 1 - tail / 2])],
        "sharpe_lower_bound": float(np.quantile(drawn, tail)) * year,
        "mean_block_bars": block,
        "psr": probabilistic_sharpe(series),
        "skew": series.skew,
        "kurtosis": series.kurtosis,
        "sortino": None if downside is None else downside * year,
        "calmar": None if annual is None or drawdown == 0 else annual / drawdown,
        "max_drawdown": drawdown,
    }


def trading_metrics(track: Track, config: Config) -> dict[str, Any]:
    """The part of METRICS that positions and fills decide.

    A round trip runs from cash to cash (a reversal ends one and starts the next); its profit is the
    change of cash, so all its costs are in it.
    """
    fills, held = track.fills, track.held[~track.first]
    closing = fills[fills[:, F_POSITION] == 0, F_CASH]
    profits = np.diff(closing, prepend=track.initial_equity)
    losses = -profits[profits < 0].sum()
    slip = config.costs.slippage_frac * np.sign(fills[:, F_QUANTITY])
    after = fills[:, F_CASH] + fills[:, F_POSITION] * fills[:, F_PRICE]
    turnover = float(np.sum(fills[:, F_NOTIONAL] / after))
    decided = track.action[track.action >= 0]
    changes = int(track.ordered.sum()) - resumed(track)
    top = top_share(np.round(held, WEIGHT_DECIMALS))
    judging = config.judging
    return {
        "turnover": turnover,
        "turnover_per_year": turnover * config.market.bars_per_year / max(len(held), 1),
        "exposure": float(exposed(held, config).mean()) if len(held) else 0.0,
        "mean_weight": float(held.mean()) if len(held) else 0.0,
        "hit_rate": float(np.mean(profits > 0)) if len(profits) else None,
        "profit_factor": float(profits[profits > 0].sum() / losses) if losses > 0 else None,
        "trades": len(profits),
        "position_changes": changes,
        "fees_paid": float(fills[:, F_FEE].sum()),
        "slippage_paid": float(np.sum(fills[:, F_NOTIONAL] * slip / (1 + slip) * np.sign(fills[:, F_QUANTITY]))),
        "borrow_paid": float(fills[:, F_BORROW].sum()),
        "actions": {name: float(np.mean(decided == i)) for i, name in enumerate(ACTION_NAMES)},
        "illegal_actions": int(track.illegal.sum()),
        "liquidated": track.liquidated,
        "top_weight_share": top,
        "collapsed": changes < judging.collapse_position_changes or top >= judging.collapse_weight_frac,
    }


def resumed(track: Track) -> int:
    """Orders that only take up again, as soon as can be, the side on which a span's end closed the position.

    Who holds on through the end of a month or of a segment decides nothing there. A long takes one order, on the
    second bar after the forced close; a short two, a purchase and its reversal on the next bar.
    """
    fills, place = track.fills, np.searchsorted(track.row, track.fill_row)
    count = 0
    for end in np.flatnonzero(fills[:, F_REASON] == SEGMENT_END):
        short = fills[end, F_QUANTITY] > 0
        orders, back = (2, end + 3) if short else (1, end + 1)  # a reversal is two fills
        soon = back < len(fills) and place[back] == place[end] + 1 + orders
        count += orders if soon and (fills[back, F_POSITION] < 0) == short else 0
    return count


def exposed(held: np.ndarray, config: Config) -> np.ndarray:
    """Where a weight is a position: what the price has made of one is none below the floor of orders (`ppo.rules`)."""
    return np.asarray(np.abs(held) >= config.env.min_cash_frac) & (held != 0)


def mean_track(tracks: Sequence[Returns]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the tracks of the return of each bar, and (T,) equity of that mean, compounded."""
    returns = np.mean([track.returns for track in tracks], axis=0)
    growth = np.ones(len(tracks[0].first))
    growth[~tracks[0].first] += returns
    return returns, tracks[0].initial_equity * np.cumprod(growth)


def mean_over_seeds(agents: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of the seeds' trading numbers; for yes and no: whether most collapsed, whether any was liquidated."""
    mean = {name: _mean([agent[name] for agent in agents]) for name in agents[0] if name != "sharpe_interval"}
    collapsed = sum(agent["collapsed"] for agent in agents)
    return mean | {"collapsed": 2 * collapsed > len(agents), "liquidated": any(a["liquidated"] for a in agents)}


def finite(value: float) -> float | None:
    """The value, or None where it is infinite or no number."""
    return value if math.isfinite(value) else None


def _mean(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: _mean([value[name] for value in values]) for name in values[0]}
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def top_share(values: np.ndarray) -> float:
    """Share of the commonest of the values, or of the rows where there are columns; 1 where there is none."""
    return float(np.unique(values, axis=0, return_counts=True)[1].max() / len(values)) if len(values) else 1.0
