"""Load a dataset by name or path: find it, read it, hold it to the market rules, report what was found.

Nothing is fetched here; see `fetch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from configs.assets import DatasetName, asset_class_of, class_layer
from configs.errors import BadDataError
from training import demo
from training.market import Bars, make_bars
from training.sources.catalog import locate
from training.sources.columns import find_roles
from training.sources.files import read_table
from training.sources.report import DataReport, facts_of
from training.sources.resample import Resampled, resample
from training.sources.rules import (
    Order,
    Rows,
    check_timeframe,
    coarse_faults,
    grid_faults,
    order_of,
    read_values,
    settle_duplicates,
    timeframe_of,
    value_faults,
    without,
)
from training.sources.stamps import INVALID, day_name, parse_stamps, parse_zone
from training.sources.table import Fault, Table, by_row, refuse


class ReadOptions(Protocol):
    """How a file is read; `configs.schema.DatasetConfig` has these fields too."""

    @property
    def repair(self) -> str:
        """`none` refuses a file with faulty rows, `drop` drops and lists them."""

    @property
    def timezone(self) -> str:
        """Zone of stamps that carry none, `auto` for the format's own."""

    @property
    def resample(self) -> bool:
        """Build the asked timeframe from a finer one."""

    @property
    def asset_class(self) -> str:
        """Declared asset class, '' to take it from the symbol."""


@dataclass(frozen=True)
class LoadOptions:
    """Plain `ReadOptions`."""

    repair: str = "none"
    timezone: str = "auto"
    resample: bool = False
    asset_class: str = ""


@dataclass
class Cleaned:
    """Rows of a table after the rules, and the account of it."""

    rows: Rows
    format: str
    timezone: str
    order: Order
    timeframe_s: int
    duplicates: int
    dropped: list[Fault]
    notes: list[str] = field(default_factory=list)


def load_dataset(
    name: str,
    data_dirs: Sequence[Path] = (),
    *,
    options: ReadOptions = LoadOptions(),
    path: Path | None = None,
) -> tuple[Bars, DataReport]:
    """Load a dataset.

    Args:
        name: dataset name, for example `ADA-EUR_1H_20240101-20251231`; a range cuts the series, end day included.
        data_dirs: where the file is looked up; the generated demo needs none.
        options: how the file is read.
        path: the file itself, where it is already known; not looked up then.

    Raises:
        ConfigError: malformed name, unknown symbol or time zone.
        DatasetNotFoundError: no such dataset.
        BadDataError: the file breaks the market rules; the message names file, row and value.
    """
    parsed = DatasetName.parse(name)
    asset_class = options.asset_class or asset_class_of(parsed.base, parsed.quote)
    max_gap_s = class_layer(asset_class, parsed.timeframe)["market"]["max_gap_s"]
    file = path or locate(name, data_dirs).path
    report = DataReport(name=name, path=str(file or ""), asset_class=asset_class, timeframe_s=parsed.timeframe_s)
    if file is None:
        bars = demo.demo_bars(max_gap_s)
        t, values = bars.t, np.column_stack([bars.open, bars.high, bars.low, bars.close, bars.volume])
        report.source_format, report.timezone, report.synthetic = "generated (training.demo)", "UTC (generated)", True
    else:
        t, values = _read_file(file, parsed, options, report)
    t, values = _cut(t, values, parsed, report)
    bars = make_bars(t, np.ascontiguousarray(values.T), timeframe_s=parsed.timeframe_s, max_gap_s=max_gap_s)
    facts_of(bars, report)
    return bars, report


