"""The unit that trains one agent: its files, its stop and resume, the same bytes every time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from stable_baselines3 import PPO
from tensorboard.summary.writer import event_file_writer

from configs.errors import BadDataError, ConfigError, StopRequested
from configs.events import EventLog, read_events
from configs.files import read_json, write_json
from configs.load import resolve
from configs.run_dir import Request, RunDir
from configs.unit import Unit, thread_environment
from ppo.learner.policy import Policy, PolicySizes, read_policy, save_policy
from ppo.learner.train import start
from ppo.stages import ppo as stage
from ppo.stages.agent import load_market
from tests.run_dirs import digests
from training.demo import demo_bars
from training.features import FEATURE_NAMES, compute
from training.scaling import Scaler
from training.splits import split
from training.stages.prepare import load_prepared, write_table

pytestmark = pytest.mark.usefixtures("torch_as_before")
ROOT = Path(__file__).parents[2]
BARS = 2_000
UNIT = "ppo/seed-1"
SETTINGS = (
    "ppo.num_envs=16", "ppo.rollout_steps=16", "ppo.minibatch_size=64", "ppo.epochs=1", "ppo.timesteps=2048",
    "ppo.hidden=[8]", "ppo.eval_every_steps=512", "ppo.eval_slices=2", "ppo.checkpoint_every_steps=512",
)  # fmt: skip
OUTPUTS = {
    "policy.safetensors", "policy.json", "scaler.json", "history.json", "training.json", "export.zip",
    "export_maskable.zip",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def event_files_in_order():
    """TensorBoard reads event files by name: second, host, process, number. Written within one second of one process,
    number 10 would come before number 9; the units of a run are processes of their own."""
    before, event_file_writer._global_uid = event_file_writer._global_uid, event_file_writer.AtomicCounter(1_000_000)
    yield
    event_file_writer._global_uid = before


def random_predictions(bars, config) -> pd.DataFrame:
    """Columns as the ensemble writes them: none in the first fifth, then noise made without the bar itself."""
    rng = np.random.default_rng(0)
    predicted = np.arange(len(bars)) >= len(bars) // 5
    fitted_until = np.where(predicted, bars.t - 30 * bars.timeframe_s - 1, -1)
    columns = {"t": bars.t, "fitted_until": fitted_until}
    for prefix in ("", *(f"{member}_" for member in config.ensemble.members)):
        shares = np.where(predicted[:, None], rng.dirichlet(np.ones(3), len(bars)), np.nan)
        columns |= {f"{prefix}{name}": shares[:, at] for at, name in enumerate(("fall", "stationary", "rise"))}
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A run directory with what the unit reads."""
    run = RunDir(tmp_path_factory.mktemp("ppo") / "run")
    config = resolve("DEMO-USD_1H", "quick", settings=SETTINGS).config
    run.save_config(config)
    bars = demo_bars(max_gap_s=config.market.max_gap_s).slice(0, BARS)
    features, prepare = compute(bars, config.features), run.unit_dir("prepare")
    parts = split(BARS, config.splits)
    write_table(prepare / "bars.parquet", bars.frame())
    table = pd.DataFrame(features, columns=list(FEATURE_NAMES))
    write_table(prepare / "features.parquet", table)
    write_json(prepare / "splits.json", {name: list(value) for name, value in vars(parts).items()})
    write_json(prepare / "dataset.json", {"timeframe_s": bars.timeframe_s})
    write_table(run.unit_dir("classifiers/ensemble") / "predictions.parquet", random_predictions(bars, config))
    run.save_request(Request(unit=UNIT, cache_key="key", inputs={}))
    return run.root


def unit_of(run: RunDir, unit_id: str = UNIT) -> Unit:
    return Unit(run, unit_id, run.load_config(), EventLog(run.events, unit_id))


def work(run: RunDir) -> dict:
    metrics = stage.work(unit_of(run))
    run.save_result(UNIT, metrics)
    return metrics


@pytest.fixture(scope="module")
def finished(template, tmp_path_factory) -> RunDir:
    """The unit done without a break; tests only read it."""
    root = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(template, root)
    run = RunDir(root)
    work(run)
    return run


