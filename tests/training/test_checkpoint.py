"""Checkpoints: whole or not at all, verified, the older one when the newer is damaged, saved as often as pays."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.errors import CannotWriteError
from configs.files import digest, read_json, write_json
from training.checkpoint import CheckpointClock, Checkpoints, newest, save
from training.determinism import random_state, restore_random_state

PART = {"fold-0": {"weight": np.arange(8.0)}}


def state(step: int) -> tuple[dict[str, np.ndarray], dict]:
    return {"weight": np.full(4, step, np.float32), "flag": np.array([True])}, {"steps": step, "history": [0.1, step]}


def saved(directory: Path, *steps: int, key: str = "key") -> None:
    for step in steps:
        save(directory, step, *state(step), key, PART)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_was_saved_is_found_again(tmp_path):
    saved(tmp_path, 256)
    found, (arrays, scalars) = newest(tmp_path, "key"), state(256)
    assert (found.step, found.scalars, found.arrays.keys()) == (256, scalars, arrays.keys())
    assert all(np.array_equal(found.arrays[name], array) for name, array in arrays.items())
    assert found.arrays["weight"].dtype == np.float32
    assert np.array_equal(found.parts["fold-0"]["weight"], PART["fold-0"]["weight"])


def test_two_checkpoints_are_kept_and_the_newest_is_taken(tmp_path):
    saved(tmp_path, 64, 128, 512, 1024)
    assert names(tmp_path) == ["1024", "512"]
    assert newest(tmp_path, "key").step == 1024


def test_a_checkpoint_of_another_request_is_passed_over_said_and_replaced(tmp_path):
    saved(tmp_path, 512, 1024)
    said = []
    assert newest(tmp_path, "other", said.append) is None
    assert said[0] == "checkpoint 1024 was made for another request, starting anew"
    saved(tmp_path, 64, key="other")
    assert names(tmp_path) == ["64"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def change_a_number(path: Path) -> None:
    manifest = read_json(path)
    manifest["scalars"]["history"][0] = 0.2
    write_json(path, manifest)


FILES = ("state.safetensors", "fold-0.safetensors", "manifest.json")
DAMAGES = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "emptied": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
}


def detached(path: Path) -> None:
    """No longer the same file as the one in the checkpoint before."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before_and_that_is_said(tmp_path, name, damage):
    saved(tmp_path, 4096, 8192)
    detached(tmp_path / "8192" / name)
    damage(tmp_path / "8192" / name)
    said = []
    assert newest(tmp_path, "key", said.append).step == 4096
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint 8192 is damaged ({name} ") and said[0].endswith(", going on from 4096")
    assert names(tmp_path) == [".damaged-8192", "4096"]
    saved(tmp_path, 8192)
    assert newest(tmp_path, "key", said.append).step == 8192 and len(said) == 1


def test_a_number_that_changed_in_the_manifest_is_damage(tmp_path):
    saved(tmp_path, 1, 2)
    change_a_number(tmp_path / "2" / "manifest.json")
    assert newest(tmp_path, "key").scalars["history"] == [0.1, 1]


def test_without_an_intact_checkpoint_the_job_starts_anew_and_says_so(tmp_path):
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / str(step) / "state.safetensors").unlink()
    said = []
    assert newest(tmp_path, "key", said.append) is None
    assert [text.partition(" (")[0] for text in said] == ["checkpoint 2 is damaged", "checkpoint 1 is damaged"]
    assert all(text.endswith(", starting anew") for text in said)


def test_a_format_of_the_future_is_not_guessed_at(tmp_path):
    saved(tmp_path, 1)
    path = tmp_path / "1" / "manifest.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    said = []
    assert newest(tmp_path, "key", said.append) is None and "manifest.json" in said[0]


def test_a_manifest_cannot_point_outside_its_checkpoint(tmp_path):
    saved(tmp_path / "checkpoints", 1)
    shutil.copy(tmp_path / "checkpoints" / "1" / "state.safetensors", tmp_path / "learner.safetensors")
    manifest = read_json(tmp_path / "checkpoints" / "1" / "manifest.json")
    entry = {"file": "../../learner.safetensors", "sha256": manifest["files"]["state"]["sha256"]}
    body = {name: value for name, value in manifest.items() if name != "sha256"} | {"files": {"state": entry}}
    write_json(tmp_path / "checkpoints" / "1" / "manifest.json", body | {"sha256": digest(body)})
    assert newest(tmp_path / "checkpoints", "key") is None


