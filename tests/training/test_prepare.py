"""The unit `prepare` on a run directory: what it writes, and what it refuses."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from configs.errors import BadDataError
from configs.files import write_json
from configs.run_dir import Request, RunDir
from tests.run_dirs import write_csv
from tests.training.feature_samples import config_of, random_walk
from training.features import FEATURE_NAMES, compute
from training.market import Bars
from training.sources.load import load_dataset
from training.splits import bars_needed, split
from training.stages.prepare import check_enough, describe, load_prepared, main

DATASET = "ADA-EUR_1H"


def make_run(root, bars, *changes):
    """A run directory that asks for `prepare` on these bars, and its configuration."""
    root.mkdir(exist_ok=True)
    path = root / f"{DATASET}.csv"
    write_csv(root, DATASET, bars.frame())
    config = config_of(DATASET, *changes)
    digest = load_dataset(DATASET, [root], options=config.dataset)[0].digest()
    run = RunDir(root / "runs" / "one")
    write_json(run.run_json, {"data_path": str(path), "data_dirs": [str(root)], "dataset_digest": digest})
    run.save_config(config)
    run.save_request(Request(unit="prepare", cache_key="key", inputs={}))
    return run, config


def prepare(run):
    return main(["--run-dir", str(run.root), "--unit", "prepare"])


@pytest.fixture
def market():
    return random_walk(3_400, seed=3, segments=(1_000,))


def test_a_later_unit_reads_the_bars_features_and_split_of_the_dataset(tmp_path, market):
    run, config = make_run(tmp_path, market)
    assert prepare(run) == 0
    prepared = load_prepared(run)
    np.testing.assert_array_equal(prepared.bars.segment, market.segment)
    assert prepared.bars.digest() == market.digest() == prepared.dataset["digest"]
    assert np.ascontiguousarray(prepared.features).tobytes() == compute(market, config.features).tobytes()
    assert prepared.split == split(3_400, config.splits)
    metrics = run.result("prepare").metrics
    assert metrics["segments"] == 2 and metrics["rows_with_features"] == 3_400 - 2 * metrics["warmup_bars"]


def test_the_features_table_names_its_bars_and_columns(tmp_path, market):
    run, _ = make_run(tmp_path, market)
    prepare(run)
    table = pd.read_parquet(run.unit_dir("prepare") / "features.parquet")
    assert table.columns.tolist() == ["t", *FEATURE_NAMES]
    assert table["t"].tolist() == market.t.tolist()


def test_the_same_bars_in_another_directory_give_the_same_bytes(tmp_path, market):
    outputs = []
    for name in ("here", "there"):
        run, _ = make_run(tmp_path / name, market)
        prepare(run)
        outputs.append(run.result("prepare").outputs)
    assert outputs[0] == outputs[1]
    assert set(outputs[0]) == {"bars.parquet", "features.parquet", "splits.json", "dataset.json"}


def test_a_dataset_that_changed_since_the_run_began_is_refused(tmp_path, market, capsys):
    run, _ = make_run(tmp_path, market)
    close = market.close.copy()
    close[7] *= 1.0001
    changed = replace(market, close=close, high=np.maximum(market.high, close))
    write_csv(tmp_path, DATASET, changed.frame())
    assert prepare(run) == 65
    assert "the data have changed" in capsys.readouterr().err
    assert run.result("prepare") is None


def test_too_few_bars_say_how_many_are_needed(tmp_path, market, capsys):
    run, config = make_run(tmp_path, market.slice(0, 2_000))
    assert prepare(run) == 65
    message = capsys.readouterr().err
    assert "has 2,000 bars" in message and f"at least {bars_needed(config):,}" in message


def test_the_bars_needed_are_enough_and_one_less_is_not():
    config = config_of(DATASET)
    bars = random_walk(bars_needed(config))
    check_enough(bars, config)
    with pytest.raises(BadDataError, match="needs at least"):
        check_enough(bars.slice(0, len(bars) - 1), config)


@pytest.mark.parametrize(
    ("torn", "named"), [((0, 700), "training rows"), ((2_050, 2_650), "validation"), ((2_720, 3_400), "test")]
)
def test_a_part_that_gaps_leave_empty_is_refused(torn, named):
    bars = random_walk(3_400, segments=range(*torn, 50))
    with pytest.raises(BadDataError, match=named):
        check_enough(bars, config_of(DATASET))


def test_the_run_s_own_longest_gap_cuts_the_segments(tmp_path):
    walk = random_walk(3_400, seed=5)
    late = np.arange(3_400) >= 2_000
    bars = Bars(**{**vars(walk), "t": walk.t + 3_600 * 3 * late})
    run, _ = make_run(tmp_path, bars, "market.max_gap_s=7200")
    assert prepare(run) == 0
    assert np.flatnonzero(np.diff(load_prepared(run).bars.segment)).tolist() == [1_999]


def test_the_demo_needs_no_file(tmp_path):
    config = config_of("DEMO-USD_1H")
    run = RunDir(tmp_path / "demo")
    digest = load_dataset("DEMO-USD_1H", [])[0].digest()
    write_json(run.run_json, {"data_path": "", "data_dirs": [], "dataset_digest": digest})
    run.save_config(config)
    run.save_request(Request(unit="prepare", cache_key="key", inputs={}))
    assert prepare(run) == 0
    prepared = load_prepared(run)
    assert prepared.dataset["synthetic"] and prepared.dataset["path"] == "" and len(prepared.bars) == 17_520


def test_real_hourly_bars_are_prepared_whole(tmp_path, real_data):
    bars, report = load_dataset(DATASET, [real_data])
    run = RunDir(tmp_path / "real")
    write_json(run.run_json, {"data_path": report.path, "data_dirs": [], "dataset_digest": report.digest})
    run.save_config(config_of(DATASET))
    run.save_request(Request(unit="prepare", cache_key="key", inputs={}))
    assert prepare(run) == 0
    prepared = load_prepared(run)
    assert len(prepared.bars) == 17_491 and np.isfinite(prepared.features[33:]).all()


def test_plan_hears_how_many_bars_are_needed():
    config = config_of(DATASET)
    facts = describe(config)
    assert facts["bars_needed"] == bars_needed(config) and facts["memory_bytes"] > 10**8
    assert all(item["amount"] > 0 and item["rate_per_s"] > 0 for item in facts["work"])
