"""The guard against endless restarts: a host that starts a failing run again and again is told to stop.

A start is fruitless when it ended without progress: no unit done or taken over,
no checkpoint of a unit. Starts that ended well, or were stopped by Ctrl-C or the
budget, are no failures and are passed over. Where each start finds an empty disk,
those that were killed before anything was kept are known to the store alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ExitCode, ProjectError
from configs.events import parse_events
from configs.secrets import one_line
from runner.store.layout import Head, Snapshot
from runner.view import RUN

SHOWN = 3
CUT_OFF = "cut off: killed, or its machine is gone"
NO_FAILURE = {ExitCode.DONE, ExitCode.CTRL_C, ExitCode.BUDGET, ExitCode.OWNED_BY_ANOTHER}
_KINDS = (b'"run_started"', b'"run_finished"', b'"unit_finished"', b'"checkpoint"')
"""In the lines that count; a log may hold many more."""


class GivenUpError(ProjectError):
    """The run has failed too often without any progress."""

    exit_code = ExitCode.GIVEN_UP


@dataclass
class Start:
    """One start, as its events tell it."""

    exit_code: int | None = None
    """None where it was cut off."""
    signal: str = ""
    """Name of the signal that stopped it."""
    says: str = CUT_OFF
    progress: bool = False

    @property
    def failed(self) -> bool:
        """It ended for a reason that a restart does not mend by itself."""
        return self.exit_code not in NO_FAILURE and self.signal != "SIGINT"


def fruitless_starts(events_dir: Path) -> list[Start]:
    """The failed starts since the last progress, oldest first."""
    starts = starts_of(events_dir)
    last = max((number for number, start in enumerate(starts) if start.progress), default=-1)
    return [start for start in starts[last + 1 :] if start.failed]


def unseen_starts(events_dir: Path, head: Head, known: Snapshot | None) -> int:
    """How many starts the store counted before this one that left nothing anywhere: no snapshot, and no event here.

    Args:
        events_dir: of the run, as it was brought here.
        head: the run's HEAD, taken for this start.
        known: the snapshot that it was brought from, or that this directory went on from.
    """
    kept_t = known.created_t if known else 0.0
    seen = sum(event["kind"] == "run_started" and event["t"] > kept_t for event in _events(events_dir))
    return max(0, head.unkept_starts - 1 - seen)


def refuse_fruitless(events_dir: Path, max_fruitless_starts: int, unseen: int = 0) -> None:
    """Refuse another start of a run that only fails; to be called before anything is started.

    Args:
        events_dir: of the run.
        max_fruitless_starts: so many are enough.
        unseen: starts since, of which there are no events.

    Raises:
        GivenUpError: so many starts in a row brought nothing; the message has the reasons of the last ones.
    """
    fruitless = [*fruitless_starts(events_dir), *(Start() for _ in range(unseen))]
    if len(fruitless) < max_fruitless_starts:
        return
    reasons = [
        f"  {'no exit code' if start.exit_code is None else f'exit code {start.exit_code}'}: {start.says}"
        for start in fruitless[-SHOWN:]
    ]
    raise GivenUpError(
        f"given up: {len(fruitless)} starts in a row ended without any progress; the last ones:\n"
        + "\n".join(reasons)
        + "\nmend the cause, then allow more starts with "
        + f"--set runtime.max_fruitless_starts={len(fruitless) + max_fruitless_starts}"
    )


def starts_of(events_dir: Path) -> list[Start]:
    """All starts of a run in order."""
    starts: list[Start] = []
    for event in sorted(_events(events_dir), key=lambda event: event["t"]):
        if event["kind"] == "run_started":
            starts.append(Start())
        elif starts:
            _apply(starts[-1], event)
    return starts


def _apply(start: Start, event: dict[str, Any]) -> None:
    match event["kind"]:
        case "run_finished":
            start.exit_code, start.signal = event.get("exit_code"), str(event.get("signal") or "")
            start.says = one_line(event.get("says") or start.says)
        case "unit_finished":
            start.progress |= event.get("state") in ("done", "reused")
            if event.get("state") == "failed":
                start.says = one_line(f"unit {event['unit']!r} {event.get('says', 'failed')}")
        case "checkpoint":
            start.progress |= event["unit"] != RUN


def _events(events_dir: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(events_dir.glob("*.jsonl")):
        with path.open("rb") as file:
            yield from parse_events(line for line in file if any(kind in line for kind in _KINDS))
