"""Timestamps: which format and time zone a column has, and its Unix seconds.

Every format is told from every other by its shape alone; a shape that could be
two things (day and month order, two-digit years, rounded numbers) is refused.
Unix units are told by the number of digits, good for 1973-2286.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import BadDataError, ConfigError
from training.sources.columns import Roles
from training.sources.table import Fault, Table, as_numpy, shown, text_column

NANO = 1_000_000_000
ZONE_STEP_S = 900
"""Every change of a zone's offset since 1970 falls on a quarter of an hour."""
INVALID = np.iinfo(np.int64).min
"""Marks a row without a usable stamp."""


@dataclass(frozen=True)
class Format:
    """One shape of timestamps."""

    name: str
    pattern: str
    parse: Callable[[pa.Array], pa.Array]
    """Text of this shape to int64 nanoseconds, null where there is no such day or time."""
    zone: str = "UTC"
    """Zone of stamps that carry none; '' where the file cannot say: it must be declared."""
    basis: str = ""
    """Why that zone."""


def _unix(scale: int) -> Callable[[pa.Array], pa.Array]:
    def parse(text: pa.Array) -> pa.Array:
        parts = pc.extract_regex(text, r"^(?P<whole>\d+)(?:\.(?P<rest>\d+))?$")
        whole = parts.field("whole").cast(pa.int64())
        rest = pc.not_equal(pc.utf8_trim(parts.field("rest"), "0"), "")
        return pc.if_else(rest, pa.scalar(None, pa.int64()), pc.multiply_checked(whole, scale))

    return parse


