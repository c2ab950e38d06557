"""Limits that a container puts on memory and CPU, cgroup v1 and v2.

A limit of any ancestor binds, so each is the minimum over the cgroup of this
process and all its visible ancestors. Every function reads below
`filesystem_root`; nothing here decides whether a limit is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runner.preflight.mounts import Mount, read_mounts

UNLIMITED_BYTES = 2**60
"""cgroup v1 writes 'no limit' as the largest page-aligned number, near 2**63."""


@dataclass(frozen=True)
class MemoryLimit:
    """The tightest memory limit above this process."""

    limit_bytes: int
    available_bytes: int
    """Limit less what is in use and cannot be reclaimed at once, at the tightest level."""


def memory_limit(filesystem_root: Path = Path("/")) -> MemoryLimit | None:
    """The memory limit of this process's cgroup and its ancestors; None when there is none."""
    found = [_memory_limit_of(directory) for directory in cgroup_directories("memory", filesystem_root)]
    limits = [limit for limit in found if limit is not None]
    if not limits:
        return None
    return MemoryLimit(min(item.limit_bytes for item in limits), min(item.available_bytes for item in limits))


def cpu_quota_cores(filesystem_root: Path = Path("/")) -> float | None:
    """The CPU quota of this process's cgroup and its ancestors, in cores; None when there is none."""
    quotas = [_cpu_quota_of(directory) for directory in cgroup_directories("cpu", filesystem_root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def cgroup_directories(controller: str, filesystem_root: Path = Path("/")) -> list[Path]:
    """Directories of this process's cgroup and its visible ancestors, of v1 and v2 both, innermost first."""
    mounts = read_mounts(filesystem_root)
    directories = []
    for path, version in _own_cgroups(controller, filesystem_root):
        mount = _cgroup_mount(mounts, controller, version)
        if mount is not None:
            directories += _upwards(mount, path, filesystem_root)
    return directories


def _own_cgroups(controller: str, filesystem_root: Path) -> list[tuple[str, int]]:
    """(path, version) from `/proc/self/cgroup`: `4:memory:/path` is v1, `0::/path` is v2."""
    try:
        lines = (filesystem_root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            found.append((path, 2))
        elif controller in controllers.split(","):
            found.append((path, 1))
    return found


def _cgroup_mount(mounts: list[Mount], controller: str, version: int) -> Mount | None:
    if version == 2:
        return next((mount for mount in mounts if mount.kind == "cgroup2"), None)
    return next((mount for mount in mounts if mount.kind == "cgroup" and controller in mount.options), None)


def _upwards(mount: Mount, path: str, filesystem_root: Path) -> list[Path]:
    """Existing directories from the cgroup up to the mount point.

    Without a cgroup namespace a container sees the host's path in
    `/proc/self/cgroup` but only its own subtree mounted; the mount's root tells
    which part of the path to cut. A path that lies outside what is mounted
    (`/../other`) leaves the mount point itself.
    """
    top = filesystem_root / mount.point.lstrip("/")
    try:
        relative = PurePosixPath(path).relative_to(mount.root)
    except ValueError:
        relative = PurePosixPath(path.lstrip("/"))
    if ".." in relative.parts:
        relative = PurePosixPath()
    candidates = [top / relative, *(top / parent for parent in relative.parents)]
    return [directory for directory in dict.fromkeys(candidates) if directory.is_dir()]


def _memory_limit_of(directory: Path) -> MemoryLimit | None:
    statistics = _keyed_numbers(directory / "memory.stat")
    limits = [
        _number(directory / "memory.max"),
        _number(directory / "memory.limit_in_bytes"),
        statistics.get("hierarchical_memory_limit"),  # v1: covers ancestors that are not visible here
    ]
    limit_bytes = min((limit for limit in limits if limit is not None), default=UNLIMITED_BYTES)
    if limit_bytes >= UNLIMITED_BYTES:
        return None
    used_bytes = _number(directory / "memory.current") or _number(directory / "memory.usage_in_bytes") or 0
    used_bytes -= statistics.get("total_inactive_file", statistics.get("inactive_file", 0))
    return MemoryLimit(limit_bytes, max(0, limit_bytes - max(0, used_bytes)))


def _cpu_quota_of(directory: Path) -> float | None:
    text = _text(directory / "cpu.max").split()
    if len(text) == 2 and text[0].isdigit() and text[1].isdigit() and int(text[1]):
        return int(text[0]) / int(text[1])
    quota, period = _number(directory / "cpu.cfs_quota_us"), _number(directory / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _keyed_numbers(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(path: Path) -> int | None:
    """A file's one integer; None where the file is absent or says `max`."""
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
