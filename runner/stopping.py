"""Stop requests: counted, and by when the program must be gone."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from typing import Any

from runner.guard import Terminated


class StopSignals:
    """SIGINT and SIGTERM while inside: they interrupt what is not shielded; the first sets the program's deadline."""

    def __init__(self, grace_s: float) -> None:
        """Allow `grace_s` from the first request to the end of the program."""
        self.deadline_s = math.inf
        """When the program must be gone, by `time.monotonic`."""
        self.name = ""
        """Of the first signal; empty before it."""
        self._grace_s, self._count, self._shielded = grace_s, 0, False

    def __enter__(self) -> StopSignals:
        """Take the signals."""
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_error: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def hurried(self) -> bool:
        """A second request came: nothing is waited for."""
        return self._count > 1

    def limit(self, deadline_s: float) -> None:
        """Be gone by then, signal or none."""
        self.deadline_s = min(self.deadline_s, deadline_s)

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline_s - time.monotonic()

    @contextlib.contextmanager
    def shield(self) -> Iterator[None]:
        """Let requests only be noted while inside: what runs there looks at them by itself."""
        before, self._shielded = self._shielded, True
        try:
            yield
        finally:
            self._shielded = before

    @contextlib.contextmanager
    def exposed(self) -> Iterator[None]:
        """Inside a shield: let a request interrupt what runs here, and nothing after it."""
        try:
            self._shielded = False
            yield
        except KeyboardInterrupt:
            pass
        finally:
            self._shielded = True

    def _note(self, number: int, _frame: Any) -> None:
        self._count += 1
        self.name = self.name or signal.Signals(number).name
        self.deadline_s = min(self.deadline_s, time.monotonic() + self._grace_s)
        if not self._shielded:
            self._shielded = True
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
