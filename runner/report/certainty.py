"""How sure the result is: Sharpe ratios with intervals, and the agents among shifted copies of themselves."""

from __future__ import annotations

from typing import Any

from runner.report import numbers
from runner.report.facts import Facts
from runner.report.figure import Figure, Trace
from runner.report.markup import Html
from runner.report.performance import BASELINES
from runner.report.section import Section
from runner.report.series import rounded


def certainty(facts: Facts) -> Section | None:
    """Sharpe ratios with their intervals, and the agents among randomly shifted copies of themselves."""
    if not facts.evaluation:
        return None
    parts: list[Html | Figure] = [_forest(facts.evaluation)]
    random = (facts.evaluation.get("baselines") or {}).get("random") or {}
    if random.get("sharpes"):
        parts.append(_shifts(facts.evaluation, random))
    lead = (
        "A Sharpe ratio from a finite test is an estimate. The bars are its stationary-bootstrap intervals; "
        "every seed is shown."
    )
    return Section(parts, lead)


def _forest(evaluation: dict[str, Any]) -> Figure:
    """Sharpe of the mean, each seed and each baseline, with intervals, best estimate as a point."""
    baselines = evaluation.get("baselines") or {}
    rows = [("agents' mean", evaluation.get("mean") or {}, "@mean", 11)]
    rows += [
        (f"seed {agent['seed']}", agent.get("metrics") or {}, "@mean", 7) for agent in evaluation.get("agents") or []
    ]
    rows += [(name, baselines[key], colour, 8) for key, (name, colour, _) in BASELINES.items() if key in baselines]
    traces = [_estimate(*row) for row in rows]
    random = baselines.get("random") or {}
    if random:
        middle = {"sharpe": random.get("sharpe_median")}
        middle["sharpe_interval"] = [random.get("sharpe_p05"), random.get("sharpe_p95")]
        traces.append(_estimate("random shifts, 5-95 %", middle, "@random", 8))
    detectable = (evaluation.get("detectable_sharpe") or {}).get("sharpe")
    lines = [(0, "solid", "@axis"), (detectable, "dot", "@muted")]
    layout = {
        "xaxis": {"title": {"text": "annual Sharpe ratio"}, "zeroline": False, "range": _reach(traces, detectable)},
        "yaxis": {"autorange": "reversed", "type": "category"},
        "showlegend": False,
        "hovermode": "closest",
        "shapes": [vertical(x, dash, colour) for x, dash, colour in lines if numbers.is_number(x)],
    }
    caption = (
        f"Dotted: the smallest true Sharpe ratio that this many bars would tell from 0 ({numbers.ratio(detectable)}); "
        "from a baseline of b, about b more."
    )
    label = "Sharpe ratios of agents and baselines with their confidence intervals"
    return Figure("figure-certainty", traces, layout, 90 + 34 * len(traces), label, caption)


def _estimate(name: str, metrics: dict[str, Any], colour: str, size_px: int) -> Trace:
    middle, ends = metrics.get("sharpe"), metrics.get("sharpe_interval") or []
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": rounded([middle]),
        "y": [name],
        "marker": {"color": colour, "size": size_px},
        "hovertemplate": f"%{{x:.2f}} {numbers.interval(ends)}",
    }
    if numbers.is_number(middle) and len(ends) == 2 and all(numbers.is_number(end) for end in ends):
        spread = {"array": rounded([ends[1] - middle]), "arrayminus": rounded([middle - ends[0]])}
        trace["error_x"] = {"type": "data", "symmetric": False, "color": colour, "thickness": 2, "width": 5} | spread
    return trace


def _reach(traces: list[Trace], detectable: Any) -> list[float]:
    """Range of the axis: every interval, zero and the detectable ratio, with some room."""
    ends = [0.0, *([detectable] if numbers.is_number(detectable) else [])]
    for trace in traces:
        middle, spread = trace["x"][0], trace.get("error_x") or {"array": [0], "arrayminus": [0]}
        if middle is not None:
            ends += [middle - spread["arrayminus"][0], middle + spread["array"][0]]
    room = 0.04 * (max(ends) - min(ends))
    return [min(ends) - room, max(ends) + room]


def vertical(x: Any, dash: str, colour: str) -> dict[str, Any]:
    """A line over the whole height of a figure."""
    stroke = {"color": colour, "width": 1.5, "dash": dash}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": stroke}


def _shifts(evaluation: dict[str, Any], random: dict[str, Any]) -> Figure:
    own = (evaluation.get("mean") or {}).get("sharpe")
    trace = {
        "type": "histogram",
        "x": rounded(random["sharpes"]),
        "nbinsx": 60,
        "name": "random shifts",
        "marker": {"color": "@random"},
        "hovertemplate": "Sharpe %{x}: %{y}",
    }
    shapes = [vertical(own, "solid", "@mean")] if numbers.is_number(own) else []
    layout = {
        "xaxis": {"title": {"text": "annual Sharpe ratio"}, "zeroline": False},
        "yaxis": {"title": {"text": "shifts"}},
        "bargap": 0.05,
        "showlegend": False,
        "hovermode": "closest",
        "shapes": shapes,
    }
    share = numbers.percent(random.get("share_at_least_agents"))
    caption = (
        f"The agents' own positions, moved in time by {numbers.count(random.get('shifts'))} random offsets: same "
        f"exposure and turnover, no timing. {share} of them reach the agents' Sharpe ratio (line)."
    )
    return Figure("figure-random", [trace], layout, 260, "Histogram of the Sharpe ratios of random shifts", caption)
