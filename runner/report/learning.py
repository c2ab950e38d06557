"""Sections on what was learned: the classifiers beside their no-skill rules, and every training curve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from configs.verdicts import FAMILIES
from runner.report import numbers
from runner.report.agents import COLOURS
from runner.report.facts import Facts
from runner.report.figure import Figure, Trace, line, stacked
from runner.report.markup import Html, join, table, tag
from runner.report.section import Section, badge, heading, note
from runner.report.series import MAX_POINTS, THINNED, thin
from runner.summary import family_title

Rows = list[dict[str, Any]]

CLASS_NAMES = ("fall", "stationary", "rise")
SKILL_HEAD = ("Against best", "Lower bound", "Skill")
RULE_NAMES = {"majority": "majority", "known_part": "known part", "volatility": "volatility"}
FIT_COLOURS = ("@mean", "@buy_and_hold", "@moving_average", "@follow_classifier", "@muted")
AGENT_STAGES = {"pretrain": ("Pre-training", "@muted")} | {
    name: (family_title(name), COLOURS[name]) for name in FAMILIES
}
"""Stage -> name and colour of its agents where there are several stages; walk-forward's windows have no curves."""
AGENT_PANELS = (
    ("Validation, basis points per bar", ("validation.score",), 1e4, ".1f"),
    ("Reward per training step", ("reward_mean",), 1, "~g"),
    ("Policy entropy, nats", ("entropy",), 1, ".2f"),
    ("Explained variance of the critic", ("explained_variance",), 1, ".2f"),
    ("Approximate KL of an update", ("approx_kl",), 1, "~g"),
    ("Share of clipped samples", ("clip_frac", "clip_fraction"), 1, ".2~%"),
    ("Gradient norm before clipping", ("grad_norm",), 1, "~g"),
    ("Share of actions other than hold", ("position_change_frac",), 1, ".2~%"),
)
"""Title, keys (the first that is there), factor, tick format."""


def classifiers(facts: Facts) -> Section | None:
    """Scores on the test part beside the rules that need no skill."""
    scores, part = dict(facts.classifiers), "test"
    if not scores:
        units = {
            unit.partition("/")[2]: metrics for unit, metrics in facts.metrics.items() if unit[:12] == "classifiers/"
        }
        scores, part = {name: metrics.get("validation") or {} for name, metrics in units.items()}, "validation"
    scores = {name: scores[name] for name in _in_order(scores, facts) if scores[name].get("skill")}
    if not scores:
        return None
    rules = list(dict.fromkeys(rule for score in scores.values() for rule in score.get("no_skill") or {}))
    rules.sort(key=lambda rule: (list(RULE_NAMES).index(rule) if rule in RULE_NAMES else len(RULE_NAMES), rule))
    head = ("", "Bars", "Accuracy", *(RULE_NAMES.get(rule, rule).capitalize() for rule in rules), *SKILL_HEAD)
    skills = [_skill_row(name, score, rules) for name, score in scores.items()]
    parts: list[Html | Figure] = [table(head, skills, label="Skill", align="l" + "r" * (4 + len(rules)) + "l")]
    parts.append(heading("Direction alone: Rise or Fall bars"))
    head = ("", "Bars", "Accuracy", "Best no-skill rule", *SKILL_HEAD)
    rows = [_direction_row(name, score["directional"]) for name, score in scores.items() if score.get("directional")]
    parts.append(table(head, rows, label="Direction", align="lrrlrrl") if rows else note("No bar of these classes."))
    parts.append(heading("Quality of the probabilities"))
    quality = ("", "Macro F1", "MCC", "Log-loss", "Calibration error", *(f"AUC {name}" for name in CLASS_NAMES))
    parts.append(table(quality, [_quality_row(name, score) for name, score in scores.items()], label="Quality"))
    if all(score.get("confusion") for score in scores.values()):
        parts.append(_confusions({name: score.get("confusion") for name, score in scores.items()}))
    lead = (
        f"Right calls of Fall / Stationary / Rise on the {part} part, beside rules that need no skill and were fitted "
        "on the same training rows: the training majority, the part of the label that is known already, and "
        "volatility alone. Skill means that the lower 95\u00a0% bound of the difference against the best of them is "
        "above 0."
    )
    return Section(parts, lead)


