"""The event log: append-only JSON lines, one writer per file, merged on reading.

Every UI, the report and the cost ledger derive from it. A torn line is ignored.
Secrets never enter it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from configs.secrets import redact_values

Kind = Literal[
    "run_started",
    "check",
    "plan",
    "unit_started",
    "progress",
    "metric",
    "resources",
    "checkpoint",
    "gate",
    "retry",
    "unit_finished",
    "run_finished",
]
MAX_LINE_BYTES = 4096


class EventLog:
    """The one writer of `events/<writer>.jsonl`; its threads may share it."""

    def __init__(self, directory: Path, writer: str) -> None:
        """Open the log of `writer`; slashes of a unit id become dots."""
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{writer.replace('/', '.')}.jsonl"
        self._descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
        self._one_at_a_time = threading.Lock()
        size_bytes = os.fstat(self._descriptor).st_size
        self._torn = size_bytes > 0 and os.pread(self._descriptor, 1, size_bytes - 1) != b"\n"

    def emit(self, kind: Kind, unit: str, **fields: Any) -> None:
        """Append one event; numbers that are not finite are written as null, secrets as `[redacted]`.

        A line stays below 4 KiB: its longest text is cut, for what others said may be of any length.

        Raises:
            ValueError: the line would be 4 KiB or more even so.
            OSError: the disk is full or gone, or the log is closed.
        """
        event = _finite(redact_values({"t": round(time.time(), 6), "unit": unit, "kind": kind} | fields))
        line = _encoded(event)
        if len(line) >= MAX_LINE_BYTES:
            line = _encoded(_shortened(event, len(line) + 1 - MAX_LINE_BYTES))
        if len(line) >= MAX_LINE_BYTES:
            raise ValueError(f"event {kind!r} of {unit!r} is {len(line)} bytes; the limit is {MAX_LINE_BYTES}")
        with self._one_at_a_time:
            line = b"\n" + line if self._torn else line
            self._torn = True  # until the whole line is written
            if os.write(self._descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._torn = False

    def close(self) -> None:
        """Close the file; a thread that is late may not write to what gets its number next."""
        with self._one_at_a_time:
            os.close(self._descriptor)
            self._descriptor = -1


def read_events(directory: Path) -> list[dict]:
    """All events of all writers, by time."""
    events = [event for path in sorted(directory.glob("*.jsonl")) for event in _events_of(path)]
    return sorted(events, key=lambda event: event["t"])


def without_repeats(events: Iterable[dict]) -> list[dict]:
    """The events with each metric row once: what was done between a checkpoint and a kill is done and told again."""
    rows: dict[tuple, dict] = {}
    for number, event in enumerate(events):
        named = (event["unit"], event.get("name"), event.get("model"), event.get("step"), event.get("epoch"))
        rows[named if event["kind"] == "metric" and named[3:] != (None, None) else (number,)] = event
    return list(rows.values())


def _events_of(path: Path) -> Iterator[dict]:
    with path.open("rb") as file:
        yield from parse_events(file)


def parse_events(lines: Iterable[bytes]) -> Iterator[dict]:
    """The events among `lines`; what is torn or is no event of ours is left out."""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and _is_event(event):
            yield event


def _is_event(event: dict) -> bool:
    named = isinstance(event.get("unit"), str) and event.get("kind") in get_args(Kind)
    return named and isinstance(event.get("t"), int | float)


def _encoded(event: dict[str, Any]) -> bytes:
    return (json.dumps(event, separators=(",", ":")) + "\n").encode()


def _shortened(event: dict[str, Any], excess_bytes: int) -> dict[str, Any]:
    """The event with so many bytes less in its longest text; a character takes up to 12 of them."""
    sizes = {name: len(json.dumps(value)) for name, value in event.items() if isinstance(value, str)}
    longest = max(sizes, key=sizes.__getitem__)
    text = event[longest][:MAX_LINE_BYTES]
    while text and len(json.dumps(text)) > sizes[longest] - excess_bytes:
        text = text[:-1]
    return event | {longest: text}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
