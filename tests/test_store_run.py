"""Whole runs that lose their machine, their store, or their ownership; looked at through the public command line."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.events import read_events
from configs.files import sha256_file
from configs.run_dir import RunDir
from runner.store.file import LOCK
from tests.cli import BASE, ONE_CLASSIFIER, cli, settings
from tests.runner.fixture_stages.world import wait_for
from tests.servers import Server, gcs_emulator, seaweed
from tests.stillness import pid_of, standing_still, stop

EVERYWHERE = os.environ.get("FAULTS") == "all"
"""On every kind of store (`make faults`); the gate has one for each story."""
pytestmark = pytest.mark.slow

DATASET = "DEMO-USD_1H_20230101-20230630"
EVERY_ROLLOUT = "ppo.checkpoint_every_steps=8192"
"""Else an agent that is fast enough saves nothing."""
DEMO = ("--dataset", DATASET, "--offline", "--skip-preflight", *BASE, *settings(*ONE_CLASSIFIER, EVERY_ROLLOUT))
OFTEN = ("--set", "store.min_interval_s=0.2")


def outputs(run: RunDir) -> dict[str, str]:
    """Every file that a unit made, with its digest as the unit's own result says."""
    return {
        path.parent.relative_to(run.stages).as_posix() + "/" + name: output["sha256"]
        for path in run.stages.rglob("result.json")
        for name, output in json.loads(path.read_text())["outputs"].items()
    }


def run_in(runs_dir: Path) -> RunDir:
    (config,) = runs_dir.glob("DEMO-*/config.yaml")
    return RunDir(config.parent)


class Start:
    """A runner as a process of its own, which a test may signal."""

    def __init__(self, *arguments: str | Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runner.cli", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | environment,
            text=True,
            start_new_session=True,
        )

    def ended(self, timeout_s: float = 300) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, said


@contextlib.contextmanager
def started(*arguments: str | Path, **environment: str) -> Iterator[Start]:
    start = Start(*arguments, **environment)
    try:
        yield start
    finally:
        if start.process.poll() is None:
            start.process.send_signal(signal.SIGCONT)
            start.process.kill()
            start.process.communicate()


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> RunDir:
    """The run that nothing disturbs, without a store."""
    runs_dir = tmp_path_factory.mktemp("reference")
    done = cli("run", *DEMO, "--runs-dir", runs_dir)
    assert done.returncode == 0, done.stderr
    return run_in(runs_dir)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    with seaweed() as s3, gcs_emulator() as gcs:
        yield {"s3": s3, "gs": gcs}


@pytest.fixture(params=["file", "s3", "gs"] if EVERYWHERE else ["s3"])
def place(request, tmp_path) -> tuple[str, dict[str, str]]:
    """URL of an empty store, and what a client of it needs in its environment."""
    if request.param == "file":
        return f"file://{tmp_path / 'store'}", {}
    server: Server = request.getfixturevalue("servers")[request.param]
    return server.store_url(), server.environment


AGENTS = ("ppo/seed-0", "ppo/seed-1")


def stop_agents(start: Start, runs_dir: Path) -> dict[str, int]:
    """Have each agent stand still behind its first checkpoint; returns when the store has those, with their pids."""
    stopped: dict[str, int] = {}
    last_t = 0.0

    def is_kept() -> bool:
        nonlocal last_t
        for path in runs_dir.glob("DEMO-*/events"):
            for event in filter(agents_checkpoint, read_events(path)):
                if event["unit"] not in stopped:
                    stopped[event["unit"]] = pid_of(start.process, event["unit"])
                    os.kill(stopped[event["unit"]], signal.SIGSTOP)
                    last_t = event["t"]
            snapshots = told(RunDir(path.parent), "checkpoint")
            return len(stopped) == len(AGENTS) and any(event["t"] - event["wall_s"] > last_t for event in snapshots)
        return False

    wait_for(is_kept, 300)
    return stopped


def agents_checkpoint(event: dict) -> bool:
    return event["kind"] == "checkpoint" and event["unit"].startswith("ppo/")


def told(run: RunDir, kind: str) -> list[dict]:
    """Events of the run itself, not of a unit."""
    return [event for event in read_events(run.events) if (event["unit"], event["kind"]) == ("run", kind)]


