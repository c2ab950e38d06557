"""Sections on the test part: verdict, equity, comparison, certainty, positions, actions, costs."""

from __future__ import annotations

from typing import Any

from configs.verdicts import baseline_name
from runner.report import numbers
from runner.report.facts import Facts
from runner.report.figure import Figure, Trace, line, stacked, time_line
from runner.report.markup import Html, join, table, tag
from runner.report.section import Section, badge, heading, note
from runner.report.series import MAX_POINTS, THINNED, drawdown, rounded
from runner.report.wording import words_of

BASELINES = {
    "buy_and_hold": ("buy & hold", "@buy_and_hold", "solid"),
    "moving_average": ("moving average", "@moving_average", "dash"),
    "follow_classifier": ("follow classifier", "@follow_classifier", "dot"),
    "flat": ("flat", "@flat", "dashdot"),
}
"""Key -> name, colour, dash, in the order of drawing."""
SEED_STYLE: dict[str, Any] = {"width": 1}
Panel = tuple[str, float, dict[str, Any]]
ACTIONS = {
    "hold": "@action_hold",
    "buy_25": "@action_buy_1",
    "buy_50": "@action_buy_2",
    "buy_100": "@action_buy_3",
    "sell_25": "@action_sell_1",
    "sell_50": "@action_sell_2",
    "sell_100": "@action_sell_3",
    "close": "@action_close",
    "reverse": "@action_reverse",
}
COMPARED = (
    ("Total return", lambda m: numbers.signed_percent(m.get("total_return"))),
    ("Sharpe", lambda m: numbers.ratio(m.get("sharpe"))),
    ("95\u00a0% interval", lambda m: numbers.interval(m.get("sharpe_interval"))),
    ("Max drawdown", lambda m: numbers.percent(m.get("max_drawdown"))),
    ("Return a year", lambda m: numbers.signed_percent(m.get("annual_return"))),
    ("Volatility a year", lambda m: numbers.percent(m.get("annual_volatility"))),
    ("Sortino", lambda m: numbers.ratio(m.get("sortino"))),
    ("Calmar", lambda m: numbers.ratio(m.get("calmar"))),
    ("Exposure", lambda m: numbers.percent(m.get("exposure"), 0)),
    ("Turnover a year", lambda m: numbers.ratio(m.get("turnover_per_year"), 0)),
    ("Trades", lambda m: numbers.count(m.get("trades"))),
    ("Hit rate", lambda m: numbers.percent(m.get("hit_rate"), 0)),
    ("Profit factor", lambda m: numbers.ratio(m.get("profit_factor"))),
    ("Fees paid", lambda m: numbers.ratio(m.get("fees_paid"), 0)),
    ("PSR(0)", lambda m: numbers.ratio(m.get("psr"))),
)
"""Columns of the comparison: heading, cell of a METRICS mapping."""


def verdict(facts: Facts) -> Section:
    """The first thing on the page."""
    words = words_of(facts)
    evaluation = facts.families[facts.leading].evaluation if facts.leading else {}
    parts: list[Html] = [
        tag("p", words.headline, class_=f"verdict {words.tone}", id="verdict-word"),
        tag("p", words.meaning, class_="meaning"),
        tag("p", tag("strong", "What it does not mean. "), words.limits, class_="limits"),
    ]
    if evaluation:
        parts += [_cards(evaluation), _reasons(evaluation)]
    return Section(parts)


def equity(facts: Facts) -> Section | None:
    """Equity of agents and baselines with the drawdown below."""
    columns = facts.equity
    if not columns:
        return None
    t, traces = columns["t"], []
    seeds = seeds_of(facts)
    for seed in seeds:
        style = SEED_STYLE | {"showlegend": seed == seeds[0], "legendgroup": "seeds"}
        name = f"seeds {seeds[0]}-{seeds[-1]}" if seed == seeds[0] else f"seed {seed}"
        traces.append(time_line(t, columns[f"equity_seed_{seed}"], name, "@seed", **style))
    for key, (name, colour, dash) in BASELINES.items():
        if f"equity_{key}" in columns:
            traces.append(time_line(t, columns[f"equity_{key}"], name, colour, dash=dash))
    traces.append(time_line(t, columns["equity_mean"], "agents' mean", "@mean", width=2.5))
    shades = {"yaxis": "y2", "showlegend": False, "fill": "tozeroy"}
    for key, colour in (("buy_and_hold", "@buy_and_hold"), ("mean", "@mean")):
        fall = drawdown(columns[f"equity_{key}"])
        name = f"drawdown, {'agents' if key == 'mean' else 'buy & hold'}"
        traces.append(time_line(t, fall, name, colour, width=1, fillcolor=f"{colour}_soft", **shades))
    height_px = 540
    panels: list[Panel] = [("Equity", 3, {"tickformat": ",.0f"}), ("Drawdown", 1, {"tickformat": ".2~%", "nticks": 4})]
    layout = stacked(panels, height_px)
    layout["xaxis"] |= {"type": "date"}
    label = "Equity on the test part of every seed, their mean and the baselines, with drawdown below"
    figure = Figure("figure-equity", traces, layout, height_px, label, _equity_caption(facts))
    return Section([figure])


