"""What an agent's environment reads: prices and ready-made observation columns, one row per bar.

Predictions are columns made once, out-of-fold; no network runs inside a step.
Shapes: N = bars, F = columns, M = ensemble members, S = spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from configs.errors import BadDataError
from configs.schema import Config
from training.features import FEATURE_NAMES, MARKET_OBSERVATION
from training.market import Bars
from training.metrics import CLASS_NAMES
from training.scaling import Scaler

NO_SKILL = 1 / 3


@dataclass(frozen=True)
class Tape:
    """One series as an environment reads it; every array has N rows."""

    t: np.ndarray
    """int64, Unix seconds of each bar's open."""
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    segment: np.ndarray
    """int32; a position is closed at the last close of a segment."""
    timeframe_s: int
    observation: np.ndarray
    """(N, F) float32, known at the close of each bar; the environment adds the account block."""
    ready: np.ndarray
    """bool: an agent may decide on this row."""

    def __post_init__(self) -> None:
        """Refuse rows that an agent may decide on but cannot read."""
        finite = np.isfinite(self.observation).all(axis=1)
        if (self.ready & ~finite).any():
            row = int(np.flatnonzero(self.ready & ~finite)[0])
            raise BadDataError(f"tape row {row} is marked ready but its observation is not finite; mark it not ready")

    def __len__(self) -> int:
        """N."""
        return len(self.t)


def build_tape(
    bars: Bars, features: np.ndarray, predictions: pd.DataFrame | None, scaler: Scaler, config: Config
) -> Tape:
    """Join bars, features and predictions into what the agent sees.

    Args:
        bars: the whole series.
        features: (N, 26) unscaled; NaN in warm-up rows.
        predictions: the ensemble's columns, one row per bar; None gives the zero block of "no prediction"
            on every bar and asks for none.
        scaler: fitted on all 26 feature columns of training rows.
        config: decides the members and the clip.

    Raises:
        BadDataError: the predictions belong to other bars, or were made by a model that had seen the bar.
    """
    columns = [FEATURE_NAMES.index(name) for name in MARKET_OBSERVATION]
    market = scaler.transform(features)[:, columns]
    ready = np.isfinite(features).all(axis=1)
    if predictions is None:
        block = np.zeros((len(bars), prediction_columns(config)), np.float32)
    else:
        ready &= _predicted(predictions, bars)
        block = prediction_block(predictions, config.ensemble.members)
        ready &= np.isfinite(predictions[list(CLASS_NAMES)].to_numpy(np.float64)).all(axis=1)
    return finish_tape(bars, block, market, ready, config.env.observation_clip)


def finish_tape(bars: Bars, block: np.ndarray, market: np.ndarray, ready: np.ndarray, clip: float) -> Tape:
    """A tape of a prediction block (N, P) and scaled market columns (N, M); rows that are not `ready` (N,) become 0."""
    # rows side by side, however the columns came: compiled rules are cached for that layout alone
    observation = np.ascontiguousarray(np.concatenate([block, market], axis=1, dtype=np.float32))
    observation[~ready] = 0
    np.clip(observation, -clip, clip, out=observation)
    return Tape(bars.t, bars.open, bars.high, bars.low, bars.close, bars.segment, bars.timeframe_s, observation, ready)


def prediction_columns(config: Config) -> int:
    """Width of the prediction block: 5 of the ensemble, 4 of each of its members."""
    return len(CLASS_NAMES) + 2 + 4 * len(config.ensemble.members)


def prediction_block(frame: pd.DataFrame, members: Sequence[str]) -> np.ndarray:
    """(N, 5 + 4 M) float32: class, confidence and three probabilities of the ensemble, then confidence and
    three probabilities of each member; confidences and probabilities less 1/3, so "no prediction" is zero.

    The class is +1 or -1 where rise or fall is above both others, else 0.
    """
    ensemble = frame[list(CLASS_NAMES)].to_numpy(np.float64)
    fall, stationary, rise = ensemble.T
    direction = np.where(rise > np.maximum(fall, stationary), 1.0, 0.0)
    direction[fall > np.maximum(rise, stationary)] = -1.0
    parts = [direction[:, None], _less_no_skill(ensemble)]
    for member in members:
        parts.append(_less_no_skill(frame[[f"{member}_{name}" for name in CLASS_NAMES]].to_numpy(np.float64)))
    return np.nan_to_num(np.concatenate(parts, axis=1), nan=0.0).astype(np.float32)


