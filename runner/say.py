"""Plain time-stamped lines on stderr."""

import os
import sys
from datetime import datetime
from typing import TextIO


def say(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{datetime.now():%H:%M:%S} {message}\n")
    sys.stderr.flush()


class Heedless:
    """A text stream whose reader may go away (`| head`, a lost connection): the rest goes nowhere, the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`, which has a descriptor."""
        self._stream = stream
        self.is_read = True
        """False once a write has found that nobody reads."""

    def write(self, text: str) -> int:
        """As the stream's own."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """As the stream's own."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._give_up()

    def _give_up(self) -> None:
        self.is_read = False
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> object:
        """Everything else is the stream's own."""
        return getattr(self._stream, name)


def is_read(stream: object) -> bool:
    """Whether anybody may still read what is written: what only shows something need not go on for nobody."""
    return stream is not None and getattr(stream, "is_read", True)
