"""Fetch a dataset from a service into a data directory, piece by piece, so that an interrupted fetch goes on.

Pieces lie in `<data-dir>/.<name>.fetch/` until all are there; then they are held to
the market rules like any file and written as `<name>.csv.gz` in one move.
"""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from configs.assets import TIMEFRAME_S, DatasetName, asset_class_of
from configs.errors import BadDataError, ConfigError, DatasetNotFoundError
from configs.files import atomic_path, read_json, write_json
from training.market import VALUE_COLUMNS, Bars, make_bars
from training.sources.canonical import write_canonical
from training.sources.catalog import ENDINGS
from training.sources.load import Cleaned, LoadOptions, clean
from training.sources.resample import resample
from training.sources.service import Piece, PieceRows, Source, Unreachable
from training.sources.stamps import day_name
from training.sources.table import Table, by_row

DAY_S = 86_400
DEFAULT_SPAN_S = 730 * DAY_S
"""A name without a range asks for the two years up to now."""
ATTEMPTS = 3
BASE_URL_VARIABLES = {"ccxt": "CCXT_BASE_URL", "histdata": "HISTDATA_BASE_URL", "yahoo": "YAHOO_BASE_URL"}
"""Environment variables that send a source to another host: a mirror, or a test's loopback server."""


@dataclass(frozen=True)
class _Request:
    start_s: int
    stop_s: int
    now_s: int
    """When the fetch first began: a bar that had not closed by then may be half a bar in a stored piece."""
    resumed: bool


@dataclass(frozen=True)
class Progress:
    """Where a fetch stands."""

    source: str
    done: int
    total: int
    rows: int
    resumed: bool


@dataclass(frozen=True)
class Fetched:
    """A finished fetch."""

    path: Path
    dropped: list[dict]
    """Faulty rows left out, with the reason; `row` counts from the first bar that was fetched."""


def base_urls(environment: Mapping[str, str]) -> dict[str, str]:
    """Hosts to use instead of the services' own, by kind of source."""
    return {kind: environment[name].rstrip("/") for kind, name in BASE_URL_VARIABLES.items() if environment.get(name)}


def source_kind(name: DatasetName, asset_class: str) -> str:
    """Which kind of service has a dataset: exchanges crypto, HistData minutes of FX and metals, Yahoo their days."""
    if asset_class == "crypto":
        return "ccxt"
    return "yahoo" if name.timeframe == "1D" else "histdata"


def open_source(name: str, *, kind: str, exchange: str, urls: Mapping[str, str]) -> Source:
    """The service for a dataset.

    Args:
        name: dataset name.
        kind: `ccxt`, `histdata`, `yahoo`, or `auto` to choose by asset class.
        exchange: ccxt exchange ids, comma separated; the first that lists the pair is taken.
        urls: see `base_urls`.

    Raises:
        ConfigError: unknown kind or exchange, or a symbol of no known class.
        Unreachable: no listed exchange answers.
        DatasetNotFoundError: no listed exchange has the pair.
    """
    parsed = DatasetName.parse(name)
    if kind == "auto":
        kind = source_kind(parsed, asset_class_of(parsed.base, parsed.quote))
    base_url = urls.get(kind, "")
    if kind == "ccxt":
        from training.sources.exchange import open_exchange

        return open_exchange(parsed, exchange.split(","), base_url)
    if kind == "histdata":
        from training.sources.histdata import HistData

        return HistData(parsed, base_url)
    if kind == "yahoo":
        from training.sources.yahoo import Yahoo

        return Yahoo(parsed, base_url)
    raise ConfigError(f"source {kind!r} is unknown; expected auto, {', '.join(BASE_URL_VARIABLES)}")


def fetch(
    name: str,
    directory: Path,
    source: Source,
    *,
    repair: str = "none",
    report: Callable[[Progress], None] = lambda progress: None,
    now_s: int = 0,
    pause_s: float = 1.0,
) -> Fetched:
    """Fetch a dataset into `directory`.

    Args:
        name: dataset name; without a range the two years up to now.
        directory: where `<name>.csv.gz` is written, over an older one.
        source: where from.
        repair: `drop` leaves faulty rows out and lists them, `none` refuses them.
        report: called after each piece.
        now_s: the present, 0 for the clock's; bars that have not closed by then are left out.
        pause_s: wait before the second attempt at a piece, doubled before the third.

    Raises:
        Unreachable: the service stopped answering; what was fetched is kept, the same call goes on from there.
        BadDataError, DatasetNotFoundError: see `Source.download`.
        CannotWriteError: the directory refuses.
    """
    parsed = DatasetName.parse(name)
    path = directory / f"{name}.csv.gz"
    others = [other.name for ending in ENDINGS if (other := directory / f"{name}{ending}").exists() and other != path]
    if others:
        raise BadDataError(f"{directory} has {', '.join(others)} already; remove it before fetching {name} anew")
    now_s = now_s or int(time.time())
    journal = directory / f".{name}.fetch"
    request = _request(journal, parsed, source, now_s)
    pieces = source.pieces(request.start_s, request.stop_s)
    rows: list[PieceRows] = []
    for done, piece in enumerate(pieces, start=1):
        rows.append(_piece(journal, piece, source, pause_s))
        report(Progress(source.label, done, len(pieces), sum(len(part.t) for part in rows), request.resumed))
    bars, dropped = _assemble(parsed, source, rows, request, repair)
    write_canonical(bars, path)
    shutil.rmtree(journal)
    return Fetched(path, dropped)


