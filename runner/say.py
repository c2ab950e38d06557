"""Plain time-stamped lines on stderr."""

import sys
from datetime import datetime


def say(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{datetime.now():%H:%M:%S} {message}\n")
    sys.stderr.flush()
