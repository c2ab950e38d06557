"""How numbers are written: a sign, a unit, a fixed number of places, and a dash where there is none."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, TypeGuard

from configs.calendar import day_of
from runner.preflight.check import human_bytes

NONE = "\u2013"
MINUS = "\u2212"


def ratio(value: Any, places: int = 2) -> str:
    """`1.23`."""
    return NONE if not is_number(value) else f"{value:,.{places}f}".replace("-", MINUS)


def signed(value: Any, places: int = 2) -> str:
    """`+1.23`."""
    return NONE if not is_number(value) else f"{value:+,.{places}f}".replace("-", MINUS)


def percent(value: Any, places: int = 1) -> str:
    """A share as `12.3 %`."""
    return NONE if not is_number(value) else f"{100 * value:,.{places}f}\u00a0%".replace("-", MINUS)


def signed_percent(value: Any, places: int = 1) -> str:
    """A share as `+12.3 %`."""
    return NONE if not is_number(value) else f"{100 * value:+,.{places}f}\u00a0%".replace("-", MINUS)


def count(value: Any) -> str:
    """`12,345`."""
    return NONE if not is_number(value) else f"{value:,.0f}".replace("-", MINUS)


def interval(pair: Any, places: int = 2) -> str:
    """`[-0.50, 1.20]`."""
    if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(is_number(value) for value in pair)):
        return NONE
    return f"[{ratio(pair[0], places)}, {ratio(pair[1], places)}]"


def size(size_bytes: Any) -> str:
    """`1.23 GB`."""
    return NONE if not is_number(size_bytes) else human_bytes(size_bytes)


def duration(seconds: Any) -> str:
    """`1 h 02 min`, `3 min 05 s` or `4.2 s`."""
    if not is_number(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest_s:02d} s"


def day(unix_s: Any) -> str:
    """`2024-01-31`, UTC."""
    return NONE if not is_number(unix_s) else day_of(unix_s)


def minute(unix_s: Any) -> str:
    """`2024-01-31 15:00`, UTC."""
    return NONE if not is_number(unix_s) else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")


def is_number(value: Any) -> TypeGuard[float]:
    """A finite int or float, no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
