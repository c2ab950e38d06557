"""What a run looks like right now, folded from its event log; every UI shows this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from configs.events import parse_events

RUN = "run"
"""The `unit` of events that belong to no unit."""
NOT_SHOWN = {"t", "unit", "kind", "done", "total", "rate", "eta_s", "name", "attempt"}


FOLDED_STATES = ("failed", "running", "stopped", "waiting", "done", "reused", "skipped", "gated")
"""States of units in the order in which one stands for a whole stage."""


@dataclass
class UnitView:
    """One unit as its events tell it; times in Unix seconds, 0 = not yet."""

    id: str
    state: str = "waiting"
    """waiting, running, done, reused, skipped, gated, failed or stopped."""
    started_t: float = 0.0
    ended_t: float = 0.0
    last_t: float = 0.0
    attempt: int = 0
    done: float = 0.0
    total: float = 0.0
    rate: float | None = None
    values: dict[str, Any] = field(default_factory=dict)
    """Last values the unit reported with its progress; until then, those of its last metric."""
    reported: bool = False
    """`values` came with progress."""
    note: str = ""

    @property
    def share(self) -> float:
        """Done share, 0 to 1."""
        if self.state in ("done", "reused", "skipped"):
            return 1.0
        return min(self.done / self.total, 1.0) if self.total else 0.0

    def elapsed_s(self, now_t: float) -> float:
        """Seconds of the last attempt so far."""
        return (self.ended_t or now_t) - self.started_t if self.started_t else 0.0

    def eta_s(self, now_t: float) -> float | None:
        """Seconds left by the last rate, or by the share done so far; None while nothing can be said."""
        if self.state != "running" or not 0 < self.share < 1:
            return None
        if self.rate:
            return (self.total - self.done) / self.rate
        return self.elapsed_s(now_t) * (1 - self.share) / self.share


@dataclass
class RunView:
    """A whole run as its events tell it."""

    units: dict[str, UnitView] = field(default_factory=dict)
    started_t: float = 0.0
    ended_t: float = 0.0
    exit_code: int | None = None
    checks: list[dict[str, Any]] = field(default_factory=list)
    gates: list[dict[str, Any]] = field(default_factory=list)
    """Verdicts of this start."""
    plan: dict[str, Any] = field(default_factory=dict)
    """What this start was expected to take, as the `plan` event says."""
    resources: dict[str, Any] = field(default_factory=dict)
    last_t: float = 0.0
    stopping: bool = False
    """Units were asked to stop."""
    snapshot: dict[str, Any] = field(default_factory=dict)
    """The newest `checkpoint` event of the run: a snapshot that its store has."""
    sent_bytes: int = 0
    """To the store, by this start."""
    store_says: str = ""
    """The newest trouble with the store; empty once a snapshot has come through."""
    store_said_t: float = 0.0
    """When it was told; the trouble may have lasted longer since."""
    expected: list[str] = field(default_factory=list)
    """Units shown from the start, where their stage is chosen."""

    def expect(self, unit_ids: Iterable[str]) -> None:
        """Show these units from the start, in this order."""
        for unit_id in unit_ids:
            self.expected.append(unit_id)
            self.units.setdefault(unit_id, UnitView(unit_id))

    def _choose(self, stages: Sequence[str]) -> None:
        """Of the units that no start has come to, only those of these stages are expected."""
        known = {name: self.units.get(name) or UnitView(name) for name in (*self.expected, *self.units)}
        self.units = {name: unit for name, unit in known.items() if unit.last_t or name.partition("/")[0] in stages}

    def apply(self, event: dict[str, Any]) -> None:
        """Take one event in."""
        self.last_t = max(self.last_t, event["t"])
        if event["unit"] == RUN:
            self._apply_to_run(event)
        else:
            _apply_to_unit(self.units.setdefault(event["unit"], UnitView(event["unit"])), event)

    def _apply_to_run(self, event: dict[str, Any]) -> None:
        match event["kind"]:
            case "run_started":
                self.started_t, self.ended_t, self.exit_code = event["t"], 0.0, None
                self.checks, self.gates, self.plan = [], [], {}
                self.sent_bytes, self.store_says = 0, ""
                if "stages" in event:
                    self._choose(event["stages"])
            case "run_finished":
                self.ended_t, self.exit_code = event["t"], event.get("exit_code")
            case "check":
                self.checks.append(event)
            case "gate":
                self.gates.append(event)
            case "plan":
                self.plan = event
            case "resources":
                self.resources = event
            case "checkpoint":
                self.snapshot, self.store_says = event, ""
                self.sent_bytes += event.get("sent_bytes") or 0
            case "retry":
                self.store_says, self.store_said_t = event.get("says", ""), event["t"]

    def moved(self, by_s: float) -> RunView:
        """The same view with every time this much later: as another machine's clock would have it."""
        units = {
            name: replace(unit, **_moved(unit, by_s, "started_t", "ended_t", "last_t"))
            for name, unit in self.units.items()
        }
        snapshot = self.snapshot | {"t": self.snapshot["t"] + by_s} if self.snapshot else {}
        times = _moved(self, by_s, "started_t", "ended_t", "last_t", "store_said_t")
        return replace(self, units=units, snapshot=snapshot, **times)

    def settle(self) -> None:
        """Nobody owns the run: what the log still calls running was cut off, no later than its last event."""
        self.ended_t = self.ended_t or self.last_t
        for unit in self.units.values():
            if unit.state == "running":
                unit.state, unit.ended_t, unit.note = "stopped", unit.last_t, "its runner is gone"


