"""Predicted against actual, by hand from event logs."""

import json

import pytest

from configs.load import resolve
from configs.run_dir import RunDir
from runner.calibration import Measured, Speed
from runner.forecast import BEFORE, WHOLE, Row, compared, keep, load
from runner.graph import Unit
from runner.plan import Facts, Range, make_plan
from runner.schedule import Places

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
