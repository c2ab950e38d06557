"""Which column of a table is what: by its header, never by its values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from configs.errors import BadDataError
from training.market import PRICE_COLUMNS

STAMP_KEYS = {
    "t", "timestamp", "unix", "unix time", "unix timestamp", "datetime", "date time", "open time", "opentime",
    "gmt time", "time (utc)", "date (utc)", "timestamp (utc)", "index level 0",
}  # fmt: skip
"""Headers of columns that hold a whole timestamp."""
DATE_KEY, TIME_KEY = "date", "time"
"""Together one timestamp; each alone is a whole one."""
VOLUME_KEYS = ("volume", "vol", "tickvol", "tick volume")
TICK_VOLUME_KEYS = ("tickvol", "tick volume")


@dataclass(frozen=True)
class Roles:
    """Column names by role; each entry of `stamps` is one column, or a date and a time to be joined."""

    stamps: list[tuple[str, ...]]
    values: dict[str, str]
    """open, high, low, close, volume -> column name."""
    notes: list[str]


def column_key(name: str) -> str:
    """A header without case, brackets and underscores: `<TICK_VOLUME>` is `tick volume`."""
    return " ".join(name.strip().strip("<>\"'").lower().replace("_", " ").split())


def is_header(cells: Iterable[str]) -> bool:
    """Whether the cells name the four prices."""
    return set(PRICE_COLUMNS) <= {column_key(cell) for cell in cells}


def find_roles(names: Iterable[str], base: str, where: str) -> Roles:
    """Decide which column is what.

    Args:
        names: headers as found.
        base: the symbol's base, which picks one of several volume columns (`Volume BTC`, `Volume USD`).
        where: the file, for messages.

    Raises:
        BadDataError: a column is missing or two may stand for one.
    """
    names = list(names)
    by_key: dict[str, str] = {}
    for name in names:
        if by_key.setdefault(column_key(name), name) != name:
            raise BadDataError(f"{where}: columns {by_key[column_key(name)]!r} and {name!r} mean the same; rename one")
    missing = [price for price in PRICE_COLUMNS if price not in by_key]
    if missing:
        raise BadDataError(f"{where} has no column {', '.join(missing)}; found {', '.join(names)}")
    volume, notes = _volume(by_key, base, where)
    values = {price: by_key[price] for price in PRICE_COLUMNS} | {"volume": volume}
    return Roles(_stamps(by_key, names, where), values, notes)


def _stamps(by_key: dict[str, str], names: list[str], where: str) -> list[tuple[str, ...]]:
    stamps: list[tuple[str, ...]] = [(name,) for key, name in by_key.items() if key in STAMP_KEYS]
    parts = tuple(by_key[key] for key in (DATE_KEY, TIME_KEY) if key in by_key)
    if parts:
        stamps.append(parts)
    if not stamps:
        raise BadDataError(f"{where} has no timestamp column; name it 'timestamp'; found {', '.join(names)}")
    return stamps


def _volume(by_key: dict[str, str], base: str, where: str) -> tuple[str, list[str]]:
    tick = [key for key in TICK_VOLUME_KEYS if key in by_key]
    if tick:
        return by_key[tick[0]], [f"volume is the tick count of column {by_key[tick[0]]!r}"]
    plain = [key for key in VOLUME_KEYS if key in by_key]
    if len(plain) == 1:
        return by_key[plain[0]], []
    named = {key: name for key, name in by_key.items() if key.startswith("volume ")}
    own = f"volume {base.lower()}"
    if not plain and own in named:
        return named[own], [f"volume is column {named[own]!r}"]
    found = [by_key[key] for key in plain] + list(named.values())
    if not found:
        raise BadDataError(f"{where} has no column volume; add one, with 0 where the volume is unknown")
    raise BadDataError(
        f"{where}: {len(found)} volume column(s) {', '.join(map(repr, found))}, none of them {own!r}; "
        "rename the one that counts to 'volume'"
    )
