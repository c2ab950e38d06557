"""The README's commands for rented machines, as they stand, against the fake providers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.store.lease import acquire, owner_facts
from runner.store.open import open_store
from tests.providers import lambda_cloud, sky
from tests.providers.lambda_cloud import FakeLambda
from tests.providers.runpod import FakeRunPod
from tests.servers import seaweed
from tests.test_readme import lines_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


@contextmanager
def beginning(url: str, runs: Callable[[], set[str]]) -> Iterator[None]:
    """While inside, every run is taken in its store again and again, as by a runner that begins."""
    over = threading.Event()

    def begin() -> None:
        while not over.wait(0.3):
            for run in runs():
                acquire(open_store(url), run, owner_facts(), 60, take_over=True)

    thread = threading.Thread(target=begin)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_every_command_for_rented_machines_runs_and_rents_one_machine_each(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    pilot = sky.install(tmp_path / "bin")
    program = tmp_path / "bin" / "sequence-runner"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m runner.cli "$@"\n')
    program.chmod(0o755)
    with FakeRunPod() as runpod, FakeLambda() as instances, seaweed() as store:
        url = store.store_url()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SEQUENCE_"))}
        environment |= store.environment | {
            "PATH": f"{tmp_path}/bin{os.pathsep}{environment['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SEQUENCE_IMAGE": "registry.example.org/you/sequence-runner:1",
            "RUNPOD_API_KEY": runpod.key,
            "LAMBDA_API_KEY": lambda_cloud.KEY,
            "SEQUENCE_RUNPOD_URL": runpod.url,
            "SEQUENCE_RUNPOD_GRAPHQL_URL": runpod.graphql_url,
            "SEQUENCE_LAMBDA_URL": instances.url,
        }
        store.use(monkeypatch)

        def names() -> set[str]:
            found = [pod.name for pod in list(runpod.pods.values())]
            found += [str(item["name"]) for item in list(instances.instances.values())]
            return {*found, *(str(job["job_name"]) for job in pilot.jobs)}

        for line in lines_of("providers"):
            line = line.replace("s3://bucket/prefix", url)
            with beginning(url, names):
                done = subprocess.run(
                    ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400
                )
            assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
            if "--dry-run" in line:
                assert not runpod.calls and json.loads(done.stdout.split("\n\n", 1)[1])["gpu"]["id"] == "NVIDIA A40"
        assert len(runpod.pods) == len(instances.instances) == len(pilot.jobs) == 1
        assert all(name.startswith("ADA-EUR_1H-standard-") for name in names())
