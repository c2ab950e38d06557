"""The stage `multi_asset` as a run asks for it: joined assets, trained agents, the same bytes every time."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from configs.errors import BadDataError, StopRequested
from configs.events import EventLog
from configs.files import read_json, write_json
from configs.load import resolve
from configs.run_dir import Request, RunDir
from configs.unit import Unit
from ppo.learner.policy import read_policy
from ppo.portfolio import data
from ppo.stages import evaluate
from ppo.stages import multi_asset as stage
from tests.run_dirs import digests, write_csv
from training.artifacts import load_model
from training.demo import demo_bars
from training.features import FEATURE_NAMES, compute
from training.stages import classifiers, prepare
from training.stages.prepare import load_predictions, load_prepared, read_bars

pytestmark = pytest.mark.slow
OWN, OTHER = "ADA-USD_1H", "ETH-USD_1H"
LATE = 400
SETTINGS = (
    "multi_asset.assets=[ETH-USD,ADA-USD]", "classifiers.members=[dlstm,bilstm]", "classifiers.units=4",
    "agent.seeds=1",
    "classifiers.epochs=1", "classifiers.fold_epochs=1", "classifiers.lookback_bars=8", "classifiers.folds=2",
    "multi_asset.num_envs=16", "multi_asset.rollout_steps=16", "multi_asset.minibatch_size=64",
    "multi_asset.epochs=1", "multi_asset.timesteps=1024", "multi_asset.hidden=[8]", "multi_asset.eval_slices=2",
    "multi_asset.eval_every_steps=256", "multi_asset.checkpoint_every_steps=256", "ppo.eval_slices=2",
    "judging.random_shifts=20", "judging.bootstrap_samples=50", "multi_asset.rebalance_threshold=0.001",
)  # fmt: skip
OUTPUTS = {"policy.safetensors", "policy.json", "scaler.json", "history.json", "training.json"}


@pytest.fixture(scope="module")
def template(torch_as_before, tmp_path_factory) -> Path:
    """A run of two assets, of which the other is listed later and has gaps, up to its classifiers."""
    root = tmp_path_factory.mktemp("portfolio")
    run = RunDir(root / "run")
    config = resolve(OWN, "quick", settings=SETTINGS).config
    bars = demo_bars(max_gap_s=config.market.max_gap_s).slice(0, 2_000)
    kept = np.r_[LATE:1_000, 1_003:1_500, 1_520:2_000]
    price = np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.002, len(bars))))
    wild = {name: getattr(bars, name) * price for name in ("open", "high", "low", "close")}
    other = replace(bars, **wild)
    other = replace(other, **{name: getattr(other, name)[kept] for name in vars(other) if name != "timeframe_s"})
    for name, own in ((OWN, bars), (OTHER, other)):
        write_csv(root, name, own.frame())
    facts = {"dataset_digest": bars.digest(), "data_path": "", "data_dirs": [str(root)]}
    assets = [{"name": OWN, "digest": bars.digest()}, {"name": OTHER, "digest": other.digest()}]
    run.save_config(config)
    write_json(run.run_json, facts | {"assets": assets})
    work(run, "prepare", prepare)
    for member in (*config.ensemble.members, "ensemble"):
        work(run, f"classifiers/{member}", classifiers)
    work(run, data.UNIT, stage)
    return run.root


def unit_of(run: RunDir, unit_id: str) -> Unit:
    agents = {name: "digest" for name in (data.UNIT, "multi_asset/seed-0") if unit_id == "evaluate"}
    run.save_request(Request(unit=unit_id, cache_key="key", inputs=agents))
    return Unit(run, unit_id, run.load_config(), EventLog(run.events, unit_id))


def work(run: RunDir, unit_id: str, module: ModuleType) -> dict:
    metrics = module.work(unit_of(run, unit_id))
    run.save_result(unit_id, metrics)
    return metrics


def test_predictions_by_time_are_the_stored_ones_on_the_runs_own_bars_and_never_in_sample(template):
    run = RunDir(template)
    config, prepared = run.load_config(), load_prepared(run)
    for member in config.ensemble.members:
        stored = load_predictions(run, member)
        covered = np.zeros(len(stored), bool)
        for name in ("fold-0", "fold-1", "final"):
            fitted = load_model(run.unit_dir(f"classifiers/{member}") / "models" / name)
            rows = data.rows_of(fitted, prepared.bars, prepared.bars, config)
            again = data._probabilities(fitted, prepared.features, rows, config)
            assert np.array_equal(again, stored[["fall", "stationary", "rise"]].to_numpy()[rows])
            covered[rows] = True
        assert np.array_equal(covered, stored["fitted_until"] >= 0)
    other = pd.read_parquet(run.unit_dir(data.UNIT) / "ETH-USD.parquet")
    known = other["fitted_until"] >= 0
    assert known.sum() > 800 and (other["fitted_until"] < other["t"])[known].all()
    starts = [load_prepared(run).bars.t[int(at)] for at in (400, 800, 1_200)]
    by_model = other[known].groupby("fitted_until")["t"].agg(["min", "max"])
    assert len(by_model) == 3 and (by_model["max"].to_numpy()[:2] < starts[1:]).all()


def test_features_of_each_asset_are_those_of_its_own_bars(template):
    run = RunDir(template)
    bars, _ = read_bars(run, run.load_config(), OTHER)
    stored = pd.read_parquet(run.unit_dir(data.UNIT) / "ETH-USD.parquet")
    assert np.array_equal(stored["close"], bars.close) and bars.segment[-1] == 1
    expected = compute(bars, run.load_config().features)
    assert np.array_equal(stored[list(FEATURE_NAMES)], expected, equal_nan=True)


def test_listing_dates_gaps_and_parts_are_reported_and_played(template):
    run = RunDir(template)
    report, portfolio = read_json(run.unit_dir(data.UNIT) / "assets.json"), data.load_portfolio(run, run.load_config())
    own, other = report["assets"]
    assert (own["symbol"], other["symbol"]) == ("ADA-USD", "ETH-USD") and report["clock"]["rows"] == 2_000
    assert own["on_clock_frac"] == 1 and other["on_clock_frac"] == (2_000 - LATE - 23) / 2_000
    assert other["listed_t"] > other["first_t"] and not other["ended"]
    t = portfolio.tape.t
    for part, (first, stop) in portfolio.parts.items():
        assert report["split"][part][0] == t[first]
        assert [asset["ready"][part] for asset in report["assets"]] == [
            int((portfolio.tape.flags[first:stop, k] & 2 != 0).sum()) for k in range(2)
        ]
    train = portfolio.spans("train")
    assert train[-1][1] <= portfolio.parts["validation"][0] <= portfolio.spans("validation")[0][0]


def test_the_agents_files_say_what_it_is(run):
    metrics = work(run, "multi_asset/seed-0", stage)
    assert set(run.result("multi_asset/seed-0").outputs) == OUTPUTS
    assert set(metrics["validation"]) == {"sharpe", "standard_error", "lower", "upper", "max_drawdown", "hit_rate"}
    sizes = read_policy(run.unit_dir("multi_asset/seed-0")).sizes
    assert sizes.continuous and sizes.actions == 2 and metrics["start"] == "scratch"
    history = read_json(run.unit_dir("multi_asset/seed-0") / "history.json")
    assert len(history[0]["action_means"]) == 2 and sum("validation" in row for row in history) == 4


def test_the_evaluation_scores_the_portfolio_on_the_test_part(run):
    work(run, "multi_asset/seed-0", stage)
    metrics = work(run, "evaluate", evaluate)
    folder = run.unit_dir("evaluate") / "multi_asset"
    found, facts = read_json(folder / "evaluation.json"), read_json(run.unit_dir(data.UNIT) / "assets.json")
    assert metrics["families"]["multi_asset"]["verdict"] == metrics["verdict"] == found["verdict"]
    assert found["portfolio"]["assets"] == ["ADA-USD", "ETH-USD"] and found["portfolio"]["listing"] == facts["assets"]
    assert facts["split"]["test"][0] <= found["test_range"]["first_t"] < found["test_range"]["last_t"]
    equity = pd.read_parquet(folder / "equity.parquet")
    assert len(equity) == found["test_range"]["bars"] == 400 and equity["t"].min() >= facts["split"]["test"][0]
    assert (pd.read_csv(folder / "trades-seed-0.csv")["asset"].unique() == ["ADA-USD", "ETH-USD"]).all()
    entered = read_json(run.unit_dir("evaluate") / "trials.json")["trials"]
    used = {entry["dataset_digest"]: (entry["start"], entry["stop"]) for entry in entered}
    own, other = (asset["digest"] for asset in facts["assets"])
    assert used == {own: (1_600, 2_000), other: (1_600 - LATE - 23, 2_000 - LATE - 23)}, "each by its own bars"
    assert {entry["symbol"] for entry in entered} == {"ADA-USD", "ETH-USD"}
    assert {(entry["first_t"], entry["last_t"]) for entry in entered} == {(equity["t"].min(), equity["t"].max())}
    assert found["trials"]["count"] == metrics["trials"] == 1


def test_a_stopped_unit_goes_on_to_the_same_bytes(template, run, tmp_path):
    shutil.copytree(template, tmp_path / "whole")
    whole = RunDir(tmp_path / "whole")
    for unit_id in (data.UNIT, "multi_asset/seed-1"):
        stops = 0
        while stops < 3:
            unit = unit_of(run, unit_id)
            unit._stop[0] = True
            run.clear_outputs(unit_id)
            with pytest.raises(StopRequested):
                stage.work(unit)
            stops += 1
        work(run, unit_id, stage)
        work(whole, unit_id, stage)
        assert digests(run, unit_id) == digests(whole, unit_id)


def test_without_further_assets_the_runs_own_is_the_portfolio(run):
    config = run.load_config()
    alone = config.model_copy(update={"multi_asset": config.multi_asset.model_copy(update={"assets": ()})})
    run.save_config(alone)
    run.clear_outputs(data.UNIT)
    assert [asset["symbol"] for asset in work(run, data.UNIT, stage)["assets"]] == ["ADA-USD"]
    assert work(run, "multi_asset/seed-0", stage)["steps"] == 1_024
    portfolio, votes = data.load_portfolio(run, alone), load_predictions(run, "ensemble")
    assert np.array_equal(portfolio.tape.flags[:, 0] & 2 != 0, votes["fitted_until"] >= 0)


def test_an_asset_that_changed_or_begins_too_late_is_refused(run, tmp_path):
    identity, bars = read_json(run.run_json), read_bars(run, run.load_config(), OTHER)[0]
    short = bars.slice(900, len(bars))
    write_csv(tmp_path, OTHER, short.frame())
    shutil.copy(Path(identity["data_dirs"][0]) / f"{OWN}.csv", tmp_path)
    write_json(run.run_json, identity | {"data_dirs": [str(tmp_path)]})
    with pytest.raises(BadDataError, match="the data have changed"):
        stage.work(unit_of(run, data.UNIT))
    identity["assets"][1]["digest"] = short.digest()
    write_json(run.run_json, identity | {"data_dirs": [str(tmp_path)]})
    with pytest.raises(BadDataError, match="ETH-USD_1H has 0 bars to decide on in the training part"):
        stage.work(unit_of(run, data.UNIT))


def test_the_description_and_the_calibration_name_the_same_work(template):
    config = RunDir(template).load_config()
    described = stage.describe(config)["work"]
    rates = stage.calibrate(config, 0.2)
    assert {item["name"] for item in described} == set(rates) and all(rate > 0 for rate in rates.values())
