"""The image as a user runs it: real containers, from the pre-flight to the report."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from configs.events import read_events
from configs.files import digest, read_json
from configs.run_dir import RunDir
from configs.secrets import is_secret_name
from runner.identity import PACKAGES, PROJECT_ROOT, code_digest, lock_digest
from tests.cli import BASE
from tests.container.conftest import head
from tests.container.engine import SOMEBODY, Container, diffs, docker, layers
from tests.faults.case import SETTINGS
from tests.runner.fixture_stages.world import wait_for
from tests.test_project import PROJECT
from tests.test_store_run import outputs, run_in
from tests.training.test_fetch import Service, binance

pytestmark = pytest.mark.slow
WHOLE = os.environ.get("CONTAINER") == "all"
"""The quick profile as it is, on DEMO and on real data (`make container`)."""
SMALL = (*SETTINGS, "costs.fee_frac=0.0002", "judging.random_shifts=100", "judging.bootstrap_samples=200")
DEMO = ("--dataset", "DEMO-USD_1H_20230101-20230430", "--offline", *BASE)
TINY = [part for setting in (*SMALL, "runtime.calibrate_s=0") for part in ("--set", setting)]
WANDERING = ("--user", SOMEBODY, "--read-only")
"""Only the volume can be written, and that by a user whom nobody knows."""
FORBIDDEN = r"tests|benchmarks|\.git.*|\.ci|\.env.*|\.aws|.*\.pem|credentials|.*\.json|id_\w+|Makefile|.*_cache|\.netrc"
"""Of the code's own files."""


@dataclass
class Reference:
    """The run that nothing disturbs."""

    runs_dir: Path
    said: str
    health: set[str]
    """What the health check found meanwhile."""

    @property
    def run(self) -> RunDir:
        return run_in(self.runs_dir)


def open_to_all(folder: Path) -> Path:
    """A directory that every user may write into, as a fresh volume."""
    folder.mkdir(parents=True)
    folder.chmod(0o1777)
    return folder


@pytest.fixture(scope="module")
def reference(image, tmp_path_factory) -> Reference:
    runs_dir = open_to_all(tmp_path_factory.mktemp("image") / "runs")
    small = ("--shm-size", "64m", "--health-interval", "1s", "--health-timeout", "60s", "-e", "NUMBA_DEBUG_CACHE=1")
    container = Container("--rm", *WANDERING, *small, "-v", f"{runs_dir}:/runs", image, *DEMO, *TINY)
    try:
        health = set()
        while container.process.poll() is None:
            health.add(container.health())
            time.sleep(0.5)
        code, said = container.ended()
        assert code == 0, said
        return Reference(runs_dir, said, health)
    finally:
        container.remove()


@pytest.fixture
def started() -> Iterator[list[Container]]:
    """Containers that do not outlive their test."""
    containers: list[Container] = []
    yield containers
    for container in containers:
        container.remove()


def test_a_stranger_with_a_read_only_root_gets_a_report_on_the_volume(reference):
    report = reference.run.report
    assert report.is_file() and f"report   /runs/{reference.run.run_id}/report/index.html" in reference.said
    assert {path.stat().st_uid for path in reference.runs_dir.rglob("*")} == {int(SOMEBODY.partition(":")[0])}
    found = {event["name"]: event for event in read_events(reference.run.events) if event["kind"] == "check"}
    assert found["shared memory"]["found"].startswith("67.1 MB")
    assert {found[name]["verdict"] for name in ("durability", "dependencies", "writing", "shared memory")} == {"ok"}


def test_the_health_check_sees_that_a_run_gets_on(reference):
    assert reference.health - {"", "starting"} == {"healthy"}


def test_a_heart_that_has_not_beaten_for_five_minutes_or_never_is_ill(image):
    check = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]["Healthcheck"]["Test"]
    assert check[0] == "CMD-SHELL"
    for state, expected in {"true": 1, 'touch "$SEQUENCE_HEARTBEAT.$(uname -n)"': 0}.items():
        assert _code(image, f"{state}; {check[1]}") == expected
    for seconds, expected in {280: 0, 310: 1}.items():
        assert (
            _code(image, f'touch -d "{seconds} seconds ago" "$SEQUENCE_HEARTBEAT.$(uname -n)"; {check[1]}') == expected
        )


def _code(image: str, script: str) -> int:
    """Exit code of a shell script inside."""
    return docker("run", "--rm", "--entrypoint", "sh", image, "-c", script, check=False).returncode


def test_nothing_that_training_calls_is_compiled_in_the_container(reference):
    said = "".join(path.read_text() for path in (reference.run.root / "logs").rglob("*.log"))
    assert "data loaded from '/dev/shm/numba-12345-" in said
    assert "data saved" not in said


def test_the_image_computes_under_the_cache_keys_of_this_checkout(reference):
    facts = read_json(reference.run.run_json)
    assert facts["code_digest"] == digest({name: code_digest(PROJECT_ROOT / name) for name in PACKAGES})
    assert facts["lock_digest"] == lock_digest()


def test_the_same_command_again_does_no_work(reference, image):
    before = {path: path.stat().st_mtime_ns for path in reference.runs_dir.rglob("*")}
    again = ("run", "--rm", *WANDERING, "--network", "none", "-v", f"{reference.runs_dir}:/runs", image, *DEMO, *TINY)
    assert f"run {reference.run.run_id} is finished; nothing to do" in docker(*again).stderr
    assert {path: path.stat().st_mtime_ns for path in reference.runs_dir.rglob("*")} == before