def _request(journal: Path, name: DatasetName, source: Source, now_s: int) -> _Request:
    """The range to fetch: that of an interrupted fetch from the same source, which goes on, else the one asked for."""
    asked = {"source": source.label, "timeframe_s": source.timeframe_s, "start_s": name.start_s, "end_s": name.end_s}
    file = journal / "request.json"
    if file.is_file():
        try:
            stored = read_json(file)
            if stored["asked"] == asked:
                start_s, stop_s, first_now_s = (int(stored[key]) for key in ("start_s", "stop_s", "now_s"))
                return _Request(start_s, stop_s, first_now_s, resumed=True)
        except (ValueError, KeyError, TypeError):
            pass  # damaged, or of another version: worth nothing, begin again
        shutil.rmtree(journal)
    tomorrow_s = (now_s // DAY_S + 1) * DAY_S
    stop_s = min(name.end_s or tomorrow_s, tomorrow_s)
    start_s = name.start_s or stop_s - DEFAULT_SPAN_S
    if start_s >= now_s:
        raise ConfigError(f"{name.series} from {day_name(start_s)} on lies in the future; nothing can be fetched")
    write_json(file, {"asked": asked, "start_s": start_s, "stop_s": stop_s, "now_s": now_s})
    return _Request(start_s, stop_s, now_s, resumed=False)


def _piece(journal: Path, piece: Piece, source: Source, pause_s: float) -> PieceRows:
    """A piece from the journal, or downloaded and put there."""
    file = journal / f"{piece.key}.npz"
    if file.is_file():
        try:
            with np.load(file, allow_pickle=False) as stored:
                return PieceRows(stored["t"], stored["values"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            file.unlink()  # damaged: fetch it again
    rows = _download(piece, source, pause_s)
    inside = (rows.t >= piece.start_s) & (rows.t < piece.stop_s)
    rows = PieceRows(rows.t[inside], rows.values[inside])
    with atomic_path(file) as temporary, temporary.open("wb") as out:
        np.savez(out, t=rows.t, values=rows.values)
    return rows


def _download(piece: Piece, source: Source, pause_s: float) -> PieceRows:
    for attempt in range(ATTEMPTS):
        try:
            return source.download(piece)
        except Unreachable as error:
            if attempt == ATTEMPTS - 1:
                raise Unreachable(
                    f"{source.label} stopped answering at {day_name(piece.start_s)}, {ATTEMPTS} attempts: {error}; "
                    "what was fetched is kept: run the same command again to go on, or put a file into the data "
                    "directory and use --offline"
                ) from error
            time.sleep(pause_s * 2**attempt)
    raise AssertionError("the loop returns or raises")


def _assemble(
    name: DatasetName, source: Source, rows: Sequence[PieceRows], request: _Request, repair: str
) -> tuple[Bars, list[dict]]:
    """All pieces as bars of the asked timeframe that lie in the request and had closed when it began; and what fell."""
    t = np.concatenate([part.t for part in rows])
    values = np.concatenate([part.values for part in rows])
    closed = (t >= request.start_s) & (t < request.stop_s) & (t + source.timeframe_s <= request.now_s)
    if not closed.any():
        raise DatasetNotFoundError(
            f"{source.label} has no bars from {day_name(request.start_s)} to {day_name(request.stop_s)}; "
            "ask for another range or another source"
        )
    cleaned = _obey_rules(name, source, PieceRows(t[closed], values[closed]), repair)
    t, values = cleaned.rows.t, cleaned.rows.values
    if source.timeframe_s != name.timeframe_s:
        built = resample(t, values, source.timeframe_s, name.timeframe_s)
        t, values = built.t, built.values
        if not len(t):
            raise DatasetNotFoundError(f"{source.label} has no whole bar of {name.timeframe} in the asked range")
    # segments are not stored: whoever reads the file cuts them by its asset class
    bars = make_bars(t, np.ascontiguousarray(values.T), timeframe_s=name.timeframe_s, max_gap_s=name.timeframe_s)
    return bars, [{"row": row, "reason": reason} for row, reason in by_row(cleaned.dropped).items()]


def _obey_rules(name: DatasetName, source: Source, rows: PieceRows, repair: str) -> Cleaned:
    """The rows under the market rules, as if they had come in a file."""
    columns = {"timestamp": rows.t, **dict(zip(VALUE_COLUMNS, rows.values.T, strict=True))}
    numbers = np.arange(1, len(rows.t) + 1)
    table = Table({key: pa.array(column) for key, column in columns.items()}, numbers, source.label)
    frame = next(frame for frame, seconds in TIMEFRAME_S.items() if seconds == source.timeframe_s)
    return clean(table, DatasetName(name.base, name.quote, frame), LoadOptions(repair=repair), source.label)
