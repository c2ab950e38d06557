"""The unit `synthetic` on a run directory, and what `plan` is told of it."""

import json

import pandas as pd
import pytest

from configs.files import read_json
from configs.run_dir import Request
from tests.training.feature_samples import config_of, random_walk
from tests.training.test_prepare import make_run, prepare
from training.stages.synthetic import calibrate, describe, load_parameters, main
from training.synthetic import REGIMES, SCRIPTS, fit_parameters, fit_stop_row, generate, preset_parameters

SMALL = ("synthetic.scenarios=30", "synthetic.bars=600", "synthetic.scripted_frac=0.5")


@pytest.fixture(scope="module")
def market():
    return random_walk(3_400, seed=3, segments=(1_000,))


def synthetic(run):
    run.save_request(Request(unit="synthetic", cache_key="key", inputs={}))
    return main(["--run-dir", str(run.root), "--unit", "synthetic"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, market):
    run, config = make_run(tmp_path_factory.mktemp("synthetic"), market, *SMALL)
    assert prepare(run) == 0 and synthetic(run) == 0
    return run, config


def test_parameters_are_those_fitted_before_the_stop_row(finished, market):
    run, config = finished
    assert load_parameters(run) == fit_parameters(market, fit_stop_row(market, config), config)
    assert run.result("synthetic").metrics["fit_rows"] == 2_040


def test_the_tags_are_those_of_worlds_made_again_from_the_parameters(finished):
    run, config = finished
    again = generate(load_parameters(run), config.synthetic, config.seed, "train", 10, 5)
    tags = pd.read_parquet(run.unit_dir("synthetic") / "tags.parquet")
    assert len(tags) == 30
    pd.testing.assert_frame_equal(tags.iloc[10:15].reset_index(drop=True), again.tags)


def test_the_gallery_shows_every_script_and_three_plain_scenarios_in_few_candles(finished):
    run, _ = finished
    gallery = pd.read_parquet(run.unit_dir("synthetic") / "gallery.parquet")
    shown = gallery.groupby("index")["script"].first()
    assert sorted(shown) == sorted([*SCRIPTS, *["none"] * 3])
    assert set(gallery["regime"]) <= set(REGIMES)
    for _, candles in gallery.groupby("index"):
        assert 100 < len(candles) <= 250
        assert (candles["high"] >= candles[["open", "close"]].max(axis=1)).all()
        assert (candles["low"] <= candles[["open", "close"]].min(axis=1)).all()


def test_a_candle_of_the_gallery_spans_its_bars(finished):
    run, config = finished
    gallery = pd.read_parquet(run.unit_dir("synthetic") / "gallery.parquet")
    first, second = gallery.iloc[0], gallery.iloc[1]
    world = generate(load_parameters(run), config.synthetic, config.seed, "train", int(first["index"]), 1)
    span = slice(first["bar"], second["bar"])
    assert first["open"] == world.open[0][span][0] and first["close"] == world.close[0][span][-1]
    assert first["high"] == world.high[0][span].max() and first["low"] == world.low[0][span].min()


def test_moments_stand_beside_theory_and_data_as_plain_json(finished):
    run, _ = finished
    moments = read_json(run.unit_dir("synthetic") / "moments.json")
    keys = {"volatility", "kurtosis", "acf_squared", "jumps_per_10000_bars", "dwell_bars"}
    assert all(set(moments[name]) == keys for name in ("data", "generated", "expected"))
    assert len(moments["data"]["acf_squared"]) == 50
    assert moments["data"]["volatility"] == pytest.approx(0.01, rel=0.1)


def test_the_same_unit_again_writes_the_same_bytes(finished):
    run, _ = finished
    before = run.result("synthetic").outputs
    assert synthetic(run) == 0
    assert run.result("synthetic").outputs == before
    assert set(before) == {"parameters.json", "tags.parquet", "gallery.parquet", "moments.json"}


def test_preset_parameters_are_taken_when_asked_for(tmp_path, market):
    run, config = make_run(tmp_path, market, *SMALL, "synthetic.parameters=preset")
    assert prepare(run) == 0 and synthetic(run) == 0
    assert load_parameters(run) == preset_parameters(config)


def test_calibration_measures_every_work_item_of_the_description():
    config = config_of("ADA-EUR_1H", *SMALL)
    described = describe(config)
    rates = calibrate(config, 0.2)
    assert json.loads(json.dumps(described)) == described
    assert set(rates) == {item["name"] for item in described["work"]} and min(rates.values()) > 0
