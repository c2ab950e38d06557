"""Fetching, against loopback servers that speak the services' own shapes: Binance, histdata.com, Yahoo."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import yfinance

from configs.assets import DatasetName
from configs.errors import BadDataError, CannotWriteError, ConfigError, DatasetNotFoundError, MachineUnfitError
from training.sources.fetch import Progress, base_urls, fetch, open_source
from training.sources.histdata import HistData, form_fields
from training.sources.load import load_dataset
from training.sources.service import Unreachable

HOUR = 3_600
DAY = 86_400
NEW_YEAR = 1_704_067_200  # 2024-01-01T00:00Z
NOW = NEW_YEAR + 400 * DAY

Reply = tuple[int, str, bytes]


class Service:
    """A loopback HTTP server whose answer to each request is a function of method, path, query and body."""

    def __init__(self, answer: Callable[[str, str, dict[str, str], dict[str, str]], Reply]) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.down = False
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply("GET", "")

            def do_POST(self) -> None:
                self._reply("POST", self.rfile.read(int(self.headers["Content-Length"])).decode())

            def _reply(self, method: str, body: str) -> None:
                parts = urlsplit(self.path)
                values = {key: value[0] for key, value in parse_qs(body or parts.query).items()}
                service.seen.append((method, self.path, values))
                status, kind, data = (
                    (503, "text/plain", b"down")
                    if service.down
                    else answer(method, self.path, values, dict(self.headers))
                )
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def json_reply(value: object, status: int = 200) -> Reply:
    return status, "application/json", json.dumps(value).encode()


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def start(answer: Callable[..., Reply]) -> Service:
        services.append(Service(answer))
        return services[-1]

    yield start
    for service in services:
        service.close()


# ---- Binance through ccxt


def close_at(t: int) -> float:
    return round(0.5 + (t // HOUR % 97) / 1000, 4)


def kline(t: int) -> list:
    close = close_at(t)
    low, high = f"{close - 0.1:.4f}", f"{close + 0.1:.4f}"
    return [t * 1000, f"{close:.4f}", high, low, f"{close:.4f}", "12.5", t * 1000 + 3_599_999, "6", 9, "1", "1", "0"]


EXCHANGE_INFO = {
    "timezone": "UTC",
    "symbols": [
        {
            "symbol": "ADAEUR", "status": "TRADING", "baseAsset": "ADA", "quoteAsset": "EUR",
            "baseAssetPrecision": 8, "quoteAssetPrecision": 8, "orderTypes": ["LIMIT"], "permissions": ["SPOT"],
            "isSpotTradingAllowed": True, "isMarginTradingAllowed": False,
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": "0.0001", "maxPrice": "1000", "tickSize": "0.0001"},
                {"filterType": "LOT_SIZE", "minQty": "0.1", "maxQty": "900000", "stepSize": "0.1"},
            ],
        }
    ],
}  # fmt: skip


def binance(method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
    route = urlsplit(path).path
    if route == "/api/v3/exchangeInfo":
        return json_reply(EXCHANGE_INFO)
    if route == "/api/v3/klines" and query["symbol"] == "ADAEUR" and query["interval"] == "1h":
        first = -(-int(query["startTime"]) // (HOUR * 1000)) * HOUR
        listed = max(first, NEW_YEAR)  # as the real one: nothing before the listing, the next bars instead
        count = min(int(query.get("limit", 500)), 1000)
        last = int(query.get("endTime", 10**15)) // 1000
        times = [listed + hour * HOUR for hour in range(count) if listed + hour * HOUR <= min(last, NOW)]
        return json_reply([kline(t) for t in times if t != NEW_YEAR + 7 * HOUR])
    return json_reply({"code": -1121, "msg": "Invalid symbol."}, 400)


def open_binance(service: Service, name: str, exchange: str = "binance"):
    return open_source(name, kind="auto", exchange=exchange, urls={"ccxt": service.url})


def test_crypto_comes_from_an_exchange_in_pieces_and_lands_as_one_file(serve, tmp_path):
    service, name = serve(binance), "ADA-EUR_1H_20240101-20240331"
    seen: list[Progress] = []
    path = fetch(name, tmp_path, open_binance(service, name), report=seen.append, now_s=NOW).path
    assert path == tmp_path / f"{name}.csv.gz"
    assert [item.name for item in tmp_path.iterdir()] == [path.name], "nothing but the file is left"
    bars, report = load_dataset(name, [tmp_path])
    assert (len(bars), report.gaps["count"]) == (91 * 24 - 1, 1)
    assert bars.t[0] == NEW_YEAR
    assert bars.close.tolist() == [close_at(int(t)) for t in bars.t]
    assert [(item.done, item.total, item.rows) for item in seen] == [(1, 3, 999), (2, 3, 1999), (3, 3, 2183)]


def test_an_interrupted_fetch_goes_on_where_it_stopped(serve, tmp_path):
    service, name = serve(binance), "ADA-EUR_1H_20240101-20240331"
    whole = fetch(name, tmp_path / "whole", open_binance(service, name), now_s=NOW).path.read_bytes()

    def pull_the_plug(progress: Progress) -> None:
        service.down = progress.done == 2

    directory = tmp_path / "cut"
    with pytest.raises(Unreachable, match="run the same command again to go on") as caught:
        fetch(name, directory, open_binance(service, name), report=pull_the_plug, now_s=NOW, pause_s=0)
    assert caught.value.exit_code == 69
    assert not (directory / f"{name}.csv.gz").exists()
    service.down = False
    source = open_binance(service, name)
    asked_before = len(service.seen)
    seen: list[Progress] = []
    path = fetch(name, directory, source, report=seen.append, now_s=NOW + 5 * DAY).path
    assert path.read_bytes() == whole
    assert all(item.resumed for item in seen)
    starts = [query["startTime"] for _, route, query in service.seen[asked_before:] if "klines" in route]
    assert starts == [str((NEW_YEAR + 2000 * HOUR) * 1000)], "only the missing piece is asked for"


def test_a_damaged_piece_or_journal_is_fetched_again(serve, tmp_path):
    service, name = serve(binance), "ADA-EUR_1H_20240101-20240331"
    whole = fetch(name, tmp_path / "whole", open_binance(service, name), now_s=NOW).path.read_bytes()
    journal = tmp_path / f".{name}.fetch"

    def damage(progress: Progress) -> None:
        service.down = progress.done == 2

    for file, garbage in [(f"{NEW_YEAR}.npz", b"torn"), ("request.json", b"{")]:
        with pytest.raises(Unreachable):
            fetch(name, tmp_path, open_binance(service, name), report=damage, now_s=NOW, pause_s=0)
        service.down = False
        (journal / file).write_bytes(garbage)
        assert fetch(name, tmp_path, open_binance(service, name), now_s=NOW).path.read_bytes() == whole


def test_a_bar_that_has_not_closed_is_left_out(serve, tmp_path):
    service, name = serve(binance), "ADA-EUR_1H_20240101-20240331"
    now = NEW_YEAR + 30 * HOUR + 59 * 60
    fetch(name, tmp_path, open_binance(service, name), now_s=now)
    assert load_dataset(name, [tmp_path])[0].t[-1] == NEW_YEAR + 29 * HOUR


def test_a_name_without_a_range_means_two_years_up_to_now(serve, tmp_path):
    service = serve(binance)
    fetch("ADA-EUR_1H", tmp_path, open_binance(service, "ADA-EUR_1H"), now_s=NOW)
    bars, _ = load_dataset("ADA-EUR_1H", [tmp_path])
    assert (bars.t[0], bars.t[-1]) == (NEW_YEAR, NOW - HOUR)
    first = min(int(query["startTime"]) for _, route, query in service.seen if "klines" in route) // 1000
    assert first == NOW + DAY - 730 * DAY


def test_the_next_exchange_is_tried_where_one_does_not_list_the_pair(serve, tmp_path):
    service, name = serve(binance), "BTC-EUR_1H_20240101-20240102"
    with pytest.raises(DatasetNotFoundError, match="binance does not list BTC/EUR; binanceus does not list BTC/EUR"):
        open_binance(service, name, "binance,binanceus")
    assert open_binance(service, "ADA-EUR_1H", "binanceus,binance").label == "binanceus ADA/EUR"
    with pytest.raises(ConfigError, match="exchange 'nonesuch' is unknown to ccxt"):
        open_binance(service, name, "nonesuch")


def test_a_service_that_is_not_there_is_unreachable(tmp_path):
    with pytest.raises(MachineUnfitError, match="binance is unreachable") as caught:
        open_source("ADA-EUR_1H", kind="auto", exchange="binance", urls={"ccxt": "http://127.0.0.1:9"})
    assert caught.value.exit_code == 69


def test_nonsense_from_a_service_is_bad_data_and_writes_no_file(serve, tmp_path):
    def wrong(method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        status, kind, data = binance(method, path, query, headers)
        return status, kind, data.replace(b'"12.5"', b'"-12.5"')

    name = "ADA-EUR_1H_20240101-20240102"
    with pytest.raises(BadDataError, match=r"binance ADA/EUR: 47 faulty rows: row 1: volume -12.5 is not"):
        fetch(name, tmp_path, open_binance(serve(wrong), name), now_s=NOW)
    assert list(tmp_path.glob("*.gz")) == []


def test_faulty_rows_of_a_service_are_dropped_and_listed_on_request(serve, tmp_path):
    def one_wrong(method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        status, kind, data = binance(method, path, query, headers)
        return status, kind, data.replace(b'"12.5"', b'"-12.5"', 1)

    name = "ADA-EUR_1H_20240101-20240102"
    fetched = fetch(name, tmp_path, open_binance(serve(one_wrong), name), now_s=NOW, repair="drop")
    assert fetched.dropped == [{"row": 1, "reason": "volume -12.5 is not a volume of 0 or more"}]
    assert load_dataset(name, [tmp_path])[0].t[0] == NEW_YEAR + HOUR


def test_a_range_in_the_future_or_without_bars_is_refused(serve, tmp_path):
    service = serve(binance)
    with pytest.raises(ConfigError, match="lies in the future"):
        fetch("ADA-EUR_1H_20300101-20300201", tmp_path, open_binance(service, "ADA-EUR_1H"), now_s=NOW)
    with pytest.raises(DatasetNotFoundError, match="binance ADA/EUR has no bars from 2020-01-01T00:00:00Z to"):
        fetch("ADA-EUR_1H_20200101-20200110", tmp_path, open_binance(service, "ADA-EUR_1H"), now_s=NOW)


def test_another_file_of_the_name_stands_in_the_way(serve, tmp_path):
    (tmp_path / "ADA-EUR_1H.csv").write_text("x")
    with pytest.raises(BadDataError, match="has ADA-EUR_1H.csv already; remove it"):
        fetch("ADA-EUR_1H", tmp_path, open_binance(serve(binance), "ADA-EUR_1H"), now_s=NOW)


@pytest.mark.slow
def test_a_fetch_stopped_by_a_signal_ends_with_75_and_goes_on_later(serve, tmp_path):
    signalled, asked = threading.Event(), []

    def patient(method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        """After the first piece it answers nothing until the signal was sent."""
        asked.extend([path] if "klines" in path else [])
        assert len(asked) < 2 or signalled.wait(300)
        return binance(method, path, query, headers)

    service, name = serve(patient), "ADA-EUR_1H_20240101-20241231"
    command = [sys.executable, "-m", "training.stages.data", "fetch", name, "--data-dir", str(tmp_path), "--json"]
    options = {"cwd": Path(__file__).parents[2], "env": os.environ | {"CCXT_BASE_URL": service.url}}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options) as process:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        signalled.set()
        _, rest = process.communicate(timeout=300)
    assert (first["kind"], first["done"], first["total"]) == ("progress", 1, 9)
    assert process.returncode == 75
    assert rest.decode().splitlines()[-1] == "interrupted; run the same command again"
    assert list((tmp_path / f".{name}.fetch").glob("*.npz"))
    assert not list(tmp_path.glob("*.csv.gz"))
    again = subprocess.run(command, capture_output=True, timeout=300, **options)
    assert json.loads(again.stdout)["rows"] == 366 * 24 - 1
    assert json.loads(again.stderr.splitlines()[0])["resumed"] is True


# ---- histdata.com


def histdata_zip(year: int, days: list[tuple[int, int]]) -> bytes:
    """A year's zip as the site packs it: four minutes at 02:00 New York time of each (month, day)."""
    lines = [
        f"{year}{month:02}{day:02} 02{minute:02}00;1.1{day:02};1.2;1.0;1.15;0"
        for month, day in days
        for minute in range(4)
    ]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"DAT_ASCII_EURUSD_M1_{year}.csv", "\r\n".join(lines))
        archive.writestr(f"DAT_ASCII_EURUSD_M1_{year}.txt", "status report")
    return packed.getvalue()


