import json
import os

import pytest

from configs.errors import CannotWriteError, ConfigError
from configs.events import MAX_LINE_BYTES, EventLog, read_events
from configs.files import atomic_path, digest, write_atomic, write_json
from configs.run_dir import Request, RunDir, check_run_id


@pytest.fixture
def run(tmp_path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.save_request(Request(unit="stage/one", cache_key="k", inputs={}))
    return run


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_place_is_a_cannot_write_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError, match="cannot write"):
        write_atomic(tmp_path / "file" / "below", "x")


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})


def test_the_digest_does_not_depend_on_key_order():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_a_result_lists_outputs_but_neither_checkpoints_nor_hidden_files(run):
    directory = run.unit_dir("stage/one")
    for name in ("a.bin", "deep/b.bin", "checkpoints/10/c.bin", "tensorboard/x", ".a.tmp"):
        write_atomic(directory / name, name)
    result = run.save_result("stage/one", {"score": 1.5})
    assert list(result.outputs) == ["a.bin", "deep/b.bin"]
    assert run.result("stage/one") == result
    assert run.damaged_outputs(result) == []


def test_a_changed_or_missing_output_is_found(run):
    directory = run.unit_dir("stage/one")
    for name in ("a", "b", "c"):
        write_atomic(directory / name, name)
    result = run.save_result("stage/one", {})
    write_atomic(directory / "a", "other")
    (directory / "b").unlink()
    assert run.damaged_outputs(result) == ["a", "b"]


def test_clearing_a_unit_keeps_its_request_and_checkpoints(run):
    directory = run.unit_dir("stage/one")
    for name in ("stale.bin", "result.json", "checkpoints/1/w"):
        write_atomic(directory / name, "x")
    run.clear_outputs("stage/one")
    assert sorted(path.name for path in directory.iterdir()) == ["checkpoints", "unit.json"]


def test_a_damaged_result_counts_as_none(run):
    write_atomic(run.unit_dir("stage/one") / "result.json", '{"unit": "sta')
    assert run.result("stage/one") is None


@pytest.mark.parametrize("run_id", ["", ".", "..", "../x", "a/b", "-x", "a b", "x" * 129, "a\n"])
def test_a_run_id_is_safe_as_a_directory_name(run_id):
    with pytest.raises(ConfigError):
        check_run_id(run_id)


def test_events_of_all_writers_come_back_in_time_order_without_a_torn_line(tmp_path):
    one, two = EventLog(tmp_path, "supervisor"), EventLog(tmp_path, "ppo/seed-0")
    one.emit("run_started", "run")
    two.emit("metric", "ppo/seed-0", name="x", value=float("inf"))
    one.emit("run_finished", "run")
    with (tmp_path / "supervisor.jsonl").open("a") as file:
        file.write('{"t": 1, "unit": "ru')
    events = read_events(tmp_path)
    assert [event["kind"] for event in events] == ["run_started", "metric", "run_finished"]
    assert events[1]["value"] is None
    assert (tmp_path / "ppo.seed-0.jsonl").is_file()


def test_a_log_reopened_after_a_crash_starts_on_a_new_line(tmp_path):
    (tmp_path / "w.jsonl").write_text('{"t": 1, "uni')
    EventLog(tmp_path, "w").emit("retry", "u")
    assert [event["kind"] for event in read_events(tmp_path)] == ["retry"]


def test_an_event_stays_below_four_kib(tmp_path):
    with pytest.raises(ValueError, match="limit"):
        EventLog(tmp_path, "w").emit("metric", "u", values=["x"] * MAX_LINE_BYTES)


def test_a_write_is_durable_before_it_is_visible(tmp_path, monkeypatch):
    order: list[str] = []
    fsync, replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(type(tmp_path), "replace", lambda a, b: (order.append("rename"), replace(a, b))[1])
    write_json(tmp_path / "x.json", [1])
    assert order == ["fsync", "rename", "fsync"]
    assert json.loads((tmp_path / "x.json").read_text()) == [1]
