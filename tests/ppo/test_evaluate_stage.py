"""The unit that scores the test part, and the scoring on another dataset, on a small real run directory."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from configs.errors import BadDataError
from configs.events import EventLog
from configs.files import read_json, write_json
from configs.load import resolve
from configs.run_dir import Request, RunDir
from configs.unit import Unit
from configs.verdicts import COLLAPSED, EDGE, NO_EVIDENCE, leading
from ppo.learner.policy import Policy, PolicySizes, save_policy
from ppo.rules import ACTIONS, observation_size
from ppo.stages import evaluate, evaluate_other
from ppo.trials import LEDGER_NAME
from tests.run_dirs import write_csv
from training.demo import demo_bars
from training.market import Bars
from training.scaling import Scaler
from training.sources.load import load_dataset
from training.stages import classifiers, prepare
from training.streams import stream

BARS = 2_600
SETTINGS = (
    "classifiers.members=[lstm,gru]",
    "ensemble.members=[lstm]",
    "classifiers.lookback_bars=8",
    "classifiers.units=4",
    "classifiers.folds=2",
    "classifiers.epochs=1",
    "classifiers.fold_epochs=1",
    "classifiers.window_stride=8",
    "ppo.hidden=[8]",
    "agent.seeds=2",
    "judging.random_shifts=50",
    "judging.bootstrap_samples=100",
)

MONTHS = ("walk_forward.windows=2", "walk_forward.first_test_month=2023-03")


def market(start: int = 0) -> Bars:
    return demo_bars(max_gap_s=6 * 3_600).slice(start, start + BARS)


def work(run: RunDir, module, unit_id: str, cache_key: str = "key") -> dict:
    agents = sorted(path.parent.relative_to(run.stages).as_posix() for path in run.stages.rglob("policy.json"))
    run.save_request(Request(unit=unit_id, cache_key=f"{unit_id}-{cache_key}", inputs=dict.fromkeys(agents, "digest")))
    unit = Unit(run, unit_id, run.load_config(), EventLog(run.events, unit_id))
    metrics = module.work(unit)
    run.save_result(unit_id, metrics)
    return metrics


def untrained_agents(run: RunDir) -> None:
    """Policies as drawn: they trade a lot and know nothing."""
    config, prepared = run.load_config(), prepare.load_prepared(run)
    rows = prepared.features[slice(*prepared.split.train)]
    size = observation_size(config.env, 5 + 4 * len(config.ensemble.members) + 5)
    for seed in range(config.agent.seeds):
        unit_id = f"ppo/seed-{seed}"
        run.save_request(Request(unit=unit_id, cache_key=unit_id, inputs={}))
        generator = torch.Generator().manual_seed(seed)
        policy = Policy(PolicySizes(observation=size, actions=ACTIONS, hidden=config.ppo.hidden), generator)
        save_policy(run.unit_dir(unit_id), policy)
        write_json(run.unit_dir(unit_id) / "scaler.json", Scaler.fit(rows[np.isfinite(rows).all(axis=1)]).to_json())
        run.save_result(unit_id, {})


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A runs directory with one run, finished up to `evaluate`."""
    root = tmp_path_factory.mktemp("evaluate")
    data = write_csv(root / "data", "ADA-EUR_1H", market().frame())
    config = resolve("ADA-EUR_1H", "quick", settings=SETTINGS).config
    digest = load_dataset("ADA-EUR_1H", [data], options=config.dataset)[0].digest()
    run = RunDir(root / "runs" / "one")
    write_json(run.run_json, {"data_path": "", "data_dirs": [str(data)], "dataset_digest": digest})
    run.save_config(config)
    work(run, prepare, "prepare")
    for member in (*config.classifiers.members, "ensemble"):
        work(run, classifiers, f"classifiers/{member}")
    untrained_agents(run)
    return root


@pytest.fixture(scope="module")
def evaluated(template) -> RunDir:
    """The run with its test part scored once; tests only read it."""
    run = RunDir(template / "runs" / "one")
    work(run, evaluate, "evaluate")
    return run


@pytest.fixture
def fresh(template, tmp_path) -> RunDir:
    """A copy of the run in a runs directory of its own, not yet scored."""
    source = template / "runs" / "one"
    shutil.copytree(source, tmp_path / "runs" / "one", ignore=shutil.ignore_patterns("evaluate"))
    return RunDir(tmp_path / "runs" / "one")


