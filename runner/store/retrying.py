"""An object store whose calls are repeated while their errors may pass: exponential backoff with full jitter.

Source of the waits: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from configs.errors import StoreError
from runner.store.objects import KeyMissingError, ObjectStore, PreconditionFailedError, Stat, StoreDeniedError

Answer = TypeVar("Answer")

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 20.0
DENIED_ATTEMPTS = 3
"""Denied calls are repeated too, since each attempt looks the credentials up anew, but wrong ones soon end it."""


@dataclass(frozen=True)
class Pace:
    """What passes time; another one in tests."""

    clock: Callable[[], float] = time.monotonic
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait
    uniform: Callable[[float, float], float] = random.SystemRandom().uniform
    """The seeded generator belongs to the run, and equal seeds would make all runners retry in step."""


class Retrying:
    """An `ObjectStore` around another."""

    def __init__(
        self,
        inner: ObjectStore,
        *,
        deadline_s: float,
        cancel: threading.Event | None = None,
        on_retry: Callable[[str, StoreError, float], None] = lambda call, error, wait_s: None,
        pace: Pace = Pace(),
    ) -> None:
        """Repeat the calls of `inner` for up to `deadline_s` each, or until `cancel` is set."""
        self.url = inner.url
        self._inner = inner
        self._deadline_s = deadline_s
        self._cancel = cancel or threading.Event()
        self._on_retry = on_retry
        self._pace = pace

    def put(self, key: str, body: bytes | Path) -> str:
        """Write or overwrite an object and return its tag."""
        return self._repeat(f"put {key}", lambda: self._inner.put(key, body))

    def put_if_absent(self, key: str, body: bytes) -> str:
        """Write a new object and return its tag; one with this very body is our own, whose reply was lost."""
        return self._conditional(key, body, f"create {key}", lambda: self._inner.put_if_absent(key, body))

    def replace_if_match(self, key: str, body: bytes, tag: str) -> str:
        """Replace the version named by `tag`; a version with this very body is our own, whose reply was lost."""
        return self._conditional(key, body, f"replace {key}", lambda: self._inner.replace_if_match(key, body, tag))

    def get(self, key: str) -> tuple[bytes, Stat]:
        """Read a whole small object."""
        return self._repeat(f"get {key}", lambda: self._inner.get(key))

    def get_to(self, key: str, path: Path) -> None:
        """Stream an object into a file, from its start at each attempt."""
        self._repeat(f"get {key}", lambda: self._inner.get_to(key, path))

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Every object whose key begins with `prefix`, by key: the whole listing of one attempt."""
        return iter(self._repeat(f"list {prefix}", lambda: list(self._inner.list(prefix))))

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is fine."""
        self._repeat(f"delete {key}", lambda: self._inner.delete(key))

    def _conditional(self, key: str, body: bytes, name: str, call: Callable[[], str]) -> str:
        # asked even when the first attempt is refused: the SDKs repeat broken requests by themselves
        try:
            return self._repeat(name, call)
        except PreconditionFailedError as refusal:
            try:
                found, stat = self.get(key)
            except KeyMissingError:
                raise refusal from None
            if found != body:
                raise
            return stat.tag

    def _repeat(self, name: str, call: Callable[[], Answer]) -> Answer:
        started_s = self._pace.clock()
        for attempt in itertools.count(1):
            try:
                return call()
            except StoreError as error:
                wait_s = self._pace.uniform(0, min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1)))
                spent_s = self._pace.clock() - started_s
                too_late = spent_s + wait_s > self._deadline_s or self._cancel.is_set()
                denied_for_good = isinstance(error, StoreDeniedError) and attempt >= DENIED_ATTEMPTS
                if error.retryable and not too_late and not denied_for_good:
                    self._on_retry(name, error, wait_s)
                    if not self._pace.wait(self._cancel, wait_s):
                        continue
                if attempt == 1:
                    raise
                raise type(error)(f"{error} (tried {attempt} times in {spent_s:.0f} s)") from error
        raise AssertionError("unreachable")
