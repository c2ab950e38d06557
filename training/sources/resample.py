"""Build bars of a coarser timeframe: open of the first, high and low of all, close of the last, volume summed.

A built bar carries the open stamp of its span. The first and the last one must
be covered to their edges, else they are left out; inside the series a missing
finer bar means no trade, so a span with any bar is a bar, and is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Resampled:
    """Coarser bars and what became of the finer ones."""

    t: np.ndarray
    values: np.ndarray
    """(N, 5) float64: open, high, low, close, volume."""
    edge_bars: int
    """Incomplete first and last bars left out, 0 to 2."""
    partial_bars: int
    """Bars kept although some finer bar of their span is missing."""


def resample(t: np.ndarray, values: np.ndarray, source_s: int, target_s: int) -> Resampled:
    """Bars of `target_s` from strictly increasing bars of `source_s`, which divides it."""
    span = t // target_s
    starts = np.flatnonzero(np.diff(span, prepend=span[:1] - 1))
    counts = np.diff(starts, append=len(t))
    ends = starts + counts - 1
    built = np.column_stack(
        [
            values[starts, 0],
            np.maximum.reduceat(values[:, 1], starts),
            np.minimum.reduceat(values[:, 2], starts),
            values[ends, 3],
            np.add.reduceat(values[:, 4], starts),
        ]
    )
    open_t = span[starts] * target_s
    keep = np.ones(len(starts), dtype=bool)
    keep[0] &= t[0] == open_t[0]
    keep[-1] &= t[-1] + source_s == open_t[-1] + target_s
    partial = (counts < target_s // source_s) & keep
    return Resampled(open_t[keep], built[keep], int((~keep).sum()), int(partial.sum()))
