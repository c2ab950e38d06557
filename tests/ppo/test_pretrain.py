"""Pre-training: the tape of scenarios, its stage's files and bytes, and what is handed over."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.errors import StopRequested
from configs.events import EventLog
from configs.files import read_json, write_json
from configs.load import resolve
from configs.run_dir import Request, RunDir
from configs.unit import Unit
from ppo.learner.policy import Policy, PolicySizes, handed_over, read_policy
from ppo.learner.train import advance, start
from ppo.learner.validate import Validator
from ppo.pretrain import VALIDATION_SCENARIOS, cut, market_scaler, pretraining_job, scenario_tape, scenarios, whole
from ppo.replay import ReplayVecEnv
from ppo.rules import BAR
from ppo.stages import pretrain as stage
from ppo.tape import build_tape
from training.features import compute
from training.scaling import Scaler
from training.synthetic import preset_parameters, worlds_tape_inputs

pytestmark = pytest.mark.usefixtures("torch_as_before")
UNIT = "pretrain/seed-1"
SETTINGS = (
    "synthetic.scenarios=3", "synthetic.bars=500", "pretrain.timesteps=1024", "pretrain.window_bars=50",
    "ppo.num_envs=16", "ppo.rollout_steps=16", "ppo.minibatch_size=64", "ppo.epochs=1", "ppo.hidden=[8]",
    "ppo.eval_every_steps=512", "ppo.eval_slices=2", "ppo.checkpoint_every_steps=512",
)  # fmt: skip
CONFIG = resolve("DEMO-USD_1H", "quick", settings=SETTINGS).config
PARAMETERS = preset_parameters(CONFIG)


def prioritised(config):
    return config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"replay": "prioritised"})})


def test_the_scenario_tape_is_the_tape_of_the_same_bars_and_features_without_predictions():
    """The lean road against the general one, over all 26 features."""
    worlds = scenarios(PARAMETERS, CONFIG, "train", 2)
    tape, scaler = scenario_tape(worlds, CONFIG)
    bars, _ = worlds_tape_inputs(worlds, CONFIG)
    features = compute(bars, CONFIG.features)
    all_columns = Scaler.fit(features[np.isfinite(features).all(axis=1)], CONFIG.features.clip)
    expected = build_tape(bars, features, None, all_columns, CONFIG)
    assert np.array_equal(tape.ready, expected.ready)
    assert np.allclose(tape.observation, expected.observation, atol=1e-4)  # float32 columns
    assert not tape.observation[:, :13].any()
    assert market_scaler(all_columns).mean == pytest.approx(scaler.mean, rel=1e-3, abs=1e-6)


def test_every_scenario_is_a_span_of_its_own():
    tape, _ = scenario_tape(scenarios(PARAMETERS, CONFIG, "train", 3), CONFIG)
    found = whole(tape)
    assert [stop for _, stop in found] == [500, 1_000, 1_500]
    assert len({stop - first for first, stop in found}) == 1


def test_the_policy_has_the_sizes_of_the_base_agent_and_other_scenarios_select_it():
    job, scaler = pretraining_job(PARAMETERS, CONFIG, 0)
    assert job.sizes == PolicySizes(observation=22, actions=9, hidden=(8,))
    assert job.ppo.timesteps == 1_024
    train, validation, test = (
        scenarios(PARAMETERS, CONFIG, split, 2).close for split in ("train", "validation", "test")
    )
    assert not np.intersect1d(train, validation).size
    assert not np.intersect1d(test, np.r_[train, validation]).size
    assert len(scaler.mean) == 5


def test_validation_plays_every_bar_of_its_scenarios_in_episodes():
    job, _ = pretraining_job(PARAMETERS, CONFIG, 0)
    config = CONFIG.model_copy(update={"env": CONFIG.env.model_copy(update={"episode_bars": 100})})
    pieces = pretraining_job(PARAMETERS, config, 0)[0].validator().play(start(job).policy).log_returns
    assert len(pieces) > VALIDATION_SCENARIOS
    assert max(len(piece) for piece in pieces) == 99
    one_piece_each = job.validator().play(start(job).policy).log_returns
    assert len(one_piece_each) == VALIDATION_SCENARIOS
    cuts = len(pieces) - VALIDATION_SCENARIOS
    assert sum(map(len, pieces)) == sum(map(len, one_piece_each)) - cuts


def test_spans_are_cut_in_pieces_without_a_bar_in_two_of_them():
    assert cut([(0, 10), (20, 27)], 5) == [(0, 5), (5, 10), (20, 25), (25, 27)]
    assert cut([(0, 6)], 5) == [(0, 5)]  # a single bar cannot be played


def test_prioritised_episodes_begin_in_windows_and_learn_from_advantages():
    state = start(pretraining_job(PARAMETERS, prioritised(CONFIG), 0)[0])
    assert isinstance(state.envs, ReplayVecEnv)
    visited = state.envs.state()["clock"][:, BAR]
    advance(state, pretraining_job(PARAMETERS, prioritised(CONFIG), 0)[0].ppo)
    after = state.envs.state()
    assert after["rollouts"].tolist() == [1]
    scored = np.flatnonzero(after["visited"] == 1)
    assert 0 < len(scored) <= 2 * len(visited)
    assert (after["score"][scored] > 0).all() and np.count_nonzero(after["score"]) == len(scored)


def test_what_is_handed_over_is_all_but_the_action_head_and_the_rest_is_that_of_a_fresh_learner():
    sizes = PolicySizes(observation=22, actions=9, hidden=(8,))
    taught = Policy(sizes, torch.Generator().manual_seed(5)).state_dict()
    job, _ = pretraining_job(PARAMETERS, CONFIG, 0)
    fresh = start(job).policy.state_dict()
    begun = start(replace(job, start=handed_over(taught))).policy.state_dict()
    for name, value in begun.items():
        source = fresh if name.startswith("logits_head") else taught
        assert torch.equal(value, source[name])


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A run directory with what the unit reads."""
    run = RunDir(tmp_path_factory.mktemp("pretrain") / "run")
    run.save_config(CONFIG)
    write_json(run.unit_dir("synthetic") / "parameters.json", PARAMETERS.to_json())
    run.save_request(Request(unit=UNIT, cache_key="key", inputs={}))
    return run.root


