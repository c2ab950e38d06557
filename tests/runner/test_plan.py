"""What a run is predicted to take: by hand from what stages say, and what must hold for any of them."""

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from configs.events import EventLog
from configs.load import resolve
from configs.run_dir import RunDir
from configs.schema import BudgetConfig, GateConfig
from runner.calibration import Measured, Seconds, Speed
from runner.graph import Unit, expand
from runner.identity import Keys
from runner.plan import EARLY_STOPPING_USES, REPORT_S, Facts, describe, make_plan, measured
from runner.plan_table import render_plan
from runner.process import ProcessFailedError
from runner.reuse import left_fracs
from runner.schedule import Places
from runner.store.layout import Spent

UNIT = "tests.runner.fixture_stages.unit"
CONFIG = resolve("DEMO-USD_1H", "quick").config
EXACT = Measured(1.0, 1.0, 1.0)
AT_ONCE = Measured(0.0, 0.0, 0.0)


def stage(name: str, count: int = 1, needs: tuple[str, ...] = (), **facts: object) -> list[Unit]:
    """Units of a stage whose module has its name."""
    return [Unit(f"{name}/{number}", name, name, needs, **facts) for number in range(count)]


def answer(*work: dict, memory_bytes: int = 1_000, bars_needed: int = 100, **more: int) -> dict:
    return {"bars_needed": bars_needed, "memory_bytes": memory_bytes, "work": list(work), **more}


def steps(amount: float, **more: object) -> dict:
    return {"name": "steps", "amount": amount, "rate_per_s": 1.0, **more}


def planned(units: list[Unit], answers: dict, *, config=CONFIG, workers: int = 2, bars: int = 1_000, **rates: Measured):
    """The plan on a machine whose processes start at once, at a rate of one per second where none is given."""
    speeds = {name: Speed(AT_ONCE, {"steps": rates.get(name, EXACT)}) for name in answers}
    return make_plan(Facts(config, tuple(units), answers, bars, speeds, Places(workers)))


def with_gates(*gates: GateConfig, of: str, parallel: bool = False):
    return CONFIG.model_copy(update={"gates": {of: gates}, "parallel_models": parallel})


def test_stages_are_scheduled_and_their_costs_add_up():
    one, many = stage("one"), stage("many", 3, needs=("one/0",))
    priced = CONFIG.model_copy(update={"budget": BudgetConfig(price_usd_per_hour=3.6)})
    plan = planned([*one, *many], {"one": answer(steps(4)), "many": answer(steps(6))}, config=priced)
    assert [found.span_s.expected for found in plan.stages] == [4.0, 12.0], "three units of 6 s, two side by side"
    assert plan.wall_s.expected == 16 + REPORT_S.expected
    assert plan.cost_usd.expected == pytest.approx(0.001 * plan.wall_s.expected)
    assert sum(found.cost_usd for found in plan.stages) == pytest.approx(0.016)
    assert (plan.bars_needed, plan.bars_found, plan.memory_bytes) == (100, 1_000, 2_000)


def test_work_counts_per_bar_and_for_the_units_it_names():
    work = [steps(0.01, per="bar"), {"name": "fits", "amount": 7, "rate_per_s": 1.0, "units": "two/1"}]
    speeds = {"two": Speed(AT_ONCE, {})}
    plan = make_plan(Facts(CONFIG, tuple(stage("two", 2)), {"two": answer(*work)}, 1_000, speeds, Places(1)))
    assert plan.stages[0].span_s.expected == pytest.approx(10 + 17)


def test_the_range_is_of_the_rates_and_of_what_early_stopping_leaves_out():
    half = {"one": answer(steps(100, least_frac=0.5))}
    found = planned(stage("one"), half, one=Measured(8.0, 10.0, 12.5)).stages[0].span_s
    assert (found.low, found.high) == (100 * 0.5 / 12.5, 100 / 8)
    assert found.expected == pytest.approx(10 * (0.5 + 0.5 * EARLY_STOPPING_USES))