def begun(runs_dir: Path) -> RunDir:
    """The run of a runner just started, once its store has a first snapshot."""

    def found() -> list[Path]:
        return [path for path in runs_dir.glob("*/store.json") if told(RunDir(path.parent), "checkpoint")]

    wait_for(found, 300)
    return RunDir(found()[0].parent)


def after_classifiers(reference: RunDir, runs_dir: Path) -> Path:
    """A runs directory with an earlier run whose first two stages can be taken over: saves their time."""
    earlier = RunDir(runs_dir / "earlier")
    shutil.copytree(reference.root, earlier.root, ignore=shutil.ignore_patterns("ppo", "evaluate", "lock"))
    return runs_dir


@contextlib.contextmanager
def away(server: Server) -> Iterator[None]:
    """The server runs afterwards, whatever was done to it inside."""
    try:
        yield
    finally:
        server.restart()


def test_a_run_whose_machine_is_gone_goes_on_from_the_store_to_the_same_bytes(place, reference, tmp_path):
    url, environment = place
    after_classifiers(reference, tmp_path / "lost")
    with started(*DEMO, "--runs-dir", tmp_path / "lost", "--store", url, *OFTEN, **environment) as start:
        stop_agents(start, tmp_path / "lost")
        start.process.kill()
        start.ended()
    run_id = run_in(tmp_path / "lost").run_id
    shutil.rmtree(tmp_path / "lost")
    shown = cli("status", "--store", url, "--json", **environment)
    assert json.loads(shown.stdout)["state"].startswith("running"), "the lease is not released by a kill"
    resume = ("--resume", run_id, "--store", url, "--runs-dir", tmp_path / "new", "--skip-preflight", "--json", *BASE)
    done = cli("run", *resume, **environment)
    assert done.returncode == 0, done.stderr
    assert "restored snapshot" in done.stderr
    assert json.loads(done.stdout)["bit_exact"] is True
    run = RunDir(tmp_path / "new" / run_id)
    resumed = [event for event in read_events(run.events) if event["kind"] == "unit_started" and "ppo" in event["unit"]]
    assert len(resumed) == 4, "both agents were begun, killed, and begun again"
    assert outputs(run) == outputs(reference)

    again = cli("run", *resume[:5], tmp_path / "third", *resume[6:], **environment)
    assert again.returncode == 0 and "finished; nothing to do" in again.stderr
    assert outputs(RunDir(tmp_path / "third" / run_id)) == outputs(reference)

    state = json.loads(cli("status", run_id, "--store", url, "--json", **environment).stdout)
    assert (state["state"], state["exit_code"], state["exit_record"]["exit_code"]) == ("finished", 0, 0)
    assert state["store"]["released"] is True and state["verdict"]
    report = cli("report", "--store", url, "--to", tmp_path / "report.html", **environment)
    assert report.returncode == 0 and (tmp_path / "report.html").stat().st_size > 10_000
    assert "unit evaluate is done" in cli("logs", run_id, "evaluate", "--store", url, **environment).stdout


def test_what_every_snapshot_shares_and_the_store_lost_is_made_anew(reference, tmp_path):
    store, runs_dir = tmp_path / "store", after_classifiers(reference, tmp_path / "runs")
    again = (*DEMO, "--store", f"file://{store}", *OFTEN, "--runs-dir")
    assert cli("run", *again, runs_dir).returncode == 0
    run = run_in(runs_dir)
    lost = "stages/prepare/features.parquet"
    sha256 = sha256_file(run.root / lost)
    (content,) = store.glob(f"{run.run_id}/blobs/*/{sha256}*")
    content.write_bytes(b"damaged")
    done = cli("run", *again, tmp_path / "other")
    assert done.returncode == 0, done.stderr
    assert f"is used without {lost}" in done.stderr and str(content.name) in done.stderr
    assert outputs(RunDir(tmp_path / "other" / run.run_id)) == outputs(reference)
    assert cli("store", "verify", run.run_id, "--store", f"file://{store}").returncode == 74, "older snapshots lack it"
    whole = cli("store", "pull", run.run_id, "--store", f"file://{store}", "--to", tmp_path / "pulled")
    assert whole.returncode == 0 and sha256_file(tmp_path / "pulled" / lost) == sha256


