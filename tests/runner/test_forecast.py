"""Predicted against actual, by hand from event logs."""

import json
import subprocess
import sys

import pytest

from configs.load import resolve
from configs.run_dir import RunDir
from runner.calibration import Measured, Speed
from runner.cli import main
from runner.forecast import BEFORE, WHOLE, Row, compared, keep, load, predicted_and_actual
from runner.graph import Unit
from runner.plan import Facts, Range, make_plan
from runner.schedule import Places
from runner.summary import run_object
from tests.cli import cli
from tests.runner.fixture_stages.world import wait_for

CONFIG = resolve("DEMO-USD_1H", "quick").config
SECONDS = {"prepare": 2.0, "ppo/seed-0": 10.0, "ppo/seed-1": 10.0}
UNITS = [Unit(name, name.partition("/")[0], name, ("prepare",) * (name != "prepare")) for name in SECONDS]


def plan_of(*names: str):
    answers = {
        name: {"bars_needed": 1, "memory_bytes": 1, "work": [{"name": "w", "amount": s, "rate_per_s": 1}]}
        for name, s in SECONDS.items()
    }
    speeds = {name: Speed(Measured(0, 0, 0), {"w": Measured(0.5, 1, 2)}) for name in SECONDS}
    units = tuple(unit for unit in UNITS if unit.id in names)
    return make_plan(Facts(CONFIG, units, answers, 1, speeds, Places(2)))


def run_with(root, *events: tuple) -> RunDir:
    run = RunDir(root / "run")
    run.events.mkdir(parents=True)
    lines = [json.dumps({"t": t, "kind": kind, "unit": unit}) for t, kind, unit in events]
    (run.events / "supervisor.jsonl").write_text("\n".join(lines) + "\n")
    return run


def test_a_run_in_one_go(tmp_path):
    run = run_with(
        tmp_path,
        (100, "run_started", "run"),
        (105, "check", "run"),
        (107, "plan", "run"),
        (107, "unit_started", "prepare"),
        (110, "unit_finished", "prepare"),
        (110, "unit_started", "ppo/seed-0"),
        (111, "unit_started", "ppo/seed-1"),
        (121, "unit_finished", "ppo/seed-0"),
        (126, "unit_finished", "ppo/seed-1"),
        (127, "run_finished", "run"),
    )
    keep(run, plan_of(*SECONDS))
    assert compared(run) == [
        Row(BEFORE, None, 7),
        Row("prepare", Range(1, 2, 4), 3),
        Row("ppo", Range(5, 10, 20), 16),
        Row(WHOLE, Range(6, 12, 24), 20),
    ]
    expected = {"expected_s": 12, "low_s": 6, "high_s": 24, "actual_s": 20}
    assert predicted_and_actual(run) == run_object(run, 0)["time"] == expected
    whole = compared(run)[-1]
    assert whole.held and whole.error_frac == pytest.approx(20 / 12 - 1)


def test_starts_add_up_and_units_count_with_their_first_prediction(tmp_path):
    run = run_with(
        tmp_path,
        (0, "run_started", "run"),
        (1, "plan", "run"),
        (1, "unit_started", "prepare"),
        (3, "unit_finished", "prepare"),
        (3, "unit_started", "ppo/seed-0"),
        (7, "resources", "run"),  # killed here
        (1_000, "run_started", "run"),
        (1_002, "plan", "run"),
        (1_002, "unit_finished", "prepare"),  # skipped: it was done
        (1_002, "unit_started", "ppo/seed-0"),
        (1_002, "unit_started", "ppo/seed-1"),
        (1_011, "unit_finished", "ppo/seed-1"),
        (1_012, "unit_finished", "ppo/seed-0"),
        (1_012, "run_finished", "run"),
        (2_000, "run_started", "run"),  # nothing was left to do
        (2_001, "run_finished", "run"),
    )
    keep(run, plan_of("prepare", "ppo/seed-0"))
    keep(run, plan_of("ppo/seed-0", "ppo/seed-1"))
    before, prepare, ppo, whole = compared(run)
    assert (before.actual_s, prepare.actual_s, ppo.actual_s, whole.actual_s) == (1 + 2 + 1, 2, 4 + 10, 6 + 10)
    assert ppo.predicted_s == Range(5, 10, 20)
    assert whole.predicted_s == Range(6 + 2.5, 12 + 5, 24 + 10), "of seed-1 its half of the time it shared"