def test_of_a_unit_with_a_checkpoint_only_what_is_left_counts(tmp_path):
    run = RunDir(tmp_path / "run")
    log = EventLog(run.events, "one/0")
    for done in (10, 75, 90):
        log.emit("progress", "one/0", done=done, total=100, rate=None)
        if done == 75:
            log.emit("checkpoint", "one/0", step=1)
    log.close()
    assert left_fracs(run) == {}, "its checkpoint is gone"
    (run.unit_dir("one/0") / "checkpoints" / "75").mkdir(parents=True)
    (run.unit_dir("one/0") / "checkpoints" / "75" / "manifest.json").write_text("{}")
    assert left_fracs(run) == {"one/0": 0.25}
    facts = Facts(
        CONFIG, tuple(stage("one")), {"one": answer(steps(8))}, 1_000, {"one": Speed(AT_ONCE, {"steps": EXACT})}
    )
    assert make_plan(facts).stages[0].span_s.expected == 8
    assert make_plan(replace(facts, left_fracs=left_fracs(run))).stages[0].span_s.expected == 2


def test_a_rate_that_was_not_measured_is_nominal_and_said_to_be():
    facts = Facts(CONFIG, tuple(stage("one")), {"one": answer(steps(10))}, 1_000, {"one": Speed(AT_ONCE)})
    assert make_plan(facts).stages[0].nominal == ("steps",)
    assert make_plan(facts).stages[0].span_s.expected == 10
    assert planned(stage("one"), {"one": answer(steps(10))}).stages[0].nominal == ()


ASKS_PPO = GateConfig(stage="ppo", at_least=1.0, on_fail="skip")
MODELS = {name: answer(steps(10)) for name in ("ppo", "lstm_ppo", "walk_forward", "evaluate")}
ALL = [unit for name in MODELS for unit in stage(name)]


def test_a_gated_stage_waits_for_the_asked_one_and_only_the_low_figures_leave_it_out():
    plan = planned(ALL[:2], MODELS, config=with_gates(ASKS_PPO, of="lstm_ppo"))
    assert plan.stages[1].may_be_left_out and not plan.stages[0].may_be_left_out
    assert plan.wall_s.low == 10 + REPORT_S.low and plan.wall_s.expected == 20 + REPORT_S.expected
    assert plan.stages[1].span_s.low == 0 and plan.stages[1].span_s.expected == 10


def test_a_gate_that_stops_leaves_out_all_that_follows_but_the_evaluation():
    stops = ASKS_PPO.model_copy(update={"on_fail": "stop"})
    plan = planned(ALL, MODELS, config=with_gates(stops, of="lstm_ppo"))
    assert [found.name for found in plan.stages if found.may_be_left_out] == ["lstm_ppo", "walk_forward"]


def test_gates_that_hold_nothing_back_change_no_prediction():
    goes_on = ASKS_PPO.model_copy(update={"on_fail": "continue"})
    for config in (with_gates(ASKS_PPO, of="lstm_ppo", parallel=True), with_gates(goes_on, of="lstm_ppo")):
        plan = planned(ALL[:2], MODELS, config=config)
        assert plan.wall_s.expected == 10 + REPORT_S.expected and plan.wall_s.low == 10 + REPORT_S.low, "side by side"
        assert not any(found.may_be_left_out for found in plan.stages)


def test_the_table_fits_80_columns_and_says_rates_were_measured_only_where_one_was():
    unmeasured = make_plan(Facts(CONFIG, tuple(ALL), MODELS, 1_000))
    shown = [shown_at(80, planned(ALL, MODELS)), shown_at(120, unmeasured)]
    assert max(map(len, shown[0].splitlines()[: len(MODELS) + 2])) <= 80 and "memory of one" not in shown[0]
    assert "rates:" in shown[0] and "rates:" not in shown[1] and "memory of one" in shown[1]


