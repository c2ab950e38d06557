import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.load import resolve
from runner.graph import STAGES, chosen_stages, expand, settings_of, with_inputs, without


def configured(*settings: str):
    return resolve("DEMO-USD_1H", "quick", settings=settings).config


WINDOWS = ("walk_forward.windows=2", "walk_forward.first_test_month=2020-12")


def unit_of(config, unit_id: str):
    return next(unit for unit in expand(config) if unit.id == unit_id)


def test_the_configuration_decides_which_units_exist():
    config = configured("agent.seeds=2", "classifiers.members=[gru, dlstm]", "ensemble.members=[gru]", *WINDOWS)
    assert [unit.id for unit in expand(config)] == [
        "prepare", "synthetic", "pretrain/seed-0", "pretrain/seed-1",
        "classifiers/gru", "classifiers/dlstm", "classifiers/ensemble",
        "ppo/seed-0", "ppo/seed-1", "lstm_ppo/seed-0", "lstm_ppo/seed-1",
        "multi_asset/data", "multi_asset/seed-0", "multi_asset/seed-1",
        "walk_forward/classifier-gru", "walk_forward/2020-12", "walk_forward/2021-01", "evaluate",
    ]  # fmt: skip


def test_every_unit_comes_after_what_it_needs():
    seen: set[str] = set()
    for unit in expand(configured(*WINDOWS, "walk_forward.start=chain")):
        assert {*unit.needs, *unit.wants} <= seen
        seen.add(unit.id)


def test_every_stage_module_and_package_exists_and_runs_as_a_process():
    for stage in STAGES:
        spec = importlib.util.find_spec(stage.module)
        assert spec is not None and spec.origin is not None
        assert 'if __name__ == "__main__":' in Path(spec.origin).read_text(), stage.module
        assert stage.module.partition(".")[0] in stage.packages


@pytest.mark.parametrize(
    ("chosen", "until", "expected"),
    [
        ((), "", {stage.name for stage in STAGES if not stage.on_demand}),
        ((), "classifiers", {"prepare", "synthetic", "pretrain", "classifiers"}),
        (("ppo", "prepare"), "", {"prepare", "ppo"}),
        (("ppo", "prepare"), "classifiers", {"prepare"}),
    ],
)
def test_stages_and_until_choose_whole_stages(chosen, until, expected):
    assert set(chosen_stages(chosen, until)) == expected


def test_an_unknown_stage_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ConfigError, match="'train'.*prepare, .*classifiers, ppo, .*evaluate"):
        chosen_stages(("train",))


def test_a_choice_that_leaves_nothing_is_refused_with_its_cause():
    with pytest.raises(ConfigError, match="--until ppo leaves nothing of --stages evaluate"):
        chosen_stages(("evaluate",), "ppo")
    with pytest.raises(ConfigError, match="ablation is done on demand alone"):
        chosen_stages((), "ablation")
    assert chosen_stages(("ablation",), "ablation") == ["ablation"]


def test_the_needs_of_chosen_units_come_along():
    units = expand(configured())
    ids = [unit.id for unit in with_inputs(units, [unit_of(configured(), "ppo/seed-1")])]
    assert "ppo/seed-0" not in ids and "evaluate" not in ids
    assert {"prepare", "classifiers/lstm", "classifiers/ensemble", "ppo/seed-1"} <= set(ids)


def test_months_wait_for_each_other_only_where_one_begins_with_the_weights_of_the_one_before():
    def inputs(start: str):
        unit = unit_of(configured(*WINDOWS, "agent.seeds=1", f"walk_forward.start={start}"), "walk_forward/2021-01")
        return {*unit.needs} - {"prepare"}, unit.wants

    classifiers = {"walk_forward/classifier-dlstm", "walk_forward/classifier-bilstm"}
    assert inputs("scratch") == (classifiers, ())
    assert inputs("pretrained") == (classifiers, ("pretrain/seed-0",))
    assert inputs("chain") == (classifiers | {"walk_forward/2020-12"}, ())


def test_there_are_no_windows_before_they_were_fitted_to_the_data():
    assert not any(unit.stage == "walk_forward" for unit in expand(configured()))
    assert not any(unit.stage == "walk_forward" for unit in expand(configured(*WINDOWS, "walk_forward.windows=0")))


def test_the_ablation_is_part_of_a_run_only_where_it_is_asked_for():
    config = configured(*WINDOWS, "ablation.seeds=2")
    assert "ablation" not in chosen_stages() and chosen_stages(("ablation",)) == ["ablation"]
    assert not any(unit.stage == "ablation" for unit in expand(config))
    asked = [unit for unit in expand(config, asked=["ablation"]) if unit.stage == "ablation"]
    assert [unit.id for unit in asked] == ["ablation/seed-0", "ablation/seed-1", "ablation/summary"]
    needed = {unit.stage for unit in with_inputs(expand(config, asked=["ablation"]), asked)}
    assert needed == {"prepare", "synthetic", "walk_forward", "ablation"}


