"""What a chosen part of a run needs to be there: said before anything runs."""

import pytest

from configs.errors import ConfigError
from configs.load import resolve
from configs.run_dir import Request, RunDir
from runner.job import Choice, Job
from runner.session import Plan

SETTINGS = (
    "agent.seeds=2", "walk_forward.windows=2", "walk_forward.first_test_month=2023-03",
    "gates.lstm_ppo=[{stage: ppo, at_least: 1.0, on_fail: skip}]", "gates.multi_asset=[]",
)  # fmt: skip


@pytest.fixture
def plan(tmp_path) -> Plan:
    config = resolve("DEMO-USD_1H", "quick", settings=SETTINGS).config
    return Plan(RunDir(tmp_path / "run"), config, {"digest": "d"}, "", (), (), reuse=True)


def states_of(job: Job, *left_out: str) -> dict[str, str]:
    states = dict.fromkeys((unit.id for unit in job.units), "done") | {"evaluate": "to run"}
    return states | {unit: "left out" for unit in states if unit.startswith(left_out)}


def test_an_evaluation_of_a_part_of_a_family_is_refused_and_what_is_missing_is_named(plan):
    job = Job.from_plan(plan, Choice(stages=("evaluate",)))
    with pytest.raises(ConfigError, match="of ppo only a part is done; missing: ppo/seed-1; add ppo to --stages"):
        job.refuse_missing(states_of(job, "ppo/seed-1"))
    with pytest.raises(ConfigError, match="missing: walk_forward/2023-04; add walk_forward"):
        job.refuse_missing(states_of(job, "walk_forward/2023-04", "ppo", "lstm_ppo", "multi_asset"))


def test_an_evaluation_goes_without_whole_families(plan):
    job = Job.from_plan(plan, Choice(stages=("evaluate",)))
    job.refuse_missing(states_of(job))
    job.refuse_missing(states_of(job, "pretrain", "lstm_ppo", "multi_asset", "walk_forward"))
    job = Job.from_plan(plan, Choice(stages=("ppo", "evaluate")))
    job.refuse_missing(states_of(job, "lstm_ppo") | dict.fromkeys(("ppo/seed-0", "ppo/seed-1"), "to run"))


def test_an_evaluation_without_any_agents_is_refused(plan):
    job = Job.from_plan(plan, Choice(stages=("prepare", "classifiers", "evaluate")))
    states = states_of(job, "pretrain", "ppo", "lstm_ppo", "multi_asset", "walk_forward")
    with pytest.raises(ConfigError, match="no agents to score: nothing of ppo, lstm_ppo, multi_asset, walk_forward"):
        job.refuse_missing(states)


def test_results_that_are_there_and_left_out_are_told(plan, capsys):
    job = Job.from_plan(plan, Choice(stages=("ppo",)))
    states = states_of(job, "pretrain/")
    job.tell_what_is_missed(states)
    assert not capsys.readouterr().err
    plan.run.save_request(Request(unit="pretrain/seed-0", cache_key="other", inputs={}))
    plan.run.save_result("pretrain/seed-0", {})
    job.tell_what_is_missed(states)
    assert "going without pretrain: its results are of another code or configuration" in capsys.readouterr().err


def test_what_a_gate_asks_is_looked_at_though_nobody_chose_it(plan):
    job = Job.from_plan(plan, Choice(stages=("lstm_ppo",)))
    assert {"ppo/seed-0", "ppo/seed-1"} <= job.optional, "used where they are done, else left out"
    assert not any(unit.stage == "multi_asset" for unit in job.units)
