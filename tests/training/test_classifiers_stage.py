"""The units of stage `classifiers`: what they write, that stored models are verified, that re-runs are equal."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from configs.errors import ExitCode, StopRequested
from configs.events import EventLog, read_events
from configs.files import read_json
from configs.run_dir import Request, RunDir
from configs.unit import Unit, thread_environment
from tests.training.feature_samples import config_of, random_walk
from tests.training.test_prepare import make_run, prepare
from training import meter
from training.features import compute
from training.market import Bars
from training.splits import bars_needed, split
from training.stages.classifiers import NotReproducedError, chain_windows_per_bar, describe, fit_member, vote
from training.stages.prepare import Prepared

ROOT = Path(__file__).parents[2]
MEMBERS = ("lstm", "dlstm")
TINY = (
    "classifiers.members=[lstm, dlstm]",
    "ensemble.members=[lstm, dlstm]",
    "classifiers.lookback_bars=8",
    "classifiers.folds=2",
    "classifiers.units=4",
    "classifiers.epochs=2",
    "classifiers.fold_epochs=1",
    "classifiers.trend_kernel=3",
    "labels.horizon_bars=5",
)


def unit_of(run: RunDir, config, name: str) -> Unit:
    unit_id = f"classifiers/{name}"
    run.save_request(Request(unit=unit_id, cache_key="key", inputs={}))
    return Unit(run=run, id=unit_id, config=config, events=EventLog(run.events, unit_id))


def prepared_of(bars: Bars, config) -> Prepared:
    return Prepared(bars, compute(bars, config.features), split(len(bars), config.splits), {})


class Finished:
    """Both members fitted and the ensemble's vote made, in this process."""

    def __init__(self, root: Path):
        self.run, self.config = RunDir(root), config_of("ADA-EUR_1H", *TINY)
        self.bars = random_walk(800, seed=2)
        self.prepared = prepared_of(self.bars, self.config)
        self.metrics = {name: fit_member(self.unit(name), self.prepared) for name in MEMBERS}
        self.metrics["ensemble"] = vote(self.unit("ensemble"), self.prepared)

    def unit(self, name):
        return unit_of(self.run, self.config, name)

    def predictions(self, name):
        return pd.read_parquet(self.run.unit_dir(f"classifiers/{name}") / "predictions.parquet")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Finished(tmp_path_factory.mktemp("run"))


def test_a_member_leaves_its_models_predictions_curves_and_plots(finished):
    directory = finished.run.unit_dir("classifiers/lstm")
    files = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    files = {name for name in files if not name.startswith("checkpoints/")}
    models = {f"models/{name}/{file}" for name in ("fold-0", "fold-1", "final") for file in MODEL_FILES}
    tables = {"predictions.parquet", "metrics.json", "history.json", "unit.json"}
    assert files == models | tables | {"confusion.png", "roc.png", "training.png"}
    history = read_json(directory / "history.json")
    assert [row["epoch"] for row in history["final"]] == list(range(len(history["final"])))


MODEL_FILES = ("weights.safetensors", "model.json")


@pytest.mark.parametrize("name", [*MEMBERS, "ensemble"])
def test_the_test_part_is_predicted_but_not_scored(finished, name):
    start, stop = finished.prepared.split.test
    assert finished.predictions(name)["fitted_until"][start:stop].ge(0).all()
    scores = read_json(finished.run.unit_dir(f"classifiers/{name}") / "metrics.json")
    assert set(scores) == {"out_of_fold", "validation"}
    assert max(score["last_t"] for score in scores.values()) < finished.bars.t[start]


def test_the_result_has_every_score_beside_its_no_skill_rules(finished):
    score = finished.metrics["lstm"]["validation"]
    assert {"accuracy", "classes", "macro_f1", "mcc", "log_loss", "calibration_error", "confusion"} <= set(score)
    assert {"majority", "known_part", "volatility"} == set(score["no_skill"])
    assert {"skill", "directional"} <= set(score)
    assert set(finished.metrics["lstm"]["models"]) == {"fold-0", "fold-1", "final"}


def test_the_ensemble_is_the_mean_of_its_members(finished):
    members = [finished.predictions(name) for name in MEMBERS]
    vote_table = finished.predictions("ensemble")
    for column in ("fall", "stationary", "rise"):
        assert np.allclose(vote_table[column], (members[0][column] + members[1][column]) / 2, equal_nan=True)
    for name, frame in zip(reversed(MEMBERS), reversed(members), strict=True):
        assert vote_table[f"{name}_rise"].equals(frame["rise"])


def test_every_stored_prediction_is_reproduced_to_the_last_bit(finished):
    predicted = int(finished.predictions("lstm")["fold"].ge(0).sum())
    wanted = {"models": 3, "bars": predicted, "largest_difference": 0.0}
    assert finished.metrics["ensemble"]["reproduced"] == {"lstm": wanted, "dlstm": wanted}


