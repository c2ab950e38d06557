"""The union clock: K tapes of single assets as one table, each row a time at which some asset has a bar.

An asset without a bar at a row carries its last close as all four prices there, may not be traded and shows
zeros; nothing else is filled. Whether a segment of an asset ends is known from rows before `stop` alone.
Shapes: K = assets, U = rows, F = columns of one asset, S = spans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from configs.errors import BadDataError
from ppo.portfolio.rules import CLOSES, PRESENT, READY
from ppo.tape import Tape


@dataclass(frozen=True)
class PortfolioTape:
    """K series on one clock, as the portfolio's environments read them."""

    assets: tuple[str, ...]
    t: np.ndarray
    """(U,) int64, Unix seconds of each row's open."""
    prices: np.ndarray
    """(U, K, 4) float64 open, high, low, close; without a bar all four are the last close, before the first bar 1."""
    flags: np.ndarray
    """(U, K) uint8 of `PRESENT` and `READY`; `closing_flags` adds `CLOSES`."""
    segment: np.ndarray
    """(U, K) int32, of the asset's latest bar; -1 before its first."""
    market: np.ndarray
    """(U, K F) float32, the tapes' observation columns, asset by asset; zero where not ready."""
    timeframe_s: int
    max_gap_s: int

    def __len__(self) -> int:
        """U."""
        return len(self.t)

    @property
    def columns(self) -> int:
        """F."""
        return self.market.shape[1] // len(self.assets)


def align(tapes: Mapping[str, Tape], max_gap_s: int) -> PortfolioTape:
    """Join single-asset tapes, first the main one, whose first and last bar bound the clock.

    Raises:
        BadDataError: an asset has no bar between the main asset's first and last.
    """
    main, timeframe_s = next(iter(tapes.values())), next(iter(tapes.values())).timeframe_s
    inside = {name: _within(tape, int(main.t[0]), int(main.t[-1])) for name, tape in tapes.items()}
    for name, rows in inside.items():
        if not rows.size:
            raise BadDataError(
                f"{name} has no bar between {main.t[0]} and {main.t[-1]} (Unix s), the time of {next(iter(tapes))}; "
                "choose assets whose histories overlap"
            )
    t = np.unique(np.concatenate([tapes[name].t[rows] for name, rows in inside.items()]))
    count, assets, columns = len(t), len(tapes), main.observation.shape[1]
    prices, flags = np.ones((count, assets, 4)), np.zeros((count, assets), np.uint8)
    segment = np.full((count, assets), -1, np.int32)
    market = np.zeros((count, assets, columns), np.float32)
    for k, (name, rows) in enumerate(inside.items()):
        tape = tapes[name]
        at = np.searchsorted(t, tape.t[rows])
        latest = np.searchsorted(tape.t[rows], t, side="right") - 1
        known, bar = latest >= 0, rows[np.maximum(latest, 0)]
        prices[known, k] = tape.close[bar[known], None]
        prices[at, k] = np.column_stack([tape.open, tape.high, tape.low, tape.close])[rows]
        segment[known, k] = tape.segment[bar[known]]
        flags[at, k] = np.where(tape.ready[rows], PRESENT | READY, PRESENT)
        market[at, k] = np.where(tape.ready[rows, None], tape.observation[rows], 0)
    return PortfolioTape(tuple(tapes), t, prices, flags, segment, market.reshape(count, -1), timeframe_s, max_gap_s)


def closing_flags(tape: PortfolioTape, stop: int) -> np.ndarray:
    """(stop, K) flags of the rows before `stop`, with `CLOSES` on an asset's last bar of a segment.

    That is a bar after which its next one, before `stop`, is of another segment, or after which it has none for
    longer than the largest gap; the last rows before `stop` are the end of the data, where positions are marked.
    """
    flags = tape.flags[:stop].copy()
    for k in range(len(tape.assets)):
        rows = np.flatnonzero(flags[:, k] & PRESENT)
        if rows.size:
            segment = tape.segment[rows, k]
            ended = np.r_[segment[1:] != segment[:-1], tape.t[stop - 1] - tape.t[rows[-1]] > tape.max_gap_s]
            flags[rows[ended], k] |= CLOSES
    return flags


def portfolio_spans(tape: PortfolioTape, start: int, stop: int) -> list[tuple[int, int]]:
    """Maximal runs [a, b) of rows within [start, stop) on which some asset may be traded, of at least two rows.

    No run crosses a gap of the clock that is longer than the largest gap.
    """
    ready = (tape.flags[start:stop] & READY != 0).any(axis=1)
    if not len(ready):
        return []
    gap = np.diff(tape.t[start:stop]) > tape.max_gap_s
    edges = [0, *(np.flatnonzero((ready[1:] != ready[:-1]) | gap) + 1).tolist(), len(ready)]
    runs = zip(edges[:-1], edges[1:], strict=True)
    return [(start + a, start + b) for a, b in runs if ready[a] and b - a >= 2]


def span_rows(spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """(S, 3) int64 rows for the rules: decisions before the span, its first row, its last row.

    Raises:
        BadDataError: there is no span.
    """
    if not len(spans):
        raise BadDataError("no rows to play on: no run of two rows on which an asset may be traded; give more data")
    decisions = np.cumsum([0, *(stop - 1 - first for first, stop in spans)])
    return np.array([(before, first, stop - 1) for before, (first, stop) in zip(decisions, spans, strict=False)])


def _within(tape: Tape, first_t: int, last_t: int) -> np.ndarray:
    return np.flatnonzero((tape.t >= first_t) & (tape.t <= last_t))