def run_of(template: Path, root: Path, config=CONFIG) -> RunDir:
    shutil.copytree(template, root)
    run = RunDir(root)
    run.save_config(config)
    return run


def unit_of(run: RunDir) -> Unit:
    return Unit(run, UNIT, run.load_config(), EventLog(run.events, UNIT))


def digests(run: RunDir) -> dict[str, str]:
    run.save_result(UNIT, stage.work(unit_of(run)))
    return {name: output.sha256 for name, output in run.result(UNIT).outputs.items()}


@pytest.mark.parametrize("config", [CONFIG, prioritised(CONFIG)], ids=["uniform", "prioritised"])
def test_a_unit_stopped_twice_ends_with_the_bytes_of_one_that_was_not(template, tmp_path, config):
    whole_run, stopped = (run_of(template, tmp_path / name, config) for name in ("whole", "stopped"))
    for _ in range(2):
        unit = unit_of(stopped)
        unit._stop[0] = True
        with pytest.raises(StopRequested):
            stage.work(unit)
    expected = digests(whole_run)
    assert digests(stopped) == expected
    assert set(expected) == {"policy.safetensors", "policy.json", "scaler.json", "history.json", "training.json"}


def test_the_unit_tells_how_its_agent_validates(template, tmp_path):
    run = run_of(template, tmp_path / "run")
    metrics = stage.work(unit_of(run))
    assert metrics == read_json(run.unit_dir(UNIT) / "training.json")
    assert metrics["start"] == "scratch" and metrics["steps"] == 1_024
    assert set(metrics["validation"]) == {"sharpe", "standard_error", "lower", "upper", "max_drawdown", "hit_rate"}
    policy = read_policy(run.unit_dir(UNIT))
    job, scaler = pretraining_job(PARAMETERS, CONFIG, 1)
    assert job.validator()(policy).performance == metrics["validation"]
    worlds = scenarios(PARAMETERS, CONFIG, "test", VALIDATION_SCENARIOS)
    tape, _ = scenario_tape(worlds, CONFIG, scaler)
    assert Validator(tape, whole(tape), CONFIG, 2)(policy).performance == metrics["test"] != metrics["validation"]


def test_the_description_names_what_calibration_measures():
    described = stage.describe(CONFIG)
    assert {item["name"] for item in described["work"]} == set(stage.calibrate(CONFIG, 0.1))
    larger = resolve("DEMO-USD_1H", "full").config
    assert stage.describe(larger)["memory_bytes"] > described["memory_bytes"]
