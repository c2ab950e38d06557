"""Mounts of this process, parsed from `/proc/self/mountinfo` (format: proc(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CONTAINER_FILE_SYSTEMS = ("overlay", "aufs", "fuse-overlayfs")


@dataclass(frozen=True)
class Mount:
    """One mounted file system."""

    root: str
    """Directory of the file system that is mounted, `/` for the whole."""
    point: str
    kind: str
    """File system type: ext4, overlay, cgroup2, ..."""
    options: tuple[str, ...]
    """Super-block options; of a cgroup v1 mount, its controllers."""


def read_mounts(filesystem_root: Path = Path("/")) -> list[Mount]:
    """The mounts of this process, in mount order; none where there is no such file."""
    try:
        return parse_mounts((filesystem_root / "proc/self/mountinfo").read_text(errors="surrogateescape"))
    except OSError:
        return []


def parse_mounts(text: str) -> list[Mount]:
    """Parse mountinfo; lines of another form are left out."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        head, tail = before.split(), after.split()
        if separator and len(head) >= 5 and len(tail) >= 3:
            mounts.append(Mount(_unescape(head[3]), _unescape(head[4]), tail[0], tuple(tail[2].split(","))))
    return mounts


def mount_of(path: Path, mounts: list[Mount]) -> Mount | None:
    """The mount that holds an absolute path: the longest mount point above it, the latest where two are equal."""
    above = [mount for mount in mounts if PurePosixPath(path).is_relative_to(mount.point)]
    return max(reversed(above), key=lambda mount: len(PurePosixPath(mount.point).parts), default=None)


def goes_with_container(path: Path) -> bool:
    """Whether an absolute path lies on a container's own layer, and not on a volume."""
    mount = mount_of(path, read_mounts())
    return mount is not None and mount.kind in CONTAINER_FILE_SYSTEMS


def _unescape(text: str) -> str:
    """Undo the octal escapes of blanks, `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
