"""The market rules: from a table as found to bars that obey them, and the list of what does not.

Sorting and dropping exact duplicates are the only changes, both counted. A row
that breaks a rule is a fault; the caller decides between refusing and dropping.
No value is ever filled, shifted or corrected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.assets import TIMEFRAME_S
from configs.errors import BadDataError
from training.market import PRICE_COLUMNS, VALUE_COLUMNS
from training.sources.stamps import INVALID, day_name
from training.sources.table import Fault, Table, as_numpy, shown, text_column

LARGEST_PRICE = 1e12
LARGEST_VOLUME = 1e18
"""No market has seen these; beyond them sums of squares lose all their digits."""
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
COARSE_RUN_ROWS = 10
"""So many bars in a row on a coarser grid, with none between, are bars of the coarser timeframe."""


@dataclass
class Rows:
    """Rows of a file on their way to bars: R rows, (R,) arrays."""

    t: np.ndarray
    values: np.ndarray
    """(R, 5) float64: open, high, low, close, volume."""
    rows: np.ndarray

    def __len__(self) -> int:
        """R."""
        return len(self.t)

    def take(self, index: np.ndarray) -> Rows:
        """The rows of an index or mask."""
        return Rows(self.t[index], self.values[index], self.rows[index])


@dataclass(frozen=True)
class Order:
    """How the rows stood in the file."""

    direction: str
    out_of_order: int
    """Rows that stand against that direction."""


def read_values(table: Table, names: dict[str, str]) -> tuple[np.ndarray, list[Fault]]:
    """(R, 5) float64 values, NaN where a cell is no number, and those cells as faults."""
    values = np.empty((len(table.rows), len(VALUE_COLUMNS)))
    faults: list[Fault] = []
    for place, role in enumerate(VALUE_COLUMNS):
        column = table.columns[names[role]]
        values[:, place], bad = _numbers(column)
        for row in bad.tolist():
            faults.append(Fault(int(table.rows[row]), role, shown(column[row].as_py()), "a number"))
    return values, faults


def _numbers(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(R,) float64 and the indexes of cells that are no finite number."""
    try:
        cast = column.cast(pa.float64())
        if not cast.null_count and np.isfinite(as_numpy(cast)).all():
            return as_numpy(cast), np.empty(0, dtype=np.int64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    text = text_column(column)
    wellformed = pc.match_substring_regex(text, NUMBER)
    numbers = as_numpy(pc.if_else(wellformed, text, pa.scalar(None, pa.string())).cast(pa.float64()).fill_null(np.nan))
    return numbers, np.flatnonzero(~np.isfinite(numbers))


def value_faults(rows: Rows) -> list[Fault]:
    """Rows whose numbers cannot be a bar; rows with NaN have been reported before."""
    o, h, low, c, v = rows.values.T
    finite = np.isfinite(rows.values).all(axis=1)
    faults: list[Fault] = []

    def add(mask: np.ndarray, column: str, cells: np.ndarray, expected: str, other: np.ndarray | None = None) -> None:
        for row in np.flatnonzero(mask & finite).tolist():
            limit = "" if other is None else f" ({other[row]:.12g})"
            faults.append(Fault(int(rows.rows[row]), column, f"{cells[row]:.12g}", expected + limit))

    for name, cells in zip(PRICE_COLUMNS, (o, h, low, c), strict=True):
        add(cells <= 0, name, cells, "a price above 0")
        add(cells > LARGEST_PRICE, name, cells, f"a price up to {LARGEST_PRICE:.0e}")
    add(v < 0, "volume", v, "a volume of 0 or more")
    add(v > LARGEST_VOLUME, "volume", v, f"a volume up to {LARGEST_VOLUME:.0e}")
    top, bottom = np.maximum(o, c), np.minimum(o, c)
    add((h < top) & (h > 0), "high", h, "at least the larger of open and close", top)
    add((low > bottom) & (bottom > 0), "low", low, "at most the smaller of open and close", bottom)
    return faults


def timeframe_of(t: np.ndarray, asked_s: int) -> int:
    """The file's own timeframe: the step of more than half of all neighbouring stamps.

    Where no step is that frequent (a single bar, a market that hardly trades) it is
    taken as asked, and the grid decides.
    """
    steps, counts = np.unique(np.diff(np.unique(t)), return_counts=True)
    if not len(steps) or counts.max() * 2 <= counts.sum():
        return asked_s
    return int(steps[np.argmax(counts)])


def check_timeframe(found_s: int, asked_s: int, *, resample: bool, where: str) -> None:
    """Refuse a file whose bars are not those asked for.

    Raises:
        BadDataError: the file's timeframe is unknown, coarser, or finer without `resample`.
    """
    names = {seconds: name for name, seconds in TIMEFRAME_S.items()}
    asked = names[asked_s]
    if found_s == asked_s:
        return
    if found_s not in names:
        raise BadDataError(
            f"{where}: most stamps are {found_s:,} s apart, which is no known timeframe ({', '.join(TIMEFRAME_S)})"
        )
    if found_s > asked_s:
        raise BadDataError(f"{where} has {names[found_s]} bars, coarser than the {asked} asked for")
    if not resample:
        raise BadDataError(
            f"{where} has {names[found_s]} bars, not {asked}; set dataset.resample=true (data check: --resample)"
        )


def grid_faults(rows: Rows, timeframe_s: int) -> list[Fault]:
    """Stamps that are no whole multiple of the timeframe since 1970."""
    off = np.flatnonzero(rows.t % timeframe_s != 0).tolist()
    expected = f"a stamp on the {timeframe_s:,} s grid"
    return [Fault(int(rows.rows[row]), "the timestamp", day_name(int(rows.t[row])), expected) for row in off]


def order_of(t: np.ndarray) -> Order:
    """Direction of the stamps as they stand in the file."""
    steps = np.diff(t)
    up, down = int((steps > 0).sum()), int((steps < 0).sum())
    return Order("newest first", up) if down > up else Order("oldest first", down)


def settle_duplicates(rows: Rows) -> tuple[Rows, int, list[Fault]]:
    """Rows sorted by time without exact duplicates, how many those were, and conflicting ones as faults."""
    rows = rows.take(np.lexsort((rows.rows, rows.t)))
    same_t = np.diff(rows.t) == 0
    if not same_t.any():
        return rows, 0, []
    same = same_t & (rows.values[1:] == rows.values[:-1]).all(axis=1)
    group = np.cumsum(np.concatenate([[True], ~same_t]))
    conflicting = np.isin(group, group[1:][same_t & ~same])
    faults = []
    for row in np.flatnonzero(conflicting).tolist():
        other = row + 1 if row + 1 < len(rows) and same_t[row] else row - 1
        value = f"{day_name(int(rows.t[row]))} with close {rows.values[row, 3]:.12g}"
        expected = f"the only bar of its stamp (see row {rows.rows[other]})"
        faults.append(Fault(int(rows.rows[row]), "the timestamp", value, expected))
    extra = np.concatenate([[False], same_t]) & ~conflicting
    return rows.take(~extra & ~conflicting), int(extra.sum()), faults


def coarse_faults(rows: Rows, timeframe_s: int) -> list[Fault]:
    """Stretches of bars of a coarser timeframe inside a sorted series: mixed timeframes."""
    faults: dict[int, Fault] = {}
    for name, coarse_s in TIMEFRAME_S.items():
        if coarse_s <= timeframe_s:
            continue
        on_grid = np.concatenate([[False], rows.t % coarse_s == 0, [False]])
        edges = np.flatnonzero(np.diff(on_grid))
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            if stop - start < COARSE_RUN_ROWS:
                continue
            for row in range(start, stop):
                value = f"{day_name(int(rows.t[row]))} amid {stop - start:,} bars {name} apart"
                expected = f"a bar of the file's own timeframe ({timeframe_s:,} s)"
                faults[int(rows.rows[row])] = Fault(int(rows.rows[row]), "the timestamp", value, expected)
    return list(faults.values())


def without(rows: Rows, faults: list[Fault]) -> Rows:
    """The rows that no fault names and that have a stamp."""
    return rows.take(~np.isin(rows.rows, [fault.row for fault in faults]) & (rows.t != INVALID))
