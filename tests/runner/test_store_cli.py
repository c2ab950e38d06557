"""The command line with a store, on a run that has prepared its data and no more; and its operational options."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from configs.run_dir import RunDir
from runner.dataset_url import send
from runner.store import hold
from runner.store.file import FileStore
from runner.store.layout import Spent
from runner.store.lease import acquire, owner_facts, read_head
from runner.store.records import encode
from tests.cli import BASE
from tests.run_dirs import write_csv
from tests.runner.store.runs import tree
from tests.runner.test_cli import Done, assert_one_message, call
from tests.test_end_to_end import NAME, market

pytestmark = pytest.mark.slow

QUICK = ("--skip-preflight", "--until", "prepare", "--offline")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """`data` with a file, `runs` with a run of it, `store` with that run."""
    folder = tmp_path_factory.mktemp("world")
    write_csv(folder / "data", NAME, market())
    done = begin(folder, folder / "runs")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def run(world) -> RunDir:
    (config,) = (world / "runs").glob("*/config.yaml")
    return RunDir(config.parent)


def begin(world: Path, runs_dir: Path, *more: str) -> Done:
    return call("--dataset", NAME, "--data-dir", world / "data", "--runs-dir", runs_dir, *kept(world), *QUICK, *more)


def kept(world: Path) -> tuple[str, str]:
    return "--store", f"file://{world / 'store'}"


@pytest.fixture
def without_data(world):
    """The dataset's file is gone."""
    (world / "data").rename(world / "hidden")
    yield
    (world / "hidden").rename(world / "data")


def test_short_options_are_operational_settings_that_beat_set():
    options = ("--store", "file:///s", "--max-cost", "3", "--price", "0.5", "--max-hours", "2", "--branch", "2026")
    shown = call("config", "show", "--dataset", "DEMO-USD_1H", "--json", "--set", "store.url=file:///t", *options)
    values = {path: setting["value"] for path, setting in json.loads(shown.stdout).items()}
    assert values["store.url"] == "file:///s" and values["publish.branch"] == "2026"
    budget = ("max_cost_usd", "price_usd_per_hour", "max_hours")
    assert [values[f"budget.{name}"] for name in budget] == [3.0, 0.5, 2.0]


def test_the_reproducing_command_leaves_out_how_the_run_was_carried_out(world, run):
    options = ("--set", "runtime.workers=1", "--set", "seed=4", "--dry-run")
    shown = begin(world, world / "runs", *options).stdout.splitlines()[-1]
    assert "seed=4" in shown and "workers" not in shown and "store" not in shown
    assert "--store" not in json.loads(run.run_json.read_text())["command"]


def test_a_dry_run_reads_the_store_and_writes_nothing(world, run, tmp_path):
    before = tree(world)
    for way in (("--resume", run.run_id), ("--dataset", NAME, "--data-dir", world / "data")):
        done = call("run", *way, *kept(world), *BASE, "--runs-dir", tmp_path / "none", "--dry-run", "--json")
        answer = json.loads(done.stdout)
        assert answer["run_id"] == run.run_id and answer["exists"] is True
        assert answer["units"]["prepare"] == "done" and answer["units"]["evaluate"] == "to run"
    assert tree(world) == before and not (tmp_path / "none").exists()


def test_a_finished_run_is_restored_on_an_empty_machine_and_no_work_is_done(world, run, tmp_path):
    done = call("--resume", run.run_id, *kept(world), "--runs-dir", tmp_path, "--until", "prepare", "--json")
    assert done.returncode == 0 and "finished; nothing to do" in done.stderr
    assert tree(tmp_path / run.run_id / "stages") == tree(run.stages)
    events = (tmp_path / run.run_id / "events" / "supervisor.jsonl").read_text()
    assert events.count('"run_started"') == 1


