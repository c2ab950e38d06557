"""Memory control groups for tests in which the kernel kills."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.preflight.cgroups import cgroup_directories
from tests.runner.fixture_stages.world import wait_for


class ControlGroup:
    """A memory control group, of version 1 or 2."""

    def __init__(self, directory: Path) -> None:
        self.members = directory / "cgroup.procs"
        self._limit = _first(directory, "memory.max", "memory.limit_in_bytes")
        self._peak = _first(directory, "memory.peak", "memory.max_usage_in_bytes")

    def limit(self, size_bytes: int) -> None:
        self._limit.write_text(str(size_bytes))

    def peak_bytes(self) -> int:
        return int(self._peak.read_text())

    def enter(self) -> None:
        """Put this process inside."""
        self.members.write_text("0")


@contextlib.contextmanager
def control_group(name: str) -> Iterator[ControlGroup]:
    """A control group below this process's own; the test is skipped where it may not make one."""
    parents = cgroup_directories("memory")
    if not parents:
        pytest.skip("no memory control group is mounted")
    try:
        directory = Path(tempfile.mkdtemp(prefix=f"sequence-runner-test-{name}-", dir=parents[0]))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield ControlGroup(directory)
    finally:
        wait_for(lambda: _is_removed(directory), 60)


def _is_removed(directory: Path) -> bool:
    """The kernel refuses while a process is inside, and for a moment after it has ended."""
    with contextlib.suppress(OSError):
        directory.rmdir()
    return not directory.exists()


def _first(directory: Path, *names: str) -> Path:
    for name in names:
        if (directory / name).exists():
            return directory / name
    pytest.skip("the memory controller is not handed down to new control groups here")
