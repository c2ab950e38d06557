"""Sections on all kinds of agents together: side by side, and beside the targets that were set for them."""

from __future__ import annotations

from typing import Any

from configs.verdicts import baseline_name
from runner.report import numbers
from runner.report.facts import Facts, Family
from runner.report.figure import Figure, Trace, time_line
from runner.report.markup import Html, join, table, tag
from runner.report.section import Section, badge, note
from runner.summary import BASELINE_TITLES, family_title

COLOURS = {
    "ppo": "@mean",
    "lstm_ppo": "@follow_classifier",
    "multi_asset": "@moving_average",
    "walk_forward": "@buy_and_hold",
}
VERDICT_TONES = {"edge": "good", "collapsed": "bad"}
STATE_WORDS = {"undecided": "cannot be decided"}
STATE_TONES = {"met": "good", "missed": "bad", "undecided": "warn"}
HEAD = ("", "Verdict", "Sharpe", "95\u00a0% interval", "Return", "Drawdown", "Deflated")
BEHIND = ("", "Best baseline", "Sharpe of each seed", "Scorings", "Bars")


def agents(facts: Facts) -> Section | None:
    """Every kind of agent in a row, and their equity in one figure."""
    if not facts.families:
        return None
    judged = [(name, family.evaluation) for name, family in facts.families.items()]
    parts: list[Html | Figure] = [
        table(HEAD, [_row(*each) for each in judged], label="Agents side by side", align="llr"),
        table(BEHIND, [_behind(*each) for each in judged], label="What the agents are judged by", align="lrr"),
        note(
            "Each row is the mean return of the seeds of one kind of agent, after costs, judged by the same rules. "
            "Deflated: the deflated Sharpe ratio, corrected for all scorings that touched the same bars."
        ),
    ]
    traces = [trace for name, family in facts.families.items() if (trace := _growth(name, family))]
    if traces:
        parts.append(_figure(traces))
    return Section(parts)


def targets(facts: Facts) -> Section | None:
    """What the plan hoped for, beside what was measured and whether that decides it."""
    if not facts.targets:
        return None
    rows = [
        [
            join([str(target["text"]), tag("span", target["of"] or target["says"], class_="of")]),
            badge(STATE_WORDS.get(target["state"], target["state"]), STATE_TONES.get(target["state"], "quiet")),
            f"{'<' if target['below'] else '>'} {_value(target, target['wanted'])}",
            f"{_value(target, target['measured'])} \u00b1 {_value(target, target['standard_error'])}",
            _interval(target),
        ]
        for target in facts.targets
    ]
    head = ("Target", "", "Wanted", "Measured \u00b1 std. error", "95\u00a0% interval")
    lead = (
        "Reference figures of the plan, not conditions of the verdict. A target whose 95\u00a0% interval lies on both "
        "sides of it cannot be decided by so few bars."
    )
    return Section([table(head, rows, label="Targets", align="llr")], lead)


def _row(name: str, evaluation: dict[str, Any]) -> list[object]:
    mean, verdict = evaluation.get("mean") or {}, str(evaluation.get("verdict") or "not judged")
    return [
        family_title(name),
        badge(verdict, VERDICT_TONES.get(verdict, "warn")),
        numbers.ratio(mean.get("sharpe")),
        numbers.interval(mean.get("sharpe_interval")),
        numbers.signed_percent(mean.get("total_return")),
        numbers.percent(mean.get("max_drawdown")),
        numbers.ratio(mean.get("dsr")),
    ]


def _behind(name: str, evaluation: dict[str, Any]) -> list[object]:
    best = evaluation.get("best_baseline") or {}
    seeds = [(agent.get("metrics") or {}).get("sharpe") for agent in evaluation.get("agents") or ()]
    return [
        family_title(name),
        f"{numbers.ratio(best.get('sharpe'))} ({_short(best.get('name'))})",
        ", ".join(numbers.ratio(sharpe) for sharpe in seeds),
        numbers.count((evaluation.get("trials") or {}).get("count")),
        numbers.count((evaluation.get("test_range") or {}).get("bars")),
    ]


def _short(baseline: object) -> str:
    return BASELINE_TITLES.get(str(baseline)) or baseline_name(baseline)


def _growth(name: str, family: Family) -> Trace | None:
    """Equity of the seeds' mean over its first value, less 1."""
    equity = family.equity.get("equity_mean")
    if not equity:
        return None
    growth = [value / equity[0] - 1 for value in equity]
    return time_line(family.equity["t"], growth, family_title(name), COLOURS.get(name, "@muted"), width=2)


def _figure(traces: list[Trace]) -> Figure:
    layout = {"xaxis": {"type": "date"}, "yaxis": {"tickformat": "+.2~%", "zeroline": True}}
    label = "Total return over time of each kind of agent, mean of its seeds"
    caption = "Return since each one's first test bar. Walk-forward joins many test months, so it may begin earlier."
    return Figure("figure-agents-equity", traces, layout, 380, label, caption)


def _value(target: dict[str, Any], value: Any) -> str:
    return numbers.percent(value) if target.get("share") else numbers.ratio(value)


def _interval(target: dict[str, Any]) -> str:
    ends = target.get("interval")
    if not ends:
        return numbers.NONE
    if target.get("share"):
        return f"[{numbers.percent(ends[0])}, {numbers.percent(ends[1])}]"
    return numbers.interval(ends)
