"""The README's commands for docker and compose, as they stand, by an ordinary user in a copy of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.engine import DOCKER, docker
from tests.servers import free_ports
from tests.test_readme import lines_of, size_of_a_test

ROOT = Path(__file__).parents[2]
WHOLE = os.environ.get("CONTAINER") == "all"
"""All stages, at the size of a test (`make container`); else no further than `prepare`."""
USER = 12_345
SOCKET = Path("/var/run/docker.sock")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(image) -> Iterator[Path]:
    """What git knows of the checkout, in a directory of the user's own, on an engine without images of these names."""
    folder = Path(tempfile.mkdtemp())
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    for path in tracked:
        if (ROOT / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, folder / path)
    subprocess.check_call(["chown", "-R", f"{USER}:{USER}", folder])
    docker("rmi", "sequence-runner:latest", "sequence-runner-store:latest", check=False)
    yield folder
    shutil.rmtree(folder)


def as_here(line: str) -> str:
    """The command for this machine: its network, its compose, the size of a test."""
    line = line.replace("docker build", "docker build --network host")
    if "--dataset" in line:
        sizes = " ".join(f"-e '{name}={value}'" for name, value in size_of_a_test().items())
        line = line.replace("run --rm", f"run --rm {sizes}") + ("" if WHOLE else " --until prepare --skip-preflight")
    return line.replace("docker compose", "docker-compose") if shutil.which("docker-compose") else line


def by_user(line: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command as an ordinary user who may speak to the engine."""
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={SOCKET.stat().st_gid}"]
    return subprocess.run(
        [*user, "bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )


@pytest.mark.parametrize("note", ["docker", "compose"])
def test_every_command_of_the_readme_runs(note, checkout):
    ports = dict(zip(("STORE_PORT", "TENSORBOARD_PORT", "REPORT_PORT"), map(str, free_ports(3)), strict=True))
    environment = {"PATH": f"{Path(DOCKER).parent}:{os.environ['PATH']}", "HOME": str(checkout), **ports}
    environment |= {"DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1", "BUILD_NETWORK": "host"}
    environment |= {"COMPOSE_PROJECT_NAME": "sequence-readme"}
    try:
        for line in lines_of(note):
            done = by_user(as_here(line), checkout, environment)
            assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
            assert "--dataset" not in line or "report" in done.stdout
    finally:
        if note == "compose":
            by_user(as_here("docker compose down --volumes --timeout 5"), checkout, environment)
    if note == "docker":
        made = [path for path in (checkout / "runs").rglob("*")]
        assert made and {path.stat().st_uid for path in made} == {USER}, "what a run writes belongs to who started it"
