"""Whether the kernel has killed for want of memory: its counters, of this container where it has one."""

from __future__ import annotations

from pathlib import Path

from runner.preflight.cgroups import cgroup_directories

_CGROUP_FILES = ("memory.events", "memory.oom_control")
"""cgroup v2 and v1; both have a line `oom_kill N`."""


class OomKills:
    """Notices when the kernel's count of such kills grows."""

    def __init__(self, filesystem_root: Path = Path("/")) -> None:
        """Count from now on."""
        self._root = filesystem_root
        self.rebase()

    def rebase(self) -> None:
        """What has happened so far is not ours."""
        self._seen = self._count()

    def grew(self) -> bool:
        """There was a kill since the last call."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def _count(self) -> int:
        """Kills in our cgroup and those above it that are visible; the whole machine's where no cgroup counts them."""
        directories = cgroup_directories("memory", self._root)
        counts = [_oom_kill(directory / name) for directory in directories for name in _CGROUP_FILES]
        known = [count for count in counts if count is not None]
        return sum(known) if known else _oom_kill(self._root / "proc/vmstat") or 0


def _oom_kill(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