def evaluation_of(run: RunDir) -> dict:
    return read_json(run.unit_dir("evaluate") / "ppo" / "evaluation.json")


def equity_of(run: RunDir) -> pd.DataFrame:
    return pd.read_parquet(run.unit_dir("evaluate") / "ppo" / "equity.parquet")


def test_every_key_that_is_written_is_described(evaluated):
    written = evaluation_of(evaluated)
    described = evaluate.__doc__ or ""
    listed = re.findall(r"^    ([a-z_]+)  +\S", described, flags=re.MULTILINE)
    assert sorted(listed) == sorted(written)
    metrics = described[described.index("METRICS = ") : described.index("RANDOM = ")]
    assert set(written["agents"][0]["metrics"]) == set(re.findall(r'"([a-z_]+)"', metrics))
    assert set(written["mean"]) >= set(written["agents"][0]["metrics"]) | {"dsr", "seeds"}
    random = described[described.index("RANDOM = ") : described.index("`equity.parquet`")]
    assert set(written["baselines"]["random"]) == set(re.findall(r'"([a-z_0-9]+)"', random))
    columns = described[described.index("`equity.parquet`") : described.index("`trades-seed")]
    for column in equity_of(evaluated).columns:
        assert re.sub(r"_\d$", "_<i>", column) in columns


def test_only_the_test_part_is_scored_and_all_of_it(evaluated):
    prepared = prepare.load_prepared(evaluated)
    start, stop = prepared.split.test
    table, facts = equity_of(evaluated), evaluation_of(evaluated)["test_range"]
    assert table["t"].tolist() == prepared.bars.t[start:stop].tolist()
    assert (facts["start"], facts["stop"], facts["bars"]) == (start, stop, stop - start)
    assert facts["returns"] == facts["bars"] - facts["spans"]


def test_the_curves_are_those_of_the_metrics(evaluated):
    table, written = equity_of(evaluated), evaluation_of(evaluated)
    curves = {f"seed_{agent['seed']}": agent["metrics"] for agent in written["agents"]} | {"mean": written["mean"]}
    curves |= {name: written["baselines"][name] for name in ("flat", "buy_and_hold", "moving_average")}
    for name, metrics in curves.items():
        equity = table[f"equity_{name}"]
        assert equity.iloc[0] == 10_000
        assert equity.iloc[-1] / 10_000 - 1 == pytest.approx(metrics["total_return"], abs=1e-12)


def test_the_trades_lead_to_the_final_equity(evaluated):
    for seed in range(2):
        ledger = pd.read_csv(evaluated.unit_dir("evaluate") / "ppo" / f"trades-seed-{seed}.csv", keep_default_na=False)
        assert ledger["equity_after"].iloc[-1] == equity_of(evaluated)[f"equity_seed_{seed}"].iloc[-1]
        assert len(ledger) > 10


def test_every_classifier_and_the_ensemble_are_scored_on_test(evaluated):
    scores = read_json(evaluated.unit_dir("evaluate") / "classifiers.json")
    assert sorted(scores) == ["ensemble", "gru", "lstm"]
    assert scores["gru"]["first_t"] >= evaluation_of(evaluated)["test_range"]["first_t"]


def test_the_result_has_the_summary(evaluated):
    metrics = evaluated.result("evaluate").metrics
    assert metrics["verdict"] == evaluation_of(evaluated)["verdict"]
    assert [agent["seed"] for agent in metrics["agents"]] == [0, 1]


def test_the_same_scoring_again_gives_the_same_bytes_and_counts_once(fresh):
    work(fresh, evaluate, "evaluate")
    first = fresh.result("evaluate")
    work(fresh, evaluate, "evaluate")
    assert fresh.result("evaluate") == first
    assert evaluation_of(fresh)["trials"]["count"] == 1


def test_a_unit_killed_between_the_ledger_and_its_result_counts_once(evaluated, fresh, monkeypatch):
    def killed(*_):
        raise KilledError

    for moment in ("write_evaluation", "summary_of"):
        monkeypatch.setattr(evaluate, moment, killed)
        with pytest.raises(KilledError):
            work(fresh, evaluate, "evaluate")
        monkeypatch.undo()
        assert fresh.result("evaluate") is None
        assert len((fresh.root.parent / LEDGER_NAME).read_text().splitlines()) == 1
    work(fresh, evaluate, "evaluate")
    assert fresh.result("evaluate") == evaluated.result("evaluate")
    assert evaluation_of(fresh)["trials"]["count"] == 1


