"""Read delimited text into a table of strings: comma, semicolon or tab, header or not, banner lines.

Nothing is interpreted here but the layout. A quoted cell does not span lines.
"""

from __future__ import annotations

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from configs.errors import BadDataError
from configs.secrets import one_line
from training.sources.columns import column_key, is_header
from training.sources.stamps import looks_like_stamp
from training.sources.table import Fault, Table, as_numpy, shown

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
HEAD_LINES = 10
"""A header or the first data row stands within so many lines of the start."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

VALUE_NAMES = ["open", "high", "low", "close", "volume"]
HEADERLESS = {
    6: ["time", *VALUE_NAMES],
    7: ["date", "time", *VALUE_NAMES],
    12: ["open time", *VALUE_NAMES, "close time", *(f"binance {n}" for n in range(8, 13))],
}
"""Columns of files without a header, by their number: HistData and others, MetaTrader 4, Binance's kline dumps."""


def read_text(data: bytes, where: str) -> Table:
    """Read a delimited text file.

    Raises:
        BadDataError: empty, not text, no layout recognised, or more than one.
    """
    data = _utf8(data, where)
    lines = data[: 1 << 16].decode(errors="ignore").splitlines()[:HEAD_LINES]
    if not any(line.strip() for line in lines):
        raise BadDataError(f"{where} is empty; expected a header and rows of open, high, low, close, volume")
    layouts = [(index, delimiter) for delimiter in DELIMITERS if (index := _first_row(lines, delimiter)) is not None]
    if len(layouts) != 1:
        found = " and ".join(DELIMITERS[delimiter] for _, delimiter in layouts)
        raise BadDataError(
            f"{where}: cannot tell {found} as delimiter apart"
            if found
            else f"{where}: row 1: {shown(lines[0])} begins neither a header with open, high, low, close, volume "
            f"nor rows of {', '.join(map(str, HEADERLESS))} columns, within {HEAD_LINES} lines"
        )
    index, delimiter = layouts[0]
    cells = _cells(lines[index], delimiter)
    header = is_header(cells)
    names = cells if header else HEADERLESS[len(cells)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise BadDataError(f"{where}: row {index + 1}: column {repeated[0]!r} appears twice; rename one")
    table = _read_rows(data, names, delimiter, first_line=index + header, where=where)
    table.layout = f"text, {DELIMITERS[delimiter]}, {'header' if header else 'no header'}"
    table.dialect = _dialect(names, header, delimiter, lines[index])
    table.notes = [f"banner line skipped: {shown(line, 100)}" for line in lines[:index] if line.strip()]
    return table


def _utf8(data: bytes, where: str) -> bytes:
    try:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # MetaTrader writes UTF-16
            data = data.decode("utf-16").encode()
        data = data.removeprefix(b"\xef\xbb\xbf")
        data.decode()
    except UnicodeDecodeError as error:
        raise BadDataError(
            f"{where} is not text: byte {error.start} is {error.object[error.start]:#04x}; expected UTF-8"
        ) from error
    if b"\0" in data:
        raise BadDataError(f"{where} is not text: byte {data.index(0)} is zero")
    return data


def _first_row(lines: list[str], delimiter: str) -> int | None:
    """Index of the header or of the first data row under this delimiter."""
    for index, line in enumerate(lines):
        cells = _cells(line, delimiter)
        if is_header(cells) or _is_data(cells):
            return index
    return None


def _is_data(cells: list[str]) -> bool:
    names = HEADERLESS.get(len(cells))
    if names is None:
        return False
    first_value = names.index("open")
    numbers = all(NUMBER.fullmatch(cell) for cell in cells[first_value : first_value + len(VALUE_NAMES)])
    return numbers and looks_like_stamp(" ".join(cells[:first_value]))


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"').strip() for cell in line.split(delimiter)]


def _dialect(names: list[str], header: bool, delimiter: str, line: str) -> str:
    if header:
        return "metatrader" if "<" in line or "tickvol" in map(column_key, names) else ""
    if delimiter == ";" and re.match(r"\d{8} \d{6};", line):
        return "histdata"
    return "metatrader" if len(names) == len(HEADERLESS[7]) else ""


def _read_rows(data: bytes, names: list[str], delimiter: str, *, first_line: int, where: str) -> Table:
    start = 0
    for _ in range(first_line):
        end = data.find(b"\n", start)
        start = end + 1 if end >= 0 else len(data)
    body = data[start:]
    if not body.strip():
        raise BadDataError(f"{where} has a header but no rows")
    ragged: list[csv.InvalidRow] = []

    def skip(row: csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    try:
        table = csv.read_csv(
            io.BytesIO(body),
            # one block and one thread: the reader then knows the line number of a bad row
            read_options=csv.ReadOptions(use_threads=False, block_size=len(body) + 1, column_names=names),
            parse_options=csv.ParseOptions(delimiter=delimiter, invalid_row_handler=skip, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise BadDataError(f"{where}: {one_line(error)}") from error
    faults = [
        Fault(
            first_line + row.number,
            "the line",
            shown(row.text),
            f"a line of {row.expected_columns} columns (it has {row.actual_columns})",
        )
        for row in ragged
    ]
    good = np.ones(len(table) + len(ragged), dtype=bool)
    good[[row.number - 1 for row in ragged]] = False
    columns = {name: table[name].combine_chunks() for name in names}
    read = Table(columns, first_line + 1 + np.flatnonzero(good), layout="", faults=faults)
    return _without_blank_lines(read)


def _without_blank_lines(table: Table) -> Table:
    blank = np.ones(len(table.rows), dtype=bool)
    for column in table.columns.values():
        if not blank.any():
            return table
        blank &= as_numpy(pc.binary_length(column)) == 0
    return table.take(~blank) if blank.any() else table
