"""What an agent must beat: simple rules on the same bars and costs, and its own positions at random times.

Flat, buy and hold, the moving-average rule and the classifier are long or in cash, and are played by
`ppo.evaluate.follow` through the same rulebook as agents. The random baseline keeps an agent's
positions and their order, and moves them in time by a circular shift: same turnover, same holding
times, no knowledge of the bars they meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from configs.errors import BadDataError
from configs.schema import Config
from ppo.evaluate import Spans, Track, follow
from ppo.rules import replay, terms_of
from ppo.tape import Tape, price_table


def rule_tracks(tape: Tape, config: Config, spans: Spans, predictions: pd.DataFrame | None) -> dict[str, Track]:
    """Tracks of the rule baselines by name; `follow_classifier` only where there are predictions."""
    long = {
        "flat": np.zeros(len(tape), bool),
        "buy_and_hold": np.ones(len(tape), bool),
        "moving_average": moving_average_long(tape.close, tape.segment, *config.judging.moving_average_bars),
    }
    if predictions is not None:
        long["follow_classifier"] = classifier_long(predictions)
    return {name: follow(tape, config, spans, wanted) for name, wanted in long.items()}


def moving_average_long(close: np.ndarray, segment: np.ndarray, fast: int, slow: int) -> np.ndarray:
    """(N,) bool: the mean of the last `fast` closes is above that of the last `slow`; false in a segment's warm-up."""
    closes = pd.Series(close).groupby(segment)
    fast_mean, slow_mean = (closes.rolling(bars).mean().to_numpy() for bars in (fast, slow))
    with np.errstate(invalid="ignore"):
        return fast_mean > slow_mean


def classifier_long(predictions: pd.DataFrame) -> np.ndarray:
    """(N,) bool: long from a Rise (likeliest class) until a Fall; Stationary and no prediction keep the side."""
    fall, stationary, rise = predictions[["fall", "stationary", "rise"]].to_numpy().T
    with np.errstate(invalid="ignore"):
        rises = rise > np.fmax(fall, stationary)
        falls = fall > np.fmax(rise, stationary)
    calls = rises.astype(np.int8) - falls
    latest = np.maximum.accumulate(np.where(calls != 0, np.arange(len(calls)), 0))
    return calls[latest] > 0


@dataclass(frozen=True)
class Shifts:
    """What the seeds' mean makes of circular shifts of its positions; S shifts."""

    bars: np.ndarray
    """(S,) by how many bars."""
    sharpe: np.ndarray
    """(S,) per bar."""
    total_return: np.ndarray


def shifted(tape: Tape, config: Config, spans: Spans, tracks: Sequence[Track], bars: np.ndarray) -> Shifts:
    """Replay the tracks' positions moved by `bars` (S,): all tracks by the same shift, then their mean return.

    The bars with a return form a ring over all spans. Where a track had an order filled, the replay
    trades to the weight the track had after that fill, at the open, with the config's slippage and
    fee on what is traded; between orders it holds its units, as the track did. A replay's span starts
    flat and takes the weight held at its place in the ring, and ends flat with costs. Borrow and
    liquidation are the rulebook's. A shift by 0 gives the tracks' own returns.

    Raises:
        BadDataError: there are no two bars with a return to shift.
    """
    first = tracks[0].first
    if (~first).sum() < 2:
        raise BadDataError("the scored part has fewer than two bars with a return; give more data")
    counted = ~first
    starts, ends = first[:-1][counted[1:]], np.r_[first[1:], True][counted]
    held = np.stack([track.held[counted] for track in tracks])
    events = np.stack([track.ordered[counted] | starts for track in tracks])
    prices = price_table(tape, spans[-1][1])[tracks[0].row[counted]]
    terms = terms_of(config.env, config.costs, config.market.bars_per_year)
    sharpe, total_return = replay(prices, starts, ends, held, events, np.asarray(bars, np.int64), terms)
    return Shifts(np.asarray(bars), sharpe, total_return)
