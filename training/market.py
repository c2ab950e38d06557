"""One market series: bars on a time grid, cut into segments at long gaps.

Shapes: N = bars. Nothing here reads a file, repairs or fills.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

PRICE_COLUMNS = ("open", "high", "low", "close")
VALUE_COLUMNS = (*PRICE_COLUMNS, "volume")
COLUMNS = ("t", *VALUE_COLUMNS, "segment")


@dataclass(frozen=True)
class Bars:
    """One series, strictly increasing in `t`; every array has N rows."""

    t: np.ndarray
    """int64, Unix seconds UTC of each bar's OPEN."""
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    segment: np.ndarray
    """int32, 0..S-1, grows by one where the step from the bar before is longer than the largest gap."""
    timeframe_s: int

    def __len__(self) -> int:
        """N."""
        return len(self.t)

    def slice(self, start: int, stop: int) -> Bars:
        """Bars [start, stop); segment numbers stay those of the whole series."""
        return replace(self, **{name: getattr(self, name)[start:stop] for name in COLUMNS})

    def frame(self) -> pd.DataFrame:
        """Columns t, open, high, low, close, volume, segment."""
        import pandas as pd

        return pd.DataFrame({name: getattr(self, name) for name in COLUMNS})

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, timeframe_s: int) -> Bars:
        """The inverse of `frame`."""
        values = {name: frame[name].to_numpy(np.float64) for name in VALUE_COLUMNS}
        return cls(
            t=frame["t"].to_numpy(np.int64),
            segment=frame["segment"].to_numpy(np.int32),
            timeframe_s=timeframe_s,
            **values,
        )

    def digest(self) -> str:
        """Hex sha256 of timeframe, t and values as little-endian bytes: equal for equal series under any name."""
        sha = hashlib.sha256(f"bars {self.timeframe_s} {len(self)}\n".encode())
        sha.update(np.ascontiguousarray(self.t, dtype="<i8").tobytes())
        for name in VALUE_COLUMNS:
            # + 0.0 makes one zero of the two that IEEE has
            sha.update((np.ascontiguousarray(getattr(self, name), dtype="<f8") + 0.0).tobytes())
        return sha.hexdigest()


def make_bars(t: np.ndarray, values: Iterable[np.ndarray], *, timeframe_s: int, max_gap_s: int) -> Bars:
    """Bars of ready columns (open, high, low, close, volume) with their segments assigned."""
    columns = dict(zip(VALUE_COLUMNS, values, strict=True))
    return Bars(t=t, segment=assign_segments(t, max_gap_s), timeframe_s=timeframe_s, **columns)


def assign_segments(t: np.ndarray, max_gap_s: int) -> np.ndarray:
    """(N,) int32 segment of each bar: a step longer than `max_gap_s` starts the next one."""
    starts = np.diff(t, prepend=t[:1]) > max_gap_s
    return np.cumsum(starts, dtype=np.int32)


def segment_bounds(segment: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of each run of equal segment numbers, in order."""
    if not len(segment):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(segment)) + 1).tolist(), len(segment)]
    return list(zip(cuts[:-1], cuts[1:], strict=True))
