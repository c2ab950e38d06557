"""Every real file kept for tests, as found: what loads, with the counts found in it; what is refused, and why."""

from __future__ import annotations

import csv
import gzip
import zipfile
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from configs.errors import BadDataError
from training.market import Bars
from training.sources.catalog import name_of_path
from training.sources.load import LoadOptions, load_dataset
from training.sources.report import DataReport
from training.sources.resample import resample

DATA = Path(__file__).parents[2] / "../shared/data"
RAW = DATA / "raw"
pytestmark = pytest.mark.skipif(not RAW.is_dir(), reason=f"no real market data in {DATA}")

AS_FOUND = LoadOptions()
DROP = LoadOptions(repair="drop")
UTC_DECLARED = LoadOptions(timezone="UTC")


@cache
def load(file: str, options: LoadOptions = AS_FOUND, symbol: str = "", timeframe: str = "") -> tuple[Bars, DataReport]:
    path = DATA / file
    return load_dataset(name_of_path(path, symbol, timeframe), path=path, options=options)


def refusal(file: str, options: LoadOptions = AS_FOUND, symbol: str = "", timeframe: str = "") -> str:
    with pytest.raises(BadDataError) as caught:
        load(file, options, symbol, timeframe)
    assert caught.value.exit_code == 65
    message = str(caught.value)
    assert message.startswith(str(DATA / file))
    assert "\n" not in message
    return message.removeprefix(str(DATA / file))


