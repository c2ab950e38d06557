"""What is said otherwise as the command of a container that somebody started: its paths mean nothing outside."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from runner.host.where import this_host
from runner.preflight.mounts import mount_of, read_mounts

DATA = Path("/data")


def seen_from_outside(path: Path, root: Path = Path("/")) -> str:
    """What to add to an absolute path of a container; empty outside of one."""
    if not _is_container(root):
        return ""
    point = _volume(path, root)
    return (
        f"  (below what is mounted as {point})" if point else "  (goes with this container: nothing is mounted there)"
    )


def commands_outside(run_id: str, runs_dir: Path, root: Path = Path("/")) -> list[str] | None:
    """What shows a run from outside of this container, if anything does; None outside of one."""
    if not _is_container(root):
        return None
    point = _volume(runs_dir.resolve(), root)
    below = "" if point in ("", str(runs_dir.resolve())) else f" --runs-dir {runs_dir.resolve()}"
    return [f'docker run --rm -v "$PWD/runs:{point}" IMAGE status {run_id}{below}'] if point else []


def data_missing(root: Path = Path("/")) -> str:
    """What to add where a dataset is not found; empty where data are mounted, and outside of a container."""
    if not _is_container(root) or _volume(DATA, root):
        return ""
    return f'; no data are mounted in this container: add -v "$PWD/data:{DATA}" to docker run'


def how_to_write(error: OSError, root: Path = Path("/")) -> str:
    """The remedy where the runs directory cannot be written."""
    if error.errno not in (errno.EACCES, errno.EPERM) or not _is_container(root):
        return "choose a writable directory with --runs-dir"
    return (
        "docker gives root a folder that it has to create: create it first (mkdir -p runs), or give it to the user "
        f"that runs here (sudo chown {os.getuid()} runs)"
    )


def _is_container(root: Path) -> bool:
    """As the command of a container, below its process 1; from a shell inside, paths and commands are right."""
    return os.getppid() <= 1 and this_host(root=root).kind == "docker"


def _volume(path: Path, root: Path) -> str:
    """Where the volume that holds an absolute path is mounted; empty on the container's own layer."""
    mount = mount_of(path, read_mounts(root))
    return mount.point if mount and mount.point != "/" else ""
