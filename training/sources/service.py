"""What every service that bars are fetched from has in common: pieces, rows, and how it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from configs.errors import MachineUnfitError
from training.market import VALUE_COLUMNS


class Unreachable(MachineUnfitError):
    """A service does not answer; the same request may work later."""


@dataclass(frozen=True)
class Piece:
    """One request's worth of a series: bars that open in [start_s, stop_s)."""

    key: str
    start_s: int
    stop_s: int


@dataclass(frozen=True)
class PieceRows:
    """Rows as a service gave them: (R,) Unix seconds and (R, 5) values."""

    t: np.ndarray
    values: np.ndarray

    @classmethod
    def none(cls) -> PieceRows:
        """A span without bars."""
        return cls(np.empty(0, dtype=np.int64), np.empty((0, len(VALUE_COLUMNS))))


class Source(Protocol):
    """A service that has bars."""

    label: str
    """Who and what, for messages: `binance ADA/EUR`."""
    timeframe_s: int
    """Timeframe of the rows it gives; finer ones are built up."""

    def pieces(self, start_s: int, stop_s: int) -> list[Piece]:
        """Requests that cover the range, in order."""

    def download(self, piece: Piece) -> PieceRows:
        """One piece's rows.

        Raises:
            Unreachable: the service does not answer.
            DatasetNotFoundError: it has no such series.
            BadDataError: its answer makes no sense.
        """