def training(facts: Facts) -> Section | None:
    """Training curves of classifiers and agents, from the histories or, while a unit works, its events."""
    parts: list[Html | Figure] = []
    fits = {unit: list(_runs(history)) for unit, history in facts.histories.items() if unit.startswith("classifiers/")}
    fits = {unit: runs for unit, runs in fits.items() if runs} | _fits_of_events(facts, known=set(fits))
    fits = {unit: fits[unit] for unit in _in_order(fits, facts)}
    if fits:
        parts += [heading("Classifiers"), _fit_figure(fits)]
    agents = {unit: history for unit, history in facts.histories.items() if _stage(unit) in AGENT_STAGES}
    agents = {unit: _agent_rows(history) for unit, history in agents.items()} | _agents_of_events(facts, set(agents))
    agents = {unit: agents[unit] for unit in sorted(agents, key=_agent_order) if agents[unit]}
    figure = _agent_figure(agents) if agents else None
    if figure is not None:
        parts += [heading("Agents"), figure]
    return Section(parts) if parts else None


def _skill_row(name: str, score: dict[str, Any], rules: list[str]) -> list[object]:
    skill = score["skill"]
    unskilled = [numbers.percent((score.get("no_skill") or {}).get(rule)) for rule in rules]
    return [name, numbers.count(skill["bars"]), numbers.percent(skill["accuracy"]), *unskilled, *_skill_cells(skill)]


def _direction_row(name: str, skill: dict[str, Any]) -> list[object]:
    rule = RULE_NAMES.get(skill["best_rule"], skill["best_rule"])
    best = f"{numbers.percent(skill['best_rule_accuracy'])} ({rule})"
    return [name, numbers.count(skill["bars"]), numbers.percent(skill["accuracy"]), best, *_skill_cells(skill)]


def _skill_cells(skill: dict[str, Any]) -> list[object]:
    skilled = badge("skill", "good") if skill["skilled"] else badge("no skill", "quiet")
    return [_points(skill["difference"]), _points(skill["lower"]), skilled]


def _quality_row(name: str, score: dict[str, Any]) -> list[object]:
    classes = score.get("classes") or {}
    return [
        name,
        numbers.ratio(score.get("macro_f1"), 3),
        numbers.ratio(score.get("mcc"), 3),
        numbers.ratio(score.get("log_loss"), 3),
        numbers.ratio(score.get("calibration_error"), 3),
        *(numbers.ratio((classes.get(name) or {}).get("auc"), 3) for name in CLASS_NAMES),
    ]


def _confusions(matrices: dict[str, list[list[int]]]) -> Html:
    """One small matrix per classifier: shares of each true class, as deep as they are large."""
    boxes = []
    for name, matrix in matrices.items():
        head = tag("tr", tag("th", name), *(tag("th", called, scope="col") for called in CLASS_NAMES))
        rows = [
            tag("tr", tag("th", true, scope="row"), *(_share_cell(cell, sum(row)) for cell in row))
            for true, row in zip(CLASS_NAMES, matrix, strict=True)
        ]
        boxes.append(tag("table", head, *rows))
    caption = note("Rows are the true class, columns the call; each row sums to 100 %.")
    return join([heading("Confusion"), tag("div", *boxes, class_="matrices"), caption])


def _share_cell(cell: int, total: int) -> Html:
    share = cell / total if total else 0
    return tag("td", numbers.percent(share, 0), style=f"--share:{100 * share:.0f}%")


def _fit_figure(fits: dict[str, list[tuple[str, Rows]]]) -> Figure:
    """Log-loss per epoch, one panel per classifier, one pair of lines per fit."""
    names = sorted({name for runs in fits.values() for name, _ in runs}, key=lambda name: (name == "final", name))
    colours = {name: FIT_COLOURS[index % len(FIT_COLOURS)] for index, name in enumerate(names)}
    traces: list[Trace] = []
    for number, runs in enumerate(fits.values(), start=1):
        axis = "y" if number == 1 else f"y{number}"
        for name, rows in sorted(runs, key=lambda run: names.index(run[0])):
            for key, dash in (("train_loss", "dot"), ("stop_loss", "solid")):
                x, y = _curve(rows, "epoch", key)
                label = name if dash == "solid" else f"{name}, training rows"
                style = {"mode": "lines+markers", "legendgroup": name, "showlegend": number == 1 and dash == "solid"}
                traces.append(line(x, y, label, colours[name], dash=dash, yaxis=axis, **style))
    height_px = 120 + 160 * len(fits)
    layout = stacked([(unit.rpartition("/")[2], 1.0, {"tickformat": ".2f"}) for unit in fits], height_px)
    layout["xaxis"] |= {"title": {"text": "epoch"}, "dtick": _whole_steps(fits)}
    layout["hovermode"] = "closest"
    layout["legend"] |= {"tracegroupgap": 0}
    label = "Training and early-stopping log-loss of each classifier by epoch"
    caption = (
        "Weighted log-loss; solid: early-stopping rows, which decide the epoch; dotted: training rows. "
        "Epoch 0 is before the first step."
    )
    return Figure("figure-fits", traces, layout, height_px, label, caption)