def comparison(facts: Facts) -> Section | None:
    """Every agent and baseline in one table."""
    if not facts.evaluation:
        return None
    evaluation = facts.evaluation
    rows = [("Agents' mean", evaluation.get("mean") or {})]
    rows += [(f"Seed {agent['seed']}", agent.get("metrics") or {}) for agent in evaluation.get("agents") or []]
    baselines = evaluation.get("baselines") or {}
    rows += [(name.capitalize(), baselines[key]) for key, (name, _, _) in BASELINES.items() if key in baselines]
    if baselines.get("random"):
        lucky = {key: baselines["random"].get(f"{key}_p95") for key in ("sharpe", "total_return")}
        rows.append(("Random, 95th pct.", lucky))
    cells = [[name, *(cell(metrics) for _, cell in COMPARED)] for name, metrics in rows]
    per_year = numbers.ratio(evaluation.get("bars_per_year"), 0)
    return Section(
        [
            table(["", *(name for name, _ in COMPARED)], cells, label="Agents against baselines"),
            note(
                f"Same bars, same costs ({_costs(evaluation)}). Ratios are annualised with {per_year} bars per year; "
                "fees in units of the account. Hit rate and profit factor count closed round trips, costs included."
            ),
        ],
    )


def positions(facts: Facts) -> Section | None:
    """What each seed held, below the price."""
    if "close" not in facts.equity:
        return None  # a portfolio has weights of its own
    t, seeds = facts.equity["t"], seeds_of(facts)
    traces = [time_line(t, facts.equity["close"], "close", "@ink", width=1.2)]
    panels: list[Panel] = [("Close", 2.4, {"tickformat": "~g"})]
    weights = [weight for seed in seeds for weight in facts.equity[f"weight_seed_{seed}"]]
    reach = [min([0.0, *weights]) - 0.05, max([1.0, *weights]) + 0.05]
    for number, seed in enumerate(seeds, start=2):
        weight = facts.equity[f"weight_seed_{seed}"]
        style = {"width": 1, "shape": "hv", "fill": "tozeroy", "fillcolor": "@mean_soft", "yaxis": f"y{number}"}
        traces.append(time_line(t, weight, f"seed {seed}", "@mean", **style))
        panels.append((f"Seed {seed}", 1, {"tickformat": ".2~%", "nticks": 4, "zeroline": True, "range": reach}))
    height_px = 260 + 110 * len(seeds)
    layout = stacked(panels, height_px)
    layout["xaxis"] |= {"type": "date"}
    layout["showlegend"] = False
    figure = Figure(
        id="figure-positions",
        data=traces,
        layout=layout,
        height_px=height_px,
        label="Close price and, below, the weight each seed held",
        caption="Weight = value of the position over equity at the close: 100 % is fully long, below 0 is short. "
        + _thinned(facts),
    )
    return Section([figure])


def actions(facts: Facts) -> Section | None:
    """How often each action was taken."""
    agents = facts.evaluation.get("agents") or []
    shares = [(agent["seed"], (agent.get("metrics") or {}).get("actions") or {}) for agent in agents]
    if not any(share for _, share in shares):
        return None
    names = list(dict.fromkeys([*ACTIONS, *(name for _, share in shares for name in sorted(share))]))
    labels = [f"seed {seed}" for seed, _ in shares]
    traces: list[Trace] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name.replace("_", " ") + (" %" if "_" in name else ""),
            "y": labels,
            "x": rounded([share.get(name, 0) for _, share in shares]),
            "marker": {"color": ACTIONS.get(name, "@muted")},
            "hovertemplate": "%{y}: %{x:.1%}",
        }
        for name in names
    ]
    layout = {
        "barmode": "stack",
        "bargap": 0.45,
        "legend": {"traceorder": "normal"},
        "xaxis": {"tickformat": ".2~%", "range": [0, 1.001], "dtick": 0.25},
        "margin": {"r": 24},
        "yaxis": {"autorange": "reversed", "type": "category"},
        "hovermode": "closest",
    }
    height_px = 120 + 46 * len(shares)
    figure = Figure(
        "figure-actions", traces, layout, height_px, "Share of each action among the decisions of each seed"
    )
    illegal = sum((agent.get("metrics") or {}).get("illegal_actions") or 0 for agent in agents)
    remark = note(f"Illegal actions, which count as hold: {numbers.count(illegal)}.")
    return Section([figure, remark])


