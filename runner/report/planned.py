"""Sections on the plan of the run: what gates decided, and what was predicted beside what it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.report import numbers
from runner.report.facts import Facts
from runner.report.markup import Html, facts_list, table
from runner.report.section import Section, badge, note
from runner.report.timeline import clock_of, units_of

VERDICT_TONES = {"open": "good", "closed": "bad", "continued": "warn"}


def gates(facts: Facts) -> Section | None:
    """The latest verdict of every gate."""
    latest = {
        (event.get("stage"), event.get("asked"), event.get("metric")): event
        for event in facts.events
        if event["kind"] == "gate"
    }
    if not latest:
        return None
    rows = [
        [
            event.get("stage"),
            f"{event.get('asked')}: {str(event.get('metric')).replace('_', ' ')}",
            badge(str(event.get("verdict")), VERDICT_TONES.get(str(event.get("verdict")), "quiet")),
            numbers.ratio(event.get("target")),
            numbers.ratio(event.get("value")) if event.get("metric") != "done" else numbers.NONE,
            numbers.interval(event.get("interval")),
            event.get("says", ""),
        ]
        for event in latest.values()
    ]
    head = ("Stage", "Asks", "Gate", "Target", "Measured", "95\u00a0% interval", "")
    lead = "A gate closes only where even the upper bound of the interval is below the target."
    return Section("gates", "Gates", [table(head, rows, label="Gates", align="lllrrrl")], lead)


def prediction(facts: Facts) -> Section | None:
    """What the run was to take, beside what it took."""
    plan = facts.plan
    if not plan:
        return None
    clock, finished = clock_of(facts.events), any(event["kind"] == "run_finished" for event in facts.events)
    parts: list[Html] = [facts_list(_totals(plan, clock.total_s, finished))]
    took_s = _stage_seconds(facts)
    rows = [
        [
            stage["name"],
            _range(stage["low_s"], stage["high_s"]),
            numbers.duration(stage["expected_s"]),
            numbers.duration(took_s.get(stage["name"])),
            _deviation(took_s.get(stage["name"]), stage["expected_s"]),
            _held(took_s.get(stage["name"]), stage["low_s"], stage["high_s"]),
        ]
        for stage in plan["stages"]
    ]
    head = ("Stage", "Predicted range", "Expected", "Took", "Deviation", "Range held")
    parts.append(table(head, rows, label="Predicted against actual", align="lrrrrl"))
    parts.append(
        note(
            "Of each stage the working time of all its units, which may run side by side; above, the time on the "
            "clock. The range holds what early stopping may leave out."
        )
    )
    return Section("prediction", "Predicted against actual", parts)


def _totals(plan: dict[str, Any], took_s: float, finished: bool) -> list[tuple[object, object]]:
    wall = plan["wall_s"]
    pairs: list[tuple[object, object]] = [
        ("Predicted", f"{numbers.duration(wall['expected'])} ({_range(wall['low'], wall['high'])})"),
        ("Took" if finished else "Took so far", numbers.duration(took_s)),
    ]
    if finished:
        pairs.append(("Deviation", _deviation(took_s, wall["expected"])))
    price = plan.get("price_usd_per_hour")
    if numbers.is_number(price) and price > 0:
        pairs.append(("Predicted cost", f"{numbers.ratio(wall['expected'] / 3600 * price)} USD"))
        pairs.append(("Cost", f"{numbers.ratio(took_s / 3600 * price)} USD"))
    return pairs


def _stage_seconds(facts: Facts) -> dict[str, float]:
    """Working time of each stage's units, all attempts; only of stages that worked in this run."""
    seconds: dict[str, float] = {}
    for unit in units_of(facts.events):
        if unit.spans:
            stage = unit.id.partition("/")[0]
            seconds[stage] = seconds.get(stage, 0.0) + sum(span.stop_t - span.start_t for span in unit.spans)
    return seconds


def _range(low_s: Any, high_s: Any) -> str:
    ends: Sequence[str] = [numbers.duration(low_s), numbers.duration(high_s)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _deviation(took_s: Any, expected_s: Any) -> str:
    if not (numbers.is_number(took_s) and numbers.is_number(expected_s) and expected_s > 0):
        return numbers.NONE
    return numbers.signed_percent(took_s / expected_s - 1, 0)


def _held(took_s: Any, low_s: Any, high_s: Any) -> object:
    if not all(numbers.is_number(value) for value in (took_s, low_s, high_s)):
        return numbers.NONE
    return badge("yes", "good") if low_s <= took_s <= high_s else badge("no", "warn")
