"""The README's commands for docker and compose, as they stand, in a copy of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers import free_ports
from tests.test_readme import lines_of, size_of_a_test

DOCKER = "/usr/bin/docker"
ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("CONTAINER") != "all", reason="minutes: make container runs it"),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """What git knows of the checkout, elsewhere: the commands write beside it."""
    folder = tmp_path_factory.mktemp("checkout")
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    for path in tracked:
        if (ROOT / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, folder / path)
    return folder


def as_here(line: str) -> str:
    """The command for this machine: its engine, its network, no GPU where there is none, the size of a test."""
    sizes = " ".join(f"-e '{name}={value}'" for name, value in size_of_a_test().items())
    line = line.replace("docker build", "docker build --network host").replace("run --rm", f"run --rm {sizes}")
    if not shutil.which("nvidia-smi"):
        line = line.replace("--gpus all", "")
    if shutil.which("docker-compose"):
        line = line.replace("docker compose", "docker-compose")
    return line


@pytest.mark.parametrize("note", ["docker", "compose"])
def test_every_command_of_the_readme_runs(note, checkout, image):
    ports = dict(zip(("STORE_PORT", "TENSORBOARD_PORT", "REPORT_PORT"), map(str, free_ports(3)), strict=True))
    environment = os.environ | ports | {"DOCKER_BUILDKIT": "1", "BUILD_NETWORK": "host", "SEQUENCE_IMAGE": image}
    environment |= {"COMPOSE_PROJECT_NAME": "sequence-readme", "PATH": f"{Path(DOCKER).parent}:{os.environ['PATH']}"}
    try:
        for line in lines_of(note):
            done = subprocess.run(
                ["bash", "-c", as_here(line)],
                cwd=checkout,
                env=environment,
                capture_output=True,
                text=True,
                timeout=900,
            )
            assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stderr[-3000:]}"
            assert "sequence-runner --dataset" not in line or "report   /runs/" in done.stdout
    finally:
        if note == "compose":
            down = as_here("docker compose down --volumes --timeout 5")
            subprocess.run(["bash", "-c", down], cwd=checkout, env=environment, capture_output=True)
