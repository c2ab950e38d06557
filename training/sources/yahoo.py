"""Bars from Yahoo Finance through yfinance: daily FX and metals, and anything else on request.

A daily bar is stamped at 00:00 UTC of its calendar day. Metals and energy are
front-month futures there, not spot. Yahoo keeps few days of minutes (7) and two
years of hours; older ones are simply absent.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import yfinance
from curl_cffi import requests
from yfinance.exceptions import YFException, YFPricesMissingError, YFRateLimitError, YFTzMissingError

from configs.assets import TIMEFRAME_S, DatasetName, asset_class_of
from configs.errors import DatasetNotFoundError
from training.sources.service import Piece, PieceRows, Unreachable

DAY_S = 86_400
PIECE_DAYS = {"1m": 7, "5m": 59, "15m": 59, "30m": 59, "1h": 365, "1d": 3_650}
"""Most days Yahoo gives at once, by its interval."""
FUTURES = {"XAU": "GC=F", "XAG": "SI=F", "XPT": "PL=F", "XPD": "PA=F", "WTI": "CL=F", "BRENT": "BZ=F", "NGAS": "NG=F"}
TIMEOUT_S = 20


class _Session(requests.Session):
    """A browser-like session that sends every request to another host where one is given."""

    def __init__(self, base_url: str) -> None:
        super().__init__(impersonate="chrome")
        self._base_url = base_url

    def request(self, method: Any, url: str, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        if self._base_url:
            url = self._base_url + urlsplit(url).path
        return super().request(method, url, *arguments, **options)


class Yahoo:
    """One ticker on Yahoo Finance."""

    def __init__(self, name: DatasetName, base_url: str = "") -> None:
        """`base_url` replaces Yahoo's hosts.

        Raises:
            DatasetNotFoundError: Yahoo has no ticker for the pair.
        """
        self.ticker = _ticker(name)
        self.label = f"Yahoo {self.ticker}"
        # Yahoo has no 4-hour bars: they are built from hours
        self._interval = "1h" if name.timeframe == "4H" else name.timeframe.lower()
        self.timeframe_s = TIMEFRAME_S["1H"] if name.timeframe == "4H" else name.timeframe_s
        self._session = _Session(base_url)

    def pieces(self, start_s: int, stop_s: int) -> list[Piece]:
        """Spans as long as Yahoo allows."""
        step_s = PIECE_DAYS[self._interval] * DAY_S
        return [Piece(str(start), start, min(start + step_s, stop_s)) for start in range(start_s, stop_s, step_s)]

    def download(self, piece: Piece) -> PieceRows:
        """One request; none where Yahoo has no prices in the span."""
        logging.getLogger("yfinance").setLevel(logging.CRITICAL)  # errors arrive as exceptions
        yfinance.config.debug.hide_exceptions = False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # yfinance's own use of pandas
                frame = yfinance.Ticker(self.ticker, session=self._session).history(
                    start=_day(piece.start_s - DAY_S), end=_day(piece.stop_s + DAY_S), interval=self._interval,
                    auto_adjust=False, actions=False, timeout=TIMEOUT_S,
                )  # fmt: skip
        except (YFPricesMissingError, YFTzMissingError):
            return PieceRows.none()
        except YFRateLimitError as error:
            raise Unreachable("Yahoo refuses more requests for now") from error
        except (YFException, requests.exceptions.RequestException, ValueError) as error:
            raise Unreachable(f"Yahoo is unreachable: {' '.join(str(error).split())[:200]}") from error
        index = frame.index
        # the calendar day of the exchange is the label of a daily bar, whatever its UTC offset
        utc = index.tz_localize(None) if self._interval == "1d" else index.tz_convert("UTC").tz_localize(None)
        t = utc.to_numpy().astype("datetime64[s]").astype(np.int64)
        values = frame[["Open", "High", "Low", "Close", "Volume"]].to_numpy(np.float64)
        return PieceRows(t // DAY_S * DAY_S if self._interval == "1d" else t, values)


def _ticker(name: DatasetName) -> str:
    kind = asset_class_of(name.base, name.quote)
    if kind == "crypto":
        return f"{name.base}-{name.quote}"
    if kind == "fx":
        return f"{name.base}{name.quote}=X"
    if name.base in FUTURES and name.quote == "USD":
        return FUTURES[name.base]
    raise DatasetNotFoundError(f"Yahoo has no ticker for {name.symbol}; its commodities are quoted in USD only")


def _day(t: int) -> str:
    return str(np.datetime64(t, "s").astype("datetime64[D]"))