FORM = """<html><form id="file_down" name="file_down" action="/get.php" method="POST">
<input type="hidden" name="tk" id="tk" value="c92691404446db5f82102a9cab029052" />
<input type="hidden" name="date" id="date" value="{year}" />
<input type="hidden" name="datemonth" id="datemonth" value="{month}" />
<input type="hidden" name="platform" id="platform" value="ASCII" />
<input type="hidden" name="timeframe" id="timeframe" value="M1" />
<input type="hidden" name="fxpair" id="fxpair" value="EURUSD" /></form></html>"""
PAGE = "/download-free-forex-historical-data/?/ascii/1-minute-bar-quotes/eurusd/"


def histdata(method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
    if method == "GET" and path.startswith(PAGE):
        year, _, month = path.removeprefix(PAGE).partition("/")
        if int(year) < 2016:
            return 200, "text/html", b"<html>no such file</html>"
        return 200, "text/html", FORM.format(year=year, month=f"{year}{month:0>2}" if month else year).encode()
    right = query.get("tk") == "c92691404446db5f82102a9cab029052" and PAGE in headers.get("Referer", "")
    if method == "POST" and path == "/get.php" and right:
        month = query["datemonth"][4:]
        days = [(int(month), 10)] if month else [(1, 10), (7, 11)]
        return 200, "application/zip", histdata_zip(int(query["date"]), days)
    return 200, "text/html", b"<html>wrong token</html>"


def test_fx_comes_from_histdata_by_years_and_months_with_token_and_referer(serve, tmp_path):
    service, name = serve(histdata), "EUR-USD_1m_20160101-20170228"
    source = HistData(DatasetName.parse(name), service.url, this_year=2017)
    fetch(name, tmp_path, source, now_s=NOW)
    bars, report = load_dataset(name, [tmp_path])
    # 02:00 in New York is 07:00 UTC in January and 06:00 in July
    assert [str(np.datetime64(int(t), "s")) for t in bars.t[::4]] == [
        "2016-01-10T07:00:00",
        "2016-07-11T06:00:00",
        "2017-01-10T07:00:00",
        "2017-02-10T07:00:00",
    ]
    assert report.zero_volume == len(bars) == 16
    posts = [values["datemonth"] for method, _, values in service.seen if method == "POST"]
    assert posts == ["2016", "201701", "201702"], "2015's last evening was asked for, and is not on offer"


def test_histdata_minutes_are_built_up_to_the_asked_timeframe(serve, tmp_path):
    name = "EUR-USD_1H_20160101-20161231"
    source = HistData(DatasetName.parse(name), serve(histdata).url, this_year=2024)
    fetch(name, tmp_path, source, now_s=NOW)
    bars, _ = load_dataset(name, [tmp_path])
    # the hour of 10 January is there from its first minute; that of 11 July ends too early to be whole
    assert [str(np.datetime64(int(t), "s")) for t in bars.t] == ["2016-01-10T07:00:00"]
    assert [bars.open[0], bars.high[0], bars.low[0], bars.close[0]] == [1.11, 1.2, 1.0, 1.15]


def test_a_faulty_line_in_a_zip_is_named_with_its_file(serve, tmp_path):
    def torn(method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        status, kind, data = histdata(method, path, query, headers)
        if kind != "application/zip":
            return status, kind, data
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("DAT.csv", "20160110 020000;1.1;1.2;1.0;1.15;0\n20160110 020100;1.1;1.2\n")
        return status, kind, packed.getvalue()

    name = "EUR-USD_1m_20160101-20160131"
    source = HistData(DatasetName.parse(name), serve(torn).url)
    with pytest.raises(
        BadDataError, match=r"histdata.com EURUSD 2016: 1 faulty row: row 2: the line '20160110 020100;1.1"
    ):
        fetch(name, tmp_path, source, now_s=NOW)


def test_a_page_without_a_form_offers_nothing():
    assert form_fields("<html><input name=other value=1></html>") == {}
    assert form_fields(FORM.format(year=2016, month=2016))["fxpair"] == "EURUSD"


def test_a_refused_token_is_bad_data_naming_the_file(serve, tmp_path):
    def stale(method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        return histdata(method, path, query | {"tk": "stale"}, headers)

    source = HistData(DatasetName.parse("EUR-USD_1m"), serve(stale).url)
    with pytest.raises(BadDataError, match=r"histdata.com EURUSD 20\d\d.* is not a readable zip file"):
        fetch("EUR-USD_1m_20160101-20160131", tmp_path, source, now_s=NOW)


# ---- Yahoo through yfinance


@pytest.fixture(scope="module", autouse=True)
def yahoo_cache(tmp_path_factory):
    yfinance.set_tz_cache_location(str(tmp_path_factory.mktemp("yfinance")))


def chart(ticker: str, gmt_offset_s: int, times: list[int]) -> Reply:
    meta = {
        "currency": "USD", "symbol": ticker, "exchangeName": "CCY", "instrumentType": "CURRENCY",
        "firstTradeDate": 1_000_000_000, "regularMarketTime": NOW, "gmtoffset": gmt_offset_s, "timezone": "GMT",
        "exchangeTimezoneName": "Europe/London", "priceHint": 4, "dataGranularity": "1d", "range": "",
        "validRanges": ["1d", "1mo", "1y", "max"], "currentTradingPeriod": {},
    }  # fmt: skip
    prices = [1.0 + place / 100 for place in range(len(times))]
    quote = {
        "open": prices,
        "high": [p + 0.2 for p in prices],
        "low": [p - 0.2 for p in prices],
        "close": [p + 0.1 for p in prices],
        "volume": [0] * len(times),
    }
    result = {
        "meta": meta,
        "timestamp": times,
        "indicators": {"quote": [quote], "adjclose": [{"adjclose": quote["close"]}]},
    }
    return json_reply({"chart": {"result": [result], "error": None}})


def yahoo(method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
    route = urlsplit(path).path
    if route != "/v8/finance/chart/EURUSD=X":
        missing = {"code": "Not Found", "description": "No data found, symbol may be delisted"}
        return json_reply({"chart": {"result": None, "error": missing}}, 404)
    first, last = int(query.get("period1", NOW - DAY)), int(query.get("period2", NOW))
    # midnights in London from March on: an hour before midnight UTC once clocks have gone forward
    days = [datetime(2024, 3, day, tzinfo=UTC) for day in (28, 29)] + [
        datetime(2024, 4, day, tzinfo=UTC) for day in (1, 2)
    ]
    times = [int(day.timestamp()) - (HOUR if day.month == 4 else 0) for day in days]
    return chart("EURUSD=X", HOUR, [t for t in times if first <= t < last])


def test_days_of_fx_come_from_yahoo_stamped_by_their_calendar_day(serve, tmp_path):
    service, name = serve(yahoo), "EUR-USD_1D_20240301-20240430"
    source = open_source(name, kind="auto", exchange="", urls={"yahoo": service.url})
    assert source.label == "Yahoo EURUSD=X"
    fetch(name, tmp_path, source, now_s=NOW)
    bars, _ = load_dataset(name, [tmp_path])
    assert [str(np.datetime64(int(t), "s"))[:10] for t in bars.t] == [
        "2024-03-28",
        "2024-03-29",
        "2024-04-01",
        "2024-04-02",
    ]
    assert bars.open.tolist() == [1.0, 1.01, 1.02, 1.03]
    assert "/v8/finance/chart/EURUSD=X" in [urlsplit(route).path for _, route, _ in service.seen]


def test_a_ticker_that_yahoo_does_not_know_is_not_found(serve, tmp_path):
    name = "GBP-USD_1D_20240301-20240430"
    source = open_source(name, kind="yahoo", exchange="", urls={"yahoo": serve(yahoo).url})
    with pytest.raises(DatasetNotFoundError, match="Yahoo GBPUSD=X has no bars from 2024-03-01"):
        fetch(name, tmp_path, source, now_s=NOW, pause_s=0)


def test_a_silent_yahoo_is_unreachable(tmp_path):
    source = open_source("AUD-USD_1D", kind="yahoo", exchange="", urls={"yahoo": "http://127.0.0.1:9"})
    with pytest.raises(Unreachable, match="Yahoo is unreachable"):
        fetch("AUD-USD_1D_20240301-20240430", tmp_path, source, now_s=NOW, pause_s=0)


# ---- which source


@pytest.mark.parametrize(
    "name, label",
    [("EUR-USD_1H", "histdata.com EURUSD"), ("XAU-USD_1m", "histdata.com XAUUSD"), ("XAU-USD_1D", "Yahoo GC=F")],
)
def test_the_asset_class_and_timeframe_choose_the_source(name, label):
    assert open_source(name, kind="auto", exchange="", urls={}).label == label


def test_only_declared_variables_redirect_a_source():
    assert base_urls({"HISTDATA_BASE_URL": "http://127.0.0.1:1/", "YAHOO_BASE_URL": "", "HOME": "/"}) == {
        "histdata": "http://127.0.0.1:1"
    }


def test_an_unknown_kind_of_source_is_a_configuration_error():
    with pytest.raises(ConfigError, match="source 'ftp' is unknown; expected auto, ccxt, histdata, yahoo"):
        open_source("EUR-USD_1H", kind="ftp", exchange="", urls={})


def test_a_data_directory_that_is_a_file_cannot_be_written(serve, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("no directory")
    with pytest.raises(CannotWriteError):
        fetch("ADA-EUR_1H", blocker, open_binance(serve(binance), "ADA-EUR_1H"), now_s=NOW)
