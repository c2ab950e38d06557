"""A file whose age says when this program last got on; the image's health check looks at it.

`beat` is called where work makes progress, never by a clock of its own: a program that hangs must look it.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path

VARIABLE = "SEQUENCE_HEARTBEAT"
"""Path of the file, to which the machine's name is added: containers may share a folder. Without it there is none."""
EVERY_S = 1.0

_beaten_s = -math.inf
"""The last time, by `time.monotonic`."""


def beat() -> None:
    """Touch the file, at most once a second; a file that cannot be touched stops no run."""
    global _beaten_s
    path = os.environ.get(VARIABLE)
    if not path or time.monotonic() - _beaten_s < EVERY_S:
        return
    _beaten_s = time.monotonic()
    with contextlib.suppress(OSError):
        Path(f"{path}.{os.uname().nodename}").touch()