@pytest.mark.parametrize("harm", ["no HEAD", "HEAD", "record"])
def test_a_run_is_resumed_by_its_name_on_an_empty_machine_where_head_or_the_newest_record_is_lost(
    world, run, tmp_path, harm
):
    store = tmp_path / "store"
    shutil.copytree(world / "store", store)
    head, snapshots = store / run.run_id / "HEAD.json", sorted((store / run.run_id / "snapshots").iterdir())
    match harm:
        case "no HEAD":
            head.unlink()
        case "HEAD":
            head.write_text("rubbish")
            os.utime(head, (0, 0))
        case _:
            snapshots[-1].write_text("rubbish")
    where = ("--store", f"file://{store}", "--runs-dir", tmp_path / "runs")
    done = call("--resume", run.run_id, *where, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "is used" in done.stderr and "restored snapshot" in done.stderr
    assert tree(tmp_path / "runs" / run.run_id / "stages") == tree(run.stages)


def test_a_run_of_which_nothing_was_kept_is_not_resumed_by_its_name(world, tmp_path):
    objects = FileStore(tmp_path / "store")
    acquire(objects, "short", owner_facts(), 60).release(Spent())
    done = call("--resume", "short", "--store", objects.url, "--runs-dir", tmp_path)
    assert done.returncode == 78 and "the command that began it" in done.stderr
    assert_one_message(done)


def test_the_same_command_finds_its_run_in_the_store(world, run, tmp_path):
    done = begin(world, tmp_path)
    assert done.returncode == 0 and "restored snapshot" in done.stderr
    assert [path.parent.name for path in tmp_path.glob("*/config.yaml")] == [run.run_id]


def test_a_run_begun_here_goes_on_under_its_name_where_its_dataset_is_known_by_a_url(world, run, tmp_path):
    # as `launch --run-id` sends it; and the same name brings it home
    (file,) = (world / "data").iterdir()
    url = send(kept(world)[1], {NAME: file})
    asked = ("--skip-preflight", "--until", "prepare", *kept(world))
    there = call("--dataset", url, "--run-id", run.run_id, "--runs-dir", tmp_path / "there", *asked)
    home = call("--resume", run.run_id, "--runs-dir", tmp_path / "home", *asked)
    for done in (there, home):
        assert done.returncode == 0 and "nothing to do" in done.stderr, done.stderr
    assert (tmp_path / "home" / run.run_id / "stages").is_dir()


def test_a_run_goes_on_without_its_dataset_once_it_is_prepared(world, run, tmp_path, without_data):
    options = (*kept(world), "--runs-dir", tmp_path, *QUICK)
    assert call("--resume", run.run_id, *options).returncode == 0
    (tmp_path / run.run_id / "report" / "index.html").unlink()
    done = call("--resume", run.run_id, *options)
    assert done.returncode == 0 and "going on with what was prepared from it: 3,600 bars" in done.stderr
    shutil.rmtree(tmp_path / run.run_id / "stages")
    refused = call("--resume", run.run_id, *options)
    assert refused.returncode == 66 and NAME in refused.stderr
    assert_one_message(refused)
    record = json.loads((tmp_path / run.run_id / "exit.json").read_text())
    assert record["exit_code"] == 66 and record["reason"].startswith("dataset not found: ")


def test_other_data_under_the_same_name_are_refused(world, run, tmp_path):
    frame = market()
    frame.loc[10, "close"] *= 1.0001
    write_csv(tmp_path / "other", NAME, frame)
    done = call("--resume", run.run_id, *kept(world), "--runs-dir", tmp_path, "--data-dir", tmp_path / "other", *QUICK)
    assert done.returncode == 65 and "not the data of run" in done.stderr


def test_a_fresh_run_takes_no_name_that_the_store_has(world, run, tmp_path):
    answer = json.loads(begin(world, tmp_path, "--fresh", "--dry-run", "--json").stdout)
    assert answer["run_id"] == f"{run.run_id}-2" and answer["exists"] is False


def test_resuming_takes_operational_settings_and_refuses_others(world, run, tmp_path):
    way = ("--resume", run.run_id, *kept(world), "--runs-dir", tmp_path, "--dry-run")
    assert call("run", *way, "--set", "runtime.workers=1", "--max-hours", "3").returncode == 0
    refused = call("run", *way, "--set", "runtime.workers=1", "--set", "seed=1")
    assert refused.returncode == 2 and "--set" in refused.stderr


def test_a_spent_budget_is_79_before_anything_is_started_and_leaves_a_record(world, run, tmp_path):
    options = ("--resume", run.run_id, *kept(world), "--runs-dir", tmp_path, "--skip-preflight")
    done = call(*options, "--max-hours", "0.0001")
    assert done.returncode == 79
    assert_one_message(done)
    record = json.loads((tmp_path / run.run_id / "exit.json").read_text())
    assert record["exit_code"] == 79 and "budget" in record["reason"]
    assert not list((tmp_path / run.run_id).glob("logs/classifiers/*"))


def test_an_unreachable_store_is_69_with_what_to_do(world, tmp_path, monkeypatch):
    monkeypatch.setattr(hold, "CONTACT_S", 0.1)
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "A", "SECRET_ACCESS_KEY": "S"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    done = call("--dataset", NAME, "--data-dir", world / "data", "--runs-dir", tmp_path, "--store", "s3://b/p", *QUICK)
    assert done.returncode == 69 and "127.0.0.1:9" in done.stderr
    assert_one_message(done)
    assert not list(tmp_path.glob("*/config.yaml"))


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("status", "no-such-run"), 78, "no run 'no-such-run'"),
        (("report", "no-such-run"), 78, "no run 'no-such-run'"),
        (("logs", "-f"), 2, "--follow"),
        (("run", "--resume", "no-such-run"), 78, "no run 'no-such-run'"),
    ],
)
def test_looking_for_what_the_store_has_not_is_one_message(world, tmp_path, arguments, code, part):
    done = call(*arguments, *kept(world), "--runs-dir", tmp_path)
    assert done.returncode == code and part in done.stderr
    assert_one_message(done) if code != 2 else None
    assert not any(tmp_path.iterdir())


def test_status_from_a_store_says_who_had_the_run_and_what_is_kept(world, run, tmp_path):
    before = tree(world)
    done = call("status", *kept(world), "--runs-dir", tmp_path)
    assert done.returncode == 0 and f"run {run.run_id}: finished" in done.stdout
    for part in ("released by pid", "by the store's clock", "the end: done", "spent"):
        assert part in done.stdout
    assert "store: snapshot" not in done.stdout and "report " not in done.stdout, "a place that is gone by now"
    assert tree(world) == before


def test_status_tells_an_owner_that_is_silent_from_one_that_is_at_work(world, run, tmp_path):
    store = shutil.copytree(world / "store", tmp_path / "store")
    head = store / run.run_id / "HEAD.json"
    head.write_bytes(encode(read_head(FileStore(store), run.run_id).model_copy(update={"released": False})))
    way = ("status", run.run_id, "--store", f"file://{store}", "--json")
    assert json.loads(call(*way).stdout)["state"].startswith("running (")
    os.utime(head, (0, 0))
    silent = json.loads(call(*way).stdout)
    assert silent["state"].startswith("its owner has been silent for ") and silent["store"]["silent"] is True


def test_a_report_from_a_store_lies_where_it_was_asked_for(world, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("report", *kept(world))
    written = tmp_path / f"{run.run_id}-report.html"
    assert done.stdout.strip() == str(written) and run.run_id in written.read_text()
    assert call("report", *kept(world), "--to", tmp_path / "mine.html").returncode == 0
    assert (tmp_path / "mine.html").stat().st_size == written.stat().st_size