class KilledError(Exception):
    """The process is gone."""


def test_another_scoring_of_the_same_bars_raises_the_count(fresh):
    work(fresh, evaluate, "evaluate")
    work(fresh, evaluate, "evaluate", cache_key="changed settings")
    trials = evaluation_of(fresh)["trials"]
    assert trials["count"] == len(trials["sharpes"]) == 2


def test_plan_is_told_what_the_unit_needs(quick_config):
    described = evaluate.describe(quick_config)
    assert {"bars_needed", "memory_bytes", "work"} <= described.keys()
    families, months, scored = described["work"]
    assert families["amount"] == pytest.approx(3 * 0.2) and families["per"] == "bar", (
        "three families, a fifth of the bars"
    )
    assert months["amount"] == pytest.approx(12 * 8_760 / 12) and scored["amount"] == pytest.approx(5 * 0.2)


def other(run: RunDir, data: Path, dataset: str, out: Path, capsys) -> tuple[int, str, str]:
    arguments = ["--run-dir", run.root, "--dataset", dataset, "--data-dir", data, "--out", out]
    code = evaluate_other.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def noisy(bars: Bars) -> Bars:
    """Other prices on the same stamps."""
    factor = np.exp(np.cumsum(stream(1, "test").normal(0, 0.002, len(bars))))
    frame = bars.frame()
    frame[["open", "high", "low", "close"]] = frame[["open", "high", "low", "close"]].mul(factor, axis=0)
    return Bars.from_frame(frame, bars.timeframe_s)


def test_another_market_is_scored_whole_and_the_overlap_is_said(fresh, tmp_path, capsys):
    data = write_csv(tmp_path / "data", "ETH-EUR_1H", noisy(market()).frame())
    code, printed, _ = other(fresh, data, "ETH-EUR_1H", tmp_path / "out", capsys)
    answer = json.loads(printed)
    assert code == 0
    assert not answer["scope"]["same_market"]
    assert answer["test_range"]["bars"] > 0.9 * BARS
    assert answer["scope"]["bars_in_fit_period"] == pytest.approx(0.8 * BARS, rel=0.05)
    assert read_json(tmp_path / "out" / "evaluation.json")["verdict"] == answer["verdict"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "evaluation.json", "equity.parquet", "trades-seed-0.csv", "trades-seed-1.csv",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["ADA-EUR_1H", "ADA-USDT_1H"])
def test_of_the_runs_own_market_only_later_bars_are_scored(name, fresh, tmp_path, capsys):
    data = write_csv(tmp_path / "data", name, market(start=1_000).frame())
    code, printed, _ = other(fresh, data, name, tmp_path / "out", capsys)
    answer, prepared = json.loads(printed), prepare.load_prepared(fresh)
    assert code == 0 and answer["scope"]["same_market"]
    assert answer["test_range"]["first_t"] == prepared.bars.t[prepared.split.test[0]]
    assert answer["scope"]["bars_in_fit_period"] == 0


def test_the_same_bars_scored_by_both_roads_give_the_same_tracks(evaluated, tmp_path, capsys):
    shutil.copytree(evaluated.root, tmp_path / "runs" / "one")
    run, data = RunDir(tmp_path / "runs" / "one"), evaluated.root.parents[1] / "data"
    code, _, _ = other(run, data, "ADA-EUR_1H", tmp_path / "out", capsys)
    assert code == 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "equity.parquet"), equity_of(evaluated))


@pytest.mark.parametrize(
    ("own", "other", "same"),
    [
        ("EUR-USD_1H", "USD-EUR_1H", True),
        ("EUR-USD_1H", "EUR-JPY_1H", False),
        ("ADA-EUR_1H", "ADA-USD_1H", True),
        ("ADA-EUR_1H", "BTC-EUR_1H", False),
    ],
)
def test_a_pair_turned_over_is_the_same_market(own, other, same):
    assert evaluate_other.is_same_market(own, resolve(other, "quick").config) is same


