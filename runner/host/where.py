"""Which kind of place this program runs in, by its environment and its files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from configs.errors import ConfigError

Provider = Literal["runpod", "lambda", "sky"]
Kind = Literal[Provider, "docker", "plain"]
LAUNCHED_BY = "SEQUENCE_HOST"
"""Set by a launcher: the machine was rented for this one run."""
MACHINE = "SEQUENCE_MACHINE"
"""Set by a launcher where the provider tells no id inside: the name of this one launch."""
CONTAINER = "container "
"""How the place of a container begins, whose id follows."""
_CONTAINER_ID = re.compile(r"containers/([0-9a-f]{64})/\S* /etc/hostname ")
"""In the one mount that Docker and Podman make of a file of this very container: layers of images are shared, and
outside, the mounts of all containers are seen."""


@dataclass(frozen=True)
class Host:
    """The machine, pod or container that this program runs in."""

    kind: Kind
    machine: str
    """As its provider knows it; of a container its id, of any other machine its name."""
    launched: bool
    """It was rented for this one run, and is to be ended with it."""
    place: str
    """Pod, container, or machine and process namespace: where the same name means that pids can be compared."""

    def __str__(self) -> str:
        """`runpod machine abc, launched for this run`."""
        return f"{self.kind} machine {self.machine}{', launched for this run' * self.launched}"


def this_host(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Host:
    """Where this program runs.

    Args:
        environment: its variables.
        root: of its file system.

    Raises:
        ConfigError: the launcher's word for the kind of machine is none that is known.
    """
    launched_by = environment.get(LAUNCHED_BY, "")
    if launched_by and launched_by not in get_args(Provider):
        raise ConfigError(f"{LAUNCHED_BY}={launched_by!r} is no provider; expected {', '.join(get_args(Provider))}")
    pod, task = environment.get("RUNPOD_POD_ID", ""), environment.get("SKYPILOT_TASK_ID", "")
    container = _container(_text(root / "proc/self/mountinfo"))[:12]
    found: Kind = "runpod" if pod else "sky" if task else "docker" if _is_container(root, container) else "plain"
    kind = cast(Kind, launched_by) or found
    name = _text(root / "proc/sys/kernel/hostname").strip()
    given = environment.get(MACHINE, "")
    own = {"runpod": pod or given, "sky": given or task}.get(kind, given)
    machine = own or container or name
    if pod:
        place = f"pod {pod}"
    elif container:
        place = CONTAINER + container
    else:
        machine_id = _text(root / "etc/machine-id").strip()[:12] or "unknown"
        place = f"machine {name} {machine_id} {(root / 'proc/self/ns/pid').readlink()}"
    return Host(kind, machine, bool(launched_by), place)


def _is_container(root: Path, container: str) -> bool:
    return bool(container) or (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()


def _container(mountinfo: str) -> str:
    """Id of the container whose mounts these are; empty outside of one."""
    found = _CONTAINER_ID.search(mountinfo)
    return found[1] if found else ""


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
