"""Write bars in the one form that needs no interpretation: gzipped CSV, ISO-8601 UTC open stamps.

Equal bars give equal bytes; a file is there whole or not at all.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np

from configs.files import write_atomic
from training.market import VALUE_COLUMNS, Bars

HEADER = ",".join(("timestamp", *VALUE_COLUMNS))
COMPRESSION_LEVEL = 6


def write_canonical(bars: Bars, path: Path) -> None:
    """Write `<name>.csv.gz`; numbers keep every digit.

    Raises:
        CannotWriteError: the directory or disk refuses.
    """
    stamps = np.char.add(np.datetime_as_string(bars.t.astype("datetime64[s]")), "Z").tolist()
    columns = [map(_shortest, getattr(bars, name).tolist()) for name in VALUE_COLUMNS]
    lines = [HEADER, *(",".join(row) for row in zip(stamps, *columns, strict=True)), ""]
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=COMPRESSION_LEVEL, mtime=0) as file:
        file.write("\n".join(lines).encode())
    write_atomic(path, packed.getvalue())


def _shortest(value: float) -> str:
    """The shortest text that reads back as the same number, without a needless `.0`."""
    return repr(value).removesuffix(".0")
