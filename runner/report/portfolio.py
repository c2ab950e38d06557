"""Section on the multi-asset agents: what they held, how the assets moved together, what each one added."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from runner.report import numbers
from runner.report.facts import Columns, Facts
from runner.report.figure import Figure, Trace, stacked, time_line
from runner.report.markup import Html, facts_list, table
from runner.report.section import Section, heading, note
from runner.report.series import rounded

FAMILY = "multi_asset"
COLOURS = ("@mean", "@buy_and_hold", "@moving_average", "@follow_classifier", "@flat", "@bad", "@seed", "@random")
CONTRIBUTIONS = (
    ("Mean weight", lambda asset: numbers.percent(asset.get("mean_weight"))),
    ("Held", lambda asset: numbers.percent(asset.get("exposure"), 0)),
    ("To return", lambda asset: numbers.signed_percent(asset.get("return_contribution"))),
    ("To risk a year", lambda asset: numbers.percent(asset.get("risk_contribution"))),
    ("Turnover", lambda asset: numbers.ratio(asset.get("turnover"), 1)),
    ("Fees paid", lambda asset: numbers.ratio(asset.get("fees_paid"), 0)),
    ("Trades", lambda asset: numbers.ratio(asset.get("trades"), 1)),
    ("Hit rate", lambda asset: numbers.percent(asset.get("hit_rate"), 0)),
)
"""Columns of the table of assets: heading, cell; means over the seeds, contributions those to the seeds' mean."""


def portfolio(facts: Facts) -> Section | None:
    """Weights over time, correlation and contributions of the multi-asset agents."""
    family = facts.families.get(FAMILY)
    if family is None or not family.evaluation:
        return None
    evaluation, about = family.evaluation, family.evaluation.get("portfolio") or {}
    mean = evaluation.get("mean") or {}
    assets = [str(asset) for asset in about.get("assets") or mean.get("assets") or ()]
    parts: list[Html | Figure] = [facts_list(_pairs(mean, about, assets))]
    if family.equity:
        parts.append(_weights(family.equity, assets))
    if mean.get("assets"):
        parts += [heading("What each asset added"), _contributions(mean, assets)]
        text = (
            "Returns add up to the total return, risks to the annual volatility of the seeds' mean; others are means."
        )
        parts.append(note(text))
    if about.get("correlation") and len(assets) > 1:
        parts.append(_correlation(assets, about["correlation"]))
    if about.get("listing"):
        parts += [heading("Data of each asset"), _listing(about["listing"])]
    lead = "One agent holds all assets and cash by target weights; an asset without a bar keeps its quantity."
    return Section(parts, lead)


def _pairs(mean: dict[str, Any], about: dict[str, Any], assets: list[str]) -> list[tuple[object, object]]:
    return [
        ("Assets", ", ".join(assets) or numbers.NONE),
        ("Sharpe", f"{numbers.ratio(mean.get('sharpe'))} {numbers.interval(mean.get('sharpe_interval'))}"),
        ("Total return", numbers.signed_percent(mean.get("total_return"))),
        ("Mean gross exposure", numbers.percent(mean.get("mean_gross"))),
        ("Turnover a year", numbers.ratio(mean.get("turnover_per_year"), 0)),
        ("Fees paid", numbers.ratio(mean.get("fees_paid"), 0)),
        ("Most gross exposure, of one asset", _limits(about)),
        ("Shorts", "allowed" if about.get("allow_short") else "not allowed"),
    ]


def _limits(about: dict[str, Any]) -> str:
    return f"{numbers.percent(about.get('gross_limit'), 0)}, {numbers.percent(about.get('asset_cap'), 0)}"


def _weights(columns: Columns, assets: list[str]) -> Figure:
    """Mean over the seeds of each asset's weight, a panel per asset."""
    panels: list[tuple[str, float, dict[str, Any]]] = []
    traces: list[Trace] = []
    for number, asset in enumerate(assets, start=1):
        seeds = [values for name, values in columns.items() if _is_weight(name, asset)]
        if not seeds:
            continue
        mean = [fmean(values) for values in zip(*seeds, strict=True)]
        style: dict[str, Any] = {"width": 1, "shape": "hv", "fill": "tozeroy"}
        axis = "y" if not panels else f"y{len(panels) + 1}"
        traces.append(time_line(columns["t"], mean, asset, COLOURS[(number - 1) % len(COLOURS)], yaxis=axis, **style))
        panels.append((asset, 1.0, {"tickformat": ".2~%", "nticks": 4, "zeroline": True}))
    height_px = 110 + 120 * max(1, len(panels))
    layout = stacked(panels, height_px) if panels else {}
    if panels:
        layout["xaxis"] |= {"type": "date"}
    layout["showlegend"] = False
    label = "Weight of each asset over time, mean of the seeds"
    caption = f"{label}; what is missing to 100 % is cash, below 0 is short."
    return Figure("figure-weights", traces, layout, height_px, label, caption)


def _is_weight(column: str, asset: str) -> bool:
    """Whether it is `weight_seed_<i>_<asset>`."""
    return column.startswith("weight_seed_") and column.split("_", 3)[-1] == asset


def _contributions(mean: dict[str, Any], assets: list[str]) -> Html:
    found = mean["assets"]
    rows = [[asset, *(cell(found.get(asset) or {}) for _, cell in CONTRIBUTIONS)] for asset in assets]
    total = ["Together", numbers.NONE, numbers.NONE, numbers.signed_percent(_together(found, "return_contribution"))]
    total.append(numbers.percent(_together(found, "risk_contribution")))
    total += [numbers.ratio(_together(found, "turnover"), 1), numbers.ratio(_together(found, "fees_paid"), 0)]
    total += [numbers.ratio(_together(found, "trades"), 1), numbers.NONE]
    return table(["", *(name for name, _ in CONTRIBUTIONS)], [*rows, total], label="What each asset added")


def _together(assets: dict[str, Any], key: str) -> float:
    """Sum of the assets' values."""
    return sum(asset.get(key) or 0.0 for asset in assets.values())


def _correlation(assets: list[str], matrix: list[list[Any]]) -> Figure:
    trace: Trace = {
        "type": "heatmap",
        "name": "correlation",
        "x": assets,
        "y": assets,
        "z": [rounded(row) for row in matrix],
        "zmin": -1,
        "zmax": 1,
        "colorscale": [[0, "@bad"], [0.5, "@panel"], [1, "@mean"]],
        "colorbar": {"thickness": 10, "outlinewidth": 0},
        "texttemplate": "%{z:.2f}",
        "hovertemplate": "%{y}, %{x}: %{z:.2f}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
    }
    layout = {
        "xaxis": {"type": "category", "showgrid": False},
        "yaxis": {"autorange": "reversed", "type": "category", "showgrid": False},
        "hovermode": "closest",
    }
    label = "Correlation of the assets' returns from close to close on the test part"
    return Figure("figure-correlation", [trace], layout, 110 + 48 * len(assets), label, f"{label}.")


def _listing(listing: list[dict[str, Any]]) -> Html:
    rows = [
        [
            asset.get("symbol", numbers.NONE),
            numbers.count(asset.get("bars")),
            numbers.minute(asset.get("first_t")),
            numbers.minute(asset.get("last_t")),
            numbers.minute(asset.get("listed_t")),
            numbers.percent(asset.get("on_clock_frac")),
        ]
        for asset in listing
    ]
    head = ("", "Bars", "First bar", "Last bar", "Tradable from", "On the clock")
    return table(head, rows, label="Data of each asset")
