"""Plain time-stamped lines on stderr."""

import os
import sys
from datetime import datetime
from typing import TextIO

TAIL_LINES, TAIL_CHARACTERS = 100, 16_000
"""Kept of what is said."""


def say(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{datetime.now():%H:%M:%S} {message}\n")
    sys.stderr.flush()


class Tail:
    """The end of what was said."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._text, self._is_cut = "", False

    def add(self, text: str) -> None:
        """Something more."""
        whole = self._text + text
        self._text, self._is_cut = whole[-TAIL_CHARACTERS:], self._is_cut or len(whole) > TAIL_CHARACTERS

    def text(self) -> str:
        """The last lines; of one that is cut nothing, for half a secret is not known as one."""
        whole = self._text.partition("\n")[2] if self._is_cut else self._text
        return "\n".join(whole.splitlines()[-TAIL_LINES:])


class Heedless:
    """A text stream whose reader may go away (`| head`, a lost connection): the rest goes nowhere, the work goes on."""

    def __init__(self, stream: TextIO, tail: Tail) -> None:
        """Write to `stream`, which has a descriptor, and to `tail`."""
        self._stream, self._tail = stream, tail
        self.is_read = True
        """False once a write has found that nobody reads."""

    def write(self, text: str) -> int:
        """As the stream's own."""
        self._tail.add(text)
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