def test_another_asset_class_brings_its_own_costs_and_calendar(quick_config):
    gold = evaluate_other.config_for(quick_config, "XAU-USD_1H")
    assert gold.costs.fee_frac == 0.0002
    assert gold.market.bars_per_year == 23 * 260
    assert gold.features == quick_config.features
    assert evaluate_other.config_for(quick_config, "DEMO-USD_1H").dataset.synthetic
    assert evaluate_other.config_for(quick_config, "BTC-USDT_1H").costs == quick_config.costs


@pytest.mark.parametrize(
    ("dataset", "code", "part"),
    [
        ("ADA-EUR_4H", 78, "1H"),
        ("QQQ-EUR_1H", 78, "asset class"),
        ("BTC-EUR_1H", 66, "BTC-EUR_1H"),
        ("ADA-EUR_1H", 65, "no bars to score"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(dataset, code, part, fresh, tmp_path, capsys):
    for name in ("ADA-EUR_1H", "ADA-EUR_4H", "QQQ-EUR_1H"):
        data = write_csv(tmp_path / "data", name, market().slice(0, 1_500).frame())
    found, printed, complaint = other(fresh, data, dataset, tmp_path / "out", capsys)
    assert (found, printed, complaint.count("\n")) == (code, "", 1)
    assert part in complaint
    assert not (tmp_path / "out").exists()


def test_siblings_are_trials_of_each_other_and_the_run_has_the_best_verdict(fresh):
    for seed in range(2):
        shutil.copytree(fresh.unit_dir(f"ppo/seed-{seed}"), fresh.unit_dir(f"lstm_ppo/seed-{seed}"))
    metrics = work(fresh, evaluate, "evaluate")
    assert list(metrics["families"]) == ["ppo", "lstm_ppo"]
    assert metrics["agents"] == metrics["families"]["ppo"]["agents"]
    evaluations = [read_json(fresh.unit_dir("evaluate") / name / "evaluation.json") for name in metrics["families"]]
    assert [evaluation["trials"]["count"] for evaluation in evaluations] == [2, 2]
    assert len(read_json(fresh.unit_dir("evaluate") / "trials.json")["trials"]) == 2
    targets = {row["name"]: row for row in read_json(fresh.unit_dir("evaluate") / "targets.json")["targets"]}
    assert targets["lstm_less_base"]["measured"] == 0, "they are the same agents"
    assert targets["multi_asset_sharpe"]["state"] == "not measured"


def test_a_run_without_agents_says_what_to_run(fresh):
    shutil.rmtree(fresh.unit_dir("ppo"))
    with pytest.raises(BadDataError, match="no agents to score.*run one of these stages first"):
        work(fresh, evaluate, "evaluate")


def test_a_family_that_is_only_partly_there_is_refused_and_what_is_missing_is_named(fresh):
    shutil.copytree(fresh.unit_dir("ppo/seed-1"), fresh.unit_dir("lstm_ppo/seed-1"))
    with pytest.raises(BadDataError, match="only a part of lstm_ppo is done; missing: lstm_ppo/seed-0"):
        work(fresh, evaluate, "evaluate")
    shutil.rmtree(fresh.unit_dir("lstm_ppo"))
    shutil.copytree(fresh.unit_dir("ppo/seed-0"), fresh.unit_dir("walk_forward/2023-03"))
    fresh.save_config(resolve("ADA-EUR_1H", "quick", settings=(*SETTINGS, *MONTHS)).config)
    with pytest.raises(BadDataError, match="missing: walk_forward/2023-04"):
        work(fresh, evaluate, "evaluate")


@pytest.mark.parametrize(
    ("verdicts", "who"),
    [
        ({}, ""),
        ({"ppo": NO_EVIDENCE, "lstm_ppo": EDGE}, "lstm_ppo"),
        ({"ppo": COLLAPSED, "lstm_ppo": NO_EVIDENCE, "walk_forward": NO_EVIDENCE}, "lstm_ppo"),
        ({"ppo": COLLAPSED, "walk_forward": COLLAPSED}, "ppo"),
        ({"ppo": ["odd"], "walk_forward": COLLAPSED}, "walk_forward"),
    ],
)
def test_the_leading_family_has_the_runs_verdict(verdicts, who):
    assert leading(verdicts) == who