@pytest.fixture(params=["file", "s3"] if EVERYWHERE else ["file"])
def fencing_place(request, tmp_path) -> tuple[str, dict[str, str]]:
    """A store with conditional writes."""
    if request.param == "file":
        return f"file://{tmp_path / 'store'}", {}
    server: Server = request.getfixturevalue("servers")["s3"]
    return server.store_url(), server.environment


def test_a_runner_that_slept_while_another_took_over_ends_with_76_and_harms_nothing(fencing_place, tmp_path):
    url, environment = fencing_place
    slow = (*OFTEN, "--set", "ppo.timesteps=3276800", "--set", "store.lease_s=3600")
    with started(*DEMO, "--runs-dir", tmp_path / "one", "--store", url, *slow, **environment) as sleeper:
        run = begun(tmp_path / "one")
        asleep(sleeper, url)
        second = ("--resume", run.run_id, "--store", url, "--skip-preflight", "--until", "prepare", "--runs-dir")
        refused = cli("run", *second, tmp_path / "two", **environment)
        assert refused.returncode == 76 and "--take-over" in refused.stderr
        taken = cli("run", *second, tmp_path / "two", "--take-over", **environment)
        assert taken.returncode == 0, taken.stderr
        before = status_of(url, environment)
        sleeper.process.send_signal(signal.SIGCONT)
        code, said = sleeper.ended()
    assert code == 76 and "taken over" in said
    assert not run.report.exists()
    after = status_of(url, environment)
    assert [after[key] for key in ("snapshot", "epoch", "owner")] == [
        before[key] for key in ("snapshot", "epoch", "owner")
    ]
    whole = cli("run", *second, tmp_path / "three", **environment)
    assert whole.returncode == 0 and "verified" in whole.stderr


def asleep(sleeper: Start, url: str) -> None:
    """Stop a runner, but not within a write: a directory as a store lets nobody else write for as long."""

    def stopped() -> bool:
        stop(sleeper.process.pid)
        if not url.startswith("file://"):
            return True
        with Path(url.removeprefix("file://"), LOCK).open() as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        sleeper.process.send_signal(signal.SIGCONT)
        return False

    wait_for(stopped)


def status_of(url: str, environment: dict[str, str]) -> dict:
    """What the store says of its one run."""
    shown = cli("status", "--store", url, "--json", **environment)
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)["store"]


def test_a_run_goes_on_without_its_store_and_what_is_missing_there_follows(servers, reference, tmp_path):
    server, runs_dir = servers["s3"], after_classifiers(reference, tmp_path / "runs")
    url = server.store_url()
    arguments = (*DEMO, "--runs-dir", runs_dir, "--store", url, *OFTEN)
    with started(*arguments, **server.environment) as start, away(server):
        run = begun(runs_dir)
        server.kill()
        wait_for(lambda: any(map(agents_checkpoint, read_events(run.events))) and told(run, "retry"), 300)
        assert start.process.poll() is None
        server.start()
        code, said = start.ended()
    assert code == 0, said
    assert "trouble" in said and outputs(run) == outputs(reference)
    again = ("--resume", run.run_id, "--store", url, "--runs-dir", tmp_path / "other", *BASE)
    kept = cli("run", *again, **server.environment)
    assert kept.returncode == 0 and "nothing to do" in kept.stderr
    assert outputs(RunDir(tmp_path / "other" / run.run_id)) == outputs(reference)


def test_a_store_that_is_gone_for_good_is_74_at_the_end_and_a_later_start_sends_everything(
    servers, reference, tmp_path
):
    server, runs_dir = servers["s3"], after_classifiers(reference, tmp_path / "runs")
    url = server.store_url()
    arguments = (*DEMO, "--runs-dir", runs_dir, "--store", url, *OFTEN)
    with started(*arguments, "--set", "store.final_upload_s=1", **server.environment) as start, away(server):
        run = begun(runs_dir)
        server.kill()
        code, said = start.ended()
        assert code == 74 and "everything is in" in said, said
        assert outputs(run) == outputs(reference) and run.report.is_file()
        assert json.loads((run.root / "exit.json").read_text())["exit_code"] == 74
        refused = cli(*arguments, **server.environment)
        assert refused.returncode == 69, "at the start a store that cannot be reached is refused"
    done = cli(*arguments, **server.environment)
    assert done.returncode == 0, done.stderr
    assert len(list(run.events.glob("evaluate.jsonl"))) == 1 and not list(runs_dir.glob(".superseded/*"))
    elsewhere = ("--resume", run.run_id, "--store", url, "--runs-dir", tmp_path / "other", *BASE)
    assert cli("run", *elsewhere, **server.environment).returncode == 0
    assert outputs(RunDir(tmp_path / "other" / run.run_id)) == outputs(reference)


