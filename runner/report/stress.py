"""Sections on the generated stress worlds: a gallery beside their moments, and what pre-training on them changed."""

from __future__ import annotations

from itertools import groupby
from statistics import median
from typing import Any

from runner.report import numbers
from runner.report.certainty import vertical
from runner.report.facts import Columns, Facts
from runner.report.figure import Figure, Trace, line
from runner.report.markup import Html, facts_list, table
from runner.report.section import Gallery, Section, badge, heading, note
from runner.report.series import rounded

REGIMES = ("bull", "bear", "range", "crash")
REGIME_COLOURS = {"bull": "@good_soft", "bear": "@buy_and_hold_soft", "crash": "@bad_soft"}
"""Ranges stay unshaded."""
PLAIN = "none"
SOURCES = (("data", "The data"), ("generated", "Generated"), ("expected", "By theory"))
SOURCE_STYLES = {"data": ("@ink", "solid"), "generated": ("@mean", "solid"), "expected": ("@moving_average", "dash")}
MOMENTS = (
    ("volatility", "Volatility, a bar", lambda value: numbers.percent(value, 2)),
    ("kurtosis", "Kurtosis (normal: 3)", lambda value: numbers.ratio(value, 1)),
    ("jumps_per_10000_bars", "Jumps in 10,000 bars", lambda value: numbers.ratio(value, 1)),
)
PLACE_TITLES = {"real": "Real bars", "crash": "All crash scenarios"}
METRIC_TITLES = {"log_return": "Log return", "sharpe": "Sharpe", "max_drawdown": "Max\u00a0drawdown"}
ABLATION_TONES = {"pre-training helps": "good", "pre-training harms": "bad"}


def stress(facts: Facts) -> Section | None:
    """Some of the generated worlds, and how like the real bars they are."""
    found = facts.stress
    if not (found.gallery or found.moments):
        return None
    parts: list[Html | Figure | Gallery] = []
    if found.tags:
        parts.append(facts_list(_tag_pairs(found.tags)))
    if found.gallery:
        parts += [
            Gallery(_gallery(found.gallery)),
            note("Close on a log scale; shaded bull (green), bear (orange) and crash (red) regimes."),
        ]
    if found.moments:
        parts += [heading("Moments"), _moment_table(found.moments), *_memory(found.moments)]
    lead = (
        "Generated bars for pre-training: jumps on clustered volatility in changing regimes, some with a scripted "
        "crash. They are no market, and no figure of the test part comes from them."
    )
    return Section(parts, lead)


def pretraining(facts: Facts) -> Section | None:
    """Agents with against agents without pre-training, whatever that says."""
    found = facts.ablation
    if not found:
        return None
    differences = found["differences"]
    ratios = [row for row in differences if row["metric"] == "sharpe"]
    rows = [
        [
            PLACE_TITLES.get(row["where"], _words(row["where"])),
            METRIC_TITLES.get(row["metric"], row["metric"]),
            *(_by_metric(row["metric"], row[key]) for key in ("pretrained", "scratch", "difference")),
            f"[{_by_metric(row['metric'], row['lower'])}, {_by_metric(row['metric'], row['upper'])}]",
            badge(row["says"].removeprefix("pre-training "), ABLATION_TONES.get(row["says"], "quiet")),
        ]
        for row in differences
    ]
    share = numbers.percent(found.get("confidence"), 0)
    head = ("", "Metric", "Pre-trained", "From scratch", "Difference", f"{share} interval", "")
    lead = (
        f"The same windows and seeds twice: started from pre-trained weights and from scratch "
        f"({len(found['seeds'])} seeds x {len(found['windows'])} windows). Differences are paired; their intervals "
        "resample seeds, windows and crash scenarios. Real bars are the second half of each window's validation tail, "
        "whose first half selected the checkpoints of both; crash scenarios are held out. No window plays its own test "
        "month, but its tail may lie in an earlier window's: each arm on each window counts as a trial."
    )
    parts: list[Html | Figure] = [_forest(ratios)] if ratios else []
    parts.append(table(head, rows, label="Pre-training ablation", align="llrrrrl"))
    return Section(parts, lead)


def _tag_pairs(tags: Columns) -> list[tuple[object, object]]:
    count = len(tags["scenario"])
    scripted = sum(script != PLAIN for script in tags["script"])
    falls = sorted(tags["largest_drawdown"])
    pairs: list[tuple[object, object]] = [
        ("Scenarios", f"{numbers.count(count)}, {numbers.count(scripted)} with a crash script"),
        ("Largest drawdown, median", numbers.percent(median(falls))),
        ("Largest drawdown, deepest", numbers.percent(falls[-1])),
        ("Jumps in all", numbers.count(sum(tags["jumps"]))),
    ]
    shares = {name: tags[f"{name}_share"] for name in REGIMES if f"{name}_share" in tags}
    return pairs + [
        (f"Bars in {name} regimes", numbers.percent(sum(values) / count, 0)) for name, values in shares.items()
    ]


