"""Pods that are real: what a fake RunPod rents is the image in the local Docker engine, on its CPU.

As on RunPod a container that exits is started again with a wiped disk, for as long as its pod is there; the end of
the pod kills it a moment after it was granted.

    with FakeRunPod() as fake, DockerPods(fake) as pods:
        ...
        pods.lose(pod)
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Self

from tests.providers.runpod import FakeRunPod, Pod

DOCKER = "/usr/bin/docker"
KILLED_AFTER_S = 3.0
"""Enough to say that the end was granted."""
RESTARTED_AFTER_S = 0.5


@dataclass
class Container:
    """One of the containers that a pod had, one after the other."""

    name: str
    pod: str
    lines: list[tuple[float, str]] = field(default_factory=list)
    """Monotonic seconds and what it printed then."""
    exit_code: int | None = None
    """None while it runs."""

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)


class DockerPods:
    """What the pods of a fake stand for, until `with` ends."""

    def __init__(self, fake: FakeRunPod) -> None:
        self.containers: list[Container] = []
        self._fake = fake
        self._over: set[str] = set()
        self._threads: dict[str, threading.Thread] = {}
        self._ends: list[threading.Thread] = []
        # containers share this machine's network, and on it what a pod is known by
        fake.first_of_ids = f"pod{uuid.uuid4().hex[:8]}x"
        fake.on_create, fake.on_end = self._begin, self._end

    def of(self, pod: Pod) -> list[Container]:
        """The containers of a pod, the newest last."""
        return [container for container in self.containers if container.pod == pod.id]

    def freeze(self, pod: Pod) -> None:
        """Let nothing in the container go on, until it is lost."""
        _docker("pause", self.of(pod)[-1].name)

    def lose(self, pod: Pod) -> None:
        """Kill the container at once, as the loss of its host does; the pod goes on with another."""
        _docker("kill", self.of(pod)[-1].name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pod in list(self._fake.pods.values()):
            self._end(pod)
        for thread in self._ends:
            thread.join()

    def _begin(self, pod: Pod) -> None:
        thread = threading.Thread(target=self._live, args=(pod,), name=pod.id)
        self._threads[pod.id] = thread
        thread.start()

    def _end(self, pod: Pod) -> None:
        if pod.id in self._threads and pod.id not in self._over:
            self._over.add(pod.id)
            thread = threading.Thread(target=self._kill, args=(pod,))
            self._ends.append(thread)
            thread.start()

    def _kill(self, pod: Pod) -> None:
        thread = self._threads[pod.id]
        thread.join(KILLED_AFTER_S)
        while thread.is_alive():
            _docker("kill", self.of(pod)[-1].name)
            thread.join(KILLED_AFTER_S)

    def _live(self, pod: Pod) -> None:
        key = f"rpa_{uuid.uuid4().hex}"
        self._fake.pod_keys[key] = pod.id
        environment = pod.body["env"] | {
            "RUNPOD_API_KEY": key,
            "RUNPOD_POD_ID": pod.id,
            "RUNPOD_DC_ID": pod.region,
            "RUNPOD_GPU_COUNT": str(pod.body["gpu"]["count"]),
            "SEQUENCE_RUNPOD_URL": self._fake.url,
            "SEQUENCE_RUNPOD_GRAPHQL_URL": self._fake.graphql_url,
        }
        while pod.id not in self._over:
            container = Container(f"{pod.id}-{len(self.of(pod))}", pod.id)
            self.containers.append(container)
            self._run(pod, container, environment)
            time.sleep(RESTARTED_AFTER_S)

    def _run(self, pod: Pod, container: Container, environment: dict[str, str]) -> None:
        """One container from its start to its end."""
        # names are asked of this very machine, which serves none: nothing goes beyond it
        command = [DOCKER, "run", "--rm", "--network", "host", "--dns", "0.0.0.0", "--name", container.name]
        for name in environment:  # their values are in no argument
            command += ["--env", name]
        command += [pod.body["image"], *shlex.split(pod.body["args"])]
        with subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout
            for line in process.stdout:
                container.lines.append((time.monotonic(), line.rstrip()))
                pod.lines.append(line.rstrip())
        container.exit_code = process.returncode


def _docker(*arguments: str) -> None:
    """Ask the engine; that there is no such container is fine."""
    subprocess.run([DOCKER, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=300)


__all__ = ["Container", "DockerPods"]