def test_time_ends_with_the_units_and_begins_with_the_first_one_where_nothing_was_planned(tmp_path):
    run = run_with(
        tmp_path,
        (0, "run_started", "run"),
        (1, "plan", "run"),
        (1, "unit_started", "prepare"),
        (3, "unit_finished", "prepare"),
        (4, "run_finished", "run"),
        (60, "check", "run"),  # published
        (300, "checkpoint", "run"),  # the last upload, which changed the ending
        (301, "run_finished", "run"),
        (1_000, "run_started", "run"),  # without limits and calibration there is no plan
        (1_003, "unit_started", "ppo/seed-0"),
        (1_015, "unit_finished", "ppo/seed-0"),
        (1_016, "run_finished", "run"),
    )
    keep(run, plan_of(*SECONDS))
    before, prepare, ppo, whole = compared(run)
    assert (before.actual_s, prepare.actual_s, ppo.actual_s, whole.actual_s) == (1 + 3, 2, 12, 3 + 13)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2, "starts": []}', '{"format": 1}'])
def test_without_a_plan_there_is_nothing_to_compare(tmp_path, content):
    run = run_with(tmp_path, (0, "run_started", "run"), (1, "run_finished", "run"))
    assert compared(run) == []
    (run.root / "plan.json").write_text(content)
    assert compared(run) == [] == load(run)


def test_plans_of_all_starts_are_kept(tmp_path):
    run = run_with(tmp_path)
    keep(run, plan_of("prepare"))
    keep(run, plan_of("ppo/seed-0"))
    assert [[unit["id"] for unit in start["units"]] for start in load(run)] == [["prepare"], ["ppo/seed-0"]]


# -- by the command line

DEMO = ("--dataset", "DEMO-USD_1H", "--offline", "--skip-preflight")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--price", "is no price"),
        ("--max-cost", "--set budget.max_cost_usd=0"),
        ("--max-hours", "--set budget.max_hours=0"),
    ],
)
def test_a_price_or_a_limit_that_is_none_is_refused_before_anything(tmp_path, capsys, option, says, value):
    assert main(["plan", *DEMO[:3], "--runs-dir", str(tmp_path / "runs"), option, value]) == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert says in error and f"{option}" in error and f"{value} is no" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("dataset", "code"), [((), 2), (("--dataset", "BTC-EUR_1H", "--offline"), 66)])
def test_a_plan_without_a_dataset_says_so_before_anything_is_measured(tmp_path, capsys, dataset, code):
    options = ("--data-dir", str(tmp_path), "--runs-dir", str(tmp_path / "runs"), "--seconds", "1")
    assert main(["plan", *dataset, *options]) == code
    assert "measuring" not in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_more_than_a_limit_leaves_is_refused_with_79_and_started_with_yes(tmp_path):
    """All of quick takes minutes, by nominal rates too; 108 s are left."""
    options = (
        *DEMO,
        "--runs-dir",
        str(tmp_path),
        "--max-hours",
        "0.03",
        "--price",
        "0.5",
        "--set",
        "runtime.stop_grace_s=5",
    )
    refused = cli(*options)
    assert refused.returncode == 79, refused.stderr
    assert "of 0.03 h spent" in refused.stderr and "USD) to go" in refused.stderr and "--yes" in refused.stderr
    run = RunDir(next(tmp_path.glob("*/config.yaml")).parent)
    assert not run.stages.exists() and len(load(run)) == 1
    assert json.loads((run.root / "exit.json").read_text())["exit_code"] == 79
    going = subprocess.Popen([sys.executable, "-m", "runner.cli", *options, "--yes"], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: list(run.logs.glob("prepare.log")) or going.poll() is not None)
    finally:
        going.terminate()
    assert "going on because of --yes" in going.communicate()[1] and len(load(run)) == 2