def _agent_figure(agents: dict[str, Rows]) -> Figure | None:
    panels, traces = [], []
    first = set({_stage(unit): unit for unit in reversed(agents)}.values())
    several = len(first) > 1
    for title, keys, factor, tick_format in AGENT_PANELS:
        key = next(
            (key for key in keys if any(_at(row, key) is not None for rows in agents.values() for row in rows)), ""
        )
        if not key:
            continue
        panels.append((title, 1.0, {"tickformat": tick_format, "nticks": 5}))
        for index, (unit, rows) in enumerate(agents.items()):
            style: dict[str, Any] = {"yaxis": "y" if len(panels) == 1 else f"y{len(panels)}", "legendgroup": unit}
            colour = FIT_COLOURS[index % len(FIT_COLOURS)]
            name = unit.rpartition("/")[2].replace("-", " ")
            if several:
                style["legendgroup"] = _stage(unit)
                title_of, colour = AGENT_STAGES[_stage(unit)]
                name = title_of if unit in first else f"{title_of}, {name}"
            x, y = _curve(rows, "step", key)
            y = [factor * value for value in y]
            shown = len(panels) == 1 and (not several or unit in first)
            traces.append(line(x, y, name, colour, showlegend=shown, **style))
    if not panels:
        return None
    height_px = 120 + 120 * len(panels)
    layout = stacked(panels, height_px)
    layout["xaxis"] |= {"title": {"text": "environment steps"}}
    label = "Training figures of each agent by environment step"
    longest = max(len(rows) for rows in agents.values())
    caption = "Validation: mean log return of greedy play on validation bars; it selects the policy. "
    caption += "Lines of one colour are the seeds of one stage. " if several else ""
    caption += THINNED if longest > MAX_POINTS else ""
    return Figure("figure-agents", traces, layout, height_px, label, caption)


def _stage(unit: str) -> str:
    return unit.partition("/")[0]


def _agent_order(unit: str) -> tuple[int, str]:
    return (list(AGENT_STAGES).index(_stage(unit)), unit)


def _in_order(names: Iterable[str], facts: Facts) -> list[str]:
    """Classifiers in the order of the configuration, then the others by name."""
    members = list((facts.config.get("classifiers") or {}).get("members") or [])

    def rank(name: str) -> tuple[int, str]:
        short = name.rpartition("/")[2]
        return (members.index(short) if short in members else len(members), short)

    return sorted(names, key=rank)


def _runs(history: Any, name: str = "") -> Iterator[tuple[str, Rows]]:
    """(name, rows with an epoch) of every fit in a history, however it is nested."""
    if isinstance(history, list) and history and all(isinstance(row, dict) and "epoch" in row for row in history):
        yield name or "fit", history
    elif isinstance(history, list):
        for index, item in enumerate(history):
            yield from _runs(item, f"{name} {index}".strip())
    elif isinstance(history, dict):
        own = str(history.get("name", name))
        for key, item in history.items():
            yield from _runs(item, own or str(key))


def _fits_of_events(facts: Facts, known: set[str]) -> dict[str, list[tuple[str, Rows]]]:
    found: dict[str, dict[str, Rows]] = {}
    for event in facts.events:
        if event["kind"] == "metric" and "epoch" in event and "stop_loss" in event and event["unit"] not in known:
            found.setdefault(event["unit"], {}).setdefault(str(event.get("model", "fit")), []).append(event)
    return {unit: list(runs.items()) for unit, runs in sorted(found.items())}


def _agents_of_events(facts: Facts, known: set[str]) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for event in facts.events:
        unit = event["unit"]
        if event["kind"] == "metric" and "step" in event and _stage(unit) in AGENT_STAGES and unit not in known:
            row = {"step": event["step"], "validation": event} if event.get("name") == "validation" else event
            found.setdefault(unit, []).append(row)
    return found


def _agent_rows(history: Any) -> Rows:
    rows = history.get("rows", []) if isinstance(history, dict) else history
    return [row for row in rows if isinstance(row, dict) and "step" in row] if isinstance(rows, list) else []


def _curve(rows: Rows, x_key: str, y_key: str) -> tuple[list[Any], list[Any]]:
    """The rows that have the value, thinned."""
    points = [(row[x_key], _at(row, y_key)) for row in rows if numbers.is_number(_at(row, y_key))]
    return thin([x for x, _ in points], [y for _, y in points])


def _at(row: dict[str, Any], path: str) -> Any:
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _points(value: Any) -> str:
    """A difference of shares in percentage points."""
    return numbers.signed(100 * value, 1) + " pp" if numbers.is_number(value) else numbers.NONE


def _whole_steps(fits: dict[str, list[tuple[str, Rows]]]) -> int:
    """Distance of ticks so that an epoch axis has only whole numbers."""
    longest = max(len(rows) for runs in fits.values() for _, rows in runs)
    return max(1, longest // 12)
