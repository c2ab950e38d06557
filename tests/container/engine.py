"""The docker client as the tests use it."""

from __future__ import annotations

import json
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

DOCKER = "/usr/bin/docker"
SOMEBODY = "12345:12345"
"""A user whom the image does not know."""


@dataclass(frozen=True)
class Layer:
    """One layer of an image."""

    size_bytes: int
    made_by: str


def docker(*arguments: str | Path, check: bool = True, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the client to its end."""
    command = [DOCKER, *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stderr[-3000:]}"
    return done


def layers(image: str) -> list[Layer]:
    """Layers of an image, the newest first."""
    lines = docker("history", "--human=false", "--no-trunc", "--format", "{{json .}}", image).stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    return [Layer(int(entry["Size"]), entry["CreatedBy"]) for entry in entries if int(entry["Size"])]


def size_bytes(image: str) -> int:
    """Of all layers together, unpacked."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout)


def diffs(image: str) -> list[Path]:
    """Directories in which the engine keeps what each layer adds, the newest first."""
    graph = json.loads(docker("image", "inspect", image).stdout)[0]["GraphDriver"]
    assert graph["Name"] == "overlay2", f"expected the layers of overlay2, found {graph['Name']}"
    return [Path(graph["Data"]["UpperDir"]), *map(Path, graph["Data"]["LowerDir"].split(":"))]


class Container:
    """One `docker run` in the background, which is looked at and stopped from outside."""

    def __init__(self, *arguments: str | Path) -> None:
        self.name = f"sequence-test-{uuid.uuid4().hex[:8]}"
        self.process = subprocess.Popen(
            [DOCKER, "run", "--name", self.name, "--network", "none", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ended(self, timeout_s: float = 600) -> tuple[int, str]:
        """Exit code, and all that was said."""
        said, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, said

    def health(self) -> str:
        """`starting`, `healthy`, `unhealthy`; empty while it does not run: docker calls every ended one unhealthy."""
        status = "{{if .State.Running}}{{.State.Health.Status}}{{end}}"
        return docker("inspect", "--format", status, self.name, check=False).stdout.strip()

    def remove(self) -> None:
        """Whatever it does."""
        docker("rm", "--force", "--volumes", self.name, check=False)
        self.process.communicate(timeout=300)
