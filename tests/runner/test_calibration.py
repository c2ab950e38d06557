"""What is measured is measured once, by as many processes as run side by side, and never breaks a run."""

import json
import sys
from dataclasses import replace

import pytest

from configs.load import resolve
from runner.calibration import (
    FILE_NAME,
    START_S,
    Measured,
    Seconds,
    _budget_s,
    _environments,
    _key,
    checkpoint_cost_s,
    speeds,
)
from runner.graph import GAME, Unit, expand
from runner.identity import Keys
from runner.process import ProcessFailedError, ask_together
from runner.schedule import Places

WINDOWS = ["walk_forward.windows=2", "walk_forward.first_test_month=2023-03"]
MEASURED = "tests.runner.fixture_stages.measured"
KEYS = Keys(resolve("DEMO-USD_1H", "quick").config, {"DEMO-USD_1H": "data"}, {"configs": "code"}, "lock")
UNITS = [
    Unit(f"many/{name}", "many", MEASURED, settings=("ppo", "dataset"), packages=("configs",)) for name in "ab"
]  # fmt: skip


@pytest.fixture
def marks(tmp_path, monkeypatch):
    """The folder with one file for each time that something was measured."""
    folder = tmp_path / "marks"
    folder.mkdir()
    monkeypatch.setenv("MARKS", str(folder))
    return folder


@pytest.fixture(scope="module")
def measured_once(tmp_path_factory):
    """A runs directory that knows the speed of one unit of `UNITS`."""
    runs = tmp_path_factory.mktemp("runs")
    look(runs, units=UNITS[:1])
    return runs


def look(runs, *, keys=KEYS, units=UNITS, workers=2, seconds=0.5, anew=False, heard=None):
    tell = (lambda _text: None) if heard is None else heard.append
    found = speeds(keys, units, {MEASURED: 1}, runs, places=Places(workers), seconds=Seconds(seconds, anew), tell=tell)
    return found[MEASURED]


def test_a_stage_is_measured_in_as_many_processes_as_run_side_by_side_and_only_once(tmp_path, marks):
    heard: list[str] = []
    found = look(tmp_path, heard=heard)
    assert len(list(marks.glob("0.5-*"))) == 2 and "measured (1 of 1)" in heard[0]
    assert (found.rates["steps"].mean, found.rates["steps"].low) == (60, 54) and "broken" not in found.rates
    assert 0 < found.start_s.mean < 60
    assert look(tmp_path, heard=heard) == found
    assert len(list(marks.iterdir())) == 2 and len(heard) == 1, "the second look costs nothing"


def test_asked_to_it_measures_anew_what_it_knows(tmp_path, marks):
    for anew in (True, False, True):
        look(tmp_path, units=UNITS[:1], anew=anew)
    assert len(list(marks.iterdir())) == 2


def test_processes_that_measure_have_a_gpu_each_as_the_units_will(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    on_gpu = [replace(unit, uses_gpu=True) for unit in UNITS]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in _environments(on_gpu, 2)] == ["4", "7"]
    assert _environments(UNITS, 2) == [{}, {}]


def test_variables_of_a_process_that_is_asked_are_its_own():
    says = [sys.executable, "-c", "import os, json; print(json.dumps(os.environ['WHICH']))"]
    assert ask_together([says, says], environments=[{"WHICH": "a"}, {"WHICH": "b"}]) == ["a", "b"]


@pytest.mark.parametrize(
    ("unit", "setting", "again"),
    [
        ("evaluate", "agent.seeds=5", True),
        ("evaluate", "ppo.hidden=[8]", True),
        ("evaluate", "walk_forward.windows=3", False),
        ("walk_forward/classifier-dlstm", "walk_forward.first_test_month=2023-04", False),
        ("synthetic", "walk_forward.windows=3", False),
        ("synthetic", "synthetic.bars=600", True),
    ],
)
def test_the_key_of_a_stage_holds_what_it_measures_with_and_nothing_else(unit, setting, again):
    config, changed = (resolve("DEMO-USD_1H", "quick", settings=each).config for each in (WINDOWS, [*WINDOWS, setting]))
    own = [next(found for found in expand(config) if found.id == unit)]
    one, other = (_key(replace(KEYS, config=each, code=dict.fromkeys(GAME, "c")), own, 1) for each in (config, changed))
    assert (one != other) is again


def with_setting(setting: str) -> Keys:
    return KEYS.with_config(resolve("DEMO-USD_1H", "quick", settings=[setting]).config)


