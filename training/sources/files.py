"""Open a dataset file of any accepted kind as a table of columns.

Kinds are told by the name's ending: .csv .txt .tsv (.gz, .zip), .json (.gz), .parquet, .feather.
Nothing is unpickled or executed; sizes are bounded before anything is unpacked.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from configs.errors import BadDataError
from configs.secrets import one_line
from training.market import VALUE_COLUMNS
from training.sources.table import Table, shown
from training.sources.text import read_text

MAX_BYTES = 2**31 - 2**20
"""Largest unpacked file; text offsets of the reader are 32 bits wide."""
TEXT_ENDINGS = (".csv", ".txt", ".tsv")
JSON_ARRAYS = {
    6: ["t", *VALUE_COLUMNS],
    12: ["open time", *VALUE_COLUMNS, "close time", *(f"binance {n}" for n in range(8, 13))],
}
"""Columns of exchange arrays by their number: ccxt and freqtrade, Binance klines. Others order them otherwise."""


def read_table(path: Path) -> Table:
    """Read a file.

    Raises:
        BadDataError: unreadable, of no known kind, damaged, or too large.
    """
    name = path.name.lower()
    if name.endswith((".parquet", ".feather")):
        return _read_arrow(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _too_large(path)
        data = path.read_bytes()
    except OSError as error:
        raise BadDataError(f"cannot read {path}: {error.strerror}") from error
    return read_bytes(data, name, str(path))


def read_bytes(data: bytes, name: str, where: str) -> Table:
    """Read a text or JSON file from memory; `name` tells the kind, `where` stands in messages."""
    packing = ""
    if name.endswith(".gz"):
        data, name, packing = _gunzip(data, where), name.removesuffix(".gz"), ", gzip"
    elif name.endswith(".zip"):
        data, name, packing = _unzip(data, where)
    if name.endswith(".json"):
        table = _read_json(data, where)
    elif name.endswith(TEXT_ENDINGS):
        table = read_text(data, where)
    else:
        raise BadDataError(f"{where}: unknown kind of file; expected .csv, .parquet, .feather, .json, .gz or .zip")
    table.layout += packing
    return table


def _too_large(where: Path | str) -> BadDataError:
    return BadDataError(f"{where} holds more than {MAX_BYTES:,} bytes; split it or store it as parquet")


def _gunzip(data: bytes, where: str) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            unpacked = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadDataError(f"{where} is not a whole gzip file: {error}") from error
    if len(unpacked) > MAX_BYTES:
        raise _too_large(where)
    return unpacked


def _unzip(data: bytes, where: str) -> tuple[bytes, str, str]:
    """The one data file of an archive; HistData adds a .txt status report, which is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [info for info in archive.infolist() if info.filename.lower().endswith((".csv", ".json"))]
            if len(members) != 1:
                names = ", ".join(info.filename for info in archive.infolist()[:8])
                raise BadDataError(f"{where} holds {len(members)} .csv or .json files, expected 1; it has: {names}")
            if members[0].file_size > MAX_BYTES:
                raise _too_large(where)
            return archive.read(members[0]), members[0].filename.lower(), f", {members[0].filename} in zip"
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise BadDataError(f"{where} is not a readable zip file: {error}") from error


def _read_arrow(path: Path) -> Table:
    from pyarrow import feather, parquet

    reader: Callable[..., pa.Table] = (
        parquet.read_table if path.name.lower().endswith(".parquet") else feather.read_table
    )
    try:
        table = reader(path, memory_map=False)
        names = [
            name.strip("_").replace("_", " ") if name.startswith("__index") else name for name in table.column_names
        ]
        plain = [_plain(column) for column in table.columns]
        columns = {name: column for name, column in zip(names, plain, strict=True) if column is not None}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadDataError(f"{path} is not a readable {path.suffix[1:]} file: {one_line(error)}") from error
    if not len(table):
        raise BadDataError(f"{path} has columns but no rows")
    return Table(columns, np.arange(1, len(table) + 1), path.suffix[1:].lower())


def _plain(column: pa.ChunkedArray) -> pa.Array | None:
    """One array of numbers, text or times; None for a column of any other type, which is no part of a bar."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind, types = column.type, pa.types
    accepted = (
        types.is_integer, types.is_floating, types.is_decimal, types.is_string, types.is_large_string,
        types.is_timestamp, types.is_date,
    )  # fmt: skip
    return column.combine_chunks() if any(is_accepted(kind) for is_accepted in accepted) else None


def _read_json(data: bytes, where: str) -> Table:
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadDataError(f"{where} is not JSON: {one_line(error)}") from error
    if not isinstance(rows, list) or not rows:
        raise BadDataError(f"{where}: expected a JSON array of bars, got {shown(rows)}")
    if all(isinstance(row, dict) for row in rows):
        names = list(rows[0])
        cells: list = [[row.get(name) for row in rows] for name in names]
        layout = "JSON records"
    else:
        names = _array_names(rows, where)
        cells = list(zip(*rows, strict=True))
        layout = f"JSON arrays of {len(names)}"
    columns = {name: pa.array([_cell(value) for value in column]) for name, column in zip(names, cells, strict=True)}
    return Table(columns, np.arange(1, len(rows) + 1), layout)


def _array_names(rows: list, where: str) -> list[str]:
    width = len(rows[0]) if isinstance(rows[0], list) else 0
    if width not in JSON_ARRAYS:
        raise BadDataError(
            f"{where}: row 1: {shown(rows[0])} is no bar; expected arrays of 6 (time, open, high, low, close, volume) "
            "or 12 (Binance klines)"
        )
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, list) or len(row) != width:
            raise BadDataError(f"{where}: row {number}: {shown(row)} is not an array of {width} like row 1")
    return JSON_ARRAYS[width]


def _cell(value: Any) -> str:
    """A JSON value as text: numbers keep every digit, anything else cannot pass for a number."""
    return value if isinstance(value, str) else repr(value)
