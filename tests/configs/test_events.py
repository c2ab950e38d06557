"""The event log where the disk is full, threads share it, and secrets come along."""

import contextlib
import json
import os
import threading

import pytest

from configs.events import MAX_LINE_BYTES, EventLog, read_events, without_repeats


@pytest.fixture
def log(tmp_path):
    log = EventLog(tmp_path, "supervisor")
    yield log
    with contextlib.suppress(OSError):
        log.close()


def test_secrets_do_not_enter_the_log(log, monkeypatch):
    monkeypatch.setenv("SEQUENCE_GIT_TOKEN", "t0ps3cret-t0ken")
    log.emit("retry", "run", says="push with t0ps3cret-t0ken failed", hosts=["https://me:pass-w0rd@host"], cost=1.5)
    assert "t0ps3cret" not in log.path.read_text() and "pass-w0rd" not in log.path.read_text()
    event = read_events(log.path.parent)[0]
    assert event["says"] == "push with [redacted] failed" and event["cost"] == 1.5


def test_a_line_that_the_disk_cut_short_is_an_error_and_hides_no_later_one(log, monkeypatch):
    log.emit("metric", "run", value=1)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
        with pytest.raises(OSError, match="No space left"):
            log.emit("metric", "run", value=2)
    log.emit("metric", "run", value=3)
    assert [event["value"] for event in read_events(log.path.parent)] == [1, 3]


def test_threads_may_share_a_log(log):
    def write_many(name: str) -> None:
        for number in range(200):
            log.emit("metric", name, value=number)

    threads = [threading.Thread(target=write_many, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = log.path.read_text().splitlines()
    assert len(lines) == 600 and all(json.loads(line) for line in lines)
    for name in "abc":
        assert [event["value"] for event in read_events(log.path.parent) if event["unit"] == name] == list(range(200))


@pytest.mark.parametrize("text", ["x" * 10_000, "\u2501" * 1_500, "\ufffd\U0001f600" * 400, '"' * 5_000])
def test_a_text_too_long_is_cut_and_the_event_told(log, text):
    log.emit("unit_finished", "ppo/seed-0", state="failed", says=text, reason="crashed")
    (event,) = read_events(log.path.parent)
    assert text.startswith(event["says"]) and (event["state"], event["reason"]) == ("failed", "crashed")
    assert MAX_LINE_BYTES - 24 < log.path.stat().st_size < MAX_LINE_BYTES


def test_a_thread_that_is_late_cannot_write_to_another_file(log, tmp_path):
    log.close()
    with (tmp_path / "other").open("wb"):
        with pytest.raises(OSError, match="Bad file descriptor"):
            log.emit("checkpoint", "run")
    assert (tmp_path / "other").read_bytes() == b""


def test_a_line_too_long_is_refused_and_leaves_nothing(log):
    with pytest.raises(ValueError, match="limit is 4096"):
        log.emit("metric", "run", values=[0.125] * MAX_LINE_BYTES)
    log.emit("metric", "run")
    assert len(read_events(log.path.parent)) == 1


def test_a_metric_row_that_was_told_twice_counts_once_and_other_events_all_count():
    def row(t: float, **fields: object) -> dict:
        return {"t": t, "unit": "ppo/seed-0", "kind": "metric", "name": "train"} | fields

    told = [row(1, step=10), row(2, step=20), row(3, step=10), row(4, step=20), row(5, step=30)]
    progress = [{"t": t, "unit": "ppo/seed-0", "kind": "progress", "done": 1, "total": 2} for t in (6, 7)]
    kept = without_repeats([*told, *progress, row(8, step=30, name="validation"), row(9, value=1), row(10, value=1)])
    assert [(event["t"], event.get("step")) for event in kept] == [
        *((3, 10), (4, 20), (5, 30), (6, None), (7, None)),
        *((8, 30), (9, None), (10, None)),
    ]