def test_the_table_says_what_is_spent_and_leaves_the_verdict_to_the_check_of_the_budget():
    shown = shown_at(120, planned(ALL, MODELS), BudgetConfig(max_hours=2), Spent(wall_s=1.5 * 3_600))
    assert "budget:      1.50 of 2.00 h spent\n" in shown and "enough" not in shown
    assert "budget:" not in shown_at(120, planned(ALL, MODELS))


def shown_at(width: int, plan, limits: BudgetConfig = CONFIG.budget, used: Spent | None = None) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render_plan(plan, "run", limits, used or Spent(), "calibration.json"))
    return console.file.getvalue()


def test_disk_counts_what_units_leave_and_two_checkpoints_of_each():
    bare = planned(stage("one", 3), {"one": answer(steps(1))})
    full = planned(stage("one", 3), {"one": answer(steps(1), artifact_bytes=500, checkpoint_bytes=100)})
    assert full.disk_bytes - bare.disk_bytes == 3 * (500 + 2 * 100)


works = st.lists(
    st.tuples(st.integers(1, 4), st.floats(0, 1e4), st.floats(0.1, 1), st.floats(0.5, 100), st.floats(0, 0.5)),
    min_size=1, max_size=4,
)  # fmt: skip


def plan_of(stages: list[tuple[int, float, float, float, float]], workers: int, factor: float = 1.0):
    units: list[Unit] = []
    for number, (count, *_) in enumerate(stages):
        units += stage(str(number), count, needs=tuple(unit.id for unit in units))
    answers = {
        str(i): answer(steps(amount * factor, least_frac=least)) for i, (_, amount, least, *_) in enumerate(stages)
    }
    rates = {
        str(i): Measured(rate * (1 - spread), rate, rate * (1 + spread)) for i, (*_, rate, spread) in enumerate(stages)
    }
    return planned(units, answers, workers=workers, **rates)


@settings(max_examples=60)
@given(works, st.integers(1, 4), st.floats(1, 5))
def test_ranges_are_in_order_and_plans_monotone_in_amounts_and_workers(stages, workers, factor):
    plan, wider, larger = plan_of(stages, workers), plan_of(stages, workers + 1), plan_of(stages, workers, factor)
    for found in (plan.wall_s, plan.cost_usd, *(each.span_s for each in plan.stages)):
        assert found.low <= found.expected <= found.high
    for name in ("low", "expected", "high"):
        wall = getattr(plan.wall_s, name)
        slack = 1e-9 * (1 + wall)
        assert getattr(wider.wall_s, name) <= wall + slack and wall <= getattr(larger.wall_s, name) + slack
        assert sum(getattr(unit.share_s, name) for unit in plan.units) == pytest.approx(wall - getattr(REPORT_S, name))


def test_a_plan_of_real_processes_is_plain_json_and_names_what_it_takes(tmp_path):
    units = [Unit("one", "one", UNIT), *(Unit(f"many/{name}", "many", UNIT) for name in "abc")]
    keys = Keys(CONFIG, {"DEMO-USD_1H": "data"}, {"configs": "code"}, "lock")
    runs = tmp_path / "not" / "yet"
    plan = make_plan(measured(keys, units, describe(CONFIG, units), 5_000, runs, seconds=Seconds(0)))
    assert json.loads(json.dumps(plan.to_json()))["stages"][1]["units"] == 3
    assert plan.stages[0].nominal == ("steps",) and plan.disk_free_bytes > 0
    assert not runs.parent.exists(), "nothing was measured, so nothing is kept"


def test_every_gated_stage_of_the_graph_waits_for_what_its_gates_ask():
    from runner.plan import waits_of

    config = with_gates(GateConfig(stage="ppo", metric="done", on_fail="stop"), of="lstm_ppo")
    units = [*expand(config), *stage("lstm_ppo")]
    assert {unit.id for unit in units if unit.stage == "ppo"} <= waits_of(config, units)["lstm_ppo/0"]


def test_a_stage_that_cannot_answer_is_named():
    with pytest.raises(ProcessFailedError, match="no_such_module"):
        describe(CONFIG, [Unit("x", "x", "tests.runner.no_such_module")])