def _gallery(columns: Columns) -> list[Figure]:
    """One small figure per scenario, in the file's order."""
    rows = list(zip(*(columns[name] for name in ("index", "script", "bar", "close", "regime")), strict=True))
    return [
        _world(number, int(index), str(script), [row[2:] for row in group])
        for number, ((index, script), group) in enumerate(groupby(rows, key=lambda row: row[:2]))
    ]


def _world(number: int, index: int, script: str, candles: list[tuple[int, float, str]]) -> Figure:
    start = candles[0][1]
    bars = [bar for bar, _, _ in candles]
    trace = line(bars, [100 * close / start for _, close, _ in candles], "close", "@ink", width=1.2)
    title = "No script" if script == PLAIN else _words(script)
    layout = {
        "xaxis": {"nticks": 4},
        "yaxis": {"type": "log", "nticks": 5},
        "showlegend": False,
        "shapes": _shades([(bar, regime) for bar, _, regime in candles]),
        "annotations": [
            {"text": f"{title} (scenario {index})", "font": {"color": "@ink"}, "showarrow": False}
            | {"xref": "paper", "yref": "paper", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom"}
        ],
        "margin": {"t": 24},
    }
    return Figure(f"figure-world-{number}", [trace], layout, 190, f"Close of scenario {index}, {title}")


def _shades(regimes: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """A rectangle behind every run of one regime."""
    runs = [(name, [bar for bar, _ in run]) for name, run in groupby(regimes, key=lambda item: item[1])]
    ends = [bars[0] for _, bars in runs[1:]] + [regimes[-1][0]]
    common = {"type": "rect", "layer": "below", "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 0}}
    return [
        common | {"x0": bars[0], "x1": end, "fillcolor": REGIME_COLOURS[name]}
        for (name, bars), end in zip(runs, ends, strict=True)
        if name in REGIME_COLOURS
    ]


def _moment_table(moments: dict[str, Any]) -> Html:
    sources = [(key, title) for key, title in SOURCES if moments.get(key)]
    rows = [[title, *(write(moments[key].get(name)) for key, _ in sources)] for name, title, write in MOMENTS]
    for regime in REGIMES:
        dwell = [(moments[key].get("dwell_bars") or {}).get(regime) for key, _ in sources]
        rows.append([f"Bars of a {regime} regime, mean", *(numbers.ratio(value, 0) for value in dwell)])
    return table(["", *(title for _, title in sources)], rows, label="Moments of the data and of the generated worlds")


def _memory(moments: dict[str, Any]) -> list[Figure]:
    traces: list[Trace] = []
    for key, title in SOURCES:
        values = (moments.get(key) or {}).get("acf_squared")
        if values:
            colour, dash = SOURCE_STYLES[key]
            traces.append(line(list(range(1, len(values) + 1)), values, title.lower(), colour, dash=dash))
    if not traces:
        return []
    layout = {"xaxis": {"title": {"text": "lag, bars"}}, "yaxis": {"zeroline": True, "tickformat": ".2f"}}
    label = "Autocorrelation of squared returns at lags of 1 to 50 bars"
    caption = f"{label}: how long a wild hour makes the next hours wild."
    return [Figure("figure-memory", traces, layout, 280, label, caption)]


def _forest(rows: list[dict[str, Any]]) -> Figure:
    """Difference of the Sharpe ratios in each place, with its interval."""
    middles = [row["difference"] for row in rows]
    spread = {
        "type": "data",
        "symmetric": False,
        "array": rounded([row["upper"] - row["difference"] for row in rows]),
        "arrayminus": rounded([row["difference"] - row["lower"] for row in rows]),
        "color": "@mean",
    }
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "name": "difference",
        "x": rounded(middles),
        "y": [PLACE_TITLES.get(row["where"], _words(row["where"])) for row in rows],
        "marker": {"color": "@mean", "size": 9},
        "error_x": spread,
    }
    layout = {
        "xaxis": {"title": {"text": "annual Sharpe ratio, pre-trained less from scratch"}},
        "yaxis": {"autorange": "reversed", "type": "category"},
        "showlegend": False,
        "hovermode": "closest",
        "shapes": [vertical(0, "solid", "@axis")],
    }
    label = "Difference that pre-training makes to the Sharpe ratio, with intervals"
    return Figure("figure-pretraining", [trace], layout, 90 + 34 * len(rows), label)


def _by_metric(metric: str, value: Any) -> str:
    return numbers.ratio(value) if metric == "sharpe" else numbers.percent(value)


def _words(name: object) -> str:
    return str(name).replace("_", " ").capitalize()
