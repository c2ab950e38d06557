"""Dataset names and the asset-class table.

`ADA-EUR_1H_20240101-20251231` is base ADA, quote EUR, one-hour bars, cut to
that range. Parts are matched whole: ADA never matches CANADA.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from configs.errors import ConfigError
from configs.files import parse_yaml

TIMEFRAME_S = {"1m": 60, "5m": 300, "15m": 900, "30m": 1_800, "1H": 3_600, "4H": 14_400, "1D": 86_400}
"""Seconds per bar of each timeframe."""
DEFAULT_DATA_DIRS = (Path("data"), Path("/data"))
"""Where a dataset is looked for by its name."""
FILE_ENDINGS = tuple(".csv .csv.gz .csv.zip .tsv .tsv.gz .txt .txt.gz .json .json.gz .zip .parquet .feather".split())

NAME_PATTERN = re.compile(
    r"(?P<base>[A-Z0-9]{2,10})-(?P<quote>[A-Z0-9]{2,10})_(?P<timeframe>[0-9]+[A-Za-z])"
    r"(?:_(?P<start>[0-9]{8})-(?P<end>[0-9]{8}))?"
)


@dataclass(frozen=True)
class DatasetName:
    """A parsed dataset name; `start_s` and `end_s` are Unix seconds, end exclusive, 0 = no cut."""

    base: str
    quote: str
    timeframe: str
    start_s: int = 0
    end_s: int = 0

    @classmethod
    def parse(cls, name: str) -> DatasetName:
        """Parse `<BASE>-<QUOTE>_<TIMEFRAME>[_<YYYYMMDD>-<YYYYMMDD>]`.

        Raises:
            ConfigError: the name has another form, an unknown timeframe or an empty range.
        """
        match = NAME_PATTERN.fullmatch(name)
        if match is None:
            raise ConfigError(
                f"dataset name {name!r} is not <BASE>-<QUOTE>_<TIMEFRAME>[_<YYYYMMDD>-<YYYYMMDD>], "
                "for example ADA-EUR_1H or ADA-EUR_1H_20240101-20251231"
            )
        timeframe = match["timeframe"]
        if timeframe not in TIMEFRAME_S:
            raise ConfigError(
                f"dataset name {name!r} has unknown timeframe {timeframe!r}; expected one of {', '.join(TIMEFRAME_S)}"
            )
        start_s, end_s = 0, 0
        if match["start"]:
            start, end = (_day(name, match[key]) for key in ("start", "end"))
            if end < start:
                raise ConfigError(f"dataset name {name!r} ends before it starts; write the earlier day first")
            start_s, end_s = int(start.timestamp()), int((end + timedelta(days=1)).timestamp())
        return cls(match["base"], match["quote"], timeframe, start_s, end_s)

    @property
    def symbol(self) -> str:
        """`BASE-QUOTE`."""
        return f"{self.base}-{self.quote}"

    @property
    def timeframe_s(self) -> int:
        """Seconds per bar."""
        return TIMEFRAME_S[self.timeframe]

    @property
    def series(self) -> str:
        """`BASE-QUOTE_TIMEFRAME`: the name without its range."""
        return f"{self.symbol}_{self.timeframe}"


def asset_class_of(base: str, quote: str) -> str:
    """Asset class of a pair, by its whole parts.

    Raises:
        ConfigError: the table does not know the pair; the message says how to declare it.
    """
    table = asset_table()
    coins, currencies = set(table["coins"]), set(table["currencies"])
    if base in table["commodities"] and quote in currencies:
        return "commodity"
    if base in coins and quote in coins | currencies | set(table["stablecoins"]):
        return "crypto"
    if base in currencies and quote in currencies:
        return "fx"
    raise ConfigError(
        f"symbol {base}-{quote} is in no asset class; declare it with "
        f"--set dataset.asset_class=<{'|'.join(table['classes'])}>, or correct the name"
    )


def is_path(dataset: str) -> bool:
    """Whether a dataset was given by the path of its file, there or not; a bare name never is one."""
    return "/" in dataset or dataset.startswith(".") or dataset.lower().endswith(FILE_ENDINGS)


def can_be_fetched(dataset: str) -> bool:
    """Whether a service may know it: a well-formed name of a pair in the table, no path."""
    try:
        name = DatasetName.parse(dataset)
        asset_class_of(name.base, name.quote)
    except ConfigError:
        return False
    return name.base != "DEMO"


def class_layer(asset_class: str, timeframe: str) -> dict:
    """The configuration layer that an asset class and a timeframe decide."""
    classes = asset_table()["classes"]
    if asset_class not in classes:
        raise ConfigError(f"dataset.asset_class is {asset_class!r}; expected one of {', '.join(classes)}")
    row = classes[asset_class]
    timeframe_s = TIMEFRAME_S[timeframe]
    calendar, gap = row["calendar"], row["max_gap"]
    bars_per_day = max(1.0, calendar["hours_per_day"] * 3_600 / timeframe_s)
    max_gap_s = gap["bars"] * timeframe_s if "bars" in gap else max(gap["hours"] * 3_600, timeframe_s)
    return {
        "market": {
            **row["market"],
            "bars_per_year": bars_per_day * calendar["days_per_year"],
            "max_gap_s": max_gap_s,
        },
        "features": row["features"],
        "costs": row["costs"],
    }


@cache
def asset_table() -> dict:
    """The table of `assets.yaml`."""
    return parse_yaml((Path(__file__).parent / "assets.yaml").read_text())


def _day(name: str, text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ConfigError(f"dataset name {name!r} has {text!r} where a day YYYYMMDD was expected") from error
