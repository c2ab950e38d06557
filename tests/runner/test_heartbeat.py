import os
import time
from types import SimpleNamespace

import pytest

from runner import heartbeat


@pytest.fixture(autouse=True)
def long_ago(monkeypatch):
    monkeypatch.setattr(heartbeat, "_beaten_s", -1e9)


def test_a_beat_renews_the_file_that_the_variable_and_the_machine_name(tmp_path, monkeypatch):
    file = tmp_path / f"heartbeat.{os.uname().nodename}"
    monkeypatch.setenv("SEQUENCE_HEARTBEAT", str(tmp_path / "heartbeat"))
    heartbeat.beat()
    os.utime(file, (0, 0))
    monkeypatch.setattr(heartbeat, "_beaten_s", time.monotonic() - 2)
    heartbeat.beat()
    assert abs(time.time() - file.stat().st_mtime) < 60


def test_a_second_beat_within_a_second_touches_nothing(tmp_path, monkeypatch):
    file = tmp_path / f"heartbeat.{os.uname().nodename}"
    monkeypatch.setenv("SEQUENCE_HEARTBEAT", str(tmp_path / "heartbeat"))
    now_s = iter([100.0, 100.0, 100.9, 101.1, 101.1])
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: next(now_s)))
    heartbeat.beat()
    os.utime(file, (0, 0))
    heartbeat.beat()
    assert file.stat().st_mtime == 0
    heartbeat.beat()
    assert file.stat().st_mtime > 0


def test_without_the_variable_there_is_no_file(tmp_path, monkeypatch):
    monkeypatch.delenv("SEQUENCE_HEARTBEAT", raising=False)
    monkeypatch.chdir(tmp_path)
    heartbeat.beat()
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_touched_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv("SEQUENCE_HEARTBEAT", str(tmp_path / "file" / "heartbeat"))
    heartbeat.beat()
