"""What a container says of itself, from mounts that a test made."""

import errno
import os
from pathlib import Path

import pytest

from runner.container import commands_outside, data_missing, how_to_write, seen_from_outside

REPORT = Path("/runs/r/report/index.html")
LAYER = "1 0 0:5 / / rw - overlay overlay rw\n"
VOLUMES = "2 1 8:1 /home/me/{0} /{0} rw - ext4 /dev/sda rw\n"
DENIED = OSError(errno.EACCES, "Permission denied")


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in ("RUNPOD_POD_ID", "SKYPILOT_TASK_ID", "SEQUENCE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[1]")
    (tmp_path / "proc/self/mountinfo").write_text(LAYER)
    return tmp_path


def test_outside_of_a_container_nothing_is_said_otherwise(root):
    assert seen_from_outside(REPORT, root) == "" == data_missing(root)
    assert commands_outside("r", Path("/runs"), root) is None
    assert how_to_write(DENIED, root) == "choose a writable directory with --runs-dir"


def test_from_a_shell_inside_a_container_nothing_is_said_otherwise(root, monkeypatch):
    (root / ".dockerenv").touch()
    monkeypatch.setattr(os, "getppid", lambda: 7)
    assert seen_from_outside(REPORT, root) == "" == data_missing(root)
    assert commands_outside("r", Path("/runs"), root) is None


def test_a_container_without_mounts_says_what_goes_with_it_and_what_to_mount(root):
    (root / ".dockerenv").touch()
    assert "goes with this container" in seen_from_outside(REPORT, root)
    assert commands_outside("r", Path("/runs"), root) == []
    assert data_missing(root).endswith('add -v "$PWD/data:/data" to docker run')
    assert "mkdir -p runs" in how_to_write(DENIED, root) and "chown" in how_to_write(DENIED, root)
    assert "--runs-dir" in how_to_write(OSError(errno.ENOSPC, "No space left"), root)


def test_a_container_with_mounts_names_them_and_a_command_for_outside(root):
    (root / ".dockerenv").touch()
    (root / "proc/self/mountinfo").write_text(LAYER + VOLUMES.format("runs") + VOLUMES.format("data"))
    assert seen_from_outside(REPORT, root) == "  (below what is mounted as /runs)"
    assert data_missing(root) == ""
    show = 'docker run --rm -v "$PWD/runs:/runs" IMAGE status r'
    assert commands_outside("r", Path("/runs"), root) == [show]
    assert commands_outside("r", Path("/runs/mine"), root) == [f"{show} --runs-dir /runs/mine"]