@pytest.mark.parametrize(
    ("keys", "again"),
    [
        (with_setting("ppo.minibatch_size=512"), True),
        (with_setting("compute.threads_per_unit=2"), True),
        (replace(KEYS, code={"configs": "other"}), True),
        (replace(KEYS, lock="other"), True),
        (with_setting("classifiers.units=32"), False),
        (with_setting("seed=5"), False),
        (with_setting("dataset.repair=drop"), False),
        (replace(KEYS, datasets={"DEMO-USD_1H": "other"}), False),
    ],
)
def test_what_a_rate_depends_on_makes_it_unknown(measured_once, keys, again):
    """With no seconds to measure, only what is known is found."""
    assert look(measured_once, units=UNITS[:1], seconds=0).rates
    assert bool(look(measured_once, units=UNITS[:1], keys=keys, seconds=0).rates) is not again


def test_without_seconds_nothing_is_measured_and_nothing_written(tmp_path, marks):
    found = look(tmp_path, seconds=0)
    assert not found.rates and found.start_s.mean == START_S
    assert not list(marks.iterdir()) and not (tmp_path / FILE_NAME).exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', '{"x": {"start_s": [], "rates": {}, "t": 1}}'])
def test_a_damaged_file_is_as_good_as_none(tmp_path, content):
    (tmp_path / FILE_NAME).write_text(content)
    assert not look(tmp_path, seconds=0).rates


def test_a_damaged_file_is_replaced(tmp_path):
    (tmp_path / FILE_NAME).write_text("[")
    assert look(tmp_path, units=UNITS[:1]).rates
    assert len(json.loads((tmp_path / FILE_NAME).read_text())) == 1


def test_a_stage_that_cannot_be_measured_keeps_its_nominal_rates(tmp_path):
    heard: list[str] = []
    found = look(tmp_path, keys=with_setting("seed=13"), units=UNITS[:1], heard=heard)
    assert not found.rates and "no luck" in heard[-1]


def test_a_measurement_that_does_not_end_is_ended():
    sleeps = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    with pytest.raises(ProcessFailedError, match="ended with status -9"):
        ask_together([sleeps, sleeps], limit_s=0.2)


def test_a_rate_comes_with_its_range():
    assert Measured.of([9.0, 11.0]) == Measured(pytest.approx(8.1), 10.0, pytest.approx(12.1))
    item = {"name": "steps", "rate_per_s": 5}
    assert look_up({"steps": Measured.of([2.0])}, item).mean == 2 and look_up({}, item).mean == 5


def look_up(rates: dict[str, Measured], item: dict) -> Measured:
    from runner.calibration import Speed

    return Speed(rates=rates).rate(item)


def test_the_cost_of_a_checkpoint_is_measured_where_the_run_is_to_lie(tmp_path):
    cost_s = checkpoint_cost_s(tmp_path / "not" / "yet", 3_000_000)
    assert cost_s is not None and cost_s > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("left_s", "budget_s"), [(100, 4.0), (15, 3.0), (5, 0.1), (-1, 0.1)])
def test_where_time_is_short_stages_share_what_is_left(left_s, budget_s):
    """2 s for each of 2 pieces of work where there is time; with 15 s for 5 pieces, 2 / 5 of it less 3 s to start."""
    assert _budget_s(2.0, [2, 1, 2], left_s) == pytest.approx(budget_s)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["training.stages.prepare", "training.stages.classifiers", "ppo.stages.evaluate"])
def test_a_stage_measures_all_the_work_that_it_describes(module):
    import importlib

    from tests.cli import TINY

    config, stage = resolve("BTC-EUR_1m", "quick", settings=TINY).config, importlib.import_module(module)
    rates = stage.calibrate(config, 0.1)
    assert rates.keys() == {item["name"] for item in stage.describe(config)["work"]}
    assert all(0 < rate < float("inf") for rate in rates.values())


@pytest.mark.parametrize("dataset", ["BTC-EUR_1m", "BTC-EUR_5m", "EUR-USD_1m"])
def test_whatever_gaps_a_run_allows_its_speed_is_measured_on_the_demo_as_the_demo_is_cut(dataset):
    """The longest gap of crypto is six bars: less than one hour, the step of the demo's bars, on 1m and 5m."""
    from training.sources.load import load_dataset
    from training.speed import WindowSpeed

    demo, _ = load_dataset("DEMO-USD_1H")
    speed = WindowSpeed(resolve(dataset, "quick").config)
    assert (speed.bars.segment == demo.segment).all() and len(set(demo.segment.tolist())) == 3
    assert speed.scored_per_s() > 0