def test_the_unit_writes_its_files_and_nothing_else(finished):
    assert set(finished.result(UNIT).outputs) == OUTPUTS
    assert list((finished.unit_dir(UNIT) / "tensorboard").iterdir())


def test_the_scaler_is_fitted_on_the_training_rows_alone(finished):
    prepared = load_prepared(finished)
    rows = prepared.features[slice(*prepared.split.train)]
    expected = Scaler.fit(rows[np.isfinite(rows).all(axis=1)], clip=finished.load_config().features.clip)
    assert read_json(finished.unit_dir(UNIT) / "scaler.json") == expected.to_json()


def test_training_and_validation_spans_keep_to_their_parts(finished):
    market = load_market(finished, finished.load_config())
    parts = load_prepared(finished).split
    assert market.train[0][0] >= BARS // 5  # bars without a prediction are left out
    assert market.train[-1][1] <= parts.train[1]
    assert parts.validation[0] <= market.validation[0][0] and market.validation[-1][1] <= parts.validation[1]


def test_seeds_train_on_streams_of_their_own(finished):
    finished.save_request(Request(unit="ppo/seed-0", cache_key="key", inputs={}))
    first, second = (stage.load_job(unit_of(finished, f"ppo/seed-{seed}"))[0] for seed in (0, 1))
    assert first.seed != second.seed


def test_metrics_history_and_events_tell_the_same_story(finished):
    facts = read_json(finished.unit_dir(UNIT) / "training.json")
    history = read_json(finished.unit_dir(UNIT) / "history.json")
    assert finished.result(UNIT).metrics == facts
    assert facts["steps"] == history[-1]["step"] == 2_048
    scores = {row["step"]: row["validation"]["score"] for row in history if "validation" in row}
    assert len(scores) == 4 and scores[facts["best_steps"]] == facts["best_score"] == max(scores.values())
    events = [event for event in read_events(finished.events) if event["unit"] == UNIT]
    trained = [event for event in events if event["kind"] == "metric" and event["name"] == "train"]
    assert [event["step"] for event in trained] == [row["step"] for row in history]
    saved = [0, *(event["step"] for event in events if event["kind"] == "checkpoint")]
    # on a busy machine one comes earlier than its 512 steps
    assert saved[-1] > 2_048 - 512 and max(after - before for before, after in pairwise(saved)) <= 512
    assert all(event["wall_s"] > 0 and event["bytes"] > 0 for event in events if event["kind"] == "checkpoint")
    validation = facts["validation"]
    assert validation["upper"] - validation["sharpe"] == pytest.approx(1.96 * validation["standard_error"])
    best = next(row["validation"] for row in history if row["step"] == facts["best_steps"])
    assert {name: best[name] for name in validation} == validation
    alarms = [event for event in events if event.get("name") == "collapse_alarm"]
    assert len(alarms) == sum(bool(row.get("collapse")) for row in history)


def test_the_saved_policy_and_the_export_take_the_same_actions(finished):
    directory = finished.unit_dir(UNIT)
    size = read_json(directory / "policy.json")["observation"]
    obs = np.random.default_rng(0).normal(size=(300, size)).astype(np.float32)
    everything = np.ones((300, 9), bool)
    theirs, _ = PPO.load(directory / "export.zip", device="cpu").predict(obs, deterministic=True)
    play = read_policy(directory).player(300)
    assert np.array_equal(play(obs, everything, everything[:, 0]), theirs)


def test_the_same_unit_twice_gives_the_same_bytes(finished, run):
    work(run)
    assert digests(run, UNIT) == digests(finished, UNIT)


def test_a_stopped_unit_goes_on_to_the_same_bytes(finished, run):
    for _ in range(2):
        unit = unit_of(run)
        unit._stop[0] = True  # what the signal handler does; seen after the next rollout
        with pytest.raises(StopRequested):
            stage.work(unit)
    assert sorted(path.name for path in (run.unit_dir(UNIT) / "checkpoints").iterdir()) == ["256", "512"]
    work(run)
    assert digests(run, UNIT) == digests(finished, UNIT)


class KilledError(Exception):
    """The process is gone; nothing more is saved."""