def _cast(kind: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    def parse(text: pa.Array) -> pa.Array:
        try:
            return text.cast(kind).cast(pa.int64())
        except pa.ArrowInvalid:  # one bad day of many: find which
            return pa.array([_or_none(cell, kind) for cell in text.to_pylist()], pa.int64())

    return parse


def _or_none(cell: str | None, kind: pa.DataType) -> int | None:
    try:
        return None if cell is None else pa.array([cell]).cast(kind).cast(pa.int64())[0].as_py()
    except pa.ArrowInvalid:
        return None


def _strptime(layout: str) -> Callable[[pa.Array], pa.Array]:
    def parse(text: pa.Array) -> pa.Array:
        return pc.strptime(text, format=layout, unit="ns", error_is_null=True).cast(pa.int64())

    return parse


def _metatrader(text: pa.Array) -> pa.Array:
    return _cast(pa.timestamp("ns"))(pc.replace_substring(text, ".", "-"))


ISO_DAY, CLOCK = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d(:\d\d(\.\d{1,9})?)?"
FORMATS = (
    Format("ISO-8601 with zone", rf"^{ISO_DAY}[T ]{CLOCK}(Z|[+-]\d\d:?\d\d)$", _cast(pa.timestamp("ns", "UTC")),
           basis="the stamps carry their offset"),
    Format("ISO-8601", rf"^{ISO_DAY}([T ]{CLOCK})?$", _cast(pa.timestamp("ns")),
           basis="the convention for stamps without a zone"),
    Format("Unix s", r"^\d{9,10}(\.\d+)?$", _unix(NANO), basis="Unix time"),
    Format("Unix ms", r"^\d{12,13}(\.0+)?$", _unix(1_000_000), basis="Unix time"),
    Format("Unix us", r"^\d{15,16}$", _unix(1_000), basis="Unix time"),
    Format("Unix ns", r"^\d{18,19}$", _unix(1), basis="Unix time"),
    Format("YYYYMMDD HHMMSS", r"^\d{8} \d{6}$", _strptime("%Y%m%d %H%M%S"),
           basis="the convention for stamps without a zone"),
    Format("YYYY-MM-DD hh-PM", rf"^{ISO_DAY} (0[1-9]|1[0-2])-[AP]M$", _strptime("%Y-%m-%d %I-%p"),
           basis="CryptoDataDownload's"),
    Format("YYYY.MM.DD HH:MM", r"^\d{4}\.\d\d\.\d\d( \d\d:\d\d(:\d\d)?)?$", _metatrader, zone=""),
)  # fmt: skip
HISTDATA_ZONE = "America/New_York"
"""HistData says EST without daylight saving; its files follow New York's clock in summer too."""


@dataclass(frozen=True)
class Stamps:
    """The timestamps of a table."""

    t: np.ndarray
    """(R,) int64 Unix seconds, INVALID where the row has a fault."""
    format: str
    timezone: str
    faults: list[Fault]


@dataclass(frozen=True)
class _Column:
    name: str
    text: pa.Array
    kind: np.ndarray
    """(R,) int8 index into FORMATS, -1 where none fits."""
    ns: np.ndarray
    """(R,) int64 nanoseconds UTC, INVALID where there are none."""
    timezone: str
    reasons: dict[int, str]
    """Row index -> what was expected, for rows that fit a format but name no time."""

    @property
    def kinds(self) -> list[int]:
        """Formats in use, the most frequent first."""
        counts = np.bincount(self.kind[self.kind >= 0], minlength=len(FORMATS))
        return [int(kind) for kind in np.argsort(-counts, kind="stable") if counts[kind]]


def looks_like_stamp(text: str) -> bool:
    """Whether the text has the shape of a known format."""
    return any(re.match(format.pattern, text) for format in FORMATS)


def parse_stamps(table: Table, roles: Roles, timezone: str, where: str) -> Stamps:
    """Read every stamp column; where there are several they must agree on each row.

    Args:
        table: the columns.
        roles: which of them hold timestamps.
        timezone: zone of stamps that carry none, or `auto` for the format's own.
        where: the file, for messages.

    Raises:
        BadDataError: no known format, or a time zone that the file cannot say.
        ConfigError: the declared time zone does not exist.
    """
    columns = [_column(table, names, timezone, where) for names in roles.stamps]
    # a column in one format is evidence for one in two, so it comes last in the report
    columns.sort(key=lambda column: len(column.kinds), reverse=True)
    first, others = columns[0], columns[1:]
    faults = [fault for column in columns for fault in _faults_of(column, table.rows, alone=not others)]
    t_ns = first.ns
    for other in others:
        both = (t_ns != INVALID) & (other.ns != INVALID)
        for row in np.flatnonzero(both & (t_ns != other.ns)):
            value = f"{shown(first.text[row].as_py())} in {first.name!r}"
            expected = f"the same time as {shown(other.text[row].as_py())} in {other.name!r}"
            faults.append(Fault(int(table.rows[row]), "the timestamp", value, expected))
    whole = t_ns % NANO == 0
    for row in np.flatnonzero(~whole & (t_ns != INVALID)):
        value = shown(first.text[row].as_py())
        faults.append(Fault(int(table.rows[row]), first.name, value, "a time in whole seconds"))
    t = np.where(whole & (t_ns != INVALID), t_ns // NANO, INVALID)
    t[np.isin(table.rows, [fault.row for fault in faults])] = INVALID
    agreeing = f", agreeing with {' and '.join(repr(other.name) for other in others)}" if others else ""
    counts = [f"{FORMATS[kind].name}" + _count(first, kind) for kind in first.kinds]
    return Stamps(t, f"{' and '.join(counts)} in {first.name!r}{agreeing}", first.timezone, faults)


def _count(column: _Column, kind: int) -> str:
    return f" ({int((column.kind == kind).sum()):,} rows)" if len(column.kinds) > 1 else ""


def _column(table: Table, names: tuple[str, ...], timezone: str, where: str) -> _Column:
    name = " + ".join(names)
    typed = table.columns[names[0]]
    if len(names) == 1 and pa.types.is_timestamp(typed.type):
        if typed.type.tz:
            typed = typed.cast(pa.timestamp("ns", "UTC"))
        text = pc.replace_substring(pc.fill_null(typed.cast(pa.string()), ""), " ", "T")
    else:
        parts = [text_column(table.columns[part]) for part in names]
        text = pc.binary_join_element_wise(*parts, " ") if len(parts) > 1 else parts[0]
    kind = _kinds(text)
    if (kind >= 0).mean() <= 0.5:
        row = int(np.argmax(kind < 0))
        raise BadDataError(
            f"{where}: row {table.rows[row]}: column {name!r} holds {shown(text[row].as_py())}, none of the known "
            f"timestamp formats ({', '.join(format.name for format in FORMATS)}); an ambiguous one is never guessed"
        )
    ns = np.full(len(kind), INVALID)
    timezones: list[str] = []
    reasons: dict[int, str] = {}
    for index in sorted(set(kind[kind >= 0].tolist())):
        rows = np.flatnonzero(kind == index)
        parsed = FORMATS[index].parse(text if len(rows) == len(text) else text.take(pa.array(rows)))
        local = as_numpy(pc.fill_null(parsed, int(INVALID)) if parsed.null_count else parsed)
        zone, basis = _zone(FORMATS[index], table.dialect, timezone)
        if not zone:
            raise BadDataError(
                f"{where}: row {table.rows[rows[0]]}: stamp {shown(text[rows[0]].as_py())} is in the broker's server "
                "time, which a MetaTrader file does not state; declare it, for example --timezone UTC or "
                "--timezone America/New_York+7h"
            )
        timezones.append(f"{zone} ({basis})")
        ns[rows], problems = _to_utc(local, zone)
        reasons |= {int(rows[place]): reason for place, reason in problems.items()}
    return _Column(name, text, kind, ns, " and ".join(dict.fromkeys(timezones)), reasons)


def _kinds(text: pa.Array) -> np.ndarray:
    kind = np.full(len(text), -1, dtype=np.int8)
    for index, format in enumerate(FORMATS):
        if (kind >= 0).all():
            break
        kind[as_numpy(pc.match_substring_regex(text, format.pattern))] = index
    return kind


def _faults_of(column: _Column, rows: np.ndarray, *, alone: bool) -> list[Fault]:
    """Rows without a usable stamp; a column alone must also keep to one format, since nothing confirms a second."""
    main = column.kinds[0]
    wrong = (column.ns == INVALID) | (column.kind != main) if alone else column.ns == INVALID
    faults = []
    for row in np.flatnonzero(wrong).tolist():
        expected = column.reasons.get(row, f"{FORMATS[main].name} as in most rows")
        faults.append(Fault(int(rows[row]), column.name, shown(column.text[row].as_py()), expected))
    return faults


def _zone(format: Format, dialect: str, declared: str) -> tuple[str, str]:
    """Zone of a format's stamps and on what ground; '' where it must be declared."""
    if format.basis in ("Unix time", "the stamps carry their offset"):
        return "UTC", format.basis
    if declared != "auto":
        return declared, "declared"
    if dialect == "histdata":
        return HISTDATA_ZONE, "HistData's, with daylight saving"
    return ("" if dialect == "metatrader" else format.zone), format.basis


def parse_zone(text: str) -> tuple[ZoneInfo, int]:
    """A zone name with an optional shift in hours, `America/New_York+7h`, as zone and shift in seconds.

    Raises:
        ConfigError: there is no such zone.
    """
    match = re.fullmatch(r"(?P<name>[A-Za-z0-9_/+-]+?)(?P<shift>[+-]\d{1,2}h)?", text)
    try:
        if match is None:
            raise ValueError(text)
        return ZoneInfo(match["name"]), int((match["shift"] or "0h")[:-1]) * 3_600
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f"time zone {text!r} is unknown; expected auto, UTC, an IANA name such as America/New_York, "
            "or one with a shift in hours such as America/New_York+7h"
        ) from error


def _to_utc(local_ns: np.ndarray, zone: str) -> tuple[np.ndarray, dict[int, str]]:
    """Nanoseconds of a zone's clock as UTC; local times that exist twice or never stay INVALID, with the reason."""
    info, shift_s = parse_zone(zone)
    if zone == "UTC":
        return local_ns, {}
    bounded = np.where(local_ns == INVALID, 0, local_ns - shift_s * NANO)
    quarters, inverse = np.unique(bounded // (ZONE_STEP_S * NANO), return_inverse=True)
    offsets = [_offset_s(info, int(quarter) * ZONE_STEP_S) for quarter in quarters]
    offset_s = np.array([-1 if isinstance(offset, str) else offset for offset in offsets], dtype=np.int64)[inverse]
    bad = np.array([isinstance(offset, str) for offset in offsets])[inverse] & (local_ns != INVALID)
    utc = np.where(bad | (local_ns == INVALID), INVALID, bounded - offset_s * NANO)
    return utc, {int(row): str(offsets[inverse[row]]) for row in np.flatnonzero(bad)}


def _offset_s(info: ZoneInfo, local_s: int) -> int | str:
    """UTC offset of a local time, or why it has none."""
    local = _EPOCH + timedelta(seconds=local_s)
    first, second = (local.replace(tzinfo=info, fold=fold).utcoffset() for fold in (0, 1))
    if first is None or second is None or first == second:
        return int(first.total_seconds()) if first is not None else 0
    clock = "is skipped when clocks go forward" if first < second else "comes twice when clocks go back"
    return f"a time that exists once (it {clock} in {info.key})"


_EPOCH = datetime(1970, 1, 1)


@cache
def day_name(t: int) -> str:
    """A Unix second as ISO-8601 UTC."""
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
