"""The whole job through the public command line: no look-ahead, no work done twice, bad input refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli import BASE, cli, run_json, settings
from tests.run_dirs import write_csv
from training.demo import demo_bars
from training.market import Bars

pytestmark = pytest.mark.slow

BARS = 3_600
TEST_STARTS = int(BARS * 0.8)
NAME = "ADA-EUR_1H"
PAIR = "[lstm,dlstm]"
SMALL = settings(f"ensemble.members={PAIR}")


def market() -> pd.DataFrame:
    bars: Bars = demo_bars(max_gap_s=6 * 3_600)
    return bars.slice(0, BARS).frame()


def perturbed(frame: pd.DataFrame, first_bar: int) -> pd.DataFrame:
    """Every bar from `first_bar` on moved by a random walk of its own, still a valid bar."""
    rng = np.random.default_rng(5)
    factor = np.exp(np.cumsum(rng.normal(0, 0.02, len(frame) - first_bar)))
    frame = frame.copy()
    frame.loc[first_bar:, ["open", "high", "low", "close"]] *= factor[:, None]
    frame.loc[first_bar:, "volume"] *= rng.uniform(0.5, 2.0, len(factor))
    return frame


def run(directory: Path, frame: pd.DataFrame, *extra: str) -> Path:
    data_dir, runs_dir = write_csv(directory / "data", NAME, frame), directory / "runs"
    result = run_json("--dataset", NAME, "--data-dir", data_dir, "--runs-dir", runs_dir, *BASE, *SMALL, *extra)
    return runs_dir / result["run_id"]


def table(run_dir: Path, path: str) -> pd.DataFrame:
    return pd.read_parquet(run_dir / "stages" / path)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("reference"), market())


def test_nothing_at_or_before_a_bar_depends_on_later_bars(reference, tmp_path):
    t = TEST_STARTS + 300
    other = run(tmp_path, perturbed(market(), t + 1), "--set", f"classifiers.members={PAIR}")
    for path in (
        "prepare/features.parquet",
        "classifiers/lstm/predictions.parquet",
        "classifiers/ensemble/predictions.parquet",
    ):
        before, after = table(reference, path), table(other, path)
        pd.testing.assert_frame_equal(before.iloc[: t + 1], after.iloc[: t + 1], check_exact=True)
        assert not before.iloc[t + 1].equals(after.iloc[t + 1]), "what changes at a bar is seen at it"
    for seed in (0, 1):
        weights = f"stages/ppo/seed-{seed}/policy.safetensors"
        assert (reference / weights).read_bytes() == (other / weights).read_bytes()
    before, after = table(reference, "evaluate/ppo/equity.parquet"), table(other, "evaluate/ppo/equity.parquet")
    last_t = int(market()["t"][t])
    actions = [name for name in before.columns if "action" in name]
    assert actions
    seen = before.loc[before["t"] <= last_t, actions]
    distinct = seen.where(seen >= 0).nunique()
    assert distinct.max() >= 3, "the agents collapsed, so the test would show nothing"
    pd.testing.assert_frame_equal(before[before["t"] <= last_t], after[after["t"] <= last_t], check_exact=True)


def test_out_of_fold_predictions_do_not_depend_on_later_bars(reference, tmp_path):
    t = int(BARS * 0.45)
    other = run(tmp_path, perturbed(market(), t + 1), "--until", "classifiers")
    for member in ("lstm", "gru", "bilstm", "dlstm"):
        path = f"classifiers/{member}/predictions.parquet"
        before, after = table(reference, path).iloc[: t + 1], table(other, path).iloc[: t + 1]
        assert before["rise"].notna().sum() > 100
        pd.testing.assert_frame_equal(before, after, check_exact=True)


def test_a_finished_run_does_no_work_again(reference):
    started = sorted((reference / "events").iterdir())
    sizes = {path.name: path.stat().st_size for path in started if path.name != "supervisor.jsonl"}
    data_dir, runs_dir = reference.parents[1] / "data", reference.parent
    result = run_json("--dataset", NAME, "--data-dir", data_dir, "--runs-dir", runs_dir, *BASE, *SMALL)
    assert result["run_id"] == reference.name
    after = {path.name: path.stat().st_size for path in (reference / "events").iterdir()}
    assert {name: after[name] for name in sizes} == sizes


def test_the_result_object_names_every_agent_and_baseline(reference):
    data_dir, runs_dir = reference.parents[1] / "data", reference.parent
    result = run_json("--dataset", NAME, "--data-dir", data_dir, "--runs-dir", runs_dir, *BASE, *SMALL)
    assert result["exit_code"] == 0
    assert result["verdict"] in {"edge", "collapsed", "no evidence of an edge"}
    assert Path(result["report"]).is_file()
    assert len(result["agents"]) == 2
    assert {"flat", "buy_and_hold"} <= set(result["baselines"])


BOTH_KEYS = "clip_range.*fee_frac|fee_frac.*clip_range"
BAD_INPUT = {
    "empty file": ("", 65, "empty"),
    "header only": ("timestamp,open,high,low,close,volume\n", 65, "no rows|no data|header"),
    "wrong columns": ("a,b,c\n1,2,3\n", 65, "column"),
    "text in numbers": ("timestamp,open,high,low,close,volume\n2024-01-01T00:00:00Z,1,2,0.5,hello,3\n", 65, "hello"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_a_bad_file_is_refused_with_its_code_and_no_traceback(case, tmp_path):
    text, code, part = BAD_INPUT[case]
    (tmp_path / f"{NAME}.csv").write_text(text)
    done = cli("--dataset", NAME, "--data-dir", tmp_path, "--runs-dir", tmp_path / "runs")
    assert_refused(done, code, part)
    assert not list((tmp_path / "runs").glob("*/stages/*")), "nothing half-written"


def test_too_few_bars_says_how_many_are_needed(tmp_path):
    write_csv(tmp_path, NAME, market().iloc[:200])
    options = ("--data-dir", tmp_path, "--runs-dir", tmp_path / "runs", "--skip-preflight", *BASE)
    done = cli("--dataset", NAME, *options)
    assert_refused(done, 65, r"200.*\d{3,}|\d{3,}.*200")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--dataset", "ADA-EURO_1H"], 78, "asset class"),
        (["--dataset", "ADA-USD_1H"], 66, "ADA-EUR_1H"),
        (["--dataset", "ADA-EUR_7H"], 78, "timeframe"),
        (["--dataset", "/etc/passwd"], 78, "dataset name"),
        (["--dataset", NAME, "--run-id", "../x"], 78, "run id"),
        (["--dataset", NAME, "--set", "ppo.clip_rang=1", "--set", "costs.fee_frac=9"], 78, BOTH_KEYS),
        (["--dataset", NAME, "--profile", "fast"], 78, "quick"),
        (["--dataset", NAME, "--no-such-option"], 2, "no-such-option"),
        ([], 2, "--dataset"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_with_its_code_and_no_traceback(arguments, code, part, tmp_path):
    write_csv(tmp_path, NAME, market())
    done = cli("run", "--offline", "--data-dir", tmp_path, "--runs-dir", tmp_path / "runs", *arguments)
    assert_refused(done, code, part)


def test_an_unwritable_runs_directory_is_exit_code_73(tmp_path):
    write_csv(tmp_path, NAME, market())
    (tmp_path / "file").write_text("")
    options = ("--data-dir", tmp_path, "--runs-dir", tmp_path / "file" / "runs", "--skip-preflight", *BASE)
    done = cli("--dataset", NAME, *options)
    assert_refused(done, 73, "file")


def test_a_run_id_that_exists_with_another_configuration_names_the_keys(reference):
    data_dir, runs_dir = reference.parents[1] / "data", reference.parent
    where = ("--data-dir", data_dir, "--runs-dir", runs_dir, "--run-id", reference.name)
    done = cli("--dataset", NAME, *where, *BASE, *SMALL, "--set", "seed=4")
    assert_refused(done, 78, "seed")


def assert_refused(done, code: int, part: str) -> None:
    assert done.returncode == code, f"{done.returncode} != {code}\n{done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr + done.stdout
    assert re.search(part, done.stderr, flags=re.I | re.S), done.stderr[-2000:]
