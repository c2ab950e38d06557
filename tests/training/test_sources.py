"""Reading market data: every layout and stamp format, every rule, and what garbage gets told."""

from __future__ import annotations

import gzip
import json
import zipfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from configs.errors import BadDataError, ConfigError, DatasetNotFoundError
from training.sources.canonical import write_canonical
from training.sources.catalog import available, locate, name_of_path
from training.sources.load import LoadOptions, load_dataset
from training.sources.resample import resample

HOUR = 3_600
START = 1_704_067_200  # 2024-01-01T00:00Z
DROP = LoadOptions(repair="drop")


def row_text(hour: int, stamp: str = "", values: str = "10,12,9,11,5", separator: str = ",") -> str:
    stamp = stamp or datetime.fromtimestamp(START + hour * HOUR, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return separator.join([stamp, *values.split(",")])


HEADER = "timestamp,open,high,low,close,volume"
GOOD = [HEADER, *(row_text(hour) for hour in range(4))]


def save(directory: Path, lines: list[str], name: str = "BTC-USDT_1H.csv") -> Path:
    path = directory / name
    path.write_text("\n".join(lines) + "\n")
    return path


def read(path: Path, options: LoadOptions = LoadOptions(), name: str = "BTC-USDT_1H"):  # noqa: B008
    return load_dataset(name, path=path, options=options)


def refusal(path: Path, options: LoadOptions = LoadOptions(), name: str = "BTC-USDT_1H") -> str:  # noqa: B008
    with pytest.raises(BadDataError) as caught:
        read(path, options, name)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and caught.value.exit_code == 65
    return message.split(str(path))[1]


# ---- layouts


@pytest.mark.parametrize("separator, word", [(",", "comma"), (";", "semicolon"), ("\t", "tab")])
@pytest.mark.parametrize("header", [True, False])
def test_each_delimiter_is_read_with_and_without_a_header(tmp_path, separator, word, header):
    lines = [HEADER.replace(",", separator)] * header + [row_text(hour, separator=separator) for hour in range(4)]
    bars, report = read(save(tmp_path, lines))
    assert bars.t.tolist() == [START + hour * HOUR for hour in range(4)]
    assert [bars.open[0], bars.high[0], bars.low[0], bars.close[0], bars.volume[0]] == [10, 12, 9, 11, 5]
    assert report.source_format.startswith(f"text, {word}, {'header' if header else 'no header'};")


def test_banners_blank_lines_quotes_windows_ends_and_a_byte_order_mark_are_no_obstacle(tmp_path):
    path = tmp_path / "x.csv"
    lines = ["made by someone, somewhere", "", *(",".join(f'"{c}"' for c in line.split(",")) for line in GOOD), "", ""]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    bars, report = read(path)
    assert len(bars) == 4
    assert report.notes == ["banner line skipped: 'made by someone, somewhere'"]


def test_line_numbers_count_banners_and_blank_lines(tmp_path):
    lines = ["banner", HEADER, row_text(0), "", row_text(1), row_text(2, values="10,12,9,x,5")]
    assert ": 1 faulty row: row 6: close 'x' is not a number" in refusal(save(tmp_path, lines))


def test_every_packing_of_a_file_gives_the_same_bars(tmp_path):
    text = "\n".join(GOOD).encode()
    (tmp_path / "a.csv").write_bytes(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("inner.csv", text)
        archive.writestr("readme.txt", "status report")
    (tmp_path / "utf16.csv").write_bytes("\n".join(GOOD).encode("utf-16"))
    frame = pd.read_csv(tmp_path / "a.csv", parse_dates=["timestamp"])
    frame.to_feather(tmp_path / "a.feather")
    frame.set_index("timestamp").to_parquet(tmp_path / "index.parquet")
    frame.assign(timestamp=frame.timestamp.dt.tz_localize(None)).to_parquet(tmp_path / "naive.parquet")
    unix = [START + hour * HOUR for hour in range(4)]
    frame.assign(timestamp=unix).to_parquet(tmp_path / "unix.parquet")
    frame.assign(timestamp=[float(t) for t in unix]).to_parquet(tmp_path / "float.parquet")
    arrays = [[t * 1000, 10.0, 12.0, 9.0, 11.0, 5.0] for t in unix]
    (tmp_path / "a.json").write_text(json.dumps(arrays))
    klines = [[t * 1000, "10.0", "12", "9", "11", "5", t * 1000 + 3_599_999, "55", 3, "1", "1", "0"] for t in unix]
    (tmp_path / "klines.json").write_text(json.dumps(klines))
    (tmp_path / "klines.csv").write_text("\n".join(",".join(map(str, kline)) for kline in klines))
    records = [dict(zip(HEADER.split(","), row, strict=True)) for row in arrays]
    (tmp_path / "records.json").write_text(json.dumps(records))
    digests = {path.name: read(path)[0].digest() for path in sorted(tmp_path.iterdir())}
    assert len(digests) == 13
    assert set(digests.values()) == {digests["a.csv"]}


def test_metatrader_4_lines_have_date_and_time_apart(tmp_path):
    lines = [f"2024.01.01,{hour:02}:00,10,12,9,11,5" for hour in range(4)]
    path = save(tmp_path, lines, "XAUUSD60.csv")
    assert "is in the broker's server time" in refusal(path, name="XAU-USD_1H")
    bars, _ = read(path, LoadOptions(timezone="America/New_York+7h"), "XAU-USD_1H")
    assert bars.t[0] == START - 2 * HOUR


def test_of_two_volume_columns_the_one_of_the_base_counts(tmp_path):
    header = "timestamp,open,high,low,close,Volume USDT,Volume BTC"
    path = save(tmp_path, [header, *(f"{row_text(hour)},7" for hour in range(3))])
    assert read(path)[0].volume.tolist() == [7, 7, 7]
    assert "2 volume column(s) 'Volume USDT', 'Volume BTC', none of them 'volume eth'" in refusal(
        path, name="ETH-USDT_1H"
    )


# ---- stamps

STAMPS = {
    "ISO-8601 with zone": lambda t: t.strftime("%Y-%m-%d %H:%M:%S+00:00"),
    "ISO-8601": lambda t: t.strftime("%Y-%m-%dT%H:%M"),
    "Unix s": lambda t: f"{t.timestamp():.0f}.0",
    "Unix ms": lambda t: f"{t.timestamp() * 1e3:.0f}",
    "Unix us": lambda t: f"{t.timestamp() * 1e6:.0f}",
    "Unix ns": lambda t: f"{int(t.timestamp()) * 10**9}",
    "YYYYMMDD HHMMSS": lambda t: t.strftime("%Y%m%d %H%M%S"),
    "YYYY-MM-DD hh-PM": lambda t: t.strftime("%Y-%m-%d %I-%p"),
}


@pytest.mark.parametrize("format", STAMPS)
@given(first=st.integers(120_000, 2_000_000))  # hours: 1983 to 2198
@settings(max_examples=10)
def test_each_stamp_format_names_the_hour_it_was_written_for(tmp_path_factory, format, first):
    hours = [datetime.fromtimestamp((first + hour) * HOUR, UTC) for hour in range(26)]
    lines = [HEADER, *(row_text(0, STAMPS[format](hour)) for hour in hours)]
    bars, report = read(save(tmp_path_factory.mktemp("stamps"), lines))
    assert bars.t.tolist() == [(first + hour) * HOUR for hour in range(26)]
    assert f"{format} in 'timestamp'" in report.source_format


def test_an_offset_in_the_stamps_goes_before_a_declared_zone(tmp_path):
    lines = [HEADER, *(row_text(0, f"2024-01-01T0{hour}:00:00+02:00") for hour in range(3, 6))]
    bars, report = read(save(tmp_path, lines), LoadOptions(timezone="Asia/Tokyo"))
    assert bars.t[0] == START + HOUR
    assert report.timezone == "UTC (the stamps carry their offset)"


def test_a_declared_zone_follows_its_daylight_saving(tmp_path):
    clock = ["30 22:00", "30 23:00", "31 00:00", "31 01:00", "31 03:00", "31 04:00"]  # 02:00 did not exist
    path = save(tmp_path, [HEADER, *(row_text(0, f"2024-03-{time}") for time in clock)])
    bars, report = read(path, LoadOptions(timezone="Europe/Berlin"))
    assert (bars.t - bars.t[0]).tolist() == [hour * HOUR for hour in range(6)]
    assert bars.t[0] == int(datetime(2024, 3, 30, 21, tzinfo=UTC).timestamp())
    assert report.timezone == "Europe/Berlin (declared)"


@pytest.mark.parametrize(
    "stamp, why",
    [
        ("2024-03-31 02:00", "it is skipped when clocks go forward"),
        ("2024-10-27 02:00", "it comes twice when clocks go back"),
    ],
)
def test_a_local_time_that_is_no_one_time_is_refused_or_dropped(tmp_path, stamp, why):
    day = stamp[:10]
    lines = [HEADER, *(row_text(0, f"{day} {hour}") for hour in ("00:00", "01:00", "02:00", "05:00"))]
    path = save(tmp_path, lines)
    berlin = LoadOptions(timezone="Europe/Berlin")
    assert f"row 4: timestamp '{stamp}' is not a time that exists once ({why} in Europe/Berlin)" in refusal(
        path, berlin
    )
    bars, report = read(path, LoadOptions(timezone="Europe/Berlin", repair="drop"))
    assert len(bars) == 3
    assert [entry["row"] for entry in report.dropped] == [4]


def test_an_unknown_zone_is_a_configuration_error(tmp_path):
    for zone in ("Mars/Olympus", "../../etc/passwd", "UTC+1000h", ""):
        with pytest.raises(ConfigError, match="expected auto, UTC, an IANA name"):
            read(save(tmp_path, GOOD), LoadOptions(timezone=zone))


@pytest.mark.parametrize(
    "stamp", ["01/02/2024 10:00", "02-01-24", "1.70E+12", "1/1/24", "20240101", "noon", "12345", ""]
)
def test_an_ambiguous_or_unknown_stamp_format_is_refused_with_row_and_value(tmp_path, stamp):
    lines = [HEADER, *(row_text(0, stamp or " ") for _ in range(3))]
    message = refusal(save(tmp_path, lines), DROP)
    assert message.startswith(f": row 2: column 'timestamp' holds {stamp!r}, none of the known timestamp formats")


@pytest.mark.parametrize(
    "stamp",
    ["2024-02-30T00:00:00Z", "2024-13-01T00:00:00Z", "2024-01-01T25:00:00Z", "later", "1704074400", "2024-01-01T02:00"],
)
def test_one_stamp_unlike_the_rest_is_a_fault_of_its_row(tmp_path, stamp):
    lines = [*GOOD, row_text(0, stamp)]
    path = save(tmp_path, lines)
    assert f": 1 faulty row: row 6: timestamp {stamp!r} is not ISO-8601 with zone as in most rows" in refusal(path)
    assert len(read(path, DROP)[0]) == 4


def test_unix_units_may_change_only_where_another_column_confirms_them(tmp_path):
    def line(hour: int, date_hour: int) -> str:
        unix = (START + hour * HOUR) * (1_000 if hour > 2 else 1)
        return f"{unix},2024-01-01 {date_hour:02}:00:00,10,12,9,11,5"

    header = "unix,date,open,high,low,close,volume"
    confirmed = save(tmp_path, [header, *(line(hour, hour) for hour in range(6))])
    bars, report = read(confirmed)
    assert np.diff(bars.t).tolist() == [HOUR] * 5
    assert "Unix s (3 rows) and Unix ms (3 rows) in 'unix', agreeing with 'date'" in report.source_format
    alone = save(tmp_path, [HEADER, *(row_text(0, line(hour, hour).split(",")[0]) for hour in range(7))])
    assert "4 faulty rows" not in refusal(alone)
    assert "is not Unix ms as in most rows" in refusal(alone)
    wrong = save(tmp_path, [header, *(line(hour, hour + (hour == 4)) for hour in range(6))])
    assert "row 6: the timestamp '1704081600000' in 'unix' is not the same time as '2024-01-01 05:00:00'" in refusal(
        wrong
    )


def test_parts_of_a_second_are_no_bar(tmp_path):
    path = save(tmp_path, [*GOOD, row_text(0, "2024-01-01T04:00:00.500Z")])
    assert "row 6: timestamp '2024-01-01T04:00:00.500Z' is not a time in whole seconds" in refusal(path)


# ---- rules

FAULTS = {
    "0,12,0,11,5": "low 0 is not a price above 0, open 0 is not a price above 0",
    "10,12,-1,11,5": "low -1 is not a price above 0",
    "10,12,9,11,-5": "volume -5 is not a volume of 0 or more",
    "10,10.5,9,11,5": "high 10.5 is not at least the larger of open and close (11)",
    "10,12,10.5,11,5": "low 10.5 is not at most the smaller of open and close (10)",
    "10,12,9,nan,5": "close 'nan' is not a number",
    "10,12,9,,5": "close '' is not a number",
    "10,inf,9,11,5": "high 'inf' is not a number",
    "10,1e999,9,11,5": "high '1e999' is not a number",
    "10,1e30,9,11,5": "high 1e+30 is not a price up to 1e+12",
    "10,12,9,11,1e30": "volume 1e+30 is not a volume up to 1e+18",
    "10,12,9,eleven,5": "close 'eleven' is not a number",
    "10,12,9,0x11,5": "close '0x11' is not a number",
    "10,12,9,1_1,5": "close '1_1' is not a number",
    "10,12,9,11": "the line '2024-01-01T04:00:00Z,10,12,9,11' is not a line of 6 columns (it has 5)",
    "10,12,9,11,5,6": "the line '2024-01-01T04:00:00Z,10,12,9,11,5,6' is not a line of 6 columns (it has 7)",
}


@pytest.mark.parametrize("values", FAULTS)
def test_a_row_that_breaks_a_rule_is_named_or_dropped(tmp_path, values):
    path = save(tmp_path, [*GOOD, row_text(4, values=values), row_text(5)])
    assert refusal(path) == (
        f": 1 faulty row: row 6: {FAULTS[values]}; correct them, or set dataset.repair=drop (data check: --repair drop)"
    )
    bars, report = read(path, DROP)
    assert bars.t.tolist() == [START + hour * HOUR for hour in (0, 1, 2, 3, 5)]
    assert report.dropped == [{"row": 6, "reason": FAULTS[values]}]


def test_all_faults_are_counted_and_the_first_five_spelled_out(tmp_path):
    lines = [*GOOD, *(row_text(hour, values="10,12,9,11,-1") for hour in range(4, 16))]
    message = refusal(save(tmp_path, lines))
    assert message.startswith(": 12 faulty rows: row 6: ")
    assert "row 10: " in message and "row 11: " not in message
    assert "; and 7 more; " in message


def test_exact_duplicates_are_left_out_and_counted(tmp_path):
    bars, report = read(save(tmp_path, [*GOOD, GOOD[2], GOOD[2]]))
    assert (len(bars), report.duplicates, report.dropped) == (4, 2, [])


def test_conflicting_duplicates_are_all_faults(tmp_path):
    path = save(tmp_path, [*GOOD, row_text(1, values="10,12,9,10.5,5")])
    message = refusal(path)
    assert (
        "2 faulty rows: row 3: the timestamp 2024-01-01T01:00:00Z with close 11 "
        "is not the only bar of its stamp (see row 6)" in message
    )
    bars, report = read(path, DROP)
    assert bars.t.tolist() == [START, START + 2 * HOUR, START + 3 * HOUR]
    assert [entry["row"] for entry in report.dropped] == [3, 6]


def test_a_faulty_copy_does_not_condemn_the_good_one(tmp_path):
    path = save(tmp_path, [*GOOD, row_text(1, values="10,12,9,nan,5")])
    bars, report = read(path, DROP)
    assert len(bars) == 4
    assert [entry["row"] for entry in report.dropped] == [6]


def test_stamps_off_the_grid_are_faults(tmp_path):
    path = save(tmp_path, [*GOOD, row_text(0, "2024-01-01T04:00:01Z"), row_text(5)])
    assert "row 6: the timestamp 2024-01-01T04:00:01Z is not a stamp on the 3600 s grid" in refusal(path).replace(
        ",", ""
    )
    assert len(read(path, DROP)[0]) == 5


def test_a_stretch_of_days_inside_hours_is_mixed_timeframes(tmp_path):
    lines = [HEADER, *(row_text(24 * day) for day in range(12)), *(row_text(24 * 11 + hour) for hour in range(1, 40))]
    path = save(tmp_path, lines)
    message = refusal(path)
    assert "12 faulty rows: row 2: the timestamp 2024-01-01T00:00:00Z amid 12 bars 1D apart" in message
    assert len(read(path, DROP)[0]) == 39


def test_finer_and_coarser_files_are_told_apart(tmp_path):
    path = save(tmp_path, [HEADER, *(row_text(hour) for hour in range(30))])
    assert (
        refusal(path, name="BTC-USDT_1D") == " has 1H bars, not 1D; set dataset.resample=true (data check: --resample)"
    )
    assert refusal(path, name="BTC-USDT_1m") == " has 1H bars, coarser than the 1m asked for"
    two_hours = save(tmp_path, [HEADER, *(row_text(2 * hour) for hour in range(30))], "two.csv")
    assert "most stamps are 7,200 s apart, which is no known timeframe" in refusal(two_hours)


@given(st.permutations(range(12)))
@settings(max_examples=20)
def test_any_order_of_rows_gives_the_same_bars_and_is_counted(tmp_path_factory, order):
    rows = [row_text(hour, values=f"10,12,9,11,{hour}") for hour in range(12)]
    path = save(tmp_path_factory.mktemp("order"), [HEADER, *(rows[place] for place in order)])
    bars, report = read(path)
    assert bars.volume.tolist() == list(range(12))
    ups = sum(after > before for before, after in zip(order[:-1], order[1:], strict=True))
    assert report.out_of_order == min(ups, 11 - ups)


def test_a_gap_longer_than_the_class_allows_starts_a_segment(tmp_path):
    hours = [0, 1, 7, 14]  # steps of 1, 6 and 7 bars; crypto allows 6
    bars, report = read(save(tmp_path, [HEADER, *(row_text(hour) for hour in hours)]))
    assert bars.segment.tolist() == [0, 0, 0, 1]
    assert report.gaps["missing_bars"] == 5 + 6
    assert [gap["missing_bars"] for gap in report.gaps["longest"]] == [6, 5]
    fx, _ = read(tmp_path / "BTC-USDT_1H.csv", name="EUR-USD_1H")
    assert fx.segment.tolist() == [0, 0, 0, 0], "80 hours"


def test_an_outlier_is_ten_robust_sigmas_and_reported_with_its_time(tmp_path):
    closes = [100 + (-1) ** hour * 0.1 * (1 + hour % 3) for hour in range(60)]
    closes[30] = 110.0
    lines = [HEADER, *(row_text(hour, values=f"100,120,90,{close},1") for hour, close in enumerate(closes))]
    _, report = read(save(tmp_path, lines))
    assert [move["t"] for move in report.outlier_moves] == [START + 30 * HOUR, START + 31 * HOUR]
    assert report.outlier_moves[0]["move_frac"] == pytest.approx(110.0 / closes[29] - 1)


def test_a_market_that_never_moves_has_no_outliers(tmp_path):
    assert read(save(tmp_path, GOOD))[1].outlier_count == 0


# ---- ranges and resampling


def test_a_range_in_the_name_cuts_the_series_end_day_included(tmp_path):
    path = save(tmp_path, [HEADER, *(row_text(hour) for hour in range(-5, 72))])
    bars, report = read(path, name="BTC-USDT_1H_20240101-20240102")
    assert (bars.t[0], bars.t[-1], len(bars)) == (START, START + 47 * HOUR, 48)
    assert report.notes == ["bars outside the asked range, cut off: 29"]
    _, partly = read(path, name="BTC-USDT_1H_20240103-20240110")
    assert "the asked range is not covered to its ends" in partly.notes[-1]
    message = refusal(path, name="BTC-USDT_1H_20250101-20250102")
    assert "has bars from 2023-12-31T19:00:00Z to 2024-01-03T23:00:00Z, none in the range" in message


@given(st.sets(st.integers(0, 200), min_size=1), st.sampled_from([2, 4, 24]))
def test_resampled_bars_by_a_plain_loop(hours, factor):
    t = np.array(sorted(hours), dtype=np.int64) * HOUR
    rng = np.random.default_rng(len(hours))
    values = rng.random((len(t), 5)) + 1
    built = resample(t, values, HOUR, factor * HOUR)
    spans = sorted({int(stamp) // (factor * HOUR) for stamp in t})
    expected = []
    for span in spans:
        inside = [place for place, stamp in enumerate(t) if int(stamp) // (factor * HOUR) == span]
        first_missing = span == spans[0] and t[inside[0]] != span * factor * HOUR
        last_missing = span == spans[-1] and t[inside[-1]] != (span + 1) * factor * HOUR - HOUR
        if not (first_missing or last_missing):
            rows = values[inside]
            expected.append((span * factor * HOUR, rows[0, 0], rows[:, 1].max(), rows[:, 2].min(), rows[-1, 3]))
    assert built.t.tolist() == [bar[0] for bar in expected]
    assert built.values[:, :4].tolist() == [list(bar[1:]) for bar in expected]
    assert built.edge_bars == len(spans) - len(expected)


# ---- names and files


@pytest.mark.parametrize(
    "file, name",
    [
        ("HISTDATA_COM_ASCII_EURUSD_M1_2017.zip", "EUR-USD_1m"),
        ("Binance_ADAUSDT_1h.csv", "ADA-USDT_1H"),
        ("gemini_BTCUSD_1hr.csv", "BTC-USD_1H"),
        ("XAUUSD_H1.csv", "XAU-USD_1H"),
        ("ADA_USDT-1h.feather", "ADA-USDT_1H"),
        ("BTC-USDT_5m.csv.gz", "BTC-USDT_5m"),
        ("ADA-EUR_1H_20240101-20251231.csv", "ADA-EUR_1H_20240101-20251231"),
        ("kraken-eth-eur-daily.parquet", "ETH-EUR_1D"),
    ],
)
def test_a_file_name_that_says_symbol_and_timeframe_is_believed(file, name):
    assert name_of_path(Path(file)) == name


@pytest.mark.parametrize(
    "file, option",
    [("UNITTEST_BTC-1m.json", "--symbol"), ("CANADAUSDX_1h.csv", "--symbol"), ("BTCUSD_ETHUSD_1h.csv", "--symbol"),
     ("BTCUSD.csv", "--timeframe"), ("BTCUSD_1h_4h.csv", "--timeframe")],
)  # fmt: skip
def test_a_file_name_that_leaves_a_doubt_asks_for_an_option(file, option):
    with pytest.raises(ConfigError, match=option):
        name_of_path(Path(file))
    assert name_of_path(Path(file), "BTC-USD", "4H") == "BTC-USD_4H"


def test_a_declared_symbol_goes_before_the_file_name():
    assert name_of_path(Path("ADA-EUR_1H_20240101-20251231.csv"), symbol="ADA-USDT") == "ADA-USDT_1H"
    assert name_of_path(Path("HISTDATA_COM_ASCII_EURUSD_M1_2017.zip"), timeframe="1H") == "EUR-USD_1H"


def test_the_first_directory_that_has_the_name_is_taken(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    save(second, GOOD)
    assert locate("BTC-USDT_1H", [first, second, tmp_path / "none"]).path == second / "BTC-USDT_1H.csv"
    save(first, GOOD)
    assert locate("BTC-USDT_1H", [first, second]).path == first / "BTC-USDT_1H.csv"
    assert list(available([first, second])) == ["BTC-USDT_1H"]


def test_a_series_serves_a_range_and_a_file_of_that_range_goes_before_it(tmp_path):
    ranged = "BTC-USDT_1H_20240101-20240102"
    save(tmp_path, GOOD)
    assert locate(ranged, [tmp_path]).path == tmp_path / "BTC-USDT_1H.csv"
    assert locate(ranged, [tmp_path]).name == ranged
    save(tmp_path, GOOD, f"{ranged}.csv")
    assert locate(ranged, [tmp_path]).path == tmp_path / f"{ranged}.csv"


def test_two_files_for_one_name_are_an_error_naming_both(tmp_path):
    save(tmp_path, GOOD)
    save(tmp_path, GOOD, "BTC-USDT_1H.csv.gz")
    with pytest.raises(
        BadDataError, match=r"2 files in .* are BTC-USDT_1H: BTC-USDT_1H.csv, BTC-USDT_1H.csv.gz; keep one"
    ):
        locate("BTC-USDT_1H", [tmp_path])


def test_a_missing_dataset_names_its_neighbours_and_where_it_looked(tmp_path):
    save(tmp_path, GOOD)
    with pytest.raises(DatasetNotFoundError, match=f"no dataset BTC-USDC_1H in {tmp_path}; did you mean BTC-USDT_1H"):
        locate("BTC-USDC_1H", [tmp_path])
    with pytest.raises(DatasetNotFoundError, match=r"no file .*BTC-USDT_1h.csv; did you mean BTC-USDT_1H.csv"):
        locate(str(tmp_path / "BTC-USDT_1h.csv"), [])


def test_the_demo_is_generated_unless_a_file_has_its_name(tmp_path):
    assert locate("DEMO-USD_1H", [tmp_path]).path is None
    bars, report = load_dataset("DEMO-USD_1H_20230601-20230630", [tmp_path])
    assert (report.synthetic, len(bars)) == (True, 30 * 24)
    save(tmp_path, GOOD, "DEMO-USD_1H.csv")
    _, report = load_dataset("DEMO-USD_1H", [tmp_path])
    assert (report.synthetic, report.rows) == (False, 4)
    with pytest.raises(DatasetNotFoundError, match="did you mean DEMO-USD_1H"):
        locate("DEMO-USD_4H", [])


@pytest.mark.parametrize("name", ["../BTC-USDT_1H", "/etc/passwd", "a/../../b_1H", "./x"])
def test_a_path_outside_is_a_file_that_is_not_there_or_no_dataset(tmp_path, name):
    with pytest.raises((DatasetNotFoundError, ConfigError)):
        locate(name, [tmp_path])


@pytest.mark.parametrize(
    "name", ["", "BTC", "BTC-USDT", "BTC-USDT_7m", "btc-usdt_1H", "BTC-USDT_1H_20240102-20240101", "B\0-U_1H"]
)
def test_a_malformed_name_is_a_configuration_error(tmp_path, name):
    with pytest.raises(ConfigError):
        locate(name, [tmp_path])


# ---- canonical form


def test_the_canonical_file_reads_back_exactly_and_has_equal_bytes_each_time(tmp_path):
    rng = np.random.default_rng(0)
    prices = 1 + rng.random((200, 2)) * 1e-5
    lines = [HEADER]
    for hour, (a, b) in enumerate(prices.tolist()):
        lines.append(row_text(hour, values=f"{a!r},{max(a, b)!r},{min(a, b)!r},{b!r},{rng.random() * 1e9!r}"))
    bars, _ = read(save(tmp_path, lines))
    for name in ("x.csv.gz", "y.csv.gz"):
        write_canonical(bars, tmp_path / name)
    assert (tmp_path / "x.csv.gz").read_bytes() == (tmp_path / "y.csv.gz").read_bytes()
    assert read(tmp_path / "x.csv.gz")[0].digest() == bars.digest()
    assert gzip.decompress((tmp_path / "x.csv.gz").read_bytes()).splitlines()[0].decode() == HEADER


# ---- garbage

GARBAGE = {
    "empty.csv": (b"", "is empty"),
    "blank.csv": (b"\n \n\n", "is empty"),
    "header_only.csv": (HEADER.encode() + b"\n", "has a header but no rows"),
    "no_close.csv": (b"timestamp,open,high,low,volume\n1704067200,1,1,1,1\n", "begins neither a header"),
    "no_volume.csv": (b"timestamp,open,high,low,close\n1704067200,1,1,1,1\n", "has no column volume; add one"),
    "no_time.csv": (b"open,high,low,close,volume\n1,1,1,1,1\n", "has no timestamp column"),
    "twice.csv": (HEADER.encode() + b",open\n", "column 'open' appears twice"),
    "alike.csv": (HEADER.encode() + b",Open\n1704067200,1,1,1,1,1,1\n", "columns 'open' and 'Open' mean the same"),
    "prose.csv": (b"It was the best of times,\nit was the worst of times.\n", "row 1: 'It was the best of times,'"),
    "five.csv": (b"1704067200,1,1,1,1\n", "begins neither a header"),
    "binary.csv": (bytes(range(256)) * 20, "is not text: byte 128 is 0x80"),
    "zeros.csv": (b"\0" * 1000, "is not text: byte 0 is zero"),
    "random.csv.gz": (b"\x1f\x8b" + bytes(range(100)), "is not a whole gzip file"),
    "cut.csv.gz": (gzip.compress("\n".join(GOOD).encode() * 50)[:-20], "is not a whole gzip file"),
    "text.zip": (b"PK no", "is not a readable zip file"),
    "text.json": (b"{", "is not JSON"),
    "deep.json": (b"[" * 100_000, "is not JSON"),
    "object.json": (b"{}", "expected a JSON array of bars"),
    "numbers.json": (b"[1, 2]", "row 1: 1 is no bar"),
    "kraken.json": (b'[[1704067200, "1", "1", "1", "1", "1", "1", 3]]', "expected arrays of 6"),
    "ragged.json": (b"[[1704067200, 1, 1, 1, 1, 1], [1]]", "row 2: [1] is not an array of 6 like row 1"),
    "null.json": (b"[[1704067200000, 1, 1, 1, null, 1]]", "row 1: close 'None' is not a number"),
    "bool.json": (b"[[1704067200000, 1, 1, 1, true, 1]]", "row 1: close 'True' is not a number"),
    "nan.json": (b"[[1704067200000, 1, 1, 1, NaN, 1]]", "row 1: close 'nan' is not a number"),
    "huge.json": (b"[[170406720000000000000000, 1, 1, 1, 1, 1]]", "holds '170406720000000000000000', none of"),
    "text.parquet": (b"not parquet", "is not a readable parquet file"),
    "text.feather": (b"not feather", "is not a readable feather file"),
    "some.xlsx": (b"PK", "unknown kind of file"),
    "two.csv": (
        b"time;open;high;low;close;volume\ntime,open,high,low,close,volume\n",
        "cannot tell comma and semicolon as delimiter apart",
    ),
    "both.csv": (b"1704067200,1;1,1;1,1;1,1;1,1;1\n", "begins neither a header"),
}  # fmt: skip


@pytest.mark.parametrize("file", GARBAGE)
def test_garbage_gets_one_line_that_says_what_it_is(tmp_path, file):
    data, reason = GARBAGE[file]
    (tmp_path / file).write_bytes(data)
    for options in (LoadOptions(), DROP):
        message = refusal(tmp_path / file, options)
        assert reason in message or "no valid row is left of 1; row 1" in message


def test_a_zip_of_two_tables_or_none_is_refused(tmp_path):
    for names in (["a.csv", "b.csv"], ["a.txt"], []):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name in names:
                archive.writestr(name, "\n".join(GOOD))
        assert f"holds {sum(name.endswith('.csv') for name in names)} .csv or .json files, expected 1" in refusal(
            tmp_path / "a.zip"
        )


def test_when_every_row_is_faulty_there_is_nothing_to_drop_to(tmp_path):
    path = save(tmp_path, [HEADER, row_text(0, values="x,x,x,x,x")])
    assert "no valid row is left of 1; row 2: close 'x' is not a number" in refusal(path, DROP)


def test_a_table_without_rows_is_refused(tmp_path):
    pd.DataFrame({name: np.array([], dtype=float) for name in HEADER.split(",")}).to_parquet(tmp_path / "a.parquet")
    assert "has columns but no rows" in refusal(tmp_path / "a.parquet")


def test_missing_cells_of_a_table_are_faults(tmp_path):
    frame = pd.DataFrame({name: [1.0, 1.0, 1.0] for name in HEADER.split(",")})
    frame["timestamp"] = [START, START + HOUR, START + 2 * HOUR]
    frame.loc[1, "close"] = np.nan
    frame.to_parquet(tmp_path / "a.parquet")
    assert "1 faulty row: row 2: close" in refusal(tmp_path / "a.parquet")
    assert len(read(tmp_path / "a.parquet", DROP)[0]) == 2


@pytest.mark.parametrize("value", [{"a": 1}, [1.0], True, b"1", timedelta(1)])
def test_a_column_of_another_type_is_no_price(tmp_path, value):
    columns = {name: [1.0] for name in HEADER.split(",")} | {"timestamp": [START], "close": [value]}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert "has no column close; found timestamp, open, high, low, volume" in refusal(tmp_path / "a.parquet")


def test_text_dictionary_and_decimal_columns_are_read_by_their_value(tmp_path):
    columns = {name: pa.array(["1.5"]).dictionary_encode() for name in HEADER.split(",")}
    columns |= {"timestamp": pa.array([START], pa.uint64()), "close": pa.array([Decimal("1.50")])}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0].close.tolist() == [1.5]


@given(st.binary(max_size=300), st.sampled_from([".csv", ".csv.gz", ".zip", ".json", ".parquet", ".feather"]))
@settings(max_examples=150)
def test_no_bytes_whatever_raise_anything_but_a_data_error(tmp_path_factory, data, ending):
    path = tmp_path_factory.getbasetemp() / f"fuzz{ending}"
    path.write_bytes(data)
    with pytest.raises(BadDataError):
        read(path)


CELL = st.sampled_from(
    ["", "1", "-1", "0", "1e5", "nan", "2024-01-01T00:00:00Z", "2024-01-01", "1704067200", "x", '"', "99999999999"]
)


@given(st.lists(st.lists(CELL, min_size=5, max_size=7), min_size=1, max_size=6), st.sampled_from(["none", "drop"]))
@settings(max_examples=150)
def test_no_table_of_odd_cells_raises_anything_but_a_data_error(tmp_path_factory, cells, repair):
    path = save(tmp_path_factory.getbasetemp(), [HEADER, *(",".join(row) for row in cells)], "cells.csv")
    try:
        bars, _ = read(path, LoadOptions(repair=repair))
    except BadDataError as error:
        assert "\n" not in str(error)
    else:
        assert (np.diff(bars.t) > 0).all()
        assert (bars.low > 0).all()