def test_a_unit_killed_between_two_checkpoints_goes_on_to_the_same_bytes_and_curves(finished, run, monkeypatch):
    """Rows told after the last checkpoint are told again, with the same figures; TensorBoard has each once."""
    unit, progress = unit_of(run), Unit.progress

    def killed_late(self, done, *rest, **fields):
        progress(self, done, *rest, **fields)
        if done == 1_280:
            raise KilledError

    monkeypatch.setattr(Unit, "progress", killed_late)
    with pytest.raises(KilledError):
        stage.work(unit)
    monkeypatch.undo()
    work(run)
    assert digests(run, UNIT) == digests(finished, UNIT)
    assert distinct(curve(run)) == curve(finished)
    assert tensorboard(run) == tensorboard(finished)
    assert [step for step, _ in tensorboard(run)["entropy"]] == list(range(256, 2_049, 256))


def curve(run: RunDir) -> list[dict]:
    """The metric events, without their times."""
    rows = [event for event in read_events(run.events) if event["unit"] == UNIT and event["kind"] == "metric"]
    return [{name: value for name, value in row.items() if name != "t"} for row in rows]


def distinct(rows: list[dict]) -> list[dict]:
    return [row for at, row in enumerate(rows) if row not in rows[:at]]


def tensorboard(run: RunDir) -> dict[str, list[tuple[int, float]]]:
    """Every curve as TensorBoard itself reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(run.unit_dir(UNIT) / "tensorboard")).Reload()
    return {tag: [(row.step, row.value) for row in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}


def test_a_damaged_checkpoint_is_said_in_the_log_and_costs_time_only(finished, run, capsys):
    for _ in range(2):
        unit = unit_of(run)
        unit._stop[0] = True
        with pytest.raises(StopRequested):
            stage.work(unit)
    (run.unit_dir(UNIT) / "checkpoints" / "512" / "state.safetensors").write_bytes(b"torn")
    capsys.readouterr()
    work(run)
    said = capsys.readouterr().out
    assert "checkpoint 512 is damaged (state.safetensors has sha256 " in said and "going on from 256" in said
    assert digests(run, UNIT) == digests(finished, UNIT)


def test_a_unit_that_ran_out_of_memory_learns_nearly_the_same_in_smaller_parts(finished, run):
    config = run.load_config()
    runtime = config.runtime.model_copy(update={"batch_halvings": {UNIT: 2, "ppo/seed-0": 3}})
    run.save_config(config.model_copy(update={"runtime": runtime}))
    work(run)
    first, whole = (read_json(at.unit_dir(UNIT) / "history.json")[0] for at in (run, finished))
    assert first != whole
    for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "grad_norm"):
        assert first[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-6)
    assert first["gradient_steps"] == whole["gradient_steps"]


def test_a_checkpoint_of_another_request_is_not_used(finished, run):
    unit = unit_of(run)
    unit._stop[0] = True
    with pytest.raises(StopRequested):
        stage.work(unit)
    run.save_request(Request(unit=UNIT, cache_key="other", inputs={}))
    work(run)
    steps = [event["done"] for event in read_events(run.events) if event["kind"] == "progress"]
    assert steps.count(256) == 2  # trained from the start again


def test_predictions_made_with_the_bar_itself_are_refused(run):
    path = run.unit_dir("classifiers/ensemble") / "predictions.parquet"
    table = pd.read_parquet(path)
    table.loc[900, "fitted_until"] = table.loc[900, "t"]
    write_table(path, table)
    with pytest.raises(BadDataError, match="bar 900"):
        stage.work(unit_of(run))


def given_a_pretrained_policy(run: RunDir, hidden: tuple[int, ...]) -> Policy:
    """What unit `pretrain/seed-1` leaves, among the inputs of our unit."""
    size = stage.load_job(unit_of(run))[0].sizes.observation
    policy = Policy(PolicySizes(observation=size, actions=9, hidden=hidden), torch.Generator().manual_seed(9))
    save_policy(run.unit_dir("pretrain/seed-1"), policy)
    run.save_request(Request(unit=UNIT, cache_key="key", inputs={"pretrain/seed-1": "digest"}))
    return policy


def test_training_starts_from_the_pretrained_weights_that_the_request_names(finished, run):
    taught = given_a_pretrained_policy(run, (8,)).state_dict()
    job, _ = stage.load_job(unit_of(run))
    begun, fresh = (start(each).policy.state_dict() for each in (job, replace(job, start=None)))
    for name, value in begun.items():
        assert torch.equal(value, (fresh if name.startswith("logits_head") else taught)[name])
    assert work(run)["start"] == "pretrained"
    assert finished.result(UNIT).metrics["start"] == "scratch"
    assert digests(run, UNIT) != digests(finished, UNIT)


def test_a_pretrained_policy_that_lies_there_unasked_is_left_alone(run):
    given_a_pretrained_policy(run, (8,))
    run.save_request(Request(unit=UNIT, cache_key="key", inputs={}))
    assert stage.load_job(unit_of(run))[0].start is None


def test_a_pretrained_policy_of_other_sizes_is_refused(run):
    given_a_pretrained_policy(run, (9,))
    with pytest.raises(BadDataError, match="pretrain/seed-1 has .*train pretrain/seed-1 again"):
        stage.load_job(unit_of(run))


@pytest.mark.parametrize("name", ["seed-x", "seed", "1"])
def test_an_unknown_unit_is_refused(run, name):
    with pytest.raises(ConfigError, match="seed-<number>"):
        stage.work(unit_of(run, f"ppo/{name}"))


def test_the_sb3_backend_writes_the_same_files(run):
    config = run.load_config()
    run.save_config(config.model_copy(update={"agent": config.agent.model_copy(update={"backend": "sb3"})}))
    metrics = work(run)
    assert metrics["backend"] == "sb3" and metrics["steps"] == 2_048
    assert set(run.result(UNIT).outputs) == OUTPUTS
    history = read_json(run.unit_dir(UNIT) / "history.json")
    assert [row["step"] for row in history] == list(range(256, 2_049, 256))


def test_the_sb3_backend_starts_anew_after_a_stop_says_so_and_ends_with_the_same_bytes(template, tmp_path, capsys):
    found = []
    for name, stops in (("whole", 0), ("stopped", 1)):
        shutil.copytree(template, tmp_path / name)
        run = RunDir(tmp_path / name)
        config = run.load_config()
        run.save_config(config.model_copy(update={"agent": config.agent.model_copy(update={"backend": "sb3"})}))
        for _ in range(stops):
            unit = unit_of(run)
            unit._stop[0] = True
            with pytest.raises(StopRequested):
                stage.work(unit)
        work(run)
        found.append((digests(run, UNIT), tensorboard(run)))
    assert found[0] == found[1]
    assert capsys.readouterr().out.count("cannot be resumed: training starts from the first step") == 3


def test_the_description_grows_with_the_work():
    quick, standard = (resolve("DEMO-USD_1H", profile).config for profile in ("quick", "standard"))
    small, large = stage.describe(quick), stage.describe(standard)
    assert large["memory_bytes"] > small["memory_bytes"]
    assert small["work"][0]["amount"] == quick.ppo.timesteps
    assert large["work"][0]["rate_per_s"] < small["work"][0]["rate_per_s"] / 50


@pytest.mark.slow
def test_a_unit_killed_in_mid_training_goes_on_to_the_same_bytes(finished, run):
    """Real processes: kill -9 after the first checkpoint, then the same command again."""
    command = [sys.executable, "-m", "ppo.stages.ppo", "--run-dir", str(run.root), "--unit", UNIT]
    environment = os.environ | thread_environment(1)
    first = subprocess.Popen(command, cwd=ROOT, env=environment)
    deadline_s = time.monotonic() + 300
    while first.poll() is None and time.monotonic() < deadline_s:
        if any(path.name.isdigit() for path in (run.unit_dir(UNIT) / "checkpoints").glob("*")):
            first.send_signal(signal.SIGKILL)
    first.wait()
    killed = first.returncode == -signal.SIGKILL
    second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr
    assert killed
    assert digests(run, UNIT) == digests(finished, UNIT)


def test_history_is_plain_json_without_gaps_in_its_numbers(finished):
    text = (finished.unit_dir(UNIT) / "history.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text)[0]["gradient_steps"] == 4