def _moved(view: RunView | UnitView, by_s: float, *names: str) -> dict[str, Any]:
    """These times of a view, later; what has not happened yet stays so."""
    return {name: t + by_s for name in names if (t := getattr(view, name))}


def _apply_to_unit(unit: UnitView, event: dict[str, Any]) -> None:
    before_t, unit.last_t = unit.last_t, event["t"]
    match event["kind"]:
        case "unit_started":
            unit.state, unit.started_t, unit.ended_t = "running", event["t"], 0.0
            unit.attempt = event.get("attempt", 1)
            unit.done, unit.total, unit.rate, unit.note = 0.0, 0.0, None, ""
            unit.values, unit.reported = {}, False
        case "progress":
            unit.done, unit.total, unit.rate = event.get("done") or 0.0, event.get("total") or 0.0, event.get("rate")
            if shown := _shown(event):
                unit.values, unit.reported = unit.values | shown if unit.reported else shown, True
        case "metric":
            if not unit.reported:
                unit.values = _shown(event)
        case "retry":
            unit.state, unit.note = "waiting", event.get("says", "")
        case "unit_finished":
            # what is skipped took its time in an earlier start
            ended_t = (unit.ended_t or before_t) if event["state"] == "skipped" else event["t"]
            unit.state, unit.ended_t = event["state"], ended_t
            unit.note = event.get("says", "")


def _shown(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in NOT_SHOWN and isinstance(value, int | float | str)}


def folded(stage: str, units: Sequence[UnitView]) -> UnitView:
    """All units of a stage as one: in the state that most needs a look, as far as those that this start works on."""
    states = {unit.state for unit in units}
    state = next((state for state in FOLDED_STATES if state in states), "waiting")
    own = [unit for unit in units if unit.state not in ("skipped", "reused", "gated")]
    whole = UnitView(stage, state, done=sum(unit.share for unit in own), total=float(len(own)))
    if state != "waiting":
        whole.started_t = min((unit.started_t for unit in own or units if unit.started_t), default=0.0)
        whole.ended_t = 0.0 if state == "running" else max(unit.ended_t for unit in units)
        whole.note = next((unit.note for unit in units if unit.state == state and unit.note), "")
    return whole


class EventTail:
    """New events of a directory since the last look; a line that is not complete yet waits for its end."""

    def __init__(self, directory: Path) -> None:
        """Start before the first event."""
        self._directory = directory
        self._offsets: dict[Path, int] = {}

    def skip(self) -> None:
        """Go to the end of what is there."""
        self._offsets = {path: path.stat().st_size for path in self._directory.glob("*.jsonl")}

    def poll(self) -> list[dict[str, Any]]:
        """Events appended since the last call, by time."""
        events = [event for path in sorted(self._directory.glob("*.jsonl")) for event in self._new_events(path)]
        return sorted(events, key=lambda event: event["t"])

    def _new_events(self, path: Path) -> list[dict[str, Any]]:
        offset = self._offsets.get(path, 0)
        if path.stat().st_size <= offset:
            return []
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
        complete, _, _ = data.rpartition(b"\n")
        self._offsets[path] = offset + len(complete) + (1 if complete else 0)
        return list(parse_events(complete.splitlines()))


def view_of(events_dir: Path, unit_ids: Iterable[str] = ()) -> RunView:
    """The whole log folded, these units first."""
    view = RunView()
    view.expect(unit_ids)
    for event in EventTail(events_dir).poll():
        view.apply(event)
    return view
