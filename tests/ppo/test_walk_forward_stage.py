"""Units of the walk-forward: their files, stop and resume, what a month may know, and the series they join into."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from configs.calendar import month_start
from configs.errors import BadDataError, StopRequested
from configs.events import EventLog
from configs.files import read_json, write_json
from configs.load import resolve
from configs.run_dir import Request, RunDir
from configs.unit import Unit
from ppo.baselines import shifted
from ppo.evaluate import Track, rollout
from ppo.joining import joined, play_month
from ppo.learner.policy import Policy, PolicySizes, read_policy, save_policy
from ppo.overfitting import overfitting
from ppo.scoring import enter, judge, write_evaluation
from ppo.stages import walk_forward as stage
from ppo.tracks import join_tracks
from ppo.walk_forward import load_monthly_vote, load_window
from tests.run_dirs import digests
from training import meter
from training.demo import demo_bars
from training.features import FEATURE_NAMES, compute
from training.splits import month_rows, split
from training.stages.prepare import load_prepared, write_table

pytestmark = pytest.mark.usefixtures("torch_as_before")
CLASSIFIER, MONTHS = "walk_forward/classifier-lstm", ("walk_forward/2023-03", "walk_forward/2023-04")
SETTINGS = (
    "walk_forward.smoke=true", "walk_forward.train_months=1", "walk_forward.first_test_month=2023-03",
    "walk_forward.windows=2", "walk_forward.timesteps=384", "walk_forward.epochs=1", "agent.seeds=2",
    "classifiers.epochs=1",
    "classifiers.members=[lstm]", "ensemble.members=[lstm]", "classifiers.lookback_bars=4", "classifiers.units=3",
    "classifiers.learning_rate=0.02", "ppo.num_envs=8", "ppo.rollout_steps=16", "ppo.minibatch_size=64",
    "ppo.epochs=1", "ppo.hidden=[8]", "ppo.timesteps=768", "ppo.eval_every_steps=256", "ppo.eval_slices=2",
    "judging.cost_sweep_bps=[0]", "judging.random_shifts=20", "judging.bootstrap_samples=20", "costs.fee_frac=0",
    "costs.slippage_frac=0", "ppo.learning_rate=0.01",
)  # fmt: skip
AGENT = {"policy.safetensors", "policy.json", "history.json"}


def prepare(root: Path, change=lambda bars: bars, *settings) -> RunDir:
    """A run directory with what `prepare` makes of the first four months of the demo, changed as asked."""
    run = RunDir(root)
    config = resolve("DEMO-USD_1H", "quick", settings=(*SETTINGS, *settings)).config
    run.save_config(config)
    bars = change(demo_bars(max_gap_s=config.market.max_gap_s).slice(0, 24 * 120 - 7))
    table = pd.DataFrame(compute(bars, config.features), columns=list(FEATURE_NAMES))
    table.insert(0, "t", bars.t)
    directory = run.unit_dir("prepare")
    write_table(directory / "bars.parquet", bars.frame())
    write_table(directory / "features.parquet", table)
    parts = vars(split(len(bars), config.splits))
    write_json(directory / "splits.json", {name: list(value) for name, value in parts.items()})
    facts = {"name": "DEMO-USD_1H", "digest": "d", "asset_class": "crypto", "synthetic": True}
    write_json(directory / "dataset.json", facts | {"timeframe_s": bars.timeframe_s})
    return run


class Stopping(Unit):
    """A unit that is asked to stop at its `after`-th progress."""

    after = 0

    def progress(self, *arguments, **fields):
        self.after -= 1
        super().progress(*arguments, **fields)
        if self.after == 0:
            raise StopRequested("as asked")


def work(run: RunDir, unit_id: str, *inputs: str, after: int = 0) -> dict:
    run.save_request(Request(unit=unit_id, cache_key="key", inputs=dict.fromkeys(inputs, "digest")))
    unit = Stopping(run, unit_id, run.load_config(), EventLog(run.events, unit_id))
    unit.after = after
    run.clear_outputs(unit_id)
    metrics = stage.work(unit)
    run.save_result(unit_id, metrics)
    return metrics


def copied(run: RunDir, to: Path) -> RunDir:
    shutil.copytree(run.root, to)
    return RunDir(to)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunDir:
    """All units, done without a break; tests only read it."""
    run = prepare(tmp_path_factory.mktemp("walk") / "run")
    work(run, CLASSIFIER)
    for month in MONTHS:
        work(run, month)
    return run


def test_the_units_write_their_files_and_nothing_else(finished):
    assert set(digests(finished, CLASSIFIER)) == {"predictions.parquet", "models.json"}
    agents = {f"seed-{seed}/{name}" for seed in range(2) for name in AGENT}
    assert set(digests(finished, MONTHS[0])) == agents | {"scaler.json", "agents.json"}
    models = read_json(finished.unit_dir(CLASSIFIER) / "models.json")
    assert list(models) == ["2023-02", "2023-03", "2023-04"]
    assert all(len(model["weights_sha256"]) == 64 for model in models.values())


def test_a_unit_tells_how_its_agents_validate_and_not_how_the_month_went(finished):
    metrics = finished.result(MONTHS[0]).metrics
    assert metrics["month"] == "2023-03"
    assert [agent["seed"] for agent in metrics["agents"]] == [0, 1]
    for agent in metrics["agents"]:
        assert set(agent) == {"seed", "start", "best_steps", "best_score", "steps", "collapse", "validation"}
        assert agent["steps"] == 384
        assert agent["validation"].keys() >= {"sharpe", "standard_error", "lower", "upper", "max_drawdown", "hit_rate"}


def played(run: RunDir, unit_id: str) -> list[list[Track]]:
    config, prepared, month = run.load_config(), load_prepared(run), unit_id.rpartition("/")[2]
    bounds = month_rows(prepared.bars.t, month, month)
    return play_month(run.unit_dir(unit_id), bounds, prepared, load_monthly_vote(run, config), config)


def test_a_month_is_played_with_its_own_bars_alone_as_it_was_with_its_training_months_before_it(finished):
    """The same orders and equity, bit for bit, on the tape that the agents were trained on."""
    data = load_window(finished, "2023-04", finished.load_config())
    for seed, track in enumerate(played(finished, MONTHS[1])[0]):
        agent = read_policy(finished.unit_dir(MONTHS[1]) / f"seed-{seed}")
        whole = rollout(data.tape, finished.load_config(), data.spans("test"), agent)
        assert np.array_equal(track.row, whole.row + data.first_row)
        for name in ("equity", "weight", "action", "fills"):
            assert np.array_equal(getattr(track, name), getattr(whole, name)), name


def test_a_month_is_played_at_the_run_s_costs_and_at_each_level_and_ends_in_cash(finished):
    t, levels = load_prepared(finished).bars.t, played(finished, MONTHS[0])
    assert [len(tracks) for tracks in levels] == [2, 2]
    for track in (track for tracks in levels for track in tracks):
        assert t[track.row[0]] == month_start("2023-03")
        assert t[track.row[-1]] == month_start("2023-04") - 3_600
        assert track.weight[-1] == 0


@pytest.mark.parametrize("after", [1, 4])
def test_a_window_that_is_stopped_goes_on_to_the_same_bytes(after, finished, tmp_path):
    run, starts, metrics = copied(finished, tmp_path / "run"), 0, None
    shutil.rmtree(run.unit_dir(MONTHS[1]))
    while metrics is None:
        try:
            metrics = work(run, MONTHS[1], after=after)
        except StopRequested:
            starts += 1
    assert starts == 6 // after
    assert digests(run, MONTHS[1]) == digests(finished, MONTHS[1])
    assert metrics == finished.result(MONTHS[1]).metrics


def stopped_once(run: RunDir, unit_id: str, after: int) -> bool:
    try:
        work(run, unit_id, after=after)
    except StopRequested:
        return True
    return False


def test_a_classifier_s_months_go_on_to_the_same_bytes(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(meter, "REPORT_EVERY_S", 0.0)
    run, starts = copied(finished, tmp_path / "run"), 0
    shutil.rmtree(run.unit_dir(CLASSIFIER))
    while stopped_once(run, CLASSIFIER, after=5):
        starts += 1
    assert starts > 2
    assert digests(run, CLASSIFIER) == digests(finished, CLASSIFIER)


def with_settings(run: RunDir, **changes) -> None:
    config = run.load_config()
    run.save_config(config.model_copy(update={"walk_forward": config.walk_forward.model_copy(update=changes)}))


def test_given_the_same_predictions_a_window_does_not_depend_on_how_many_there_are(finished, tmp_path):
    run = copied(finished, tmp_path / "run")
    with_settings(run, windows=1, first_test_month="2023-04")
    work(run, MONTHS[1])
    assert digests(run, MONTHS[1]) == digests(finished, MONTHS[1])


def moved_from(month: str):
    """Other prices and volumes from this month on."""

    def change(bars):
        later = bars.t >= month_start(month)
        factor = np.where(later, np.exp(np.cumsum(np.where(later, 0.001, 0.0))) * 1.3, 1.0)
        prices = {name: getattr(bars, name) * factor for name in ("open", "high", "low", "close")}
        return replace(bars, **prices, volume=np.where(later, bars.volume[::-1], bars.volume))

    return change


@pytest.mark.slow
@pytest.mark.parametrize("month", ["2023-03", "2023-04"])
def test_a_changed_month_changes_nothing_that_was_decided_before_it(month, finished, tmp_path):
    run = prepare(tmp_path / "run", moved_from(month))
    work(run, CLASSIFIER)
    was, now = (read_json(each.unit_dir(CLASSIFIER) / "models.json") for each in (finished, run))
    assert [now[name] for name in was if name <= month] == [was[name] for name in was if name <= month]
    frames = [pd.read_parquet(each.unit_dir(CLASSIFIER) / "predictions.parquet") for each in (finished, run)]
    before = frames[0]["t"] < month_start(month)
    pd.testing.assert_frame_equal(*(frame[before] for frame in frames), check_exact=True)
    for unit_id in MONTHS:
        work(run, unit_id)
        assert (digests(finished, unit_id) == digests(run, unit_id)) == (unit_id <= f"walk_forward/{month}")
    was, now = (evaluated(each, *MONTHS).scored.agents for each in (copied(finished, tmp_path / "was"), run))
    for one, other in zip(was, now, strict=True):
        before = one.row < month_rows(load_prepared(run).bars.t, month, month)[0]
        assert np.array_equal(one.equity[before], other.equity[before]) and not np.array_equal(one.equity, other.equity)


def test_windows_start_where_they_are_told_and_say_so(finished, tmp_path):
    run = copied(finished, tmp_path / "run")
    sizes = read_policy(run.unit_dir(MONTHS[0]) / "seed-0").sizes
    for seed in range(2):
        save_policy(run.unit_dir(f"pretrain/seed-{seed}"), Policy(sizes, torch.Generator().manual_seed(seed)))
    scratch = digests(finished, MONTHS[1])
    shutil.rmtree(run.unit_dir(MONTHS[1]))
    agents = work(run, MONTHS[1], "pretrain/seed-1")["agents"]
    assert [agent["start"] for agent in agents] == ["scratch", "pretrained"]
    pretrained = digests(run, MONTHS[1])
    assert pretrained["seed-0/policy.safetensors"] == scratch["seed-0/policy.safetensors"]
    assert pretrained["seed-1/policy.safetensors"] != scratch["seed-1/policy.safetensors"]
    with_settings(run, start="chain")
    shutil.rmtree(run.unit_dir(MONTHS[1]))
    agents = work(run, MONTHS[1], MONTHS[0], "pretrain/seed-1")["agents"]
    assert [agent["start"] for agent in agents] == ["chain", "chain"]


def test_a_chain_hands_over_the_whole_policy_and_pre_training_all_but_its_choices(finished, tmp_path):
    run = copied(finished, tmp_path / "run")
    before = read_policy(run.unit_dir(MONTHS[0]) / "seed-1")
    save_policy(run.unit_dir("pretrain/seed-1"), before)
    run.save_request(
        Request(unit=MONTHS[1], cache_key="key", inputs=dict.fromkeys((MONTHS[0], "pretrain/seed-1"), "d"))
    )

    def weights(start: str):
        with_settings(run, start=start)
        unit = Unit(run, MONTHS[1], run.load_config(), EventLog(run.events, MONTHS[1]))
        return stage.first_weights(unit, "seed-1", before.sizes)

    chained, pretrained = weights("chain"), weights("pretrained")
    assert chained.keys() == before.state_dict().keys()
    assert all(torch.equal(chained[name], value) for name, value in before.state_dict().items())
    assert pretrained.keys() < chained.keys()
    assert weights("scratch") is None


def test_weights_of_another_size_are_refused(finished, tmp_path):
    run = copied(finished, tmp_path / "run")
    shutil.rmtree(run.unit_dir(MONTHS[0]))
    save_policy(run.unit_dir("pretrain/seed-0"), Policy(PolicySizes(observation=5, actions=9, hidden=(3,))))
    with pytest.raises(BadDataError, match="train pretrain/seed-0 again"):
        work(run, MONTHS[0], "pretrain/seed-0")


def evaluated(run: RunDir, *months: str):
    run.save_request(Request(unit="evaluate", cache_key="scoring", inputs=dict.fromkeys(months, "digest")))
    unit = Unit(run, "evaluate", run.load_config(), EventLog(run.events, "evaluate"))
    return joined("walk_forward", unit, load_prepared(run))


@pytest.fixture(scope="module")
def scored(finished, tmp_path_factory):
    """The family played, its evaluation, and where it was written."""
    run = copied(finished, tmp_path_factory.mktemp("scored") / "runs" / "run")
    family = evaluated(run, *MONTHS)
    evaluation = judge(family, enter([family], run.root.parent))
    write_evaluation(run.unit_dir("evaluate/walk_forward"), family, evaluation)
    return family, evaluation, run


def test_the_months_join_into_one_series_that_compounds_theirs(finished, scored):
    family, evaluation, run = scored
    tables = [played(finished, month)[0] for month in MONTHS]
    for seed, agent in enumerate(evaluation["agents"]):
        growth = np.prod([table[seed].equity[-1] / table[seed].equity[0] for table in tables])
        assert agent["metrics"]["total_return"] == pytest.approx(growth - 1)
    assert evaluation["mean"]["trades"] > 0
    equity = pd.read_parquet(run.unit_dir("evaluate/walk_forward") / "equity.parquet")
    t = load_prepared(run).bars.t
    tested = t[(t >= month_start("2023-03")) & (t < month_start("2023-05"))]
    assert equity["t"].tolist() == tested.tolist()
    assert np.array_equal(equity["equity_seed_1"], family.scored.agents[1].equity)


def test_the_evaluation_has_the_keys_of_every_family_and_its_own(scored):
    evaluation = scored[1]
    assert evaluation["verdict"] in ("edge", "collapsed", "no evidence of an edge")
    assert set(evaluation["baselines"]) == {"flat", "buy_and_hold", "moving_average", "follow_classifier", "random"}
    assert [row["cost_bps"] for row in evaluation["cost_sweep"]] == [0]
    assert evaluation["cost_sweep"][0]["mean"]["total_return"] == pytest.approx(evaluation["mean"]["total_return"])
    assert evaluation["pbo_of_seeds"]["chosen_frac"].keys() == {"seed_0", "seed_1"}
    assert evaluation["pbo_of_configurations"] is None, "nothing else was scored on these bars"


def test_baselines_keep_their_position_where_the_agents_change_over(scored):
    family, evaluation, run = scored
    prepared, bought = load_prepared(run), family.scored.baselines["buy_and_hold"]
    start, stop = family.bounds
    assert bought.row.tolist() == list(range(start, stop)) == family.scored.agents[0].row.tolist()
    assert [bought.fill_row[0], bought.fill_row[-1], len(bought.fill_row)] == [start + 1, stop - 1, 2]
    growth = prepared.bars.close[stop - 1] / prepared.bars.open[start + 1]  # this run has no costs
    assert evaluation["baselines"]["buy_and_hold"]["total_return"] == pytest.approx(growth - 1)
    assert evaluation["baselines"]["buy_and_hold"]["returns"] == evaluation["mean"]["returns"] == stop - start - 1


def test_agents_are_in_cash_where_they_change_over(scored):
    family = scored[0]
    seam = family.months["2023-04"][0] - family.bounds[0]
    for track in family.scored.agents:
        assert track.weight[seam - 1] == 0 and not track.first[seam]
        assert track.returns[seam - 1] == pytest.approx(0, abs=1e-12)


def test_a_shift_by_nothing_gives_the_joined_series_with_its_seams(scored):
    family, _, run = scored
    tracks = [join_tracks(seed) for seed in zip(*(played(run, m)[0] for m in MONTHS), strict=True)]
    unmoved = shifted(family.tape, family.config, [family.bounds], tracks, np.zeros(1, int))
    mean = np.mean([track.returns for track in tracks], axis=0)
    assert unmoved.total_return[0] == pytest.approx(np.prod(1 + mean) - 1)
    assert len(mean) == len(family.returns) - 1


def test_the_window_table_adds_up_to_the_whole(scored):
    evaluation = scored[1]
    assert [row["month"] for row in evaluation["windows"]] == ["2023-03", "2023-04"]
    assert sum(row["bars"] for row in evaluation["windows"]) == evaluation["test_range"]["returns"]
    assert sum(row["trades"] for row in evaluation["windows"]) == pytest.approx(evaluation["mean"]["trades"])
    whole = np.prod([1 + row["total_return"] for row in evaluation["windows"]]) - 1
    assert evaluation["mean"]["total_return"] == pytest.approx(whole)
    for name in ("flat", "buy_and_hold", "follow_classifier"):
        parts = np.prod([1 + row["baselines"][name] for row in evaluation["windows"]]) - 1
        assert evaluation["baselines"][name]["total_return"] == pytest.approx(parts)


def test_the_mean_of_the_seeds_is_the_trial(scored):
    family, evaluation, run = scored
    (trial,) = family.trials
    year = evaluation["bars_per_year"] ** 0.5
    assert trial.cache_key == "scoring/walk_forward"
    assert trial.sharpe * year == pytest.approx(evaluation["mean"]["sharpe"])
    t = pd.read_parquet(run.unit_dir("prepare") / "bars.parquet")["t"]
    tested = t[(t >= month_start("2023-03")) & (t < month_start("2023-05"))]
    found = trial.symbol, trial.timeframe_s, trial.first_t, trial.last_t
    assert found == ("DEMO-USD", 3_600, tested.min(), tested.max())
    assert evaluation["trials"]["count"] == 1
    assert evaluation["mean"]["dsr"] == evaluation["mean"]["psr"], "one trial deflates nothing"
    assert len(enter([family], run.root.parent)) == 1, "a second scoring finds the same trial"


def test_overfitting_is_that_of_choosing_among_configurations_scored_on_the_same_months(scored, tmp_path):
    """Beside the run: another configuration, equal agents again, one of fewer months, one that is not in the ledger."""
    family = replace(scored[0], run=RunDir(tmp_path / "runs" / "run"))
    own = pd.read_parquet(scored[2].unit_dir("evaluate/walk_forward") / "equity.parquet")[["t", "equity_mean"]]
    walk = own.assign(equity_mean=1e4 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, len(own)))))
    beside = {
        "run": own,
        "other": walk,
        "again": own,
        "short": walk[:-1],
        "uncounted": walk.iloc[::-1].assign(t=own["t"]),
    }
    for name, series in beside.items():
        run = RunDir(tmp_path / "runs" / name)
        run.save_request(Request(unit="evaluate", cache_key="scoring" if name == "run" else name, inputs={}))
        write_table(run.unit_dir("evaluate/walk_forward") / "equity.parquet", series)
        run.save_result("evaluate", {})
    entries = [replace(family.trials[0], cache_key=f"{name}/walk_forward") for name in ("other", "again", "short")]
    found = judge(family, [*family.trials, *entries])
    columns = {"run": own["equity_mean"], "other": walk["equity_mean"]}
    expected = overfitting({name: equity.pct_change()[1:].to_numpy() for name, equity in columns.items()})
    assert found["trials"]["count"] == 4
    assert found["pbo_of_configurations"]["chosen_frac"] == expected["chosen_frac"]
    assert found["pbo_of_configurations"]["probability"] == expected["probability"]


def test_all_windows_are_joined_or_none(scored):
    run = scored[2]
    with pytest.raises(BadDataError, match="it lacks 2023-03; run them first"):
        evaluated(run, MONTHS[1])
    with pytest.raises(BadDataError, match="it lacks 2023-03, 2023-04; run them first"):
        evaluated(run, CLASSIFIER)


@pytest.mark.slow
def test_every_rate_of_the_plan_is_measured(finished):
    config = finished.load_config()
    rates = stage.calibrate(config, 0.01)
    assert {item["name"] for item in stage.describe(config)["work"]} == rates.keys()
    assert all(rate > 0 for rate in rates.values())


def test_the_plan_knows_the_work_of_each_kind_of_unit(finished):
    described = stage.describe(finished.load_config())
    units = {item["name"]: item["units"] for item in described["work"]}
    assert {name for name, unit in units.items() if unit == CLASSIFIER} == {
        "lstm windows trained",
        "lstm windows predicted",
    }
    amounts = {item["name"]: item["amount"] for item in described["work"]}
    assert amounts["steps"] == 2 * 384
    per_month = 24 * 365 / 12
    assert amounts["lstm windows trained"] == pytest.approx(3 * per_month * 0.85 / 2)
    assert amounts["lstm windows predicted"] == pytest.approx(3 * per_month * (0.15 * 2 + 1))


def test_the_plan_counts_the_first_month_s_epochs_and_the_least_that_patience_leaves(finished):
    config = finished.load_config()
    changes = {
        "classifiers": config.classifiers.model_copy(update={"epochs": 10, "patience_epochs": 3}),
        "walk_forward": config.walk_forward.model_copy(update={"epochs": 5}),
    }
    work = {item["name"]: item for item in stage.describe(config.model_copy(update=changes))["work"]}
    per_epoch = 24 * 365 / 12 * 0.85 / 2
    trained = work["lstm windows trained"]
    assert trained["amount"] == pytest.approx((10 + 5 + 5) * per_epoch)
    assert trained["least_frac"] == pytest.approx((4 + 3 + 3) / 20)
    impatient = {"classifiers": changes["classifiers"].model_copy(update={"patience_epochs": 1})}
    work = {item["name"]: item for item in stage.describe(config.model_copy(update=changes | impatient))["work"]}
    assert work["lstm windows trained"]["least_frac"] == pytest.approx((3 + 3 + 3) / 20)
