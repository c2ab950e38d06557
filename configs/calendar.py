"""Days, and calendar months as `YYYY-MM`, UTC: the units that walk-forward windows are made of."""

from __future__ import annotations

from datetime import UTC, datetime


def day_of(t: float) -> str:
    """The day that a Unix second lies in, as `YYYY-MM-DD`."""
    return f"{datetime.fromtimestamp(t, UTC):%Y-%m-%d}"


def month_of(t: int) -> str:
    """The month that a Unix second lies in."""
    return f"{datetime.fromtimestamp(t, UTC):%Y-%m}"


def shifted(month: str, by: int) -> str:
    """The month `by` months after this one; before it where negative."""
    year, number = map(int, month.split("-"))
    years, months = divmod(year * 12 + number - 1 + by, 12)
    return f"{years:04d}-{months + 1:02d}"


def month_start(month: str) -> int:
    """Unix second of its first instant; its last is one before the start of the next."""
    year, number = map(int, month.split("-"))
    return int(datetime(year, number, 1, tzinfo=UTC).timestamp())


def full_months(first_t: int, last_t: int, timeframe_s: int, slack_s: int = 0) -> list[str]:
    """Months that a series of bars covers from end to end, in order.

    Args:
        first_t: open of the first bar.
        last_t: open of the last bar.
        timeframe_s: length of a bar.
        slack_s: how much may be missing at either end: closed hours of the market.
    """
    month, found = month_of(first_t), []
    while month_start(shifted(month, 1)) <= last_t + timeframe_s + slack_s:
        if first_t <= month_start(month) + slack_s:
            found.append(month)
        month = shifted(month, 1)
    return found
