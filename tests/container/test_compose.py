"""The compose file: everything beside the runner comes up, a killed run goes on from its store, all of it goes down."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from tests.cli import BASE, ONE_CLASSIFIER, TINY
from tests.runner.fixture_stages.world import wait_for
from tests.servers import free_ports

ROOT = Path(__file__).parents[2]
DOCKER = "/usr/bin/docker"
COMPOSE = [DOCKER, "compose"] if Path("/usr/libexec/docker/cli-plugins/docker-compose").exists() else ["docker-compose"]
DEMO = ("--dataset", "DEMO-USD_1H_20230101-20230630", "--skip-preflight", *BASE)
SETTINGS = [part for setting in (*TINY, *ONE_CLASSIFIER, "store.min_interval_s=0.2") for part in ("--set", setting)]

pytestmark = pytest.mark.slow


class Project:
    """One compose project with ports and names of its own."""

    def __init__(self, image: str, folder: Path) -> None:
        self.name = f"sequence-{uuid.uuid4().hex[:8]}"
        self.store_port, self.board_port, self.report_port = free_ports(3)
        self._environment = {
            "COMPOSE_PROJECT_NAME": self.name,
            "SEQUENCE_IMAGE": image,
            "DATA_DIR": str(folder),
            "STORE_PORT": str(self.store_port),
            "TENSORBOARD_PORT": str(self.board_port),
            "REPORT_PORT": str(self.report_port),
            "BUILD_NETWORK": "host",
            "DOCKER_BUILDKIT": "1",
            "PATH": f"{Path(DOCKER).parent}{os.pathsep}{os.environ['PATH']}",
            "COMPOSE_DOCKER_CLI_BUILD": "1",
        }

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = self.start(*arguments)
        out, err = done.communicate(timeout=600)
        assert not check or done.returncode == 0, err[-3000:]
        return subprocess.CompletedProcess(arguments, done.returncode, out, err)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMPOSE, "--env-file", str(ROOT / ".env.example"), *arguments],
            cwd=ROOT,
            env=os.environ | self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def container(self, service: str) -> dict:
        """What the engine says of a service's container."""
        labels = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}"]
        filters = [part for label in labels for part in ("--filter", f"label={label}")]
        (name,) = subprocess.check_output([DOCKER, "ps", "-q", *filters], text=True).split()
        return json.loads(subprocess.check_output([DOCKER, "inspect", name], text=True))[0]

    def mounts_of(self, service: str) -> dict[str, bool]:
        """Where the volumes of a service lie, and whether it may write there."""
        mounts = self.container(service)["Mounts"]
        return {mount["Destination"]: mount["RW"] for mount in mounts if mount["Type"] == "volume"}

    def said_by_the_run(self) -> str:
        time.sleep(0.5)
        done = subprocess.run([DOCKER, "logs", f"{self.name}-run"], capture_output=True, text=True)
        return done.stdout + done.stderr

    def left(self, kind: str) -> list[str]:
        """Names of what exists of the project: containers (`ps`) or volumes."""
        command = {"ps": ["ps", "-a", "--format", "{{.Names}} {{.Status}}"], "volume": ["volume", "ls", "-q"]}[kind]
        label = f"label=com.docker.compose.project={self.name}"
        return subprocess.check_output([DOCKER, *command, "--filter", label], text=True).splitlines()


@pytest.fixture
def project(image, tmp_path) -> Iterator[Project]:
    project = Project(image, tmp_path)
    try:
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "5", check=False)


def assert_only_loopback(project: Project) -> None:
    """Ports are published on loopback alone, and the store serves nobody without its key, by no other port either."""
    for service in ("store", "tensorboard", "report"):
        (bound,) = (of for of in project.container(service)["NetworkSettings"]["Ports"].values() if of)
        assert [place["HostIp"] for place in bound] == ["127.0.0.1"]
    with pytest.raises(HTTPError, match="403"):
        get(project.store_port, "/runs/")
    (network,) = project.container("store")["NetworkSettings"]["Networks"].values()
    for port in (8080, 8888, 9333):
        with pytest.raises(URLError, match="refused"):
            urlopen(f"http://{network['IPAddress']}:{port}/", timeout=5)


def get(port: int, path: str) -> str:
    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return answer.read().decode(errors="replace")


@pytest.mark.skipif(
    os.environ.get("CONTAINER") != "all",
    reason="minutes: make container has it; the gate has compose by the README's own lines",
)
def test_services_come_up_a_killed_run_goes_on_and_all_of_it_goes_down(project):
    project.compose("build", "store")
    project.compose("up", "-d")
    wait_for(lambda: sum("(healthy)" in line for line in project.left("ps")) == 3, 120)
    assert_only_loopback(project)

    run = ("run", "--rm", "-T", "--name", f"{project.name}-run", "runner", *DEMO, *SETTINGS)
    first = project.start(*run)
    wait_for(lambda: "ppo/seed-0: running" in project.said_by_the_run(), 240)
    time.sleep(1)
    subprocess.check_call([DOCKER, "kill", f"{project.name}-run"], stdout=subprocess.DEVNULL)
    first.communicate(timeout=60)
    assert first.returncode == 137

    wait_for(lambda: not any(line.startswith(f"{project.name}-run ") for line in project.left("ps")), 30)
    second = project.compose(*run, "--json")
    result = json.loads(second.stdout)
    assert result["exit_code"] == 0 and result["bit_exact"] is True
    assert "classifiers/ensemble: running" not in second.stderr, "what was done is not done again"
    assert "everything is kept in s3://runs/compose" in second.stderr

    page = get(project.report_port, f"/{result['run_id']}/report/index.html")
    assert result["run_id"] in page and "verdict" in page.lower()
    with pytest.raises(HTTPError, match="501"):
        urlopen(Request(f"http://127.0.0.1:{project.report_port}/x", b"", method="PUT"), timeout=20)
    wait_for(lambda: "ppo" in get(project.board_port, "/data/runs"), 60)
    assert project.mounts_of("tensorboard") == project.mounts_of("report") == {"/runs": False}

    project.compose("down", "--volumes", "--timeout", "20")
    assert project.left("ps") == project.left("volume") == []


def test_the_overlay_reserves_gpus_in_the_long_form_and_without_it_none_are_asked_for(project):
    plain = project.compose("config").stdout
    with_gpu = project.compose("-f", "compose.yaml", "-f", "compose.gpu.yaml", "config").stdout
    assert "nvidia" not in plain
    assert "driver: nvidia" in with_gpu and "count: all" in with_gpu and "- gpu" in with_gpu