@pytest.fixture
def copied(finished, tmp_path):
    """The finished run, to be damaged."""
    copy = object.__new__(Finished)
    copy.__dict__ |= finished.__dict__ | {"run": RunDir(tmp_path / "copy")}
    subprocess.run(["cp", "-r", finished.run.root, copy.run.root], check=True)
    return copy


@pytest.mark.parametrize("model", ["fold-0", "final"])
def test_a_weight_that_changed_on_disk_is_found(copied, model):
    path = copied.run.unit_dir("classifiers/dlstm") / "models" / model / "weights.safetensors"
    weights = load_file(path)
    weights["head.bias"][0] += 1e-3
    save_file(weights, path)
    with pytest.raises(NotReproducedError, match=rf"dlstm/models/{model} gives probabilities that differ by up to"):
        vote(copied.unit("ensemble"), copied.prepared)


@pytest.mark.parametrize(("row", "column", "value"), [(700, "rise", 0.9), (300, "fitted_until", -1)])
def test_a_stored_prediction_that_changed_is_found(copied, row, column, value):
    path = copied.run.unit_dir("classifiers/lstm") / "predictions.parquet"
    frame = pd.read_parquet(path)
    frame.loc[row, column] = value
    frame.to_parquet(path, index=False)
    with pytest.raises(NotReproducedError):
        vote(copied.unit("ensemble"), copied.prepared)


def test_progress_ends_at_all_of_the_work(finished):
    events = [event for event in read_events(finished.run.events) if event["unit"] == "classifiers/lstm"]
    last = [event for event in events if event["kind"] == "progress"][-1]
    assert last["done"] == last["total"] > 0
    assert {event["model"] for event in events if event["kind"] == "metric"} == {"fold-0", "fold-1", "final"}


def test_a_unit_that_is_asked_to_stop_does(finished, tmp_path):
    unit = unit_of(RunDir(tmp_path), finished.config, "lstm")
    unit._stop[0] = True
    with pytest.raises(StopRequested):
        fit_member(unit, finished.prepared)
    assert not (unit.dir / "predictions.parquet").exists()


