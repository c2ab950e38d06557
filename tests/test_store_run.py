"""Whole runs that lose their machine, their store, or their ownership; looked at through the public command line."""

from __future__ import annotations

import contextlib
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
from configs.run_dir import RunDir
from runner.store.file import FileStore
from runner.store.layout import Head, head_key
from tests.cli import cli, settings
from tests.runner.fixture_stages.world import wait_for
from tests.servers import Server, gcs_emulator, seaweed

pytestmark = pytest.mark.slow

DEMO = ("--dataset", "DEMO-USD_1H", "--offline", "--skip-preflight")
OFTEN = ("store.min_interval_s=0.2",)


def outputs(run: RunDir) -> dict[str, str]:
    """Every file that a unit made, with its digest as the unit's own result says."""
    return {
        path.parent.relative_to(run.stages).as_posix() + "/" + name: output["sha256"]
        for path in run.stages.rglob("result.json")
        for name, output in json.loads(path.read_text())["outputs"].items()
    }


def run_in(runs_dir: Path) -> RunDir:
    (config,) = runs_dir.glob("*/config.yaml")
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

    def ended(self, timeout_s: float = 120) -> tuple[int, str]:
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
    done = cli("run", *DEMO, "--runs-dir", runs_dir, *settings())
    assert done.returncode == 0, done.stderr
    return run_in(runs_dir)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    with seaweed() as s3, gcs_emulator() as gcs:
        yield {"s3": s3, "gs": gcs}


@pytest.fixture(params=["file", "s3", "gs"])
def place(request, tmp_path) -> tuple[str, dict[str, str]]:
    """URL of an empty store, and what a client of it needs in its environment."""
    if request.param == "file":
        return f"file://{tmp_path / 'store'}", {}
    server: Server = request.getfixturevalue("servers")[request.param]
    return server.store_url(), server.environment


def checkpoints_of_agents(run: RunDir) -> list[Path]:
    return list(run.stages.glob("ppo/seed-*/checkpoints/*/manifest.json"))


def snapshots_told(run: RunDir) -> list[dict]:
    return [event for event in read_events(run.events) if (event["unit"], event["kind"]) == ("run", "checkpoint")]


def newest_has_agents(runs_dir: Path) -> bool:
    """The store has a snapshot that was made after an agent's first checkpoint."""
    for path in runs_dir.glob("*/events/ppo.seed-0.jsonl"):
        run = RunDir(path.parents[1])
        begun = [
            event["t"] for event in read_events(run.events) if event["kind"] == "checkpoint" and "ppo" in event["unit"]
        ]
        return bool(begun) and any(event["t"] > begun[0] + event["wall_s"] for event in snapshots_told(run))
    return False


def test_a_run_whose_machine_is_gone_goes_on_from_the_store_to_the_same_bytes(place, reference, tmp_path):
    url, environment = place
    with started(*DEMO, "--runs-dir", tmp_path / "lost", "--store", url, *settings(*OFTEN), **environment) as start:
        wait_for(lambda: newest_has_agents(tmp_path / "lost") or start.process.poll() is not None, timeout_s=180)
        start.process.kill()
        start.ended()
    run_id = run_in(tmp_path / "lost").run_id
    shutil.rmtree(tmp_path / "lost")
    shown = cli("status", "--store", url, "--json", **environment)
    assert json.loads(shown.stdout)["state"].startswith("running"), "the lease is not released by a kill"
    resume = ("--resume", run_id, "--store", url, "--runs-dir", tmp_path / "new", "--skip-preflight", "--json")
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


@pytest.fixture(params=["file", "s3"])
def fencing_place(request, tmp_path) -> tuple[str, dict[str, str]]:
    """A store with conditional writes."""
    if request.param == "file":
        return f"file://{tmp_path / 'store'}", {}
    server: Server = request.getfixturevalue("servers")["s3"]
    return server.store_url(), server.environment


def test_a_runner_that_slept_while_another_took_over_ends_with_76_and_harms_nothing(fencing_place, tmp_path):
    url, environment = fencing_place
    slow = settings(*OFTEN, "ppo.timesteps=1638400", "store.lease_s=3600", "runtime.parallel_units=1")
    with started(*DEMO, "--runs-dir", tmp_path / "one", "--store", url, *slow, **environment) as sleeper:
        wait_for(
            lambda: len(list((tmp_path / "one").glob("*/store.json"))) and snapshots_told(run_in(tmp_path / "one")), 120
        )
        run_id = run_in(tmp_path / "one").run_id
        sleeper.process.send_signal(signal.SIGSTOP)
        second = ("--resume", run_id, "--store", url, "--runs-dir", tmp_path / "two", "--skip-preflight")
        refused = cli("run", *second, "--until", "prepare", **environment)
        assert refused.returncode == 76 and "--take-over" in refused.stderr
        taken = cli("run", *second, "--until", "prepare", "--take-over", **environment)
        assert taken.returncode == 0, taken.stderr
        before = cli("status", run_id, "--store", url, "--json", **environment)
        sleeper.process.send_signal(signal.SIGCONT)
        code, said = sleeper.ended()
    assert code == 76 and "taken over" in said
    after = cli("status", run_id, "--store", url, "--json", **environment)
    kept = [json.loads(shown.stdout)["store"] for shown in (before, after)]
    assert kept[0]["snapshot"] == kept[1]["snapshot"] and kept[1]["epoch"] == kept[0]["epoch"]
    assert not report_of(tmp_path / "one").exists()
    whole = cli("run", *second[:5], tmp_path / "three", "--skip-preflight", "--until", "prepare", **environment)
    assert whole.returncode == 0 and "verified" in whole.stderr


