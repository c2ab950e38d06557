"""Sections on the plan of the run: what gates decided, and what was predicted beside what it took."""

from __future__ import annotations

from runner.budget import HOUR_S
from runner.forecast import Row
from runner.report import numbers
from runner.report.facts import Facts
from runner.report.markup import facts_list, table
from runner.report.section import Section, badge, note

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
    return Section([table(head, rows, label="Gates", align="lllrrrl")], lead)


def prediction(facts: Facts) -> Section | None:
    """What the run was to take, beside what it took."""
    predicted = [row for row in facts.forecast if row.predicted_s is not None]
    if not predicted:
        return None
    whole = predicted[-1]
    rows = [[row.name, *_cells(row)] for row in facts.forecast]
    head = ("", "Predicted", "Range", "Took", "Deviation", "Range held")
    remark = (
        "Of each stage the time from the start of its first unit to the end of its last, so stages may overlap; of the "
        "whole run the time from its plan to the end of its units. The cost is of all starts as a "
        "whole, each at its own price. The range holds what early stopping and gates may leave out."
    )
    parts = [facts_list(_totals(facts, whole)), table(head, rows, label="Predicted against actual", align="lrrrrl")]
    return Section([*parts, note(remark)])


def _totals(facts: Facts, whole: Row) -> list[tuple[object, object]]:
    price, predicted_s, cost_usd = facts.price_usd_per_hour, whole.predicted_s, facts.cost_usd
    pairs: list[tuple[object, object]] = [
        ("Predicted", numbers.duration(predicted_s.expected if predicted_s else None)),
        ("Took" if facts.finished else "Took so far", numbers.duration(whole.actual_s)),
    ]
    if price and predicted_s:
        pairs.append(("Predicted cost", f"{numbers.ratio(predicted_s.expected / HOUR_S * price)} USD"))
    if cost_usd:
        pairs.append(("Cost of all starts", f"{numbers.ratio(cost_usd)} USD"))
    return pairs


def _cells(row: Row) -> list[object]:
    took = numbers.duration(row.actual_s)
    if row.predicted_s is None:
        return [numbers.NONE, numbers.NONE, took, numbers.NONE, numbers.NONE]
    low, high = numbers.duration(row.predicted_s.low), numbers.duration(row.predicted_s.high)
    return [
        numbers.duration(row.predicted_s.expected),
        low if low == high else f"{low} to {high}",
        took,
        numbers.signed_percent(row.error_frac, 0),
        badge("yes", "good") if row.held else badge("no", "warn"),
    ]
