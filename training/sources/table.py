"""What a reader hands on: named columns as found in a file, and the faults of single rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import BadDataError

LISTED_FAULTS = 5
"""Faults that an error message spells out; the rest is a count."""


@dataclass(frozen=True, order=True)
class Fault:
    """One row that breaks a rule; `row` is the 1-based line of a text file, or the row of a table."""

    row: int
    column: str
    value: str
    expected: str

    def __str__(self) -> str:
        """What is wrong, as a clause of a message."""
        return f"{self.column} {self.value} is not {self.expected}"


@dataclass
class Table:
    """Columns of equal length, text or typed, before any interpretation."""

    columns: dict[str, pa.Array]
    rows: np.ndarray
    """(R,) int64: where each row stands in the file, as in `Fault.row`."""
    layout: str
    """What kind of file it is, for the report."""
    dialect: str = ""
    """`histdata` or `metatrader` where the layout shows it: their stamps have a zone of their own."""
    notes: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def take(self, keep: np.ndarray) -> Table:
        """The rows where `keep` is true."""
        mask = pa.array(keep)
        columns = {name: column.filter(mask) for name, column in self.columns.items()}
        return Table(columns, self.rows[keep], self.layout, self.dialect, self.notes, self.faults)


def text_column(column: pa.Array) -> pa.Array:
    """The column as text without surrounding blanks; missing cells are ''."""
    if pa.types.is_floating(column.type):
        whole = pc.all(pc.equal(column, pc.floor(column)), min_count=0).as_py()
        # 1.5654816e+09 as a float64 cell of a table stands for the integer 1565481600
        column = column.cast(pa.int64(), safe=False) if whole and pc.all(pc.is_finite(column)).as_py() else column
    text = column if pa.types.is_string(column.type) else column.cast(pa.string())
    return pc.utf8_trim_whitespace(pc.fill_null(text, "") if text.null_count else text)


def as_numpy(column: pa.Array) -> np.ndarray:
    """A column of numbers or booleans without missing cells.

    `Array.to_numpy` would do, but imports pandas, which takes 0.4 s.
    """
    if pa.types.is_boolean(column.type):
        return np.from_dlpack(column.cast(pa.uint8())).astype(bool)
    return np.from_dlpack(column)


def by_row(faults: Sequence[Fault]) -> dict[int, str]:
    """Row -> all that is wrong with it, rows ascending."""
    reasons: dict[int, list[str]] = {}
    for fault in sorted(faults):
        reasons.setdefault(fault.row, []).append(str(fault))
    return {row: ", ".join(reason) for row, reason in reasons.items()}


def refuse(path: Path | str, faults: Sequence[Fault]) -> BadDataError:
    """The error of a file with faulty rows: all counted, the first few spelled out, in one line."""
    rows = by_row(faults)
    listed = "; ".join(f"row {row}: {reason}" for row, reason in list(rows.items())[:LISTED_FAULTS])
    more = f"; and {len(rows) - LISTED_FAULTS:,} more" if len(rows) > LISTED_FAULTS else ""
    count = f"{len(rows):,} faulty row{'s' * (len(rows) > 1)}"
    return BadDataError(
        f"{path}: {count}: {listed}{more}; correct them, or set dataset.repair=drop (data check: --repair drop)"
    )


def shown(value: object, longest: int = 40) -> str:
    """A value as it appears in a message: quoted, one line, not endless."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}...'"
