"""What a run tells its store of itself, on directory stores and event logs that grow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.events import EventLog
from configs.run_dir import RunDir
from configs.schema import StoreConfig
from runner.store.file import FileStore
from runner.store.layout import live_key
from runner.store.live import Broadcast, broadcasting, read_live, view_in
from runner.store.objects import StoreUnreachableError
from runner.view import RUN, RunView, view_of
from tests.runner.fixture_stages.world import wait_for

OFTEN_S = 0.02
UNITS = ("prepare", "ppo/seed-0")


class Down(FileStore):
    """A store that answers nothing for as long as it takes."""

    puts = 0

    def put(self, key: str, body: bytes | Path) -> str:
        self.puts += 1
        raise StoreUnreachableError(f"{self.url} does not answer")


@pytest.fixture
def run(tmp_path) -> RunDir:
    return RunDir(tmp_path / "runs" / "demo")


@pytest.fixture
def events(run) -> EventLog:
    return EventLog(run.events, "supervisor")


def work(events: EventLog) -> None:
    """What a supervisor says of a run that is half done."""
    events.emit("check", RUN, name="GPU", found="none", needed="one", verdict="warn", remedy="rent one")
    events.emit("plan", RUN, units=2, wall_s={"low": 1.0, "expected": 2.0, "high": 3.0})
    events.emit("unit_started", "prepare", attempt=1)
    events.emit("unit_finished", "prepare", state="done")
    events.emit("gate", RUN, stage="ppo", verdict="open", says="nothing asked")
    events.emit("unit_started", "ppo/seed-0", attempt=2)
    events.emit("progress", "ppo/seed-0", done=25, total=100, rate=5.0, entropy=1.5)
    events.emit("resources", RUN, cpu_percent=5.0, ram_used_bytes=1, ram_total_bytes=2, disk_free_bytes=3, gpus=[])
    events.emit("retry", RUN, says="store: trouble for 1 s")


def told(store: FileStore, epoch: int = 1) -> RunView | None:
    live = read_live(store, "demo", epoch)
    return view_in(live) if live else None


@contextlib.contextmanager
def to_its_end(broadcast: Broadcast) -> Iterator[None]:
    """As long as a program takes that is not waited for: a run leaves after a second."""
    with broadcast:
        yield
    broadcast._thread.join(120)


def test_what_is_told_is_the_view_that_the_log_gives(run, events, tmp_path):
    store = FileStore(tmp_path / "store")
    with Broadcast(run, 1, store, OFTEN_S, UNITS):
        work(events)
        wait_for(lambda: (view := told(store)) is not None and view.store_says)
        seen = told(store)
    expected = view_of(run.events, UNITS)
    assert list(seen.units.values()) == list(expected.units.values())
    for name in ("gates", "checks", "plan", "resources", "store_says", "store_said_t", "last_t"):
        assert getattr(seen, name) == getattr(expected, name), name


def test_the_end_is_told_and_an_earlier_start_is_not(run, events, tmp_path):
    work(events)
    store = FileStore(tmp_path / "store")
    with to_its_end(Broadcast(run, 1, store, 1e9, UNITS)):
        events.emit("unit_finished", "ppo/seed-0", state="done")
        events.emit("run_finished", RUN, exit_code=0)
    view = told(store)
    assert view.exit_code == 0 and view.units["ppo/seed-0"].state == "done"
    assert view.units["prepare"].state == "waiting" and view.gates == []


def test_checks_that_are_well_are_not_sent(run, events, tmp_path):
    store = FileStore(tmp_path / "store")
    with to_its_end(Broadcast(run, 1, store, 1e9, UNITS)):
        for verdict in ("ok", "skipped", "warn", "fail"):
            events.emit("check", RUN, name=verdict, found="", needed="", verdict=verdict)
    assert [check["name"] for check in told(store).checks] == ["warn", "fail"]


def test_only_what_earlier_owners_told_is_removed(run, events, tmp_path):
    store = FileStore(tmp_path / "store")
    for epoch in (1, 2, 9):
        store.put(live_key("demo", epoch), b"{}")
    store.put("other/live/00000001.json", b"{}")
    with to_its_end(Broadcast(run, 3, store, OFTEN_S, UNITS)):
        wait_for(lambda: told(store, 3) and not (tmp_path / "store" / live_key("demo", 2)).exists())
    left = [stat.key for stat in store.list()]
    assert left == [live_key("demo", 3), live_key("demo", 9), "other/live/00000001.json"]


def test_a_store_that_is_down_is_asked_again_and_ends_nothing(run, events, tmp_path, capsys):
    store = Down(tmp_path / "store")
    with Broadcast(run, 1, store, OFTEN_S, UNITS) as broadcast:
        wait_for(lambda: store.puts > 3)
        assert broadcast._thread.is_alive()
    broadcast._thread.join(120)
    assert capsys.readouterr().err == "", "the lease and the snapshots tell of it"


def test_nothing_is_told_where_nobody_is_to_hear(run, tmp_path):
    with broadcasting(run, 1, StoreConfig(url=f"file://{tmp_path / 'store'}", live_every_s=0), UNITS):
        pass
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("body", [b"", b"{}", b'{"format": 1, "run_id": "demo"}', b"\xff"])
def test_what_is_damaged_is_as_if_nothing_were_told(tmp_path, body):
    store = FileStore(tmp_path)
    store.put(live_key("demo", 1), body)
    assert read_live(store, "demo", 1) is None


def test_a_view_moved_to_another_clock_shows_the_same_seconds(run, events):
    work(events)
    events.emit("checkpoint", RUN, snapshot="00000001-00000001", sent_bytes=1)
    view = view_of(run.events, UNITS)
    moved = view.moved(1_000.0)
    unit, before = moved.units["ppo/seed-0"], view.units["ppo/seed-0"]
    assert unit.elapsed_s(unit.started_t + 7) == before.elapsed_s(before.started_t + 7)
    assert unit.started_t == pytest.approx(before.started_t + 1_000)
    assert moved.snapshot["t"] == pytest.approx(view.snapshot["t"] + 1_000)
    assert moved.ended_t == 0.0, "what has not happened has not happened later"
