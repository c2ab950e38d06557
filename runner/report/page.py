"""The page: sections in their order, put into one file with style, script and Plotly inside."""

from __future__ import annotations

from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from string import Template

from configs.files import write_atomic
from configs.run_dir import RunDir
from configs.secrets import redact_values
from runner.report import agents, background, certainty, learning, performance, planned, portfolio, stress, windows
from runner.report.facts import Facts, read_facts
from runner.report.markup import Html, escape, join, json_script, tag
from runner.report.section import Builder, Section
from runner.report.wording import words_of

SECTIONS = (
    Builder("verdict", "Verdict", performance.verdict, "evaluate"),
    Builder("agents", "Agents side by side", agents.agents, "evaluate"),
    Builder("targets", "Targets", agents.targets, "evaluate"),
    Builder("equity", "Equity on the test part", performance.equity, "evaluate"),
    Builder("comparison", "Agents against baselines", performance.comparison, "evaluate"),
    Builder("certainty", "How sure is that?", certainty.certainty, "evaluate"),
    Builder("positions", "Positions over price", performance.positions, "evaluate"),
    Builder("actions", "What the agents did", performance.actions, "evaluate"),
    Builder("costs", "What trading costs would change", performance.costs, "evaluate"),
    Builder("portfolio", "Portfolio", portfolio.portfolio, "multi_asset"),
    Builder("windows", "Walk-forward", windows.windows, "walk_forward"),
    Builder("pretraining", "Pre-training ablation", stress.pretraining, "ablation"),
    Builder("stress", "Stress gallery", stress.stress, "synthetic"),
    Builder("classifiers", "Classifiers", learning.classifiers, "classifiers"),
    Builder("training", "Training curves", learning.training, "classifiers"),
    Builder("data", "Data", background.data, "prepare"),
    Builder("gates", "Gates", planned.gates, ""),
    Builder("prediction", "Predicted against actual", planned.prediction, ""),
    Builder("resources", "Time and resources", background.resources, ""),
    Builder("preflight", "Pre-flight", background.preflight, ""),
    Builder("configuration", "Configuration", background.configuration, ""),
    Builder("identity", "Identity", background.identity, ""),
)
DAMAGE = (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError)
"""What reading a value of an unexpected form raises."""


def write_report(run: RunDir) -> Path:
    """Write `report/index.html` of a run in whatever state it is, and return its path.

    Raises:
        CannotWriteError: the run directory cannot be written.
    """
    write_atomic(run.report, render(read_facts(run)))
    return run.report


def render(facts: Facts) -> str:
    """The whole file, without secrets; equal facts give equal bytes."""
    shown = {builder: section for builder in SECTIONS if (section := _build(builder, facts)).parts}
    figures = [figure.to_json() for section in shown.values() for figure in section.figures]
    here = files("runner.report")
    written = {
        "title": escape(_title(facts)),
        "ribbon": _ribbon(facts),
        "head": _head(facts),
        "contents": _contents(shown),
        "notices": _notices(facts, shown),
        "sections": join(section.html(builder.id, builder.title) for builder, section in shown.items()),
        "figures": json_script("figures", figures),
    }
    return Template((here / "template.html").read_text()).substitute(
        redact_values(written),
        css=(here / "report.css").read_text(),
        body_class="synthetic" if facts.synthetic else "",
        plotly=_plotly() if figures else "",
        script=(here / "report.js").read_text(),
    )


def _build(builder: Builder, facts: Facts) -> Section:
    """The section; one without parts where there is nothing to show, a note where the files are of another form."""
    try:
        section = builder.build(facts)
    except DAMAGE as error:
        reason = f"{type(error).__name__}: {error}"
        says = tag("p", "This part cannot be shown; its files have another form than expected ", f"({reason}).")
        return Section([tag("div", says, class_="notice")])
    return section or Section([])


def _title(facts: Facts) -> str:
    try:
        headline = words_of(facts).headline
    except DAMAGE:
        headline = "Report"
    return f"{headline} - {facts.dataset_name} - sequence-runner"


def _ribbon(facts: Facts) -> Html:
    if not facts.synthetic:
        return Html("")
    text = "SYNTHETIC DATA: generated prices, not a market. No number here says anything about trading."
    return tag("div", text, class_="ribbon", role="note")


def _head(facts: Facts) -> Html:
    return join(
        [
            tag("p", "sequence-runner report", class_="brand"),
            tag("h1", facts.dataset_name, " ", tag("span", facts.profile, class_="profile")),
            tag("p", "run ", tag("code", facts.run_id), class_="run"),
        ]
    )


def _contents(shown: Collection[Builder]) -> Html:
    return join(tag("a", builder.id.capitalize(), href=f"#{builder.id}") for builder in shown)


def _notices(facts: Facts, shown: Collection[Builder]) -> Html:
    """What is missing although this run has its stage and no gate left it out, damaged, outdated, or not alike."""
    gated = _gated(facts)
    stages = {unit.partition("/")[0] for unit in facts.units if unit not in gated}
    missing = [
        f"{builder.title} (comes from: {builder.waits_for})"
        for builder in SECTIONS
        if builder.waits_for and builder not in shown and (not facts.units or builder.waits_for in stages)
    ]
    notices = [tag("p", tag("strong", "Not in this run yet: "), "; ".join(missing), ".")] if missing else []
    notices += [tag("p", tag("strong", "Damaged: "), fault) for fault in facts.damaged]
    notices += [
        tag("p", tag("strong", "Outdated: "), f"{unit} read results of {', '.join(changed)} that are no longer here")
        for unit, changed in facts.outdated.items()
    ]
    notices += [
        tag("p", tag("strong", "Not judged: "), f"the evaluation did not read the results of {family} that are here")
        for family in facts.unjudged
    ]
    notices += [tag("p", tag("strong", "Unequal seeds: "), difference) for difference in _unequal_starts(facts)]
    return tag("div", *notices, class_="notice") if notices else Html("")


def _gated(facts: Facts) -> set[str]:
    """Units that a closed gate left out, as their newest event says."""
    events = [event for event in facts.events if event["kind"] in ("unit_started", "unit_finished")]
    newest = {event["unit"]: event.get("state") for event in events}
    return {unit for unit, state in newest.items() if state == "gated"}


def _unequal_starts(facts: Facts) -> list[str]:
    """Families whose agents began from different weights: some pre-trained, some not."""
    starts: dict[str, dict[str, list[str]]] = {}
    for unit, metrics in facts.metrics.items():
        family, _, name = unit.partition("/")
        if name.startswith("seed-") and isinstance(metrics.get("start"), str):
            starts.setdefault(family, {}).setdefault(metrics["start"], []).append(name)
    return [
        f"of {family}, " + ", ".join(f"{' and '.join(seeds)} began {start}" for start, seeds in sorted(by.items()))
        for family, by in starts.items()
        if len(by) > 1
    ]


def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # heavy: megabytes, and only a report needs them

    return get_plotlyjs()
