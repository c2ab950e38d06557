import pytest

from configs.assets import DatasetName, asset_class_of, can_be_fetched, class_layer, is_path
from configs.errors import ConfigError


def test_a_range_in_the_name_includes_its_last_day():
    name = DatasetName.parse("ADA-EUR_1H_20240101-20240102")
    assert (name.base, name.quote, name.timeframe_s) == ("ADA", "EUR", 3600)
    assert name.end_s - name.start_s == 2 * 86_400


@pytest.mark.parametrize(
    "text",
    ["", "ADA", "ADA-EUR", "ADAEUR_1H", "ADA-EUR_2H", "ada-eur_1h", "../ADA-EUR_1H", "ADA-EUR_1H/..", "A/B-EUR_1H",
     "ADA-EUR_1H_20240101", "ADA-EUR_1H_20241301-20241302", "ADA-EUR_1H_20240202-20240101", "ADA-EUR_1H\n"],
)  # fmt: skip
def test_a_malformed_name_is_refused(text):
    with pytest.raises(ConfigError):
        DatasetName.parse(text)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("ADA-EUR", "crypto"),
        ("BTC-USDT", "crypto"),
        ("EUR-USD", "fx"),
        ("XAU-USD", "commodity"),
        ("DEMO-USD", "crypto"),
    ],
)
def test_a_pair_is_classified_by_its_whole_parts(pair, expected):
    assert asset_class_of(*pair.split("-")) == expected


@pytest.mark.parametrize("pair", ["CANADA-EUR", "AD-EUR", "ADAA-USD", "EUR-ADA", "XAU-BTC"])
def test_an_unknown_pair_says_how_to_declare_it(pair):
    with pytest.raises(ConfigError, match=r"--set dataset\.asset_class="):
        asset_class_of(*pair.split("-"))


@pytest.mark.parametrize(
    ("asset_class", "timeframe", "bars"),
    [("crypto", "1H", 24 * 365), ("fx", "1H", 24 * 260), ("commodity", "1H", 23 * 260), ("crypto", "1m", 525_600),
     ("fx", "1D", 260), ("crypto", "4H", 6 * 365)],
)  # fmt: skip
def test_bars_per_year_follow_the_class_calendar(asset_class, timeframe, bars):
    assert class_layer(asset_class, timeframe)["market"]["bars_per_year"] == bars


def test_a_weekend_is_no_gap_in_fx_but_is_one_in_crypto():
    weekend_s = 49 * 3600
    assert (
        class_layer("fx", "1H")["market"]["max_gap_s"] > weekend_s > class_layer("crypto", "1H")["market"]["max_gap_s"]
    )


@pytest.mark.parametrize(
    ("dataset", "is_known"),
    [("ADA-EUR_1H", True), ("XAU-USD_1D", True), ("XYZ-EUR_1H", False), ("DEMO-USD_1H", False), ("a/b.csv", False)],
)
def test_a_pair_of_the_table_may_be_fetched_and_nothing_else(dataset, is_known):
    assert can_be_fetched(dataset) is is_known


@pytest.mark.parametrize(
    ("dataset", "by_path"),
    [
        ("prices.csv", True),
        ("./ADA-EUR_1H", True),
        ("a/b", True),
        ("ADA-EUR_1H", False),
        ("ADA-EUR_1H_20240101", False),
    ],
)
def test_what_is_a_path_does_not_depend_on_the_files_at_hand(dataset, by_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_path(dataset) is by_path
    (tmp_path / "a").mkdir()
    (tmp_path / dataset).write_text("")
    assert is_path(dataset) is by_path
