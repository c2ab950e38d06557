"""Units of the ablation: their rows, their pairing, stop and resume, the summary."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from configs.calendar import month_start
from configs.errors import StopRequested
from configs.events import EventLog
from configs.files import read_json, write_json
from configs.run_dir import Request, RunDir
from configs.schema import Config
from ppo.ablation import ARMS, COLUMNS, compare
from ppo.evaluate import rollout
from ppo.learner.policy import read_policy
from ppo.learner.train import train
from ppo.pretrain import pretraining_job
from ppo.stages import ablation as stage
from ppo.stages import walk_forward
from ppo.stages.in_turn import Done
from ppo.trials import LEDGER_NAME, Trial, record
from ppo.walk_forward import load_window, window_job, within_tail
from tests.ppo.test_walk_forward_stage import CLASSIFIER, Stopping, copied, prepare
from tests.run_dirs import digests
from training.synthetic import preset_parameters

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("torch_as_before")]
UNITS = ("ablation/seed-0", "ablation/seed-1")
SETTINGS = (
    "synthetic.scenarios=3", "synthetic.bars=500", "pretrain.timesteps=384", "ablation.seeds=2", "ablation.windows=2",
    "ablation.crash_scenarios=5",
)  # fmt: skip


def work(run: RunDir, unit_id: str, of=stage, after: int = 0) -> None:
    run.save_request(Request(unit=unit_id, cache_key="key", inputs={}))
    unit = Stopping(run, unit_id, run.load_config(), EventLog(run.events, unit_id))
    unit.after = after
    run.clear_outputs(unit_id)
    run.save_result(unit_id, of.work(unit))


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> RunDir:
    """A run up to its monthly predictions."""
    run = prepare(tmp_path_factory.mktemp("ablation") / "run", lambda bars: bars, *SETTINGS)
    parameters = preset_parameters(run.load_config())
    write_json(run.unit_dir("synthetic") / "parameters.json", parameters.to_json())
    work(run, CLASSIFIER, walk_forward)
    return run


@pytest.fixture(scope="module")
def finished(template, tmp_path_factory) -> RunDir:
    """All units, done without a break; tests only read it."""
    run = copied(template, tmp_path_factory.mktemp("finished") / "runs" / "run")
    for unit_id in (*UNITS, "ablation/summary"):
        work(run, unit_id)
    return run


def rows_of(run: RunDir, unit_id: str) -> pd.DataFrame:
    return pd.read_parquet(run.unit_dir(unit_id) / "ablation.parquet")


def test_each_agent_has_a_row_for_real_bars_and_for_each_crash(finished):
    crashes, real = rows_of(finished, UNITS[1]), rows_of(finished, "ablation/summary")
    assert tuple(crashes.columns) == tuple(real.columns) == COLUMNS
    assert len(crashes) == 2 * len(ARMS) * 5 and len(real) == 2 * 2 * len(ARMS)
    assert set(crashes["seed"]) == {1} and set(crashes["window"]) == {"2023-03", "2023-04"} == set(real["window"])
    assert (crashes.groupby(["window", "arm"]).size() == 5).all() and crashes["script"].nunique() == 5
    assert (real.groupby(["window", "arm"])["seed"].agg(sorted).map(tuple) == (0, 1)).all()
    arms = real.pivot_table(index=["window", "seed"], columns="arm", values="log_return")
    assert (arms["pretrained"] != arms["scratch"]).any()


def test_each_arm_on_each_window_is_a_trial_of_the_bars_that_measured_it(finished):
    """The mean of the seeds, whose Sharpe is that of the mean of two equal accounts rebalanced on each bar."""
    entries = record(finished.root.parent / LEDGER_NAME, [Trial("other", 0, 1, "other", 0.0)])[:-1]
    assert [entry.cache_key for entry in entries] == [
        f"key/{month}.{arm}" for month in ("2023-03", "2023-04") for arm in ARMS
    ]
    data = stage.halved(finished, "2023-03", finished.load_config())
    start, stop = data.window.test
    assert {(entry.start, entry.stop) for entry in entries[:2]} == {(data.first_row + start, data.first_row + stop)}
    assert {(entry.first_t, entry.last_t) for entry in entries[:2]} == {
        (data.tape.t[start], month_start("2023-03") - 3_600)
    }
    returns = [
        rollout(data.tape, finished.load_config(), [data.window.test], read_policy(folder)).returns
        for folder in (finished.unit_dir(unit_id) / "2023-03.scratch" for unit_id in UNITS)
    ]
    mean = np.mean(returns, axis=0)
    assert entries[1].sharpe == pytest.approx(mean.mean() / mean.std(ddof=1), rel=1e-6)
    work(copied(finished, finished.root.parent / "again"), "ablation/summary")
    assert len(record(finished.root.parent / LEDGER_NAME, [Trial("other", 0, 1, "more", 0.0)])) == len(entries) + 2


def test_the_arm_from_scratch_is_the_agent_of_the_window_selected_by_half_of_its_tail(finished):
    """The same weights as a training of walk-forward's own job on these halves: same seed, same streams, same bars."""
    config = finished.load_config()
    data = load_window(finished, "2023-03", config)
    job = window_job(replace(data, window=within_tail(data.window, config)), config, 0)
    alone = train(job)
    kept = read_policy(finished.unit_dir(UNITS[0]) / "2023-03.scratch").state_dict()
    assert all(torch.equal(kept[name], weights) for name, weights in alone.policy.state_dict().items())
    arms = stage.Arms(unit_of(finished, UNITS[0], config))
    assert arms.job("2023-03.scratch", Done()).seed == job.seed
    expected = rows_of(finished, UNITS[0])
    got = pd.DataFrame(arms.rows("2023-03.scratch", job, alone))[list(COLUMNS)]
    own = expected[(expected["window"] == "2023-03") & (expected["arm"] == "scratch")].reset_index(drop=True)
    pd.testing.assert_frame_equal(got, own)