def test_a_stop_uploads_within_its_grace_and_the_next_machine_goes_on(reference, tmp_path):
    url, _ = f"file://{tmp_path / 'store'}", after_classifiers(reference, tmp_path / "one")
    arguments = ("--store", url, *OFTEN, "--set", "runtime.stop_grace_s=60")
    with started(*DEMO, "--runs-dir", tmp_path / "one", *arguments) as start:
        agents = stop_agents(start, tmp_path / "one")
        start.process.terminate()
        for pid in agents.values():
            os.kill(pid, signal.SIGCONT)
        code, said = start.ended(60)
    assert code == 75, said
    run = run_in(tmp_path / "one")
    state = json.loads(cli("status", "--store", url, "--json").stdout)
    assert state["exit_record"]["exit_code"] == 75 and state["store"]["released"] is True
    done = cli(*DEMO, "--runs-dir", tmp_path / "two", *arguments)
    assert done.returncode == 0 and "restored snapshot" in done.stderr, "the same command on an empty machine goes on"
    assert outputs(RunDir(tmp_path / "two" / run.run_id)) == outputs(reference)


FOLLOW = """
import sys
from pathlib import Path
from runner.launch.follow import follow
from runner.launch.following import Pace
sys.exit(follow(sys.argv[1], sys.argv[2], to=Path(sys.argv[3]), pace=Pace(poll_s=0.2, last_poll_s=0.5)))
"""


def test_who_follows_a_run_with_nothing_here_and_loses_the_store_meanwhile_sees_its_end_and_has_its_report(
    servers, reference, tmp_path
):
    server, runs_dir, here = servers["s3"], tmp_path / "runs", tmp_path / "here"
    shutil.copytree(reference.root, runs_dir / "earlier", ignore=shutil.ignore_patterns("evaluate", "lock"))
    url, said = server.store_url(), tmp_path / "said.txt"
    often = (*OFTEN, "--set", "store.live_every_s=0.1")
    with started(*DEMO, "--runs-dir", runs_dir, "--store", url, *often, **server.environment) as start, away(server):
        with standing_still(start.process, "evaluate"):
            run = begun(runs_dir)
            command = [sys.executable, "-c", FOLLOW, url, run.run_id, str(here)]
            with said.open("w") as stderr:
                follower = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | server.environment
                )
            wait_for(lambda: "evaluate: running" in said.read_text())
            server.kill()
            wait_for(lambda: "store: trouble" in said.read_text())
        server.start()
        shown, _ = follower.communicate(timeout=300)
        assert start.ended()[0] == follower.returncode == 0, said.read_text()
    assert "store: well again" in said.read_text()
    local = cli("status", run.run_id, "--runs-dir", runs_dir, "--follow")
    assert local.returncode == 0 and "verdict" in shown
    assert shown == local.stdout.replace(str(runs_dir), str(here)), "the same final block"
    fetched = RunDir(here / run.run_id)
    assert fetched.report.read_bytes() == run.report.read_bytes()
    assert cli("compare", fetched.root, run.root).returncode == 0

    joined = cli("status", "--store", url, "--follow", **server.environment)
    assert joined.returncode == 0 and joined.stdout.splitlines()[:8] == shown.splitlines()[:8]
    whole = cli("run", "--resume", run.run_id, "--runs-dir", here, "--skip-preflight", *BASE, **server.environment)
    assert whole.returncode == 0 and "nothing to do" in whole.stderr, whole.stderr
    assert outputs(fetched) == outputs(reference) == outputs(run)
    assert not fetched.damaged_outputs(fetched.result("ppo/seed-0")), "the weights are here now"
