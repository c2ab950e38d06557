"""What is repeated, how long, and how a lost answer is told from a refusal; time and faults are scripted here."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import StoreError
from runner.store.file import FileStore
from runner.store.objects import (
    KeyMissingError,
    PreconditionFailedError,
    Stat,
    StoreDeniedError,
    StoreUnreachableError,
)
from runner.store.retrying import DENIED_ATTEMPTS, FIRST_WAIT_S, MAX_WAIT_S, Pace, Retrying

DOWN = StoreUnreachableError("no answer")


class Faulty(FileStore):
    """A directory whose next calls meet `faults`: None lets one pass, an error replaces the call or its answer."""

    def __init__(self, root: Path, *faults: StoreError | None, after: bool = False) -> None:
        super().__init__(root)
        self.faults = list(faults)
        self.after = after

    def _fault(self) -> None:
        fault = self.faults.pop(0) if self.faults else None
        if fault:
            raise fault

    def get(self, key: str) -> tuple[bytes, Stat]:
        self._fault()
        return super().get(key)

    def _write(self, key, body, accepts):
        if not self.after:
            self._fault()
        tag = super()._write(key, body, accepts)
        if self.after:
            self._fault()
        return tag

    def list(self, prefix: str = "") -> Iterator[Stat]:
        for number, stat in enumerate(list(super().list(prefix))):
            if number == 1:
                self._fault()
            yield stat


class Clock:
    """Time that passes by waiting only; every wait is as long as the jitter allows."""

    def __init__(self, cancel_after: int = 1_000) -> None:
        self.waits_s: list[float] = []
        self.cancel_after = cancel_after
        self.pace = Pace(lambda: sum(self.waits_s), self._wait, lambda low, high: high)

    def _wait(self, cancel: threading.Event, wait_s: float) -> bool:
        self.waits_s.append(wait_s)
        if len(self.waits_s) >= self.cancel_after:
            cancel.set()
        return cancel.is_set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def retrying(inner: FileStore, clock: Clock, deadline_s: float = 1_000, **more) -> Retrying:
    return Retrying(inner, deadline_s=deadline_s, pace=clock.pace, **more)


def test_the_limit_of_the_waits_doubles_up_to_a_longest(tmp_path, clock):
    retrying(Faulty(tmp_path, *[DOWN] * 8), clock).put("a", b"")
    assert clock.waits_s == [0.5, 1, 2, 4, 8, 16, MAX_WAIT_S, MAX_WAIT_S]


def test_a_wait_is_drawn_from_zero_to_its_limit(tmp_path):
    drawn = []
    pace = Pace(lambda: 0.0, lambda cancel, wait_s: False, lambda low, high: drawn.append((low, high)) or low)
    Retrying(Faulty(tmp_path, DOWN, DOWN), deadline_s=9, pace=pace).put("a", b"")
    assert drawn == [(0, FIRST_WAIT_S), (0, 2 * FIRST_WAIT_S)]


def test_a_call_is_given_up_before_its_deadline_and_says_how_often_it_was_tried(tmp_path, clock):
    with pytest.raises(StoreUnreachableError, match=r"no answer \(tried 3 times in 2 s\)"):
        retrying(Faulty(tmp_path, *[DOWN] * 9), clock, deadline_s=3).get("a")
    assert sum(clock.waits_s) <= 3


def test_what_no_repetition_mends_is_raised_at_once(tmp_path, clock):
    for error in (KeyMissingError("gone"), StoreError("bad request")):
        with pytest.raises(type(error)):
            retrying(Faulty(tmp_path, error), clock).get("a")
    assert clock.waits_s == []


def test_wrong_credentials_are_tried_only_a_few_times(tmp_path, clock):
    with pytest.raises(StoreDeniedError):
        retrying(Faulty(tmp_path, *[StoreDeniedError("expired")] * 9), clock).get("a")
    assert len(clock.waits_s) == DENIED_ATTEMPTS - 1


def test_credentials_that_are_good_again_go_unnoticed(tmp_path, clock):
    store = Faulty(tmp_path, StoreDeniedError("expired"))
    retrying(store, clock).put("a", b"bytes")
    assert store.get("a")[0] == b"bytes"


def test_a_stop_ends_the_waiting_with_the_error_that_was_waited_on(tmp_path):
    clock = Clock(cancel_after=2)
    cancel = threading.Event()
    with pytest.raises(StoreUnreachableError):
        retrying(Faulty(tmp_path, *[DOWN] * 9), clock, cancel=cancel).get("a")
    assert len(clock.waits_s) == 2


def test_after_a_stop_a_call_is_tried_once(tmp_path, clock):
    cancel = threading.Event()
    cancel.set()
    store = retrying(Faulty(tmp_path, None, DOWN), clock, cancel=cancel)
    store.put("a", b"bytes")
    with pytest.raises(StoreUnreachableError):
        store.put("a", b"bytes")
    assert clock.waits_s == []


def test_a_real_wait_ends_when_the_stop_comes(tmp_path):
    cancel = threading.Event()
    store = Retrying(
        Faulty(tmp_path, *[DOWN] * 99),
        deadline_s=3_600,
        cancel=cancel,
        on_retry=lambda call, error, wait_s: cancel.set(),
        pace=Pace(uniform=lambda low, high: 3_000.0),
    )
    with pytest.raises(StoreUnreachableError):
        store.get("a")


def test_every_repetition_is_told(tmp_path, clock):
    told = []
    store = Faulty(tmp_path, DOWN, DOWN)
    retrying(store, clock, on_retry=lambda *what: told.append(what)).put("a", b"")
    assert told == [("put a", DOWN, 0.5), ("put a", DOWN, 1.0)]


def test_a_create_whose_answer_was_lost_has_succeeded(tmp_path, clock):
    store = Faulty(tmp_path, DOWN, after=True)
    tag = retrying(store, clock).put_if_absent("a", b"mine")
    assert store.get("a")[1].tag == tag
    assert store.get("a")[0] == b"mine"


def test_a_replacement_whose_answer_was_lost_has_succeeded(tmp_path, clock):
    before = FileStore(tmp_path).put("a", b"before")
    store = Faulty(tmp_path, DOWN, after=True)
    tag = retrying(store, clock).replace_if_match("a", b"mine", before)
    assert store.get("a")[0] == b"mine"
    assert store.get("a")[1].tag == tag != before


def test_a_write_refused_for_anothers_sake_stays_refused(tmp_path, clock):
    plain = FileStore(tmp_path)
    before = plain.put("a", b"before")
    plain.put("a", b"another's")
    store = retrying(Faulty(tmp_path, DOWN), clock)
    with pytest.raises(PreconditionFailedError):
        store.replace_if_match("a", b"mine", before)
    with pytest.raises(PreconditionFailedError):
        store.put_if_absent("a", b"mine")
    assert plain.get("a")[0] == b"another's"


def test_a_write_refused_because_the_object_is_gone_stays_refused(tmp_path, clock):
    with pytest.raises(PreconditionFailedError):
        retrying(FileStore(tmp_path), clock).replace_if_match("a", b"", "some tag")


def test_a_listing_that_broke_off_is_begun_anew_and_names_nothing_twice(tmp_path, clock):
    store = Faulty(tmp_path)
    for key in "abc":
        store.put(key, b"")
    store.faults = [DOWN, DOWN]
    assert [stat.key for stat in retrying(store, clock).list()] == ["a", "b", "c"]
    assert len(clock.waits_s) == 2