def spans(tape: Tape, start: int, stop: int) -> list[tuple[int, int]]:
    """Maximal runs [a, b) of ready rows inside one segment within [start, stop), of at least two bars."""
    ready = tape.ready[start:stop]
    segment = tape.segment[start:stop]
    if not len(ready):
        return []
    breaks = np.flatnonzero((ready[1:] != ready[:-1]) | (segment[1:] != segment[:-1])) + 1
    edges = [0, *breaks.tolist(), len(ready)]
    runs = zip(edges[:-1], edges[1:], strict=True)
    return [(start + a, start + b) for a, b in runs if ready[a] and b - a >= 2]


def start_table(tape: Tape, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """(S, 5) int64 start rows for the rules, one for each span; every bar but a span's last is drawn alike.

    Whether a segment ends is known from bars inside `spans` alone: the very last bar of them is the end of
    the data, where a position is marked, not closed.

    Raises:
        BadDataError: there is no span, or one is too short, unordered, across segments or not ready throughout.
    """
    if not len(spans):
        raise BadDataError("no bars to play on: no run of two ready bars inside one segment; give more data")
    table, decisions, before = [], 0, 0
    last_stop = spans[-1][1]
    for first, stop in spans:
        if not before <= first < stop - 1 < len(tape):
            raise BadDataError(f"span [{first}, {stop}) must hold two bars, after bar {before} and within {len(tape)}")
        if not tape.ready[first:stop].all():
            row = first + int(np.flatnonzero(~tape.ready[first:stop])[0])
            raise BadDataError(f"span [{first}, {stop}) holds bar {row}, which has no usable prediction or features")
        if tape.segment[first] != tape.segment[stop - 1]:
            raise BadDataError(
                f"span [{first}, {stop}) crosses the end of segment {tape.segment[first]}; split it there"
            )
        closes = stop < last_stop and tape.segment[stop] != tape.segment[stop - 1]
        starts = stop - 1 - first
        decisions += starts
        table.append((decisions, first, starts, stop - 1, int(closes)))
        before = stop
    return np.array(table, dtype=np.int64)


def price_table(tape: Tape, stop: int) -> np.ndarray:
    """(stop, 3) float64 open, high, close of the first `stop` bars: the rules never get a later one."""
    return np.column_stack([tape.open[:stop], tape.high[:stop], tape.close[:stop]]).astype(np.float64)


def market_table(tape: Tape, stop: int, clip: float) -> np.ndarray:
    """(stop, F) float32 observation columns of the first `stop` bars, within +- `clip`."""
    return np.clip(tape.observation[:stop], -clip, clip).astype(np.float32, order="C")


def _less_no_skill(probabilities: np.ndarray) -> np.ndarray:
    return np.column_stack([probabilities.max(axis=1), probabilities]) - NO_SKILL


def _predicted(predictions: pd.DataFrame, bars: Bars) -> np.ndarray:
    """Rows with a prediction that was made without the bar itself."""
    t = predictions["t"].to_numpy(np.int64)
    if not np.array_equal(t, bars.t):
        raise BadDataError(
            f"predictions have {len(t)} rows that are not the {len(bars)} bars of the series; "
            "make them again from the same data"
        )
    fitted_until = predictions["fitted_until"].to_numpy(np.int64)
    seen = np.flatnonzero(fitted_until >= bars.t)
    if len(seen):
        row = int(seen[0])
        raise BadDataError(
            f"prediction of bar {row} (t={bars.t[row]}) is in-sample: its model was fitted until "
            f"{fitted_until[row]}, which is not before the bar's open; {len(seen)} such row(s)"
        )
    return fitted_until >= 0