def test_docker_stop_in_mid_training_leaves_a_checkpoint_and_the_next_run_the_same_bytes(
    reference, image, tmp_path, started
):
    runs_dir = open_to_all(tmp_path / "runs")
    donor = RunDir(runs_dir / "donor")  # its classifiers are taken over: the work begins with the agent
    for unit in ("prepare", "classifiers/dlstm", "classifiers/ensemble"):
        shutil.copytree(reference.run.unit_dir(unit), donor.unit_dir(unit))
    shutil.copy(reference.run.config_yaml, donor.config_yaml)
    command = ("--rm", "-v", f"{runs_dir}:/runs", image, *DEMO, *TINY, "--skip-preflight")
    started.append(Container(*command))
    wait_for(lambda: list(runs_dir.glob("DEMO-*/stages/ppo/seed-0/checkpoints/*/manifest.json")), 600)
    docker("stop", "--time", "60", started[0].name)  # then it kills, and the exit code is another
    code, said = started[0].ended()
    assert code == 75 and "the same command goes on from here" in said, said
    run = run_in(runs_dir)
    assert list(run.stages.glob("ppo/seed-0/checkpoints/*/manifest.json")) and run.result("ppo/seed-0") is None
    started.append(Container(*command))
    code, said = started[1].ended()
    assert code == 0, said
    assert "going on from checkpoint" in run.log_path("ppo/seed-0").read_text()
    assert outputs(run) == outputs(reference.run)


def test_a_memory_limit_below_the_need_is_refused_before_the_kernel_kills(image):
    limited = ("run", "--rm", "--memory", "600m", "--network", "none", image, *DEMO, *TINY)
    done = docker(*limited, check=False)
    assert done.returncode == 69, done.stderr
    said = " ".join(done.stderr.split())
    assert "memory: found 629 MB (container limit, host has" in said and "raise the container's memory limit" in said
    assert re.search(r"durability /runs lies on the .* warn results are lost", said), "there is no volume, and no store"


def test_a_known_symbol_that_is_not_in_a_read_only_data_volume_is_kept_with_the_runs(image, tmp_path):
    name, service = "ADA-EUR_1H_20240101-20240401", Service(binance)
    what = ("--dataset", name, "--dry-run", *BASE)
    data, runs_dir = open_to_all(tmp_path / "data"), open_to_all(tmp_path / "runs")
    try:
        volumes = ("-v", f"{data}:/data:ro", "-v", f"{runs_dir}:/runs", "-e", f"CCXT_BASE_URL={service.url}")
        fetched = docker("run", "--rm", *WANDERING, "--network", "host", *volumes, image, *what)
    finally:
        service.close()
    assert [path.name for path in (runs_dir / ".datasets").iterdir()] == [f"{name}.csv.gz"]
    offline = ("run", "--rm", "--network", "none", "-v", f"{runs_dir}:/runs", image, *what)
    assert docker(*offline).stdout == fetched.stdout, "the same run, without the service"


def test_the_code_is_the_last_layer_and_small(image):
    code = layers(image)[0]
    assert "COPY /out" in code.made_by and 1e6 < code.size_bytes < 5e6


def test_labels_and_variables_say_what_the_image_is(image):
    config = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["title"] == PROJECT["name"] and labels["version"] == PROJECT["version"]
    assert labels["licenses"] == PROJECT["license"] and labels["description"] == PROJECT["description"]
    assert labels["revision"] == head() and {"created", "base.name"} <= labels.keys()
    variables = dict(line.split("=", 1) for line in config["Env"])
    assert variables["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility" and variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert config["Entrypoint"] == ["tini", "--", "sequence-runner"], (
        "without -g: units are stopped by the runner alone"
    )
    assert docker("run", "--rm", image, "--version").stdout.split()[-1] == PROJECT["version"]


def test_no_layer_holds_tests_caches_or_secrets(image):
    ours = diffs(image)[:-1]  # the lowest is the base image's own
    files = [(layer, path) for layer in ours for path in layer.rglob("*") if path.is_file() or path.is_symlink()]
    paths = [Path("/", path.relative_to(layer)) for layer, path in files]
    assert Path("/opt/sequence-runner/runner/cli.py") in paths
    assert not [path for path in paths if path.parts[1] in ("root", "home", "tmp", "runs", "data", "wheels")]
    assert not [path for path in paths if path.is_relative_to("/var/lib/apt/lists") or ".cache" in path.parts]
    own = [path for path in paths if path.is_relative_to("/opt/sequence-runner")]
    assert not [path for path in own if any(re.fullmatch(FORBIDDEN, part) for part in path.parts)]
    inspected = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]["Env"]
    named = {line.partition("=")[0] for line in inspected} | {
        name
        for layer in docker("history", "--no-trunc", image).stdout.splitlines()
        for name in re.findall(r"\b(\w+)=", layer)
    }
    assert "SEQUENCE_HEARTBEAT" in named and not {name for name in named if is_secret_name(name)}


@pytest.mark.skipif(not WHOLE, reason="minutes; CONTAINER=all (make container) has it")
@pytest.mark.parametrize("dataset", ["DEMO-USD_1H", "ADA-EUR_1H"])
def test_a_whole_quick_run_ends_with_its_report(dataset, image, tmp_path, started, request):
    mounts = ["-v", f"{open_to_all(tmp_path / 'runs')}:/runs"]
    if dataset != "DEMO-USD_1H":
        mounts += ["-v", f"{request.getfixturevalue('real_data').resolve()}:/data:ro"]
    begun_s = time.monotonic()
    started.append(Container("--rm", *WANDERING, *mounts, image, "--dataset", dataset, "--offline"))
    code, said = started[0].ended(timeout_s=3_600)
    assert code == 0, said
    (report,) = (tmp_path / "runs").glob("*/report/index.html")
    print(f"\n{dataset}: {time.monotonic() - begun_s:,.0f} s to a report of {report.stat().st_size:,} bytes")
