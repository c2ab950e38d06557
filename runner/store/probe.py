"""What a store can do, found by trying: some servers take conditional writes and ignore the condition."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from configs.errors import StoreError
from runner.store.objects import ObjectStore, PreconditionFailedError

NO_CREATE = "creating an object only where there is none"
NO_REPLACE = "replacing only the version that was named"
NO_CLOCK = "a clock of its own"


@dataclass(frozen=True)
class Probe:
    """One try of every verb on objects below a random prefix."""

    missing: list[str]
    """Protections that the store lacks."""
    clock_ahead_s: float
    """The store's clock less ours, within about a second; 0 where it has none."""
    answer_s: float
    """Time of one small read."""


def probe(store: ObjectStore) -> Probe:
    """Write, read, replace, list and delete below `probe-<random>/`.

    Raises:
        StoreError: the store cannot be used now, or does not give back what it was given.
    """
    key = f"probe-{uuid.uuid4().hex}/object"
    try:
        return _try(store, key)
    finally:
        with contextlib.suppress(StoreError):
            store.delete(key)


def _try(store: ObjectStore, key: str) -> Probe:
    missing = []
    # every body is another: one that is there already would pass for a write of ours whose answer was lost
    created, again = (_accepted(lambda: store.put_if_absent(key, _body())) for _ in range(2))
    if not created or again is not False:
        missing.append(NO_CREATE)
    body, put_t = _body(), time.time()
    store.put(key, body)
    asked_s = time.monotonic()
    found, stat = store.get(key)
    answer_s = time.monotonic() - asked_s
    if found != body or key not in (listed.key for listed in store.list(key)):
        raise StoreError(f"{store.url} does not give back or list what was just written to it; choose another store")
    current, stale = (_accepted(lambda: store.replace_if_match(key, _body(), stat.tag)) for _ in range(2))
    if not current or stale is not False:
        missing.append(NO_REPLACE)
    if stat.modified_t <= 0:
        missing.append(NO_CLOCK)
    return Probe(missing, stat.modified_t - put_t if stat.modified_t > 0 else 0.0, answer_s)


def _body() -> bytes:
    return uuid.uuid4().hex.encode()


def _accepted(write: Callable[[], str]) -> bool | None:
    """Whether the write was done; None where the store does not know this kind of write."""
    try:
        write()
    except PreconditionFailedError:
        return False
    except StoreError as error:
        if error.retryable:
            raise
        return None
    return True
