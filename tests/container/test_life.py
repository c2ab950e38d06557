"""Whole lives of rented machines: the command line, a RunPod on loopback, the real image in its pods, a real store.

What happened, in its order, is printed: `CONTAINER=all pytest -s` of this file shows a transcript of each life.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.events import read_events
from configs.run_dir import RunDir
from runner.store.open import open_store
from runner.store.snapshots import newest_snapshot
from tests.cli import BASE, ONE_CLASSIFIER, settings
from tests.providers.docker_pods import DockerPods
from tests.providers.runpod import FakeRunPod, Pod
from tests.runner.fixture_stages.world import wait_for
from tests.servers import Server
from tests.test_store_run import outputs

WHOLE = os.environ.get("CONTAINER") == "all"
"""Agents too, and the lives that end otherwise (`make container`); else one life, no further than the classifiers."""
DATASET = "DEMO-USD_1H_20230101-20230630" if WHOLE else "DEMO-USD_1H_20230101-20230430"
STAGES = BASE if WHOLE else ("--stages", "prepare,classifiers")
LOST_IN, KEPT = ("ppo/seed-0", "classifiers/ensemble") if WHOLE else ("classifiers/dlstm", "prepare")
"""The unit in whose midst the machine is lost, and what is done by then."""
LONG = ("ppo.timesteps=524288", "ppo.eval_every_steps=131072", "ppo.checkpoint_every_steps=32768")
MEANT = settings(*ONE_CLASSIFIER, *LONG, "compute.device=cpu")
"""What the run is."""
OFTEN = ("--set", "store.min_interval_s=0.2", "--set", "store.live_every_s=1")
LIMIT_S = 600.0

pytestmark = pytest.mark.slow
in_full = pytest.mark.skipif(not WHOLE, reason="half a minute each: make container runs it")


class Program:
    """`sequence-runner` as a process of its own; what it says is kept with its time."""

    def __init__(self, arguments: tuple[str | Path, ...], environment: dict[str, str]) -> None:
        # what steers sums of floats here does not reach into containers
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
        self.lines = [(time.monotonic(), f"$ sequence-runner {' '.join(map(str, arguments))}")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "runner.cli", *map(str, arguments)],
            env=inherited | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self.ended()

    @property
    def said(self) -> str:
        return "\n".join(line for _, line in self.lines[1:])

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def ended(self, answers: str = "") -> int:
        """Its exit code, once it has got its answers and ended."""
        assert self._process.stdin
        if not self._process.stdin.closed:
            self._process.stdin.write(answers)
            self._process.stdin.close()
        code = self._process.wait(LIMIT_S)
        self._thread.join()
        return code

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            for line in lines:
                self.lines.append((time.monotonic(), line.rstrip()))


class Account:
    """An account at a RunPod on loopback, and the computer of who uses it."""

    def __init__(self, fake: FakeRunPod, pods: DockerPods, store: str, image: str, runs_dir: Path) -> None:
        self.fake, self.pods, self.store, self.image, self.runs_dir = fake, pods, store, image, runs_dir
        self._environment = {
            "RUNPOD_API_KEY": fake.key,
            "SEQUENCE_RUNPOD_URL": fake.url,
            "SEQUENCE_RUNPOD_GRAPHQL_URL": fake.graphql_url,
        }
        self.programs: list[Program] = []

    def launch(self, *arguments: str, dataset: str = DATASET) -> Program:
        """`launch runpod`, begun."""
        order = ("--dataset", dataset, "--gpu", "NVIDIA A40", "--image", self.image, "--store", self.store)
        return self.begin("runpod", *order, *arguments)

    def begin(self, *arguments: str) -> Program:
        program = Program(("launch", *arguments, "--runs-dir", self.runs_dir), self._environment)
        self.programs.append(program)
        return program

    def listed(self) -> list[dict]:
        """The machines of `launch list`."""
        program = self.begin("list", "--json")
        assert program.ended() == 0, program.said
        return json.loads(program.said)["machines"]

    def pod(self) -> Pod:
        """The one pod that there is."""
        wait_for(lambda: len(self.fake.pods) == 1)
        return next(iter(self.fake.pods.values()))

    def keeps(self, run_id: str, path: str) -> bool:
        """The newest snapshot in the store has files there."""
        snapshot = newest_snapshot(open_store(self.store), run_id)
        return bool(snapshot) and any(name.startswith(path) for name in snapshot.files)

    def transcript(self) -> str:
        """Everything that happened, in its order."""
        found = [(t, "here", line) for program in self.programs for t, line in program.lines]
        found += [(t, one.name.split("x")[-1], line) for one in self.pods.containers for t, line in one.lines]
        found += [(call.t, "RunPod", f"{call.what} -> {status}") for call, status in self.fake.answered]
        found.sort(key=lambda item: item[0])
        return "\n".join(f"{t - found[0][0]:7.1f}  {who:7} {line}" for t, who, line in found)


@pytest.fixture
def account(image: str, seaweed: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Account]:
    seaweed.use(monkeypatch)
    with FakeRunPod() as fake, DockerPods(fake) as pods:
        account = Account(fake, pods, seaweed.store_url(), image, tmp_path / "runs")
        try:
            yield account
        finally:
            for program in account.programs:
                with program:
                    pass
            print(f"\n{account.transcript()}")


@pytest.fixture(scope="module")
def reference(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], RunDir]]:
    """The same run, which nothing disturbs: as a process here, without a store, begun at once and waited for later."""
    runs_dir = tmp_path_factory.mktemp("reference")
    arguments = ("run", "--dataset", DATASET, "--offline", "--skip-preflight", "--runs-dir", runs_dir, *STAGES, *MEANT)
    with Program(arguments, {}) as program:

        def done() -> RunDir:
            assert program.ended() == 0, program.said
            (config,) = runs_dir.glob("DEMO-*/config.yaml")
            return RunDir(config.parent)

        yield done


def test_a_run_that_loses_its_machine_ends_as_if_nothing_had_been_and_leaves_nothing_that_costs(reference, account):
    launcher = account.launch("--max-cost", "1", "--wait", *STAGES, *MEANT, *OFTEN)
    pod = account.pod()
    wait_for(lambda: any(f"{LOST_IN}: running" in one.text for one in account.pods.of(pod)), LIMIT_S)
    kept = f"stages/{LOST_IN}/checkpoints/" if WHOLE else f"stages/{KEPT}/result.json"
    wait_for(lambda: account.keeps(pod.name, kept), LIMIT_S)
    account.pods.freeze(pod)  # in the midst of it, however late the launcher looks
    shown = (f"{LOST_IN}: running",) if WHOLE else (" has begun", " is at work")
    wait_for(lambda: any(words in launcher.said for words in shown), LIMIT_S)
    account.pods.lose(pod)
    assert launcher.ended() == 0, launcher.said
    wait_for(lambda: all(one.exit_code is not None for one in account.pods.of(pod)), LIMIT_S)

    assert "0.44 USD per hour" in launcher.said and "the run may use 2.3 h, 1.00 USD" in launcher.said
    assert "another goes on from the store" in launcher.said and f"{KEPT}: skipped: was done already" in launcher.said
    lost, last = account.pods.of(pod)
    assert lost.exit_code == last.exit_code == 137, "the first by us, the second by RunPod, which the run had asked to"
    assert f"{LOST_IN}: done" not in lost.text and f"{KEPT}: running" not in last.text
    assert "restored snapshot" in last.text
    assert "REST v2 DELETE: accepted" in last.text
    assert account.fake.made("DELETE") and not account.fake.pods and account.listed() == []

    run = RunDir(account.runs_dir / pod.name)
    assert run.report.is_file() and str(run.report) in launcher.said
    assert outputs(run) == outputs(reference())
    assert not WHOLE or "going on from checkpoint" in run.log_path(LOST_IN).read_text()
    prices = [event["price_usd_per_hour"] for event in read_events(run.events) if event["kind"] == "run_started"]
    assert prices == [0.44, 0.44]
    said = account.transcript()
    assert account.fake.key not in [*pod.body["env"].values(), said] and "test-secret-key" not in said

    orphan, other = account.fake.add(pod.name), account.fake.add("somebody-elses")
    (listed,) = account.listed()
    assert listed["machine_id"] == orphan.id and listed["orphan"]
    reaper = account.begin("reap")
    assert reaper.ended("y\n") == 0 and "End it?" in reaper.said
    assert list(account.fake.pods) == [other.id]


@in_full
@pytest.mark.parametrize(
    ("arguments", "dataset", "code", "reason"),
    [
        (("--max-hours", "0.05", "--set", "compute.device=cpu"), "DEMO-USD_1H", 79, "raise --max-hours"),
        (("--data-dir", "/nowhere"), "BTC-EUR_1H_20240101-20240630", 66, "fetching it failed"),
        (("--stages", "prepare", "--set", "compute.device=cuda"), DATASET, 69, "GPU"),
        ((), DATASET, 65, "walk-forward needs at least 13"),
    ],
    ids=["estimate", "no data", "no GPU", "unfit data"],
)
def test_what_is_refused_on_the_machine_ends_it_and_is_said_here(account, arguments, dataset, code, reason):
    launcher = account.launch("--wait", *arguments, dataset=dataset)
    assert launcher.ended() == code, launcher.said
    assert reason in launcher.said.partition("error: ")[2]
    assert not account.fake.pods and account.listed() == []
    (container,) = account.pods.containers
    assert "Traceback" not in container.text + launcher.said


@in_full
def test_a_finished_run_that_is_launched_again_does_no_work_and_ends_its_machine(account):
    order = ("--wait", "--stages", "prepare", *MEANT, *OFTEN)
    first = account.launch(*order)
    assert first.ended() == 0, first.said
    account.fake.rest_takes_pod_keys = False
    again = account.launch(*order)
    assert again.ended() == 0, again.said
    one, other = account.pods.containers
    assert one.pod != other.pod and "prepare: running" in one.text
    assert "is finished; nothing to do" in other.text and "prepare: running" not in other.text
    assert "REST v2 DELETE: refused" in other.text and "GraphQL podTerminate: accepted" in other.text
    assert not account.fake.pods and account.listed() == []


@in_full
def test_a_machine_that_may_not_end_itself_holds_is_found_and_is_ended_after_asking(account):
    account.fake.rest_takes_pod_keys = account.fake.graphql_takes_pod_keys = False
    launcher = account.launch()
    pod = account.pod()
    wait_for(lambda: "waiting for the first word" in launcher.said)
    launcher.interrupt()
    assert launcher.ended() == 130 and f"launch stop {pod.name}" in launcher.said, launcher.said
    wait_for(lambda: any("STILL HERE AND BILLS" in one.text for one in account.pods.containers))
    (listed,) = account.listed()
    assert listed["machine_id"] == pod.id and "with exit code 65" in listed["orphan"]
    left = account.begin("reap")
    assert left.ended("n\n") == 0 and account.fake.pods
    reaper = account.begin("reap")
    assert reaper.ended("y\n") == 0 and not account.fake.pods
    assert len(account.pods.containers) == 1, "it never exited, so it was never started again"
