"""Section on walk-forward: one out-of-sample series of many test months, and the months one by one."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from runner.report import numbers
from runner.report.facts import Facts, Family
from runner.report.figure import Figure, Trace, time_line
from runner.report.markup import Html, facts_list, table, tag
from runner.report.performance import BASELINES
from runner.report.section import Section, heading, note
from runner.report.series import rounded

FAMILY = "walk_forward"
CHOICES = {"pbo_of_configurations": "configuration", "pbo_of_seeds": "seed"}
"""Key of an evaluation -> what one would have chosen among."""
MOST_ROWS_OPEN = 12
"""A longer table of months is folded."""


def windows(facts: Facts) -> Section | None:
    """The joined series, its statistics and every window."""
    family = facts.families.get(FAMILY)
    if family is None or not family.evaluation:
        return None
    evaluation, months = family.evaluation, family.evaluation.get("windows") or []
    parts: list[Html | Figure] = [facts_list(_pairs(evaluation, months))]
    if family.equity:
        parts.append(_joined(family))
    if months:
        parts += [_heat_map(months), heading("Window by window"), _table(months)]
    parts += [note(_overfitting_words(evaluation[key], what)) for key, what in CHOICES.items() if evaluation.get(key)]
    lead = (
        "Each month is traded by agents that were trained, scaled, predicted and selected on earlier months only. The "
        "test months join into one series, with the costs of closing at every seam."
    )
    return Section(parts, lead)


def _pairs(evaluation: dict[str, Any], months: list[dict[str, Any]]) -> list[tuple[object, object]]:
    mean, trials = evaluation.get("mean") or {}, evaluation.get("trials") or {}
    chosen, seed = (evaluation.get(key) or {} for key in CHOICES)
    ratios = [month["sharpe"] for month in months if numbers.is_number(month.get("sharpe"))]
    gains = sum(1 for month in months if (month.get("total_return") or 0) > 0)
    starts = sorted({agent.get("start", "") for month in months for agent in month.get("agents") or ()})
    return [
        ("Test months", f"{len(months)}: {months[0]['month']} to {months[-1]['month']}" if months else numbers.NONE),
        ("Months with a gain", f"{gains} of {len(months)}"),
        ("Sharpe of the joined series", f"{numbers.ratio(mean.get('sharpe'))} {_interval(mean)}"),
        ("Mean of the months' Sharpe", numbers.ratio(fmean(ratios)) if ratios else numbers.NONE),
        ("Probabilistic Sharpe ratio", numbers.ratio(mean.get("psr"))),
        ("Deflated Sharpe ratio", f"{numbers.ratio(mean.get('dsr'))}, N = {numbers.count(trials.get('count'))} trials"),
        ("Probability of backtest overfitting", _of_configurations(chosen)),
        ("Overfitting by choosing among seeds", numbers.percent(seed.get("probability"), 0)),
        ("The chosen seed lost afterwards", numbers.percent(seed.get("loss_probability"), 0)),
        ("Agents start from", ", ".join(starts) or numbers.NONE),
    ]


def _interval(mean: dict[str, Any]) -> str:
    return numbers.interval(mean.get("sharpe_interval"))


def _joined(family: Family) -> Figure:
    columns = family.equity
    t, traces = columns["t"], []
    seeds = [name for name in columns if name.startswith("equity_seed_")]
    for number, name in enumerate(seeds):
        style = {"width": 1, "showlegend": number == 0, "legendgroup": "seeds"}
        label = f"seeds 0-{len(seeds) - 1}" if number == 0 else f"seed {number}"
        traces.append(time_line(t, columns[name], label, "@seed", **style))
    for key, (name, colour, dash) in BASELINES.items():
        if f"equity_{key}" in columns:
            traces.append(time_line(t, columns[f"equity_{key}"], name, colour, dash=dash))
    traces.append(time_line(t, columns["equity_mean"], "agents' mean", "@mean", width=2.5))
    layout = {"xaxis": {"type": "date"}, "yaxis": {"tickformat": ",.0f"}}
    label = "Equity of the joined test months: every seed, their mean and the baselines"
    return Figure("figure-windows", traces, layout, 400, label)


def _heat_map(months: list[dict[str, Any]]) -> Figure:
    """Return of every test month, a row for each seed, their mean and two baselines."""
    rows: list[tuple[str, list[Any]]] = [("mean", [month.get("total_return") for month in months])]
    for number in range(len(months[0].get("agents") or ())):
        rows.append((f"seed {number}", [month["agents"][number].get("total_return") for month in months]))
    for key in ("buy_and_hold", "moving_average"):
        if all(key in (month.get("baselines") or {}) for month in months):
            rows.append((BASELINES[key][0], [month["baselines"][key] for month in months]))
    known = [abs(value) for _, values in rows for value in values if numbers.is_number(value)]
    reach = max(known, default=0.0) or 1.0
    trace: Trace = {
        "type": "heatmap",
        "name": "return",
        "x": [month["month"] for month in months],
        "y": [name for name, _ in rows],
        "z": [rounded(values) for _, values in rows],
        "zmin": -reach,
        "zmax": reach,
        "colorscale": [[0, "@bad"], [0.5, "@panel"], [1, "@good"]],
        "colorbar": {"tickformat": "+.2~%", "thickness": 10, "outlinewidth": 0},
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{y}, %{x}: %{z:+.1%}<extra></extra>",
    }
    layout = {
        "xaxis": {"type": "category", "showgrid": False, "nticks": 16},
        "yaxis": {"autorange": "reversed", "type": "category", "showgrid": False},
        "hovermode": "closest",
    }
    label = "Return of every test month, for each seed, their mean and two baselines"
    return Figure("figure-months", [trace], layout, 110 + 30 * len(rows), label, f"{label}, after costs.")


def _table(months: list[dict[str, Any]]) -> Html:
    rows = [
        [
            month["month"],
            numbers.count(month.get("bars")),
            numbers.signed_percent(month.get("total_return")),
            numbers.ratio(month.get("sharpe")),
            numbers.percent(month.get("max_drawdown")),
            numbers.ratio(month.get("trades"), 1),
            _range(month.get("spread") or {}),
            numbers.signed_percent((month.get("baselines") or {}).get("buy_and_hold")),
            numbers.signed_percent((month.get("baselines") or {}).get("moving_average")),
        ]
        for month in months
    ]
    head = (
        "Test month", "Bars", "Return", "Sharpe", "Max drawdown", "Trades a seed", "Seeds from / to", "Buy & hold",
        "Moving average",
    )  # fmt: skip
    whole = table(head, rows, label="Walk-forward windows")
    if len(months) <= MOST_ROWS_OPEN:
        return whole
    return tag("details", tag("summary", f"All {len(months)} windows"), whole)


def _range(spread: dict[str, Any]) -> str:
    return f"{numbers.signed_percent(spread.get('min'))} / {numbers.signed_percent(spread.get('max'))}"


def _of_configurations(found: dict[str, Any]) -> str:
    if not found:
        return "none: no other configuration was scored on these months in this runs directory"
    count = len(found.get("chosen_frac") or {})
    return f"{numbers.percent(found.get('probability'), 0)}, of {numbers.count(count)} configurations"


def _overfitting_words(found: dict[str, Any], what: str) -> str:
    chosen = found.get("chosen_frac") or {}
    favourite = max(chosen, key=lambda name: chosen[name], default="")
    said = f", most often {favourite.replace('_', ' ')} ({numbers.percent(chosen[favourite], 0)})" if favourite else ""
    return (
        f"Choosing among the {numbers.count(len(chosen))} {what}s: in {numbers.count(found.get('combinations'))} "
        f"splits of the series into halves of {numbers.count(found.get('blocks'))} blocks, the {what} that was best in "
        f"one half{said} fell below the median of the {what}s in the other in "
        f"{numbers.percent(found.get('probability'), 0)} of the cases; the median counts as half, and chance gives one "
        f"half. It says how much a choice of the best {what} is worth, not whether any {what} earns: the chosen one "
        f"lost in the other half in {numbers.percent(found.get('loss_probability'), 0)} of the cases."
    )
