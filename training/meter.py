"""Progress of a long job: where it is told, and the count of what is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

REPORT_EVERY_S = 1.0


class Report(Protocol):
    """Where progress goes; `progress` is called at safe boundaries and may raise. A stage's `Unit` is one."""

    def progress(self, done: float, total: float, rate: float | None = None, **fields: Any) -> None:
        """`done` of `total` training windows are behind us, at `rate` per second."""

    def metric(self, name: str, **values: Any) -> None:
        """One row of a training curve."""


class Silent:
    """A report nobody reads."""

    def progress(self, done: float, total: float, rate: float | None = None, **fields: Any) -> None:
        """Ignore."""

    def metric(self, name: str, **values: Any) -> None:
        """Ignore."""


class Meter:
    """Counts the training windows of a whole job and reports them about once a second."""

    def __init__(self, report: Report, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.report, self.total, self.done = report, total, 0
        self._clock, self._worked = clock, 0
        self._started_s = self._reported_s = clock()

    def resume(self, done: int) -> None:
        """An earlier process did this much."""
        self.done = done

    def advance(self, windows: int) -> None:
        """`windows` more were trained on."""
        self.done += windows
        self._worked += windows
        if self._clock() - self._reported_s >= REPORT_EVERY_S:
            self.tell()

    def skip(self, windows: int) -> None:
        """`windows` need not be trained on: early stopping."""
        self.done += windows

    def tell(self) -> None:
        """Report now; the rate counts windows trained on, over all the time since the start."""
        self._reported_s = self._clock()
        if self._worked:
            rate = self._worked / (self._reported_s - self._started_s)
            self.report.progress(self.done, self.total, rate, eta_s=(self.total - self.done) / rate)
        else:
            self.report.progress(self.done, self.total)