def costs(facts: Facts) -> Section | None:
    """How the result changes with the cost of trading."""
    sweep = facts.evaluation.get("cost_sweep") or []
    if not sweep:
        return None
    x = [row["cost_bps"] for row in sweep]
    traces: list[Trace] = []
    for axis, key in (("y", "sharpe"), ("y2", "total_return")):
        shown = {"yaxis": axis, "mode": "lines+markers", "showlegend": axis == "y"}
        agents = sweep[0].get("agents") or []
        for index, agent in enumerate(agents):
            y = [row["agents"][index][key] for row in sweep]
            name = f"seeds {agent['seed']}-{agents[-1]['seed']}" if index == 0 else f"seed {agent['seed']}"
            style = shown | SEED_STYLE | {"showlegend": axis == "y" and index == 0}
            traces.append(line(x, y, name, "@seed", **style))
        for name, (label, colour, dash) in BASELINES.items():
            if all(name in (row.get("baselines") or {}) for row in sweep):
                y = [row["baselines"][name][key] for row in sweep]
                traces.append(line(x, y, label, colour, dash=dash, **shown))
        y = [row["mean"][key] for row in sweep]
        traces.append(line(x, y, "agents' mean", "@mean", width=2.5, **shown))
    height_px = 480
    panels: list[Panel] = [
        ("Sharpe", 1, {"zeroline": True}),
        ("Total return", 1, {"tickformat": ".2~%", "zeroline": True}),
    ]
    layout = stacked(panels, height_px)
    layout["xaxis"] |= {"title": {"text": "cost per side, basis points"}, "tickvals": x}
    label = "Sharpe ratio and total return of agents and baselines at several costs"
    used = f"The verdict uses the configured costs: {_costs(facts.evaluation)}."
    figure = Figure(
        "figure-costs", traces, layout, height_px, label, f"Same decisions, other costs, no slippage. {used}"
    )
    return Section([figure])


def seeds_of(facts: Facts) -> list[int]:
    """Seeds that have an equity column, ascending."""
    prefix = "equity_seed_"
    return sorted(int(name.removeprefix(prefix)) for name in facts.equity if name.startswith(prefix))


def _cards(evaluation: dict[str, Any]) -> Html:
    mean = evaluation.get("mean") or {}
    best, trials = evaluation.get("best_baseline") or {}, evaluation.get("trials") or {}
    detectable = evaluation.get("detectable_sharpe") or {}
    cards = (
        ("Agents' Sharpe", numbers.ratio(mean.get("sharpe")), numbers.interval(mean.get("sharpe_interval"))),
        ("Baseline's Sharpe", numbers.ratio(best.get("sharpe")), baseline_name(best.get("name"))),
        (
            "Detectable Sharpe",
            numbers.ratio(detectable.get("sharpe")),
            f"against 0, with {numbers.percent(detectable.get('power'), 0)} power",
        ),
        (
            "Total return",
            numbers.signed_percent(mean.get("total_return")),
            f"max drawdown {numbers.percent(mean.get('max_drawdown'))}",
        ),
        (
            "Deflated Sharpe",
            numbers.ratio(mean.get("dsr")),
            f"after N = {numbers.count(trials.get('count'))} scoring{'s' * (trials.get('count') != 1)}",
        ),
        ("Fees paid", numbers.ratio(mean.get("fees_paid"), 0), f"{numbers.count(mean.get('trades'))} trades a seed"),
    )
    boxes = (
        tag("div", tag("dt", name), tag("dd", value, class_="value"), tag("dd", below, class_="below"))
        for name, value, below in cards
    )
    return tag("dl", *boxes, class_="cards")


def _reasons(evaluation: dict[str, Any]) -> Html:
    items = [
        tag("li", badge(*(("met", "good") if reason.get("holds") else ("not met", "bad"))), " ", reason["text"])
        for reason in evaluation.get("reasons") or []
    ]
    return join([heading("What an edge needs"), tag("ul", *items, class_="reasons")]) if items else Html("")


def _equity_caption(facts: Facts) -> str:
    evaluation = facts.evaluation
    start = numbers.count(evaluation.get("initial_equity"))
    return f"Every account starts with {start} and pays {_costs(evaluation)}. {_thinned(facts)}"


def _thinned(facts: Facts) -> str:
    return THINNED if len(facts.equity["t"]) > MAX_POINTS else ""


def _costs(evaluation: dict[str, Any]) -> str:
    costs = evaluation.get("costs") or {}
    fee, slippage = (numbers.percent(costs.get(key), 3) for key in ("fee_frac", "slippage_frac"))
    borrow = numbers.percent(costs.get("borrow_frac_per_year"), 0)
    return f"{fee} fee and {slippage} slippage per side, {borrow} borrow a year"
