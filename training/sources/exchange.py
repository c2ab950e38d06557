"""Bars of crypto pairs from any exchange that ccxt speaks with; public data, no key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import ccxt
import numpy as np

from configs.assets import TIMEFRAME_S, DatasetName
from configs.errors import BadDataError, ConfigError, DatasetNotFoundError
from configs.secrets import one_line
from training.sources.service import Piece, PieceRows, Unreachable

PIECE_BARS = 1_000
TIMEOUT_MS = 15_000
CCXT_TIMEFRAMES = {name: name.lower() for name in TIMEFRAME_S}


def open_exchange(name: DatasetName, exchanges: Sequence[str], base_url: str) -> ExchangeSource:
    """The first of the exchanges that lists the pair.

    Raises:
        ConfigError: an exchange that ccxt does not know.
        Unreachable: none listed the pair and one did not answer.
        DatasetNotFoundError: all answered and none lists the pair.
    """
    refusals: list[str] = []
    silent = False
    for exchange in exchanges:
        if exchange not in ccxt.exchanges:
            raise ConfigError(
                f"exchange {exchange!r} is unknown to ccxt; expected one such as binance, kraken, bitvavo"
            )
        source = ExchangeSource(exchange, name, base_url)
        try:
            source.open()
        except (Unreachable, DatasetNotFoundError) as error:
            refusals.append(str(error))
            silent = silent or isinstance(error, Unreachable)
        else:
            return source
    kind = Unreachable if silent else DatasetNotFoundError
    raise kind(f"{'; '.join(refusals)}; name others with --exchange")


class ExchangeSource:
    """One pair on one exchange."""

    def __init__(self, exchange: str, name: DatasetName, base_url: str = "") -> None:
        """`base_url` replaces scheme and host of every address of the exchange."""
        self.exchange, self.symbol = exchange, f"{name.base}/{name.quote}"
        self.label = f"{exchange} {self.symbol}"
        self.timeframe, self.timeframe_s = CCXT_TIMEFRAMES[name.timeframe], name.timeframe_s
        options = {"fetchMarkets": {"types": ["spot"]}, "defaultType": "spot"}
        self._client: Any = getattr(ccxt, exchange)(
            {"enableRateLimit": True, "timeout": TIMEOUT_MS, "options": options}
        )
        if base_url:
            self._client.urls["api"] = _rebased(self._client.urls["api"], base_url)

    def open(self) -> None:
        """Read the exchange's list of pairs.

        Raises:
            Unreachable: no answer.
            DatasetNotFoundError: the pair or timeframe is not on offer.
        """
        markets = self._call(self._client.load_markets)
        if self.symbol not in markets:
            raise DatasetNotFoundError(f"{self.exchange} does not list {self.symbol}")
        if self.timeframe not in self._client.timeframes:
            raise DatasetNotFoundError(f"{self.exchange} has no {self.timeframe} bars")

    def pieces(self, start_s: int, stop_s: int) -> list[Piece]:
        """Spans of 1,000 bars."""
        step_s = PIECE_BARS * self.timeframe_s
        return [Piece(str(start), start, min(start + step_s, stop_s)) for start in range(start_s, stop_s, step_s)]

    def download(self, piece: Piece) -> PieceRows:
        """All bars of the span; asks again where the exchange gives fewer at once."""
        since, rows = piece.start_s, []
        while since < piece.stop_s:
            limit = min(PIECE_BARS, -(-(piece.stop_s - since) // self.timeframe_s))
            got = self._call(self._client.fetch_ohlcv, self.symbol, self.timeframe, since * 1_000, limit)
            fresh = [row for row in self._checked(got) if since <= row[0] // 1_000 < piece.stop_s]
            if not fresh:
                break
            rows += fresh
            since = max(int(row[0]) for row in fresh) // 1_000 + self.timeframe_s
        if not rows:
            return PieceRows.none()
        table = np.array(rows, dtype=np.float64)
        return PieceRows(table[:, 0].astype(np.int64) // 1_000, table[:, 1:])

    def _checked(self, got: Any) -> list:
        try:
            return [[int(row[0]), *map(float, row[1:6])] for row in got]
        except (TypeError, ValueError, IndexError) as error:
            raise BadDataError(f"{self.label}: the answer is no list of bars: {error}") from error

    def _call(self, method: Any, *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except ccxt.BadSymbol as error:
            raise DatasetNotFoundError(f"{self.exchange} does not list {self.symbol}") from error
        except ccxt.OperationFailed as error:  # network, timeout, rate limit, maintenance
            raise Unreachable(f"{self.exchange} is unreachable: {one_line(error)}") from error
        except ccxt.BaseError as error:
            raise BadDataError(f"{self.label}: the exchange refuses: {one_line(error)}") from error


def _rebased(urls: Any, base_url: str) -> Any:
    if isinstance(urls, dict):
        return {key: _rebased(value, base_url) for key, value in urls.items()}
    return base_url + urlsplit(urls).path
