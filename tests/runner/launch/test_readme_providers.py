"""The README's commands for rented machines, as they stand, against the fake providers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.providers import lambda_cloud, sky
from tests.providers.lambda_cloud import FakeLambda
from tests.providers.runpod import FakeRunPod
from tests.servers import seaweed
from tests.test_readme import lines_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


def test_every_command_for_rented_machines_runs_and_rents_one_machine_each(tmp_path):
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
        for line in lines_of("providers"):
            line = line.replace("s3://bucket/prefix", url)
            done = subprocess.run(
                ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
            if "--dry-run" in line:
                assert not runpod.calls and json.loads(done.stdout.split("\n\n", 1)[1])["gpu"]["id"] == "NVIDIA A40"
        names = {pod.name for pod in runpod.pods.values()} | {item["name"] for item in instances.instances.values()}
        assert len(runpod.pods) == len(instances.instances) == len(pilot.jobs) == 1
        assert all(name.startswith("ADA-EUR_1H-standard-") for name in names)