def clean(table: Table, name: DatasetName, options: ReadOptions, where: str) -> Cleaned:
    """Hold a table to the market rules.

    Raises:
        BadDataError: the file as a whole, or with `repair` none any row, breaks them.
    """
    if not len(table.rows):
        raise refuse(where, table.faults) if table.faults else BadDataError(f"{where} has a header but no rows")
    roles = find_roles(table.columns, name.base, where)
    if options.timezone != "auto":
        parse_zone(options.timezone)
    stamps = parse_stamps(table, roles, options.timezone, where)
    values, number_faults = read_values(table, roles.values)
    raw = Rows(stamps.t, values, table.rows)
    found_s = timeframe_of(raw.t[raw.t != INVALID], name.timeframe_s)
    check_timeframe(found_s, name.timeframe_s, resample=options.resample, where=where)
    dated = raw.take(raw.t != INVALID)
    faults = [*table.faults, *stamps.faults, *number_faults, *value_faults(raw), *grid_faults(dated, found_s)]
    rows, duplicates, conflicts = settle_duplicates(without(raw, faults))
    mixed = coarse_faults(rows, found_s)
    faults += conflicts + mixed
    if faults and options.repair != "drop":
        raise refuse(where, faults)
    rows = without(rows, mixed)
    if not len(rows):
        first = min(faults)
        raise BadDataError(f"{where}: no valid row is left of {len(raw):,}; row {first.row}: {first}")
    notes = [*table.notes, *roles.notes]
    return Cleaned(rows, stamps.format, stamps.timezone, order_of(dated.t), found_s, duplicates, sorted(faults), notes)


def _read_file(
    file: Path, name: DatasetName, options: ReadOptions, report: DataReport
) -> tuple[np.ndarray, np.ndarray]:
    """Columns t and values of a file at the asked timeframe; fills the report's account of reading."""
    table = read_table(file)
    cleaned = clean(table, name, options, str(file))
    report.source_format = f"{table.layout}; {cleaned.format}"
    report.timezone, report.notes = cleaned.timezone, cleaned.notes
    report.order, report.out_of_order = cleaned.order.direction, cleaned.order.out_of_order
    report.duplicates = cleaned.duplicates
    report.dropped = [{"row": row, "reason": reason} for row, reason in by_row(cleaned.dropped).items()]
    report.file_rows = len(table.rows) + len(table.faults)
    t, values = cleaned.rows.t, cleaned.rows.values
    if cleaned.timeframe_s == name.timeframe_s:
        return t, values
    built = resample(t, values, cleaned.timeframe_s, name.timeframe_s)
    report.notes.append(_resample_note(built, len(t), cleaned.timeframe_s))
    if not len(built.t):
        raise BadDataError(
            f"{file}: {len(t):,} bars of {cleaned.timeframe_s:,} s hold no whole bar of {name.timeframe}"
        )
    return built.t, built.values


def _resample_note(built: Resampled, source_rows: int, source_s: int) -> str:
    return (
        f"{len(built.t):,} bars resampled from {source_rows:,} of {source_s:,} s: {built.edge_bars} incomplete at the "
        f"ends left out, {built.partial_bars:,} inside lack some finer bar"
    )


def _cut(t: np.ndarray, values: np.ndarray, name: DatasetName, report: DataReport) -> tuple[np.ndarray, np.ndarray]:
    """The bars inside the name's range."""
    if not name.end_s:
        return t, values
    start, stop = np.searchsorted(t, [name.start_s, name.end_s])
    if start == stop:
        raise BadDataError(
            f"{report.path or report.name} has bars from {day_name(int(t[0]))} to {day_name(int(t[-1]))}, "
            f"none in the range of {report.name}; ask for another range"
        )
    if len(t) - (stop - start):
        report.notes.append(f"bars outside the asked range, cut off: {len(t) - (stop - start):,}")
    missing_s = max(int(t[start]) - name.start_s, name.end_s - int(t[stop - 1]) - name.timeframe_s)
    if missing_s > 0:
        report.notes.append(
            f"the asked range is not covered to its ends: bars from {day_name(int(t[start]))} "
            f"to {day_name(int(t[stop - 1]))}"
        )
    return t[start:stop], values[start:stop]