def report_of(runs_dir: Path) -> Path:
    return run_in(runs_dir).report


def take_away(store: Path) -> None:
    """The volume is gone: what stands in its place can hold nothing."""
    store.rename(store.with_suffix(".away"))
    store.write_text("")


def bring_back(store: Path) -> None:
    store.unlink()
    store.with_suffix(".away").rename(store)


def test_a_run_goes_on_without_its_store_and_what_is_missing_there_follows(reference, tmp_path):
    store = tmp_path / "store"
    with started(*DEMO, "--runs-dir", tmp_path / "runs", "--store", f"file://{store}", *settings(*OFTEN)) as start:
        wait_for(
            lambda: list((tmp_path / "runs").glob("*/store.json")) and snapshots_told(run_in(tmp_path / "runs")), 120
        )
        run = run_in(tmp_path / "runs")
        take_away(store)
        wait_for(lambda: checkpoints_of_agents(run) or start.process.poll() is not None, 120)
        assert [event for event in read_events(run.events) if (event["unit"], event["kind"]) == ("run", "retry")]
        bring_back(store)
        code, said = start.ended()
    assert code == 0, said
    assert outputs(run) == outputs(reference)
    kept = cli("run", "--resume", run.run_id, "--store", f"file://{store}", "--runs-dir", tmp_path / "other")
    assert kept.returncode == 0 and outputs(RunDir(tmp_path / "other" / run.run_id)) == outputs(reference)


def test_a_store_that_is_gone_for_good_is_74_at_the_end_and_a_later_start_sends_everything(tmp_path):
    store = tmp_path / "store"
    arguments = (*DEMO, "--runs-dir", tmp_path / "runs", "--store", f"file://{store}", "--until", "classifiers")
    arguments = (*arguments, *settings(*OFTEN, "store.final_upload_s=0.5"))
    with started(*arguments) as start:
        wait_for(
            lambda: list((tmp_path / "runs").glob("*/store.json")) and snapshots_told(run_in(tmp_path / "runs")), 120
        )
        run = run_in(tmp_path / "runs")
        take_away(store)
        code, said = start.ended()
    assert code == 74 and "everything is in" in said
    made = outputs(run)
    assert len({name.rpartition("/")[0].split("/plots")[0] for name in made}) >= 6
    assert json.loads((run.root / "exit.json").read_text())["exit_code"] == 74
    unreachable = cli(*arguments)
    assert unreachable.returncode == 69, "at the start a store that cannot be used is refused"
    bring_back(store)
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    head = Head.model_validate_json(strip_digest(FileStore(store).get(head_key(run.run_id))[0]))
    assert head.released
    elsewhere = cli("run", "--resume", run.run_id, "--store", f"file://{store}", "--runs-dir", tmp_path / "other",
                    "--until", "classifiers")  # fmt: skip
    assert elsewhere.returncode == 0 and outputs(RunDir(tmp_path / "other" / run.run_id)) == made


def strip_digest(body: bytes) -> str:
    return json.dumps({name: value for name, value in json.loads(body).items() if name != "sha256"})


def test_a_stop_uploads_within_its_grace_and_the_next_machine_goes_on(reference, tmp_path):
    url = f"file://{tmp_path / 'store'}"
    arguments = ("--store", url, *settings(*OFTEN, "runtime.stop_grace_s=20"))
    with started(*DEMO, "--runs-dir", tmp_path / "one", *arguments) as start:
        wait_for(lambda: newest_has_agents(tmp_path / "one"), 180)
        start.process.terminate()
        code, said = start.ended(20)
    assert code == 75, said
    run = run_in(tmp_path / "one")
    state = json.loads(cli("status", "--store", url, "--json").stdout)
    assert state["exit_record"]["exit_code"] == 75 and state["store"]["released"] is True
    done = cli(*DEMO, "--runs-dir", tmp_path / "two", *arguments)
    assert done.returncode == 0 and "restored snapshot" in done.stderr, "the same command on an empty machine goes on"
    assert outputs(RunDir(tmp_path / "two" / run.run_id)) == outputs(reference)
