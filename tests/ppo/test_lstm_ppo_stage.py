"""The unit that trains one agent with memory: its files, its stop and resume, what `plan` hears of it."""

import shutil

import numpy as np
import pytest

from configs.errors import StopRequested
from configs.files import read_json
from configs.load import resolve
from configs.run_dir import Request, RunDir
from ppo.learner.policy import read_policy
from ppo.stages import lstm_ppo as stage
from tests.ppo.test_ppo_stage import template, unit_of  # noqa: F401 -- a fixture

pytestmark = pytest.mark.usefixtures("torch_as_before")
UNIT = "lstm_ppo/seed-0"
SETTINGS = {
    "num_envs": 16, "rollout_steps": 16, "minibatch_size": 64, "epochs": 1, "timesteps": 1_024, "hidden": (8,),
    "memory_units": 4, "eval_every_steps": 512, "eval_slices": 2, "checkpoint_every_steps": 512,
}  # fmt: skip
OUTPUTS = {"policy.safetensors", "policy.json", "scaler.json", "history.json", "training.json"}


def copied(template, directory) -> RunDir:  # noqa: F811
    shutil.copytree(template, directory)
    run = RunDir(directory)
    config = run.load_config()
    run.save_config(config.model_copy(update={"lstm_ppo": config.lstm_ppo.model_copy(update=SETTINGS)}))
    run.save_request(Request(unit=UNIT, cache_key="key", inputs={}))
    return run


def digests(run: RunDir) -> dict[str, str]:
    metrics = stage.work(unit_of(run, UNIT))
    return {name: output.sha256 for name, output in run.save_result(UNIT, metrics).outputs.items()}


@pytest.fixture(scope="module")
def finished(template, tmp_path_factory):  # noqa: F811
    run = copied(template, tmp_path_factory.mktemp("finished") / "run")
    return run, digests(run)


def test_the_unit_writes_an_agent_with_memory_and_no_export(finished):
    run, found = finished
    assert set(found) == OUTPUTS
    policy = read_policy(run.unit_dir(UNIT))
    assert policy.sizes.memory == 4 and policy.initial_state(3).shape == (3, 16)
    metrics = run.result(UNIT).metrics
    assert metrics == read_json(run.unit_dir(UNIT) / "training.json")
    assert metrics["start"] == "scratch" and metrics["steps"] == 1_024
    validation = metrics["validation"]
    assert validation["lower"] < validation["sharpe"] < validation["upper"]
    assert 0 <= validation["max_drawdown"] < 1


def test_a_stopped_unit_goes_on_to_the_same_bytes(finished, template, tmp_path):  # noqa: F811
    run = copied(template, tmp_path / "run")
    for _ in range(2):
        unit = unit_of(run, UNIT)
        unit._stop[0] = True  # what the signal handler does; seen after the next rollout
        with pytest.raises(StopRequested):
            stage.work(unit)
    assert sorted(path.name for path in (run.unit_dir(UNIT) / "checkpoints").iterdir()) == ["256", "512"]
    assert digests(run) == finished[1]


def test_the_description_names_the_work_that_calibration_measures(torch_of_a_unit):
    config = resolve("DEMO-USD_1H", "quick").config
    small = config.model_copy(update={"lstm_ppo": config.lstm_ppo.model_copy(update=SETTINGS)})
    described, rates = stage.describe(small), stage.calibrate(small, 0.1)
    assert {work["name"] for work in described["work"]} == set(rates)
    assert all(np.isfinite(rate) and rate > 0 for rate in rates.values())
    assert stage.describe(config)["memory_bytes"] > described["memory_bytes"]
    assert stage.describe(config)["work"][0]["rate_per_s"] < described["work"][0]["rate_per_s"] / 10
