"""The event log as a timeline: when the run was running, and the attempts of each unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Clock:
    """Running time: the hours between two starts of a run, when nothing ran, are cut out."""

    sessions: tuple[tuple[float, float], ...]
    """(start, end) of each time the runner ran, Unix seconds."""

    @property
    def total_s(self) -> float:
        """All running time."""
        return sum(end_t - start_t for start_t, end_t in self.sessions)

    def minutes(self, t: float) -> float:
        """Running time up to `t`, in minutes."""
        return sum(min(t, end_t) - start_t for start_t, end_t in self.sessions if start_t < t) / 60


@dataclass(frozen=True)
class Span:
    """One attempt of a unit."""

    start_t: float
    stop_t: float
    failed: bool = False


@dataclass
class UnitLine:
    """One unit: its attempts and how it stands."""

    id: str
    state: str = "waiting"
    says: str = ""
    spans: list[Span] = field(default_factory=list)


def clock_of(events: Sequence[dict[str, Any]]) -> Clock:
    """The sessions, from each `run_started` to its last event."""
    sessions: list[tuple[float, float]] = []
    for event in events:
        if event["kind"] == "run_started" or not sessions:
            sessions.append((event["t"], event["t"]))
        sessions[-1] = (sessions[-1][0], event["t"])
    return Clock(tuple(sessions))


def units_of(events: Sequence[dict[str, Any]], expected: Sequence[str] = ()) -> list[UnitLine]:
    """Every unit with its attempts: the expected ones first, then any other that the events name."""
    units = {name: UnitLine(name) for name in expected}
    running: dict[str, float] = {}
    last_t: dict[str, float] = {}
    for event in events:
        kind, name = event["kind"], event["unit"]
        if kind == "run_started":
            _close_open(units, running, last_t)
        elif kind == "unit_started":
            units.setdefault(name, UnitLine(name)).state = "running"
            running[name] = event["t"]
        elif kind in ("retry", "unit_finished"):
            _end_attempt(units.setdefault(name, UnitLine(name)), running, event)
        last_t[name] = event["t"]
    _close_open(units, running, last_t, state="running")
    return list(units.values())


def _end_attempt(unit: UnitLine, running: dict[str, float], event: dict[str, Any]) -> None:
    unit.state = "waiting" if event["kind"] == "retry" else str(event.get("state", "done"))
    unit.says = str(event.get("says") or "")
    if unit.id in running:
        failed = event["kind"] == "retry" or unit.state == "failed"
        unit.spans.append(Span(running.pop(unit.id), event["t"], failed))


def _close_open(
    units: dict[str, UnitLine], running: dict[str, float], last_t: dict[str, float], state: str = "stopped"
) -> None:
    """An attempt without an end is one whose runner was killed, or that runs still: it lasts to its last event."""
    for name in list(running):
        units[name].spans.append(Span(running.pop(name), last_t[name]))
        units[name].state = state
