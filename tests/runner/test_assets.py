"""The datasets of a portfolio: checked before anything runs, part of the run's identity, recorded."""

import json
from pathlib import Path

import pandas as pd
import pytest

from configs.run_dir import RunDir
from configs.schema import Config
from tests.runner.test_cli import call
from training.demo import demo_bars

pytestmark = pytest.mark.slow

BARS = 3_400
CHOICE = ("--offline", "--skip-preflight", "--until", "prepare")


def write_bars(directory: Path, symbol: str, first: int = 0, scale: float = 1.0, bars: int = BARS) -> Path:
    directory.mkdir(exist_ok=True)
    frame = demo_bars(max_gap_s=6 * 3_600).slice(first, first + bars).frame()
    prices = ["open", "high", "low", "close"]
    stamps = pd.to_datetime(frame["t"], unit="s", utc=True).dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    frame[prices] *= scale
    path = directory / f"{symbol}_1H.csv"
    frame.assign(timestamp=stamps)[["timestamp", *prices, "volume"]].to_csv(path, index=False)
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    write_bars(tmp_path / "data", "BTC-USDT")
    write_bars(tmp_path / "data", "ETH-USDT", scale=2.0)
    return tmp_path / "data"


def asked(data: Path, assets: str, *more: str) -> tuple:
    where = ("--data-dir", data, "--runs-dir", data.parent / "runs")
    return ("--dataset", "BTC-USDT_1H", "--assets", assets, *where, *CHOICE, *more)


def run_id(data: Path, assets: str) -> str:
    shown = call(*asked(data, assets, "--dry-run", "--json"))
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)["run_id"]


@pytest.mark.parametrize(
    ("assets", "code", "part"),
    [
        ("BTC-USDT,SOL-USDT", 66, "SOL-USDT_1H"),
        ("BTC-USDT,ADA-EUR", 78, "quote"),
        ("ETH-USDT", 78, "own symbol BTC-USDT"),
        ("BTC-USDT,BTC-USDT", 78, "different symbols"),
        ("BTC", 78, "expected different symbols"),
    ],
)
def test_wrong_assets_are_refused_before_anything_runs(data, assets, code, part):
    done = call(*asked(data, assets))
    assert (done.returncode, part in done.stderr) == (code, True), done.stderr
    assert not list((data.parent / "runs").glob("*"))


def test_assets_without_a_common_time_are_refused_with_both_ranges(data):
    write_bars(data, "ETH-USDT", first=7_000)
    done = call(*asked(data, "BTC-USDT,ETH-USDT"))
    assert done.returncode == 65 and "no time in common" in done.stderr
    assert "ETH-USDT_1H (2023-" in done.stderr and "BTC-USDT_1H (2023-01-01 to 2023-05-22)" in done.stderr


LISTED_LATE = {"first": round(0.6 * BARS) - 100}
ENDED_EARLY = {"bars": round(0.6 * BARS) // 5}
"""Within the first of five pieces of the training part, which no model predicts."""


@pytest.mark.parametrize("listed", [LISTED_LATE, ENDED_EARLY, {"first": round(0.6 * BARS)}])
def test_an_asset_that_cannot_be_traded_enough_in_the_training_part_is_refused_before_any_stage(data, listed):
    write_bars(data, "ETH-USDT", **listed)
    done = call(*asked(data, "BTC-USDT,ETH-USDT"))
    assert done.returncode == 65 and "bars to decide on in the training part of BTC-USDT_1H (2023-01-01" in done.stderr
    assert not list((data.parent / "runs").glob("*"))


def test_an_asset_listed_in_time_is_taken(data):
    write_bars(data, "ETH-USDT", first=round(0.6 * BARS) - 200)
    assert call(*asked(data, "BTC-USDT,ETH-USDT", "--dry-run")).returncode == 0


def test_a_limit_that_one_order_could_cost_is_refused_before_any_stage(data):
    done = call(*asked(data, "BTC-USDT,ETH-USDT", "--set", "multi_asset.gross_limit=400"))
    assert done.returncode == 78 and "gross_limit=400" in done.stderr


def test_a_bad_file_of_an_asset_is_refused_like_that_of_the_dataset(data):
    (data / "ETH-USDT_1H.csv").write_text("timestamp,open,high,low,close,volume\n2024-01-01T00:00:00Z,1,2,0.5,x,3\n")
    done = call(*asked(data, "BTC-USDT,ETH-USDT"))
    assert done.returncode == 65 and "ETH-USDT" in done.stderr


def test_the_assets_and_their_bars_decide_which_run_it_is(data):
    alone, both = run_id(data, "BTC-USDT"), run_id(data, "BTC-USDT,ETH-USDT")
    write_bars(data, "ETH-USDT", scale=3.0)
    assert len({alone, both, run_id(data, "BTC-USDT,ETH-USDT")}) == 3
    assert run_id(data, "BTC-USDT") == alone


def test_a_run_records_its_assets_and_goes_on_without_their_files_where_nothing_reads_them(data):
    done = call(*asked(data, "BTC-USDT,ETH-USDT", "--json"))
    assert done.returncode == 0, done.stderr
    run = RunDir(data.parent / "runs" / json.loads(done.stdout)["run_id"])
    own, other = json.loads(run.run_json.read_text())["assets"]
    assert (own["name"], other["name"]) == ("BTC-USDT_1H", "ETH-USDT_1H")
    assert own["digest"] != other["digest"] and Path(other["path"]).name == "ETH-USDT_1H.csv"
    (data / "ETH-USDT_1H.csv").unlink()
    where = ("--runs-dir", run.root.parent)
    assert call("--resume", run.run_id, *where, *CHOICE).returncode == 0
    refused = call("--resume", run.run_id, *where, "--assets", "BTC-USDT")
    assert refused.returncode == 2 and "--assets" in refused.stderr
    write_bars(data, "ETH-USDT", scale=3.0)
    changed = call("--resume", run.run_id, *where, *CHOICE)
    assert changed.returncode == 65 and "ETH-USDT" in changed.stderr
    renamed = call(*asked(data, "BTC-USDT,ETH-USDT", "--run-id", run.run_id, "--until", "classifiers"))
    assert renamed.returncode == 78 and "digest of the data ETH-USDT_1H" in renamed.stderr


def test_the_datasets_of_a_portfolio_are_the_runs_own_and_the_others_of_the_same_timeframe_and_range():
    from configs.load import resolve

    def names(dataset: str, assets: str) -> tuple[str, ...]:
        config: Config = resolve(dataset, "quick", settings=[f"multi_asset.assets={assets}"]).config
        return config.asset_datasets()

    assert names("ETH-USDT_1H", "[]") == ("ETH-USDT_1H",)
    ranged = names("ETH-USDT_1H_20230101-20231231", "[BTC-USDT, ETH-USDT]")
    assert ranged == ("ETH-USDT_1H_20230101-20231231", "BTC-USDT_1H_20230101-20231231")