def test_a_stopped_unit_goes_on_to_the_same_bytes(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(meter, "REPORT_EVERY_S", 0.0)
    run, stopped_at = RunDir(tmp_path), []
    for calls in (3, 5, 6):
        unit = unit_of(run, finished.config, "dlstm")
        monkeypatch.setattr(unit, "check_stop", countdown(calls))
        with pytest.raises(StopRequested):
            fit_member(unit, finished.prepared)
        stopped_at.append(max(int(path.name) for path in (unit.dir / "checkpoints").glob("[0-9]*")))
    run.clear_outputs("classifiers/dlstm")
    metrics = fit_member(unit_of(run, finished.config, "dlstm"), finished.prepared)
    assert metrics == finished.metrics["dlstm"]
    expected = finished.run.save_result("classifiers/dlstm", {}).outputs
    assert run.save_result("classifiers/dlstm", {}).outputs == expected
    assert stopped_at == sorted(set(stopped_at))
    saved = [event for event in read_events(run.events) if event["kind"] == "checkpoint"]
    assert [event["step"] for event in saved] == stopped_at
    assert all(event["bytes"] > 0 and event["wall_s"] > 0 and event["interval_s"] > 0 for event in saved)


def countdown(calls: int):
    """Raises at the last of so many calls, as a stop does that arrives then."""
    left = iter(range(calls - 1, -1, -1))

    def check_stop():
        if not next(left):
            raise StopRequested("stopped")

    return check_stop


def test_a_unit_that_ran_out_of_memory_takes_half_the_windows_at_once(finished, tmp_path):
    name = "classifiers/lstm"
    runtime = finished.config.runtime.model_copy(update={"batch_halvings": {name: 1, "classifiers/gru": 3}})
    unit = unit_of(RunDir(tmp_path), finished.config.model_copy(update={"runtime": runtime}), "lstm")
    halved, whole = fit_member(unit, finished.prepared)["models"], finished.metrics["lstm"]["models"]
    assert {model: row["micro_batch"] * 2 for model, row in halved.items()} == {
        model: row["micro_batch"] for model, row in whole.items()
    }
    for model, row in halved.items():
        assert row["stop_loss"] == pytest.approx(whole[model]["stop_loss"], rel=1e-2)


def test_the_description_counts_the_chain():
    config = config_of("ADA-EUR_1H", *TINY, "classifiers.window_stride=1")
    # Train is 60 % in 3 pieces, 85 % of each to fit: 1 piece x 2 epochs, 2 pieces x 1 epoch, 3 pieces x 2 epochs.
    most = chain_windows_per_bar(config, stopped_early=False)
    assert most.trained == pytest.approx(0.6 / 3 * 0.85 * (1 * 2 + 2 * 1 + 3 * 2))
    # The rest is judged before the first epoch and after each; bars from the second piece on are predicted.
    assert most.predicted == pytest.approx(0.6 / 3 * 0.15 * (1 * 3 + 2 * 2 + 3 * 3) + 0.8)
    facts = describe(config)
    assert facts["bars_needed"] == bars_needed(config)
    named = {item["name"]: item["amount"] for item in facts["work"]}
    assert named["dlstm windows trained"] == most.trained and named["bars scored"] == pytest.approx(0.4 + 0.2)
    assert facts["memory_bytes"] > 5e8


def test_patience_leaves_the_least_that_early_stopping_can():
    """With 3 epochs at most and a patience of 1: the first fit ends after 2, a warm one after 1."""
    more = ("classifiers.window_stride=1", "classifiers.epochs=3", "classifiers.fold_epochs=2")
    config = config_of("ADA-EUR_1H", *TINY, *more, "classifiers.patience_epochs=1")
    least = chain_windows_per_bar(config, stopped_early=True)
    assert least.trained == pytest.approx(0.6 / 3 * 0.85 * (1 * 2 + 2 * 1 + 3 * 1))
    patient = config_of("ADA-EUR_1H", *TINY, *more, "classifiers.patience_epochs=9")
    assert chain_windows_per_bar(patient, True) == chain_windows_per_bar(patient, False)


def start(run: RunDir, name: str) -> subprocess.Popen:
    run.save_request(Request(unit=f"classifiers/{name}", cache_key="key", inputs={}))
    line = [sys.executable, "-m", "training.stages.classifiers", "--run-dir", str(run.root)]
    environment = dict(os.environ) | thread_environment(1)
    return subprocess.Popen(
        [*line, "--unit", f"classifiers/{name}"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


def stage(run: RunDir, name: str) -> tuple[int, str]:
    process = start(run, name)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def outputs(run: RunDir, name: str) -> dict:
    return run.result(f"classifiers/{name}").model_dump()


@pytest.mark.slow
def test_a_run_by_processes_is_reproduced_byte_by_byte(tmp_path):
    bars, results = random_walk(2_400, seed=5), []
    for name in ("one", "two"):
        run, _ = make_run(tmp_path / name, bars, *TINY)
        assert prepare(run) == 0
        for unit in (*MEMBERS, "ensemble"):
            assert stage(run, unit) == (ExitCode.DONE, "")
        results.append([outputs(run, unit) for unit in (*MEMBERS, "ensemble")])
    assert results[0] == results[1]
    assert results[0][2]["metrics"]["reproduced"]["lstm"]["largest_difference"] == 0


@pytest.mark.slow
def test_a_process_that_is_asked_to_stop_leaves_no_result(tmp_path):
    settings = (*TINY, "classifiers.epochs=10000", "classifiers.patience_epochs=10000")
    run, _ = make_run(tmp_path, random_walk(2_400, seed=5), *settings)
    assert prepare(run) == 0
    process = start(run, "lstm")
    deadline = time.monotonic() + 300
    while not any(event["kind"] == "metric" for event in read_events(run.events)) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors.count("\n")) == (ExitCode.INTERRUPTED, 1)
    assert run.result("classifiers/lstm") is None


@pytest.mark.slow
def test_a_process_that_is_killed_at_random_moments_ends_with_the_same_bytes(tmp_path):
    settings = (*TINY, "classifiers.epochs=40", "classifiers.patience_epochs=40", "classifiers.dropout=0.2")
    often = "runtime.mean_time_between_failures_s=0.1"
    rng, found = random.Random(7), []
    for name, kills in (("whole", 0), ("killed", 3)):
        run, _ = make_run(tmp_path / name, random_walk(2_400, seed=5), *settings, often)
        assert prepare(run) == 0
        for _ in range(kills):
            process = start(run, "dlstm")
            wait_for_a_checkpoint(run, process)
            time.sleep(rng.uniform(0, 0.5))
            process.kill()
            process.communicate(timeout=300)
        assert stage(run, "dlstm") == (ExitCode.DONE, "")
        found.append(outputs(run, "dlstm"))
        events = [event for event in read_events(run.events) if event["unit"] == "classifiers/dlstm"]
    assert found[0] == found[1]
    begun = [event["done"] for event in events if event["kind"] == "progress" and event["rate"] is None]
    assert len(begun) >= 4 and max(begun) > 0, "some process went on from a checkpoint"


def wait_for_a_checkpoint(run: RunDir, process: subprocess.Popen) -> None:
    """Until this process has saved a checkpoint of its own, or has ended."""
    directory = run.unit_dir("classifiers/dlstm") / "checkpoints"
    before = {path.name for path in directory.glob("[0-9]*")}
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if {path.name for path in directory.glob("[0-9]*")} - before:
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_an_ensemble_whose_member_is_missing_is_refused_without_a_traceback(tmp_path):
    run, _ = make_run(tmp_path, random_walk(2_400, seed=5), *TINY)
    assert prepare(run) == 0
    code, errors = stage(run, "ensemble")
    assert code == ExitCode.BAD_DATA
    assert errors.count("\n") == 1 and "run unit 'classifiers/lstm' first" in errors