def test_what_is_wanted_comes_along_only_where_it_is_asked_for():
    units = expand(configured())
    evaluate = [unit_of(configured(), "evaluate")]
    assert not any(unit.stage == "ppo" for unit in with_inputs(units, evaluate))
    assert any(unit.stage == "ppo" for unit in with_inputs(units, evaluate, wanted=True))


def test_the_evaluation_names_the_monthly_predictions_that_it_reads():
    assert {"walk_forward/classifier-dlstm", "walk_forward/classifier-bilstm"} <= set(
        unit_of(configured(*WINDOWS), "evaluate").wants
    )


def test_nobody_wants_a_unit_that_is_left_out():
    units = expand(configured("agent.seeds=2"))
    (evaluate,) = (unit for unit in without(units, {"ppo/seed-0"}) if unit.id == "evaluate")
    assert "ppo/seed-1" in evaluate.wants and "ppo/seed-0" not in evaluate.wants


@pytest.mark.parametrize(
    ("setting", "changed", "unchanged"),
    [
        ("ppo.epochs=3", {"pretrain/seed-0", "ppo/seed-0"}, {"prepare", "classifiers/gru", "classifiers/ensemble"}),
        ("costs.fee_frac=0.001", {"ppo/seed-0", "evaluate"}, {"prepare", "classifiers/gru"}),
        ("judging.random_shifts=7", {"evaluate"}, {"ppo/seed-0"}),
        ("classifiers.units=32", {"classifiers/gru", "classifiers/ensemble"}, {"prepare"}),
        ("ensemble.members=[gru]", {"classifiers/ensemble", "ppo/seed-0"}, {"classifiers/gru"}),
        ("agent.seeds=5", set(), {"pretrain/seed-0", "ppo/seed-0", "classifiers/gru"}),
        ("classifiers.members=[dlstm, bilstm]", {"classifiers/ensemble", "evaluate"}, {"classifiers/dlstm"}),
        ("synthetic.bars=900", {"synthetic", "pretrain/seed-0"}, {"prepare", "classifiers/gru"}),
        ("lstm_ppo.epochs=3", {"lstm_ppo/seed-0"}, {"ppo/seed-0", "walk_forward/2021-01"}),
        ("walk_forward.epochs=9", {"walk_forward/classifier-dlstm"}, {"synthetic", "ppo/seed-0"}),
        ("walk_forward.start=scratch", {"walk_forward/2021-01"}, {"walk_forward/classifier-dlstm"}),
        ("walk_forward.timesteps=200000", {"walk_forward/2021-01"}, {"walk_forward/classifier-dlstm"}),
        ("walk_forward.scheme=expanding", {"walk_forward/2021-01"}, {"walk_forward/classifier-dlstm"}),
        ("walk_forward.early_stop_frac=0.3", {"walk_forward/2021-01"}, {"walk_forward/classifier-dlstm"}),
        ("walk_forward.smoke=true", set(), {"walk_forward/classifier-dlstm"}),
        ("walk_forward.windows=3", {"synthetic", "walk_forward/classifier-dlstm"}, {"walk_forward/2021-01"}),
        ("multi_asset.epochs=3", {"multi_asset/seed-0"}, {"multi_asset/data", "ppo/seed-0"}),
        ("multi_asset.assets=[DEMO-USD, X-USD]", {"multi_asset/data", "multi_asset/seed-0"}, {"prepare", "ppo/seed-0"}),
        ("seed=7", {"prepare", "synthetic", "classifiers/gru", "ppo/seed-0", "evaluate"}, set()),
        ("runtime.workers=1", set(), {"prepare", "classifiers/gru", "ppo/seed-0", "evaluate"}),
    ],
)
def test_a_setting_enters_the_keys_of_the_units_that_read_it_and_no_others(setting, changed, unchanged):
    def settings(config, unit_id):
        return settings_of(unit_of(config, unit_id), config)

    before, after = configured(*WINDOWS), configured(*WINDOWS, setting)
    assert {name for name in changed | unchanged if settings(before, name) != settings(after, name)} == changed


def test_only_a_gpu_run_holds_units_to_the_gpu():
    config = configured(*WINDOWS)
    on_gpu = config.model_copy(update={"compute": config.compute.model_copy(update={"device": "cuda"})})
    assert not any(unit.uses_gpu for unit in expand(config))
    assert {unit.stage for unit in expand(on_gpu) if unit.uses_gpu} == {
        "pretrain", "classifiers", "ppo", "lstm_ppo", "multi_asset", "walk_forward",
    }  # fmt: skip


def test_time_limits_and_attempts_come_from_the_configuration():
    unit = unit_of(configured("runtime.unit_timeout_s=5", "runtime.max_attempts=4"), "evaluate")
    assert replace(unit, timeout_s=5.0, max_attempts=4) == unit
