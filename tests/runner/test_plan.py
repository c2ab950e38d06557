from pathlib import Path

import pytest

from configs.load import resolve
from configs.schema import BudgetConfig
from runner.graph import Unit
from runner.plan import make_plan
from runner.process import ProcessFailedError

UNIT = "tests.runner.fixture_stages.unit"
CONFIG = resolve("DEMO-USD_1H", "quick").config


def test_a_plan_adds_up_what_the_stages_say(tmp_path):
    units = [Unit("one", "one", UNIT), *(Unit(f"many/{name}", "many", UNIT) for name in "abc")]
    plan = make_plan(CONFIG, units, bars=5_000, runs_dir=tmp_path / "not" / "yet")
    one, many = plan.stages
    assert (one.work_s, one.wall_s) == (3.0, 3.0)
    assert (many.work_s, many.wall_s) == (9.0, 4.5), "three units of 3 s each, two side by side"
    assert plan.wall_s == 7.5 and plan.cost_usd == 0
    assert (plan.bars_needed, plan.bars_found) == (100, 5_000)
    assert plan.memory_bytes == 2_000
    assert plan.disk_free_bytes > 0
    assert not (tmp_path / "not").exists()


def test_a_plan_with_a_price_says_what_the_run_costs(tmp_path):
    priced = CONFIG.model_copy(update={"budget": BudgetConfig(price_usd_per_hour=2.0)})
    plan = make_plan(priced, [Unit("one", "one", UNIT)], bars=5_000, runs_dir=tmp_path)
    assert plan.cost_usd == pytest.approx(3.0 * 2.0 / 3600)


def test_units_on_a_gpu_are_planned_one_after_the_other(tmp_path):
    units = [Unit(f"many/{name}", "many", UNIT, uses_gpu=True) for name in "ab"]
    assert make_plan(CONFIG, units, 10, tmp_path).stages[0].wall_s == 6.0


def test_a_stage_that_cannot_answer_is_named():
    with pytest.raises(ProcessFailedError, match="no_such_module"):
        make_plan(CONFIG, [Unit("x", "x", "tests.runner.no_such_module")], 10, Path("."))