def unix(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def steps_h(bars: Bars) -> np.ndarray:
    return np.diff(bars.t) // 3_600


# name: rows, first, last, missing bars, gaps, longest gap, zero volume
CLEAN = {
    "ADA-EUR_1H.csv.gz": (17_491, "2023-12-31T23:00", "2025-12-31T21:00", 52, 16, 5, 0),
    "BTC-USDT_1H.csv.gz": (43_816, "2020-01-01T00:00", "2024-12-31T23:00", 32, 15, 5, 2),
    "ETH-USDT_1H.csv.gz": (43_816, "2020-01-01T00:00", "2024-12-31T23:00", 32, 15, 5, 2),
    "SOL-USDT_1H.csv.gz": (38_470, "2020-08-11T06:00", "2024-12-31T23:00", 20, 10, 4, 2),
    "ADA-USDT_1H.csv.gz": (43_816, "2020-01-01T00:00", "2024-12-31T23:00", 32, 15, 5, 2),
    "BTC-USDT_5m.csv.gz": (88_128, "2024-03-01T00:00", "2024-12-31T23:55", 0, 0, 0, 0),
    "BTC-USDT_1m.csv.gz": (43_209, "2024-07-26T14:15", "2024-08-25T14:23", 0, 0, 0, 0),
    "XAU-USD_1H.csv.gz": (48_225, "2018-03-20T00:00", "2026-05-15T20:00", 23_268, 2_105, 76, 0),
    "EUR-USD_1H.csv.gz": (13_385, "2024-04-01T00:00", "2026-05-26T16:00", 5_472, 116, 49, 0),
}


@pytest.mark.parametrize("file", CLEAN)
def test_a_clean_file_loads_with_the_counts_its_readme_states(file):
    bars, report = load(file)
    rows, first, last, missing, gaps, longest, zero_volume = CLEAN[file]
    assert (report.rows, report.first_t, report.last_t) == (rows, unix(first), unix(last))
    assert report.gaps["missing_bars"] == missing
    assert (report.gaps["count"], report.gaps["longest_bars"]) == (gaps, longest)
    assert report.zero_volume == zero_volume
    assert (report.out_of_order, report.duplicates, report.dropped, report.file_rows) == (0, 0, [], rows)
    assert len(report.segments) == 1
    assert report.timezone == "UTC (the stamps carry their offset)"


@pytest.mark.parametrize("file", ["ADA-EUR_1H.csv.gz", "XAU-USD_1H.csv.gz"])
def test_every_value_is_the_one_python_reads(file):
    bars, _ = load(file)
    with gzip.open(DATA / file, "rt") as lines:
        rows = list(csv.DictReader(lines))
    assert bars.t.tolist() == [int(datetime.fromisoformat(row["timestamp"]).timestamp()) for row in rows]
    for name in ("open", "high", "low", "close", "volume"):
        assert getattr(bars, name).tolist() == [float(row[name]) for row in rows]


def test_the_binance_hours_share_their_gaps_and_zero_volumes():
    btc, sol = load("BTC-USDT_1H.csv.gz")[0], load("SOL-USDT_1H.csv.gz")[0]
    gaps = load("BTC-USDT_1H.csv.gz")[1].gaps
    assert [(gap["t"], gap["missing_bars"]) for gap in gaps["first"][:3]] == [
        (unix("2020-02-09T03:00"), 1),
        (unix("2020-02-19T17:00"), 5),
        (unix("2020-03-04T11:00"), 1),
    ]
    assert (btc.t == load("ETH-USDT_1H.csv.gz")[0].t).all()
    assert np.isin(sol.t, btc.t).all()
    assert btc.t[btc.volume == 0].tolist() == [unix("2021-02-11T03:00"), unix("2023-03-24T12:00")]


def test_the_largest_ada_move_is_the_news_of_march_2025():
    for file in ("ADA-EUR_1H.csv.gz", "raw/ADAUSDT_1h.parquet"):
        largest = load(file)[1].outlier_moves[0]
        assert largest["t"] == unix("2025-03-02T15:00")
        assert largest["move_frac"] == pytest.approx(0.336, abs=5e-4)


def test_the_euro_rests_on_weekends_and_four_holidays():
    bars, _ = load("EUR-USD_1H.csv.gz")
    gaps = steps_h(bars)[steps_h(bars) > 1]
    assert (gaps == 25).sum() == 4
    assert set(gaps.tolist()) == {25, 48, 49, 50}


def test_gold_rests_an_hour_a_day_and_has_58_holidays():
    steps = steps_h(load("XAU-USD_1H.csv.gz")[0])
    assert (steps == 2).sum() == 1_621
    assert ((steps >= 4) & (steps <= 44)).sum() == 58


@pytest.mark.parametrize("fine, coarse, edges", [("1m", "5m", 1), ("5m", "1H", 0)])
def test_resampled_bitcoin_is_the_coarser_file(fine, coarse, edges):
    small, large = load(f"BTC-USDT_{fine}.csv.gz")[0], load(f"BTC-USDT_{coarse}.csv.gz")[0]
    values = np.column_stack([small.open, small.high, small.low, small.close, small.volume])
    built = resample(small.t, values, small.timeframe_s, large.timeframe_s)
    place = np.searchsorted(large.t, built.t)
    assert (large.t[place] == built.t).all()
    assert (built.edge_bars, built.partial_bars) == (edges, 0)
    for column, name in enumerate(("open", "high", "low", "close")):
        assert (built.values[:, column] == getattr(large, name)[place]).all()
    assert built.values[:, 4] == pytest.approx(large.volume[place], rel=1e-12)


HISTDATA = {
    "HISTDATA_COM_ASCII_GBPUSD_M1_2017.zip": ("GBP-USD_1m", 371_204, 1_104, "2017-01-02T07:00", "2017-12-29T21:57"),
    "HISTDATA_COM_ASCII_EURUSD_M1_2017.zip": ("EUR-USD_1m", 371_635, 766, "2017-01-02T07:00", "2017-12-29T21:57"),
    "HISTDATA_COM_ASCII_XAUUSD_M1_2017.zip": ("XAU-USD_1m", 352_360, 462, "2017-01-02T23:01", "2017-12-29T21:58"),
}


@pytest.mark.parametrize("file", HISTDATA)
def test_a_histdata_zip_loads_in_new_york_time_without_volume(file):
    _, report = load(file)
    name, rows, gaps, first, last = HISTDATA[file]
    assert (report.name, report.rows, report.gaps["count"]) == (name, rows, gaps)
    assert (report.first_t, report.last_t) == (unix(first), unix(last))
    assert report.zero_volume == rows
    assert report.timezone == "America/New_York (HistData's, with daylight saving)"
    assert report.source_format.startswith("text, semicolon, no header, DAT_ASCII_")


@pytest.mark.slow
@pytest.mark.parametrize("file", [*CLEAN, *HISTDATA])
def test_a_file_without_faults_is_the_same_under_repair(file):
    bars, report = load(file, DROP)
    assert bars.digest() == load(file)[0].digest()
    assert report.dropped == []


def test_no_file_is_left_without_an_expected_outcome():
    source = Path(__file__).read_text()
    files = [path.name for path in DATA.rglob("*") if path.is_file() and path.name != "README.md"]
    assert [name for name in files if name not in source] == []


def test_payrolls_move_the_euro_at_half_past_eight_in_new_york_in_winter_and_summer():
    bars, _ = load("HISTDATA_COM_ASCII_EURUSD_M1_2017.zip")
    moves = np.abs(np.log(bars.close / bars.open))
    # 2017-03-10 is EST (13:30 UTC), 2017-07-07 EDT (12:30 UTC)
    for day, release in [("2017-03-10", "13:30"), ("2017-07-07", "12:30")]:
        inside = (bars.t >= unix(f"{day}T12:00")) & (bars.t < unix(f"{day}T14:00"))
        assert bars.t[inside][np.argmax(moves[inside])] == unix(f"{day}T{release}")


def test_a_histdata_zip_is_another_timeframe_only_when_asked():
    file = "HISTDATA_COM_ASCII_EURUSD_M1_2017.zip"
    assert refusal(file, timeframe="1H") == " has 1m bars, not 1H; set dataset.resample=true (data check: --resample)"
    bars, report = load(file, LoadOptions(resample=True), timeframe="1H")
    assert (report.name, report.rows) == ("EUR-USD_1H", 6_206)
    assert "6,206 bars resampled from 371,635 of 60 s: 1 incomplete at the ends left out" in report.notes[-1]
    with zipfile.ZipFile(DATA / file) as archive:
        lines = archive.read("DAT_ASCII_EURUSD_M1_2017.csv").decode().splitlines()
    hour = [line.split(";") for line in lines if line.startswith("20170707 08")]
    place = np.searchsorted(bars.t, unix("2017-07-07T12:00"))
    assert bars.open[place] == float(hour[0][1])
    assert bars.high[place] == max(float(cells[2]) for cells in hour)
    assert bars.low[place] == min(float(cells[3]) for cells in hour)
    assert bars.close[place] == float(hour[-1][4])


def test_ada_eur_as_found_has_the_bars_of_its_cleaned_copy():
    file = "raw/ADA-EUR_1H_20240101-20251231.csv"
    bars, report = load(file)
    clean, _ = load("ADA-EUR_1H.csv.gz")
    assert report.file_rows == 17_491
    assert report.rows == 17_490, "the name's range begins an hour after the first row"
    assert bars.digest() == clean.slice(1, len(clean)).digest()
    assert "Unix ms in 'timestamp'" in report.source_format
    assert report.notes[0] == "bars outside the asked range, cut off: 1"
    assert load(file, DROP)[0].digest() == bars.digest()


def test_gemini_is_refused_for_its_last_row_and_loads_without_it():
    file = "raw/gemini_BTCUSD_1hr.csv"
    assert refusal(file) == (
        ": 1 faulty row: row 31622: low 0 is not a price above 0, open 0 is not a price above 0; "
        "correct them, or set dataset.repair=drop (data check: --repair drop)"
    )
    bars, report = load(file, DROP)
    assert (report.rows, report.file_rows) == (31_619, 31_620)
    assert [entry["row"] for entry in report.dropped] == [31_622]
    assert (report.order, report.out_of_order, report.gaps["count"]) == ("newest first", 0, 0)
    assert report.source_format.endswith(
        "Unix s (23,830 rows) and Unix ms (7,790 rows) in 'Unix Timestamp', agreeing with 'Date'"
    )
    assert report.notes[0].startswith("banner line skipped: 'Created on 05-18-2019")
    assert report.zero_volume == 1_054
    assert (report.first_t, report.last_t) == (unix("2015-10-08T14:00"), unix("2019-05-18T00:00"))


def test_coinbase_loads_sorted_with_the_volume_of_its_base():
    file = "raw/Coinbase_BTCUSD_1h.csv"
    bars, report = load(file)
    assert (report.rows, report.order, report.out_of_order, report.gaps["count"]) == (15_853, "newest first", 5, 0)
    assert "YYYY-MM-DD hh-PM in 'Date'" in report.source_format
    assert report.timezone == "UTC (CryptoDataDownload's)"
    assert report.notes == ["volume is column 'Volume BTC'"]
    assert (report.last_t, bars.volume[-1]) == (unix("2019-04-22T23:00"), 8.32)
    # rows at noon and midnight: 12-PM is 12:00, 12-AM 00:00
    assert bars.open[np.searchsorted(bars.t, unix("2017-07-01T12:00"))] == 2509.17
    assert load(file, DROP)[0].digest() == bars.digest()


def test_the_spreadsheet_file_is_refused_whole_since_no_row_says_its_time():
    for options in (AS_FOUND, DROP, UTC_DECLARED):
        message = refusal("raw/Binance_ADAUSDT_1h.csv", options)
        assert message.startswith(": row 2: column 'unix' holds '1.63875E+12', none of the known timestamp formats")


def test_acx_loads_with_its_thin_market_reported():
    file = "raw/ACX_XRPAUD_1hr.csv"
    bars, report = load(file)
    assert (report.name, report.rows, report.gaps["count"]) == ("XRP-AUD_1H", 7_625, 0)
    assert report.zero_volume == 1_393
    assert report.source_format.endswith("Unix s in 'Unix Timestamp', agreeing with 'Date'")
    up, down = report.outlier_moves[:2]
    assert up["move_frac"] == pytest.approx(3.205, abs=1e-3)
    # read newest first, as the file stands, the fall after it is the jump of +294 %
    assert 1 / (1 + down["move_frac"]) - 1 == pytest.approx(2.94, abs=0.01)
    assert load(file, DROP)[0].digest() == bars.digest()


def test_iota_is_refused_for_its_volume_columns():
    for options in (AS_FOUND, DROP):
        assert refusal("raw/Binance_IOTABTC_1h.csv", options) == (
            ": 2 volume column(s) 'Volume IOT', 'Volume ABTC', none of them 'volume iota'; "
            "rename the one that counts to 'volume'"
        )


def test_iota_with_its_volume_named_is_refused_for_its_prices_and_keeps_18_rows(tmp_path):
    path = tmp_path / "Binance_IOTABTC_1h.csv"
    path.write_text((RAW / path.name).read_text().replace("Volume IOT", "Volume"))
    with pytest.raises(BadDataError, match=r"337 faulty rows: row 3: low 0 is not a price above 0, open 0 is not"):
        load_dataset("IOTA-BTC_1H", path=path)
    bars, report = load_dataset("IOTA-BTC_1H", path=path, options=DROP)
    assert (report.rows, report.file_rows, len(report.dropped)) == (18, 355, 337)
    assert report.zero_volume == 18
    assert report.gaps["longest_bars"] == 1_994, "83 days"
    assert len(report.segments) == 16


def test_metatrader_gold_needs_its_server_time_declared():
    file = "raw/XAUUSD_H1.csv"
    for options in (AS_FOUND, DROP):
        message = refusal(file, options)
        assert message.startswith(": row 2: stamp '2019.01.02 00:00:00' is in the broker's server time")
        assert "--timezone America/New_York+7h" in message


def test_metatrader_gold_loads_in_a_declared_zone():
    file = "raw/XAUUSD_H1.csv"
    bars, report = load(file, UTC_DECLARED)
    assert (report.rows, report.dropped, report.timezone) == (44_472, [], "UTC (declared)")
    assert report.first_t == unix("2019-01-02T00:00")
    assert report.notes == ["volume is the tick count of column '<TICKVOL>'"]
    assert (bars.close[0], bars.volume[0]) == (1280.073, 898)
    steps = steps_h(bars)
    stray = (steps[:-1] > 2) & (steps[1:] > 2) & (bars.t[1:-1] % 86_400 == 0)
    assert stray.sum() == 202
    shifted, _ = load(file, LoadOptions(timezone="America/New_York+7h"))
    # server time = New York + 7 h is UTC + 2 h in winter
    assert shifted.t[0] == bars.t[0] - 2 * 3_600


def test_a_parquet_file_with_an_index_of_stamps_loads():
    file = "raw/ADAUSDT_1h.parquet"
    bars, report = load(file)
    assert (report.name, report.rows, report.gaps["count"]) == ("ADA-USDT_1H", 28_310, 0)
    assert (report.first_t, report.last_t) == (unix("2023-01-01T00:00"), unix("2026-03-25T13:00"))
    spot = load("ADA-USDT_1H.csv.gz")[0]
    from_2023 = spot.t >= bars.t[0]
    assert np.isin(spot.t[from_2023], bars.t).all()
    assert from_2023.sum() > 17_000
    assert load(file, DROP)[0].digest() == bars.digest()


def test_freqtrade_minutes_load_with_538_gaps_in_five_segments():
    file = "raw/UNITTEST_BTC-1m.json"
    bars, report = load(file, symbol="BTC-USDT")
    assert (report.rows, report.gaps["count"], report.gaps["missing_bars"]) == (13_681, 538, 717)
    assert report.gaps["longest_bars"] == 7, "a step of 8 minutes"
    assert len(report.segments) == 5
    assert report.source_format == "JSON arrays of 6; Unix ms in 't'"
    assert (bars.t[0], bars.open[0], bars.volume[0]) == (1_509_836_520, 0.00162008, 108.14853839)
    assert load(file, DROP, symbol="BTC-USDT")[0].digest() == bars.digest()
