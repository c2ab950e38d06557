"""A whole life on a RunPod on loopback: rented, run as a real process with a real store, followed, ended by itself."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.cli import main
from runner.launch import life
from tests.cli import settings
from tests.providers.runpod import FakeRunPod, Pod
from tests.servers import Server

pytestmark = pytest.mark.slow


class Containers:
    """What runs in the pods: the runner as a process, started again whenever it exits, killed when its pod is gone."""

    def __init__(self, fake: FakeRunPod, root: Path) -> None:
        self.fake, self.root = fake, root
        self.starts = 0
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._threads: list[threading.Thread] = []
        fake.on_create, fake.on_end = self.start, self.kill

    def start(self, pod: Pod) -> None:
        self._threads.append(threading.Thread(target=self._keep_running, args=(pod,)))
        self._threads[-1].start()

    def kill(self, pod: Pod) -> None:
        if process := self._processes.get(pod.id):
            process.kill()

    def _keep_running(self, pod: Pod) -> None:
        kept = ("PATH", "PYTHONPATH", "HOME", "OMP_NUM_THREADS")
        environment = {name: os.environ[name] for name in kept if name in os.environ} | pod.body["env"]
        environment |= {"RUNPOD_POD_ID": pod.id, "RUNPOD_API_KEY": self.fake.key}
        environment |= {"SEQUENCE_RUNPOD_URL": self.fake.url, "SEQUENCE_RUNPOD_GRAPHQL_URL": self.fake.graphql_url}
        command = [sys.executable, "-m", "runner.cli", *shlex.split(pod.body["args"])]
        while pod.id in self.fake.pods:
            self.starts += 1
            disk = self.root / f"disk-{self.starts}"  # wiped with every start
            disk.mkdir(parents=True)
            with subprocess.Popen(
                [*command, "--runs-dir", str(disk / "runs"), "--offline"],
                cwd=disk,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process:
                self._processes[pod.id] = process
                if pod.id not in self.fake.pods:  # it went before it could be killed
                    process.kill()
                pod.lines += [line.rstrip("\n") for line in process.stdout or ()]

    def wait(self) -> None:
        """Until every pod has ended itself."""
        for thread in self._threads:
            thread.join(300)

    def close(self) -> None:
        for pod in list(self.fake.pods.values()):
            self.fake.pods.pop(pod.id)
            self.kill(pod)
        for thread in self._threads:
            thread.join()


@pytest.fixture
def containers(monkeypatch: pytest.MonkeyPatch, seaweed: Server, tmp_path: Path) -> Iterator[Containers]:
    monkeypatch.delenv("LAMBDA_API_KEY", raising=False)
    monkeypatch.delenv("SEQUENCE_IMAGE", raising=False)
    monkeypatch.setattr(life, "POLL_S", 0.2)
    seaweed.use(monkeypatch)
    with FakeRunPod() as fake:
        monkeypatch.setenv("RUNPOD_API_KEY", fake.key)
        monkeypatch.setenv("SEQUENCE_RUNPOD_URL", fake.url)
        monkeypatch.setenv("SEQUENCE_RUNPOD_GRAPHQL_URL", fake.graphql_url)
        inside = Containers(fake, tmp_path / "machines")
        yield inside
        inside.close()


def test_a_run_is_rented_followed_and_ends_its_pod_and_brings_its_results_home(containers, seaweed, tmp_path, capsys):
    runs = tmp_path / "here"
    order = ("--dataset", "DEMO-USD_1H", "--gpu", "NVIDIA A40", "--image", "some/image", "--store", seaweed.store_url())
    order += ("--stages", "prepare", "--yes", "--max-cost", "5", "--runs-dir", str(runs), *settings())
    assert main(["launch", "runpod", *order, "--wait"]) == 0
    said = capsys.readouterr()
    containers.wait()
    assert not containers.fake.pods, said.err
    (pod,) = containers.fake.gone.values()
    assert containers.starts == 1
    assert (runs / pod.name / "run.json").exists()
    secret = seaweed.environment["AWS_SECRET_ACCESS_KEY"]
    assert pod.body["env"]["AWS_SECRET_ACCESS_KEY"] == secret
    assert secret not in said.out + said.err and "0.44 USD per hour" in said.err
    assert main(["launch", "list", "--json", "--runs-dir", str(runs)]) == 0
    assert json.loads(capsys.readouterr().out)["machines"] == []
    assert main(["launch", "logs", pod.name, "--runs-dir", str(runs)]) == 0
    assert capsys.readouterr().out.strip()
