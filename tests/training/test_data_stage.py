"""`python -m training.stages.data` as the runner starts it: answers, exit codes, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.calendar import month_of
from configs.errors import ExitCode
from training.splits import Split, folds
from training.stages.data import main

ROOT = Path(__file__).parents[2]
REAL = ROOT / "../shared/data"
START = 1_704_067_200
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real market data in {REAL}")


def save(directory: Path, name: str = "BTC-USDT_1H.csv", rows: int = 50) -> Path:
    path = directory / name
    lines = ["timestamp,open,high,low,close,volume"]
    lines += [f"{START + 3_600 * row},10,12,9,{10 + row % 2},5" for row in range(rows)]
    path.write_text("\n".join(lines))
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.stages.data", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main([*map(str, arguments), "--json"]) == ExitCode.DONE
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    return json.loads(captured.out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([*map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return code, captured.err


def test_check_prints_one_object_with_all_that_the_runner_reads(tmp_path, capsys):
    path = save(tmp_path)
    report = answer(capsys, "check", "--dataset", "BTC-USDT_1H", "--data-dir", tmp_path, "--offline")
    assert report["path"] == str(path)
    assert report.keys() >= {
        "name", "path", "source_format", "timezone", "digest", "rows", "first_t", "last_t", "timeframe_s",
        "asset_class", "segments", "gaps", "duplicates", "out_of_order", "zero_volume", "outlier_moves",
        "synthetic", "dropped",
    }  # fmt: skip
    assert (report["rows"], report["first_t"], report["last_t"]) == (50, START, START + 49 * 3_600)
    assert report["segments"] == [{"first_t": START, "last_t": START + 49 * 3_600, "rows": 50}]
    assert (report["asset_class"], report["timeframe_s"], report["synthetic"]) == ("crypto", 3_600, False)


@pytest.mark.parametrize(("frac", "pieces"), [(0.6, 4), (0.55, 2), (1.0, 1)])
def test_check_says_where_the_training_part_and_its_predictions_lie(tmp_path, capsys, frac, pieces):
    save(tmp_path, rows=57)
    options = ("--data-dir", tmp_path, "--offline", "--train-frac", frac, "--folds", pieces)
    report = answer(capsys, "check", "--dataset", "BTC-USDT_1H", *options)
    train = (0, round(57 * frac))
    chain = folds(Split(train, (train[1], 57), (57, 57)), pieces, horizon=1)
    assert report["predicted_t"] == START + 3_600 * chain[0].predict_start
    assert report["train_stop_t"] == START + 3_600 * train[1]


def test_check_counts_what_each_month_has_for_models_and_agents(tmp_path, capsys):
    """50 hours of January and no gap: 10 before the first window's last bar, the last 4 have no label."""
    save(tmp_path)
    options = ("--data-dir", tmp_path, "--offline", "--before-bars", 10, "--horizon-bars", 4, "--max-gap-s", 7_200)
    report = answer(capsys, "check", "--dataset", "BTC-USDT_1H", *options)
    assert report["months"] == {month_of(START): {"samples": 50 - 10 - 4, "steps": 50 - 10 - 1}}


