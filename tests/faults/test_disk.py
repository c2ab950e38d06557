"""A full disk: a small tmpfs as the runs directory."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.case import AGENT, Case, Running, lay_beside
from tests.faults.conftest import CLASSIFIED
from tests.stillness import standing_still, stop

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small tmpfs needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing fits any more."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        for size_bytes in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size_bytes)) == size_bytes:
                    pass
    with pytest.raises(OSError) as refused:
        (disk / "more").write_bytes(bytes(1 << 12))
    assert refused.value.errno == errno.ENOSPC
    return ballast


def fill_under(running: Running, unit: str, disk: Path) -> Path:
    """Fill the disk while nobody writes to it or removes anything."""
    with standing_still(running.process, unit):
        stop(running.process.pid)
        ballast = fill(disk)
        running.process.send_signal(signal.SIGCONT)
    return ballast


def test_a_disk_that_fills_while_an_agent_trains_ends_with_73_and_leaves_the_older_checkpoint(
    small_disk, tmp_path, reference, settle
):
    case = Case(small_disk / "runs", settings=("runtime.stop_grace_s=10",), log_to=tmp_path / "said")
    lay_beside(reference, case.runs_dir, CLASSIFIED)
    with case.started() as running:
        running.wait_event("checkpoint", AGENT)
        ballast = fill_under(running, AGENT, small_disk)
        code = running.ended()
    assert code == 73
    kept = [path for path in (case.run.unit_dir(AGENT) / "checkpoints").iterdir() if path.name.isdigit()]
    assert kept, "a checkpoint from before is still there"
    ballast.unlink()
    settle(case, "disk full while an agent trains", "stopped; older checkpoint intact", code)


def test_a_disk_that_fills_while_classifiers_train_ends_with_73(long_one, small_disk, tmp_path, reference, settle):
    case = Case(small_disk / "runs", settings=("runtime.stop_grace_s=10",), log_to=tmp_path / "said")
    lay_beside(reference, case.runs_dir, CLASSIFIED[:1])
    with case.started() as running:
        running.wait_event("metric", "classifiers/dlstm")
        ballast = fill_under(running, "classifiers/dlstm", small_disk)
        code = running.ended()
    assert code == 73
    ballast.unlink()
    settle(case, "disk full while classifiers train", "stopped", code)


def test_a_disk_that_is_full_from_the_start_is_73(small_disk, tmp_path, reference, settle):
    case = Case(small_disk / "runs", log_to=tmp_path / "said")
    lay_beside(reference, case.runs_dir, CLASSIFIED)
    ballast = fill(small_disk)
    code = case.finish()
    assert code == 73, case.said
    ballast.unlink()
    settle(case, "disk full from the start", "nothing was begun", code)
