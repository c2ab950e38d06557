"""Which file is which dataset: names to files in data directories, and file names to dataset names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.assets import FILE_ENDINGS, TIMEFRAME_S, DatasetName, asset_class_of, asset_table, is_path
from configs.errors import BadDataError, ConfigError, DatasetNotFoundError
from training import demo

ENDINGS = (".csv", ".csv.gz", ".csv.zip", ".parquet", ".feather", ".json", ".zip")
TIMEFRAME_WORDS = {
    word: timeframe
    for timeframe, words in {
        "1m": "m1 1m 1min",
        "5m": "m5 5m 5min",
        "15m": "m15 15m 15min",
        "30m": "m30 30m 30min",
        "1H": "h1 1h 1hr 60m 60min",
        "4H": "h4 4h 4hr",
        "1D": "d1 1d 1day daily",
    }.items()
    for word in words.split()
}
"""How file names write the timeframe, in lower case."""
NEAR_NAMES = 5


@dataclass(frozen=True)
class Located:
    """A dataset that can be read."""

    name: str
    path: Path | None
    """None: the bars are generated."""


def locate(dataset: str, data_dirs: Sequence[Path], *, symbol: str = "", timeframe: str = "") -> Located:
    """Find a dataset by its name, or take a path to a file.

    Args:
        dataset: a name such as `ADA-EUR_1H`, or a path.
        data_dirs: searched in this order; the first that has the dataset is taken.
        symbol: `BASE-QUOTE` of a path whose file name does not say it.
        timeframe: timeframe of such a path, for example `1H`.

    Raises:
        ConfigError: the name is malformed, or a path's symbol or timeframe is not known.
        DatasetNotFoundError: there is none; the message lists near names and where it looked.
        BadDataError: two files of one directory stand for the name.
    """
    if is_path(dataset):
        path = Path(dataset)
        if not path.is_file():
            raise DatasetNotFoundError(f"no file {dataset}{_near(path.name, _names_in(path.parent))}")
        return Located(name_of_path(path, symbol, timeframe), path)
    name = DatasetName.parse(dataset)
    for directory in data_dirs:
        path_or_none = _file_in(directory, dataset, name.series)
        if path_or_none is not None:
            return Located(dataset, path_or_none)
    if name.series == demo.SERIES:
        return Located(dataset, None)
    known = [*available(data_dirs), demo.SERIES]
    where = ", ".join(map(str, data_dirs)) or "no directory"
    raise DatasetNotFoundError(f"no dataset {dataset} in {where}{_near(dataset, list(known))}")


def available(data_dirs: Sequence[Path]) -> dict[str, Path]:
    """Datasets of the directories by name; a name found twice belongs to the earlier directory."""
    found: dict[str, Path] = {}
    for directory in data_dirs:
        for path in sorted(directory.iterdir()) if directory.is_dir() else []:
            name = strip_ending(path.name)
            if name != path.name and _parses(name) and path.is_file():
                found.setdefault(name, path)
    return found


def strip_ending(file_name: str) -> str:
    """The file name without the ending of a known kind."""
    endings = [ending for ending in FILE_ENDINGS if file_name.lower().endswith(ending)]
    return file_name[: -len(max(endings, key=len))] if endings else file_name


def name_of_path(path: Path, symbol: str = "", timeframe: str = "") -> str:
    """Dataset name of a file: its own where it is one, else from its words and what is declared.

    Raises:
        ConfigError: symbol or timeframe is neither declared nor plain from the file name.
    """
    stem = strip_ending(path.name)
    own = DatasetName.parse(stem) if _parses(stem) else None
    if own and symbol in ("", own.symbol) and timeframe in ("", own.timeframe):
        return stem
    words = [word for word in re.split(r"[^A-Za-z0-9]+", stem) if word]
    symbols = {own.symbol} if own else _symbols(words)
    frames = {own.timeframe} if own else {TIMEFRAME_WORDS[w.lower()] for w in words if w.lower() in TIMEFRAME_WORDS}
    chosen = symbol or _the_one(symbols, path, "symbol", "--symbol BASE-QUOTE")
    frame = timeframe or _the_one(frames, path, "timeframe", f"--timeframe {'|'.join(TIMEFRAME_S)}")
    name = f"{chosen}_{frame}"
    DatasetName.parse(name)
    return name


def _parses(name: str) -> bool:
    try:
        DatasetName.parse(name)
    except ConfigError:
        return False
    return True


def _file_in(directory: Path, *stems: str) -> Path | None:
    """The file of the first stem that has one: a file with the very range goes before the whole series."""
    for stem in dict.fromkeys(stems):
        found = [path for ending in ENDINGS if (path := directory / f"{stem}{ending}").is_file()]
        if len(found) > 1:
            raise BadDataError(
                f"{len(found)} files in {directory} are {stem}: {', '.join(path.name for path in found)}; "
                "keep one, or give the path of the one you mean"
            )
        if found:
            return found[0]
    return None


def _symbols(words: list[str]) -> set[str]:
    """Symbols that the words of a file name spell, each part whole: `ADAUSDT`, or `ADA` beside `USDT`."""
    pairs = [(word[:cut], word[cut:]) for word in words for cut in range(2, len(word) - 1)]
    pairs += list(zip(words[:-1], words[1:], strict=True))
    return {f"{base}-{quote}".upper() for base, quote in pairs if _is_pair(base.upper(), quote.upper())}


def _is_pair(base: str, quote: str) -> bool:
    table = asset_table()
    parts = {part for key in ("coins", "currencies", "commodities", "stablecoins") for part in table[key]}
    if not {base, quote} <= parts or base == quote:
        return False
    try:
        asset_class_of(base, quote)
    except ConfigError:
        return False
    return True


def _the_one(found: set[str], path: Path, what: str, option: str) -> str:
    if len(found) == 1:
        return found.pop()
    says = f"may mean {' or '.join(sorted(found))}" if found else "does not say it"
    raise ConfigError(f"cannot tell the {what} of {path}: the file name {says}; pass {option}")


def _names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()] if directory.is_dir() else []


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=NEAR_NAMES, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else ""