def test_check_for_a_person_names_every_fact(tmp_path, capsys):
    save(tmp_path)
    assert main(["check", "--dataset", "BTC-USDT_1H", "--data-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for word in (
        "50 bars",
        "format",
        "time zone",
        "range",
        "segments",
        "gaps",
        "zero volume",
        "outliers",
        "duplicates",
    ):
        assert word in text


def test_check_takes_a_path_and_reads_it_as_told(tmp_path, capsys):
    path = save(tmp_path, "minutes_of_something.csv")
    report = answer(capsys, "check", "--dataset", path, "--symbol", "EUR-USD", "--timeframe", "4H", "--resample")
    assert (report["name"], report["rows"], report["asset_class"]) == ("EUR-USD_4H", 12, "fx")
    declared = answer(
        capsys, "check", "--dataset", path, "--symbol", "AB-CD", "--timeframe", "1H", "--asset-class", "fx"
    )
    assert (declared["name"], declared["asset_class"]) == ("AB-CD_1H", "fx")


def test_the_demo_is_there_without_any_file(tmp_path, capsys):
    report = answer(capsys, "check", "--dataset", "DEMO-USD_1H", "--data-dir", tmp_path, "--offline")
    assert (report["rows"], report["synthetic"], report["path"]) == (17_520, True, "")
    located = answer(capsys, "locate", "--dataset", "DEMO-USD_1H", "--data-dir", tmp_path)
    assert located == {"name": "DEMO-USD_1H", "path": "", "synthetic": True}


def test_locate_says_where_without_reading(tmp_path, capsys):
    (tmp_path / "BTC-USDT_1H.parquet").write_bytes(b"not read")
    ranged = "BTC-USDT_1H_20240101-20240131"
    located = answer(capsys, "locate", "--dataset", ranged, "--data-dir", tmp_path)
    assert located == {"name": ranged, "path": str(tmp_path / "BTC-USDT_1H.parquet"), "synthetic": False}


def test_list_shows_good_files_with_their_range_and_bad_ones_with_the_reason(tmp_path, capsys):
    save(tmp_path)
    (tmp_path / "ETH-USDT_1H.csv").write_text("")
    (tmp_path / "notes.txt").write_text("not a dataset")
    good, bad = answer(capsys, "list", "--data-dir", tmp_path)["datasets"]
    assert (good["name"], good["rows"], good["first_t"]) == ("BTC-USDT_1H", 50, START)
    assert bad["name"] == "ETH-USDT_1H"
    assert "is empty" in bad["error"]


def test_an_import_is_canonical_repeatable_and_never_overwrites(tmp_path, capsys):
    path = save(tmp_path, "export_btcusdt_1h.csv")
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        report = answer(capsys, "import", path, "--symbol", "BTC-USDT", "--timeframe", "1H", "--data-dir", directory)
        assert report["written"] == str(directory / "BTC-USDT_1H.csv.gz")
    assert (one / "BTC-USDT_1H.csv.gz").read_bytes() == (two / "BTC-USDT_1H.csv.gz").read_bytes()
    checked = answer(capsys, "check", "--dataset", "BTC-USDT_1H", "--data-dir", one)
    assert checked["digest"] == report["digest"]
    code, message = refusal(capsys, "import", path, "--symbol", "BTC-USDT", "--data-dir", one)
    assert code == ExitCode.CANNOT_WRITE
    assert "is BTC-USDT_1H already" in message


def test_each_fault_has_its_exit_code_and_one_line(tmp_path, capsys):
    save(tmp_path)
    broken = tmp_path / "ETH-USDT_1H.csv"
    broken.write_text("timestamp,open,high,low,close,volume\n2024-01-01T00:00:00Z,1,1,1,zero,1\n")
    check = ("check", "--data-dir", tmp_path, "--offline", "--dataset")
    cases = {
        "BTC-USDC_1H": (66, "did you mean BTC-USDT_1H"),
        "ETH-USDT_1H": (65, "row 2: close 'zero' is not a number"),
        "BTC-USDT_2H": (78, "unknown timeframe '2H'"),
        "../../etc/nothing": (66, "no file ../../etc/nothing"),
        "/etc/passwd": (78, "cannot tell the symbol of /etc/passwd"),
        "BTC-USDT_1H_20990101-20990102": (65, "none in the range"),
        str(broken.parent / "nothing.csv"): (66, "no file"),
    }
    for dataset, (code, words) in cases.items():
        found = refusal(capsys, *check, dataset)
        assert found[0] == code, dataset
        assert words in found[1]
    assert refusal(capsys, *check, "BTC-USDT_1H", "--timezone", "Moon")[0] == 78


def test_a_missing_dataset_is_66_with_the_reason_when_its_service_is_silent(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CCXT_BASE_URL", "http://127.0.0.1:9")
    code, message = refusal(capsys, "check", "--dataset", "LTC-EUR_1H", "--data-dir", tmp_path)
    assert code == 66
    assert "no dataset LTC-EUR_1H" in message and "fetching it failed: binance is unreachable" in message


def test_fetch_without_its_service_is_69(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CCXT_BASE_URL", "http://127.0.0.1:9")
    code, message = refusal(capsys, "fetch", "LTC-EUR_1H", "--data-dir", tmp_path)
    assert code == 69
    assert "binance is unreachable" in message


def test_an_unwritable_target_is_73(tmp_path, capsys):
    path = save(tmp_path)
    code, message = refusal(capsys, "import", path, "--data-dir", path)
    assert code == 73
    assert "cannot write" in message


def test_wrong_usage_is_2():
    with pytest.raises(SystemExit) as caught:
        main(["check"])
    assert caught.value.code == ExitCode.USAGE


@needs_real_data
def test_as_a_process_check_answers_without_torch_or_pandas_in_its_way():
    code = (
        "import sys; from training.stages.data import main; "
        f"code = main(['check', '--dataset', 'ADA-EUR_1H', '--data-dir', {str(REAL)!r}, '--json']); "
        "assert not {'torch', 'pandas', 'ccxt', 'numba'} & sys.modules.keys(); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["rows"] == 17_491


def test_as_a_process_an_error_is_one_line_and_its_code(tmp_path):
    done = run("check", "--dataset", "BTC-USDT_1H", "--data-dir", tmp_path, "--offline")
    assert (done.returncode, done.stdout) == (66, "")
    assert done.stderr.startswith(f"no dataset BTC-USDT_1H in {tmp_path}")
    assert done.stderr.count("\n") == 1


def test_a_directory_named_like_a_dataset_is_none(tmp_path, capsys):
    (tmp_path / "LTC-EUR_1H.csv").mkdir()
    code, said = refusal(capsys, "check", "--dataset", "LTC-EUR_1H", "--data-dir", tmp_path, "--offline")
    assert code == ExitCode.DATASET_NOT_FOUND and "did you mean LTC-EUR_1H" not in said
    assert answer(capsys, "list", "--data-dir", tmp_path)["datasets"] == []
