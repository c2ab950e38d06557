"""Predicted against actual: the plans that a run's starts made (`plan.json`), beside what the event log knows.

Prediction and time begin where a start has made its plan: what it checked and measured before is a row of its own.
Both end with the units: report, publication and last upload come after the first `run_finished`, and are in neither.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.files import read_json, write_json
from configs.run_dir import RunDir
from runner.budget import supervisor_events
from runner.plan import NOTHING, Range, RunPlan

FILE_NAME = "plan.json"
FORMAT = 1
KEPT_STARTS = 100
WHOLE = "whole run"
BEFORE = "checks and measuring"

Events = list[dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """A stage, or the whole run."""

    name: str
    predicted_s: Range | None
    """None where nothing was predicted."""
    actual_s: float
    """Over all starts."""

    @property
    def error_frac(self) -> float | None:
        """By how much the actual time differs from the expected one; 0.1 is 10 % longer."""
        if self.predicted_s is None or not self.predicted_s.expected:
            return None
        return self.actual_s / self.predicted_s.expected - 1

    @property
    def held(self) -> bool | None:
        """Whether the range holds the actual time."""
        return None if self.predicted_s is None else self.predicted_s.low <= self.actual_s <= self.predicted_s.high


def keep(run: RunDir, plan: RunPlan) -> None:
    """Add a start's plan to those of the starts before it.

    Raises:
        CannotWriteError: the disk refuses.
    """
    starts = [*load(run), {"t": round(time.time(), 3)} | plan.to_json()]
    write_json(run.root / FILE_NAME, {"format": FORMAT, "starts": starts[-KEPT_STARTS:]})


def load(run: RunDir) -> list[dict[str, Any]]:
    """The plans of all starts that made one, oldest first; none where the file is missing or damaged."""
    try:
        kept = read_json(run.root / FILE_NAME)
        return list(kept["starts"]) if kept["format"] == FORMAT else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def compared(run: RunDir) -> list[Row]:
    """Predicted against actual: checks and measuring, each stage, the whole run; empty where no start has a plan.

    Every unit counts with the first prediction of it, and with the time of all starts.
    """
    plans = load(run)
    starts = [_Start.of(events) for events in _by_start(supervisor_events(run.events))]
    if not plans or not starts:
        return []
    spans = _stage_predictions(plans)
    names = [*spans, *(name for start in starts for name in start.stages_s if name not in spans)]
    return [
        Row(BEFORE, None, sum(start.before_s for start in starts)),
        *(
            Row(name, spans.get(name), sum(start.stages_s.get(name, 0.0) for start in starts))
            for name in dict.fromkeys(names)
        ),
        Row(WHOLE, _whole_prediction(plans), sum(start.after_s for start in starts)),
    ]


def predicted_and_actual(run: RunDir) -> dict[str, float] | None:
    """The whole run in seconds, from its plan on; None where nothing was predicted."""
    rows = compared(run)
    if not rows or rows[-1].predicted_s is None:
        return None
    whole, predicted_s = rows[-1], rows[-1].predicted_s
    predicted = {"expected_s": predicted_s.expected, "low_s": predicted_s.low, "high_s": predicted_s.high}
    return predicted | {"actual_s": whole.actual_s}


@dataclass
class _Start:
    """Where the time of one start went, in seconds."""

    before_s: float = 0.0
    """Until its plan was made, or its first unit started without one; all of it where there was neither."""
    after_s: float = 0.0
    stages_s: dict[str, float] = field(default_factory=dict)
    """From the start of each stage's first unit to the end of its last."""

    @classmethod
    def of(cls, events: Events) -> _Start:
        ends = [number for number, event in enumerate(events, start=1) if event["kind"] == "run_finished"]
        events = events[: ends[0]] if ends else events
        begun_t = events[0]["t"]
        end_t = max(event["t"] for event in events)
        planned_t = next((event["t"] for event in events if event["kind"] in ("plan", "unit_started")), end_t)
        return cls(planned_t - begun_t, end_t - planned_t, dict(_stage_spans(events, end_t)))


def _stage_spans(events: Events, end_t: float) -> Iterator[tuple[str, float]]:
    """Seconds of each stage; a unit that was cut off ran until the last event."""
    begun = [event for event in events if event["kind"] == "unit_started"]
    ended = {event["unit"]: event["t"] for event in events if event["kind"] == "unit_finished"}
    for stage in dict.fromkeys(_stage(event["unit"]) for event in begun):
        own = [event for event in begun if _stage(event["unit"]) == stage]
        yield stage, max(ended.get(event["unit"], end_t) for event in own) - min(event["t"] for event in own)


def _by_start(events: Events) -> list[Events]:
    starts: list[Events] = []
    for event in events:
        if event["kind"] == "run_started":
            starts.append([])
        if starts:
            starts[-1].append(event)
    return starts


def _stage_predictions(plans: Sequence[Mapping[str, Any]]) -> dict[str, Range]:
    """Each stage as the first plan that names it predicted it."""
    found: dict[str, Range] = {}
    for plan in plans:
        for stage in plan["stages"]:
            found.setdefault(stage["name"], Range(**stage["span_s"]))
    return found


def _whole_prediction(plans: Sequence[Mapping[str, Any]]) -> Range:
    """All units, each with its part of the wall time in the first plan that names it."""
    shares: dict[str, Range] = {}
    for plan in plans:
        for unit in plan["units"]:
            shares.setdefault(unit["id"], Range(**unit["share_s"]))
    whole = sum(shares.values(), NOTHING)
    return Range.around(whole.low, whole.expected, whole.high)


def _stage(unit: str) -> str:
    return unit.partition("/")[0]