def test_bars_that_measure_an_agent_do_not_select_it(finished, tmp_path):
    """Other prices in the second half of the tail change the row of real bars, and neither selection nor crashes."""
    config, run, name = finished.load_config(), copied(finished, tmp_path / "run"), "2023-03.scratch"
    data = load_window(finished, "2023-03", config)
    first, stop = data.window.validation
    path = run.unit_dir("prepare") / "bars.parquet"
    bars = pd.read_parquet(path)
    measuring = bars["t"].isin(data.tape.t[(first + stop) // 2 : stop])
    bars.loc[measuring, ["open", "high", "low", "close"]] *= np.linspace(1, 2, measuring.sum())[:, None]
    bars.to_parquet(path, index=False)
    was, now = (stage.Arms(unit_of(each, UNITS[0], config)) for each in (finished, run))
    trained = train(was.job(name, Done()))
    assert now.job(name, Done()).validator()(trained.policy) == trained.validation
    rows, others = (arms.rows(name, arms.job(name, Done()), trained) for arms in (was, now))
    assert rows == others
    data = [stage.halved(each, "2023-03", config) for each in (finished, run)]
    (rows, _), (others, _) = (
        stage.measure(unit_of(finished, "ablation/summary", config), own, "scratch") for own in data
    )
    assert rows != others


def test_the_other_arm_starts_from_this_seed_s_own_pre_training(finished):
    config = finished.load_config()
    taught = train(pretraining_job(preset_parameters(config), config, 1)[0]).policy.state_dict()
    arms = stage.Arms(unit_of(finished, UNITS[1], config))
    begun = arms.job("2023-04.pretrained", Done(weights={stage.PRETRAINING: taught})).start
    assert all(torch.equal(begun[name], taught[name]) for name in begun)
    assert not any(name.startswith("logits_head") for name in begun)


def unit_of(run: RunDir, unit_id: str, config: Config) -> Stopping:
    return Stopping(run, unit_id, config, EventLog(run.events, unit_id))


@pytest.mark.parametrize("stops", [(1, 1, 1), (3, 2, 4)], ids=["each rollout", "some"])
def test_a_unit_stopped_inside_and_between_trainings_ends_with_the_same_bytes(template, finished, tmp_path, stops):
    run = copied(template, tmp_path / "run")
    for after in stops:
        with pytest.raises(StopRequested):
            work(run, UNITS[0], after=after)
    work(run, UNITS[0])
    assert digests(run, UNITS[0]) == digests(finished, UNITS[0])


def test_the_summary_compares_the_rows_of_all_seeds(finished):
    summary = read_json(finished.unit_dir("ablation/summary") / "ablation.json")
    rows = pd.concat([rows_of(finished, unit_id) for unit_id in (*UNITS, "ablation/summary")], ignore_index=True)
    assert summary == compare(rows, finished.load_config())
    assert summary["seeds"] == [0, 1] and summary["windows"] == ["2023-03", "2023-04"]
    shown = finished.result("ablation/summary").metrics["differences"]
    assert {row["where"] for row in shown} == {"real", "crash"}


def test_the_description_names_what_calibration_measures(finished):
    config = finished.load_config()
    work_items = stage.describe(config)["work"]
    assert {item["name"] for item in work_items} == set(stage.calibrate(config, 0.1))
    steps = next(item["amount"] for item in work_items if item["name"] == "steps")
    assert steps == 384 + 2 * 2 * 384


def test_nothing_of_the_test_months_is_played(template, finished, tmp_path):
    """The bars from the first test month of the last window on are changed; not one row is."""
    run = copied(template, tmp_path / "run")
    path = run.unit_dir("prepare") / "bars.parquet"
    bars = pd.read_parquet(path)
    last = bars["t"] >= int(pd.Timestamp("2023-04-01", tz="UTC").timestamp())
    assert last.any()
    bars.loc[last, ["open", "high", "low", "close"]] *= 3
    bars.to_parquet(path, index=False)
    for unit_id in (*UNITS, "ablation/summary"):
        work(run, unit_id)
        assert digests(run, unit_id) == digests(finished, unit_id)
