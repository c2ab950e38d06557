"""Lines made light enough for a page: rounded, and thinned where they have more points than a screen can show."""

from __future__ import annotations

from collections.abc import Sequence

from runner.report.numbers import is_number

MAX_POINTS = 5_000
SIGNIFICANT_DIGITS = 6
THINNED = (
    f"Lines of more than {MAX_POINTS:,} points are drawn through the first, last, lowest and highest value "
    "of equal intervals: every extreme is kept."
)

Number = float | int | None


def thin(x: Sequence[Number], y: Sequence[Number], limit: int = MAX_POINTS) -> tuple[list[Number], list[Number]]:
    """At most `limit` points of a line, in order: each interval's first, last, lowest and highest value.

    A shorter line is returned as it is.
    """
    if len(x) <= limit:
        return list(x), list(y)
    kept: list[int] = []
    intervals = limit // 4
    for number in range(intervals):
        start, stop = (len(x) * edge // intervals for edge in (number, number + 1))
        kept += sorted(_landmarks(y, start, stop))
    return [x[index] for index in kept], [y[index] for index in kept]


def milliseconds(times: Sequence[int]) -> list[int]:
    """Unix seconds as a date axis wants them."""
    return [1000 * t for t in times]


def rounded(values: Sequence[Number]) -> list[Number]:
    """Six significant digits; what is not finite becomes a gap."""
    return [_round(value) for value in values]


def drawdown(equity: Sequence[float]) -> list[float]:
    """Equity over its highest value so far, less 1: 0 at a new high, -0.2 when a fifth is lost."""
    fall, high = [], float("-inf")
    for value in equity:
        high = max(high, value)
        fall.append(value / high - 1)
    return fall


def _landmarks(y: Sequence[Number], start: int, stop: int) -> set[int]:
    known = [index for index in range(start, stop) if is_number(y[index])]
    if not known:
        return {start}
    lowest = min(known, key=lambda index: y[index])  # type: ignore[arg-type, return-value]
    highest = max(known, key=lambda index: y[index])  # type: ignore[arg-type, return-value]
    return {start, stop - 1, lowest, highest}


def _round(value: Number) -> Number:
    if not is_number(value):
        return None
    if isinstance(value, int):
        return value
    short = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