def test_no_directory_means_no_checkpoint(tmp_path):
    assert newest(tmp_path / "none", "key") is None


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", range(1, 8))
def test_a_save_that_is_cut_anywhere_leaves_a_whole_checkpoint(tmp_path, moment, monkeypatch):
    """Cut at each flush to disk: the first two of each file and of its name, the last of the checkpoint's."""
    saved(tmp_path, 256)
    real, calls = os.fsync, []

    def cut(descriptor):
        calls.append(descriptor)
        if len(calls) == moment:
            raise Killed
        real(descriptor)

    monkeypatch.setattr(os, "fsync", cut)
    try:
        save(tmp_path, 512, *state(512), "key", {"new": {"x": np.ones(1)}})
    except Killed:
        pass
    assert len(calls) == moment
    monkeypatch.setattr(os, "fsync", real)
    found = newest(tmp_path, "key")
    assert found.scalars == state(found.step)[1] and found.step == (512 if moment == 7 else 256)
    saved(tmp_path, 1024)
    assert names(tmp_path) == ["1024", "512" if moment == 7 else "256"]


def test_a_directory_that_cannot_be_written_is_a_named_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError, match="state"):
        saved(tmp_path / "file", 1)


def test_a_part_is_written_once_and_linked_from_then_on(tmp_path):
    saved(tmp_path, 1, 2)
    first, second = (tmp_path / step / "fold-0.safetensors" for step in "12")
    assert first.stat().st_ino == second.stat().st_ino
    second.unlink()
    saved(tmp_path, 3)
    assert np.array_equal(newest(tmp_path, "key").parts["fold-0"]["weight"], PART["fold-0"]["weight"])


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()]


@pytest.fixture
def global_generators():
    """Whatever the test draws, others find them as they were."""
    before = random_state()
    yield
    restore_random_state(before)


@pytest.mark.usefixtures("global_generators")
@pytest.mark.parametrize("drawn", [0, 1])
def test_the_global_generators_go_on_where_they_were(tmp_path, drawn):
    random.seed(drawn), np.random.seed(drawn), torch.manual_seed(drawn)
    for _ in range(drawn):  # the second value of a pair of gaussians is then kept for later
        draws()
    checkpoints = Checkpoints(tmp_path, "key", CheckpointClock(1.0))
    checkpoints.save(1, *state(1))
    expected = [draws() for _ in range(3)]
    assert draws() not in expected
    Checkpoints(tmp_path, "key", CheckpointClock(1.0)).resume()
    assert [draws() for _ in range(3)] == expected


def test_the_first_checkpoint_is_due_after_a_second_of_work():
    now = [50.0]
    clock = CheckpointClock(3_600, lambda: now[0])
    assert not clock.due()
    now[0] += 0.9
    assert not clock.due()
    now[0] += 0.1
    assert clock.due()


def costing(clock: CheckpointClock, now: list[float], cost_s: float) -> None:
    def work():
        now[0] += cost_s

    clock.measure(work)


@pytest.mark.parametrize(("cost_s", "failures_s"), [(0.06, 10_800), (2.0, 600)])
def test_the_interval_loses_the_least_time(cost_s, failures_s):
    """The share of time lost is C / T for saving and T / (2 M) for doing again; its least is found by trying."""
    now = [0.0]
    clock = CheckpointClock(failures_s, lambda: now[0])
    costing(clock, now, cost_s)
    intervals = np.linspace(0.2, 4, 3_801) * clock.interval_s
    lost = cost_s / intervals + intervals / (2 * failures_s)
    assert intervals[lost.argmin()] == pytest.approx(clock.interval_s, rel=2e-3)
    now[0] += 0.99 * clock.interval_s
    assert not clock.due()
    now[0] += 0.02 * clock.interval_s
    assert clock.due()


def test_the_interval_follows_the_cost_and_is_never_longer_than_a_life():
    now = [0.0]
    clock = CheckpointClock(100, lambda: now[0])
    for cost_s in (9.0, 0.5, 0.5, 0.5):
        costing(clock, now, cost_s)
    assert clock.interval_s == pytest.approx(10)
    costing(clock, now, 1_000.0)
    assert clock.interval_s == 100


def test_a_step_is_saved_once_and_what_it_cost_is_told(tmp_path):
    told = []
    checkpoints = Checkpoints(tmp_path, "key", CheckpointClock(3_600), on_saved=lambda **facts: told.append(facts))
    assert checkpoints.resume() is None
    for step in (0, 3, 3, 2, 5):
        checkpoints.save(step, *state(step))
    assert [facts["step"] for facts in told] == [3, 5] and names(tmp_path) == ["3", "5"]
    assert told[0].keys() == {"step", "wall_s", "bytes", "interval_s"}
    assert told[1]["bytes"] == sum(path.stat().st_size for path in (tmp_path / "5").iterdir())
    assert told[1]["interval_s"] > told[1]["wall_s"] > 0


def test_going_on_is_said_and_what_is_there_is_not_saved_again(tmp_path):
    saved(tmp_path, 7)
    said, told = [], []
    checkpoints = Checkpoints(
        tmp_path, "key", CheckpointClock(3_600), on_saved=lambda **facts: told.append(facts), say=said.append
    )
    assert checkpoints.resume().step == checkpoints.step == 7
    checkpoints.save(7, *state(7))
    assert said == ["going on from checkpoint 7"] and told == []
