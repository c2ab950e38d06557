"""The ledger of scorings: how often bars that were to be unseen have been looked at.

`<runs dir>/trials.jsonl` holds one line per scoring, append-only, shared by all
runs of a directory. A market's bars are used up by every scoring that touched
any of them, whatever the split or the file was called, so N counts entries of
the same symbol and timeframe that overlap in time, however long their datasets
are, and entries with the same dataset digest and an overlapping range. A re-run
under the same cache key scores nothing new and is counted once.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.errors import CannotWriteError

LEDGER_NAME = "trials.jsonl"


@dataclass(frozen=True)
class Trial:
    """One scoring of a range of a dataset's bars; that of a portfolio has one for each asset, all of one cache key."""

    dataset_digest: str
    start: int
    """First scored bar, counted in the dataset."""
    stop: int
    """One after the last."""
    cache_key: str
    """Key of what was scored."""
    sharpe: float
    """Per-bar Sharpe ratio of what was scored: the mean return of an agent's seeds, or one seed's."""
    symbol: str = ""
    """`BASE-QUOTE`; older entries have neither it nor what follows, and overlap no other in time."""
    timeframe_s: int = 0
    first_t: int = 0
    """Unix second at which the first scored bar opens."""
    last_t: int = -1
    """Unix second at which the last opens."""

    def touches(self, other: Trial) -> bool:
        """Whether both scored some of the same bars."""
        if self.dataset_digest == other.dataset_digest and self.start < other.stop and other.start < self.stop:
            return True
        same_market = (self.symbol, self.timeframe_s) == (other.symbol, other.timeframe_s)
        return same_market and self.first_t <= other.last_t and other.first_t <= self.last_t

    def repeats(self, other: Trial) -> bool:
        """Whether this is the same scoring done again."""
        return self.touches(other) and self.cache_key == other.cache_key


def record(path: Path, trials: Sequence[Trial]) -> list[Trial]:
    """Enter those trials that are not there already; return all entries up to the last of them, oldest first.

    Later entries are left out, so that a re-run of an old scoring finds the same N. The file is
    locked meanwhile; the entries are on disk when this returns, and what a killed writer left out,
    its re-run enters.

    Raises:
        CannotWriteError: the ledger cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            entries = _parse(content)
            known = [next((i for i, entry in enumerate(entries) if entry.repeats(trial)), None) for trial in trials]
            new = [trial for trial, place in zip(trials, known, strict=True) if place is None]
            if not new:
                return entries[: max((place for place in known if place is not None), default=-1) + 1]
            torn = bool(content) and not content.endswith(b"\n")
            lines = [json.dumps(asdict(trial), sort_keys=True).encode() + b"\n" for trial in new]
            file.write(b"\n" * torn + b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
            return entries + new
    except OSError as error:
        raise CannotWriteError(
            f"cannot write the ledger of scorings {path}: {error.strerror or error}; choose a writable runs directory"
        ) from error


def touching(entries: Sequence[Trial], own: Sequence[Trial]) -> list[Trial]:
    """The entries that scored any bar of `own`."""
    return [entry for entry in entries if any(entry.touches(trial) for trial in own)]


def sharpes(entries: Sequence[Trial], own: Sequence[Trial]) -> dict[str, float]:
    """Per-bar Sharpe ratio of each scoring, which may have entries for several assets, by key, as over `own`'s bars.

    Without skill the ratio of n bars has variance 1 / n: those of a month beside those of years, as they are, would
    make the best of them look as if found by luck however it was found.
    """
    bars, found = _bars(own), {entry.cache_key: entry.sharpe for entry in entries}
    lengths = {key: _bars([entry for entry in entries if entry.cache_key == key]) for key in found}
    return {key: sharpe * math.sqrt(lengths[key] / bars) for key, sharpe in found.items()}


def _bars(entries: Sequence[Trial]) -> int:
    """Of one scoring: of its asset with the most."""
    return max(entry.stop - entry.start for entry in entries)


def _parse(content: bytes) -> list[Trial]:
    entries = []
    for line in content.splitlines():
        try:
            entries.append(Trial(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # a torn line of a killed writer: that scoring never reported
    return entries
