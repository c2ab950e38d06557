"""Sections on how the result came about: data, units and resources, pre-flight, configuration, identity."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from configs.load import flatten
from runner.report import numbers
from runner.report.facts import CHANGED, Facts
from runner.report.figure import Figure, Trace, line, stacked
from runner.report.markup import Html, facts_list, join, table, tag
from runner.report.section import Section, badge, heading, note
from runner.report.series import thin
from runner.report.timeline import Clock, Span, clock_of, units_of

MOST_ROWS = 20
"""Longest list of gaps or moves that is shown in full."""
MOST_UNITS = 30
"""Of more units the table is folded, and a stage has one row in the figure."""
STATE_TONES = {
    "done": "good",
    "reused": "good",
    "skipped": "quiet",
    "running": "warn",
    "failed": "bad",
    "gated": "warn",
}
VERDICT_TONES = {"ok": "good", "warn": "warn", "fail": "bad"}
MACHINE_FACTS = {"cpu_model": "Processor", "cpu_cores": "Cores", "gpus": "GPUs"}
SPLIT_COLOURS = {"train": "@mean", "validation": "@moving_average", "test": "@buy_and_hold"}


def data(facts: Facts) -> Section | None:
    """What the dataset is and what is wrong with it."""
    dataset = facts.dataset
    if not dataset:
        return None
    parts: list[Html | Figure] = [facts_list(_dataset_pairs(dataset))]
    if facts.splits:
        parts.append(_split_bar(facts))
    gaps = dataset.get("gaps") or {}
    listed = {
        "Longest gaps": gaps.get("longest") if isinstance(gaps, dict) else gaps,
        "Largest moves": dataset.get("outlier_moves"),
        "Dropped rows": dataset.get("dropped"),
    }
    for title, rows in listed.items():
        if rows:
            parts += [heading(title), _records_table(rows, title)]
    parts += [note(str(remark)) for remark in dataset.get("notes") or []]
    return Section(parts)


def resources(facts: Facts) -> Section | None:
    """When each unit ran, how long it took, and what it used."""
    clock, units = clock_of(facts.events), units_of(facts.events, facts.units)
    if not any(unit.spans or unit.state != "waiting" for unit in units):
        return None
    samples = [event for event in facts.events if event["kind"] == "resources"]
    totals = [("Running time", numbers.duration(clock.total_s)), ("Starts", numbers.count(len(clock.sessions)))]
    if samples:
        totals.append(("Peak memory of all units", numbers.size(max(map(_unit_bytes, samples)))))
    rows = [
        [
            unit.id,
            badge(unit.state, STATE_TONES.get(unit.state, "warn")),
            numbers.count(len(unit.spans)),
            numbers.duration(sum(span.stop_t - span.start_t for span in unit.spans)),
            unit.says,
        ]
        for unit in units
    ]
    head = ("Unit", "State", "Attempts", "Time", "Remark")
    whole, by_stage = table(head, rows, label="Units", align="llrrl"), len(units) > MOST_UNITS
    if by_stage:
        whole = tag("details", tag("summary", f"All {len(units)} units"), whole)
    parts: list[Html | Figure] = [facts_list(totals), whole]
    spans = [(unit.id.partition("/")[0] if by_stage else unit.id, span) for unit in units for span in unit.spans]
    if spans:
        parts.append(_unit_figure(spans, clock))
    if len(samples) > 1:
        parts.append(_sample_figure(samples, clock))
    return Section(parts)


def preflight(facts: Facts) -> Section | None:
    """The latest answer of every check."""
    latest = {event.get("name"): event for event in facts.events if event["kind"] == "check"}
    if not latest:
        return None
    rows = [
        [
            name,
            badge(str(event.get("verdict")), VERDICT_TONES.get(str(event.get("verdict")), "quiet")),
            event.get("found", ""),
            event.get("needed", ""),
            event.get("remedy", ""),
        ]
        for name, event in latest.items()
    ]
    head = ("Check", "Verdict", "Found", "Needed", "What to do")
    return Section([table(head, rows, label="Pre-flight", align="l")])


def configuration(facts: Facts) -> Section | None:
    """The command that reproduces the run, and every setting."""
    parts: list[Html | Figure] = []
    command = facts.run.get("command")
    if command:
        text = shlex.join(str(word) for word in command) if isinstance(command, list) else str(command)
        parts += [
            heading("Reproduce this run"),
            tag("div", tag("pre", tag("code", text, id="command")), _copy_button(), class_="command"),
        ]
    if facts.config:
        flat = flatten(facts.config)
        head = ("Setting", "Value", "From")
        rows = [[key, _plain(value), facts.origins.get(key, numbers.NONE)] for key, value in flat.items()]
        changed = [row for row in rows if row[2] == CHANGED]
        if changed:
            parts.append(heading("Set for this run, beyond dataset and profile"))
            parts.append(table(head[:2], [row[:2] for row in changed], label="Changed settings", align="l"))
        whole = table(head, rows, label="Configuration", align="l")
        parts.append(tag("details", tag("summary", f"All {len(rows)} settings that ran"), whole))
    return Section(parts) if parts else None


def identity(facts: Facts) -> Section | None:
    """Digests and machine: what has to be equal for equal bytes."""
    if not facts.run:
        return None
    run, machine = facts.run, facts.run.get("machine") or {}
    pairs = [("Run", run.get("run_id", facts.run_id)), ("Created", f"{numbers.minute(run.get('created_t'))} UTC")]
    pairs += [(MACHINE_FACTS.get(key, _title(key).capitalize()), _fact(key, machine[key])) for key in sorted(machine)]
    digests = [
        [_title(key).removesuffix(" digest"), tag("code", run[key])] for key in sorted(run) if key.endswith("_digest")
    ]
    remark = "Equal digests, device kind and thread count give equal bytes on the same instruction set."
    if reasons := run.get("bit_exact_reasons"):
        remark += f" This run is not bit-exact: {'; '.join(map(str, reasons))}."
    parts = [facts_list(pairs), heading("Digests"), table(("Of", "SHA-256"), digests, label="Digests", align="l")]
    return Section([*parts, note(remark)])


def _dataset_pairs(dataset: dict[str, Any]) -> list[tuple[object, object]]:
    segments, gaps = dataset.get("segments") or [], dataset.get("gaps") or {}
    missing, longest = numbers.count(gaps.get("missing_bars")), numbers.count(gaps.get("longest_bars"))
    return [
        ("Dataset", dataset.get("name", numbers.NONE)),
        ("Bars", numbers.count(dataset.get("rows"))),
        ("Bar length", numbers.duration(dataset.get("timeframe_s"))),
        ("First bar", f"{numbers.minute(dataset.get('first_t'))} UTC"),
        ("Last bar", f"{numbers.minute(dataset.get('last_t'))} UTC"),
        ("Asset class", dataset.get("asset_class", numbers.NONE)),
        ("Synthetic", "yes: generated bars, not traded ones" if dataset.get("synthetic") else "no"),
        ("Source format", dataset.get("source_format") or numbers.NONE),
        ("Time zone taken", dataset.get("timezone") or numbers.NONE),
        ("Segments", numbers.count(len(segments))),
        ("Gaps", f"{numbers.count(gaps.get('count'))}, {missing} bars missing, longest {longest}"),
        ("Zero-volume bars", numbers.count(dataset.get("zero_volume"))),
        ("Rows out of order", numbers.count(dataset.get("out_of_order"))),
        ("Duplicates left out", numbers.count(dataset.get("duplicates"))),
        ("Outlier moves", numbers.count(dataset.get("outlier_count"))),
        ("Rows dropped", numbers.count(len(dataset.get("dropped") or ()))),
    ]


def _split_bar(facts: Facts) -> Html:
    """Train, validation and test as parts of one bar."""
    parts = {name: facts.splits[name] for name in SPLIT_COLOURS if isinstance(facts.splits.get(name), list)}
    total = sum(stop - start for start, stop in parts.values()) or 1
    cells = [
        tag(
            "div",
            tag("strong", name),
            f" {numbers.count(stop - start)} bars, {numbers.percent((stop - start) / total, 0)}",
            style=f"flex:{stop - start} 1 0",
            class_=f"part {name}",
        )
        for name, (start, stop) in parts.items()
    ]
    return join([heading("Split, in order of time"), tag("div", *cells, class_="split")])


def _records_table(rows: Sequence[dict[str, Any]], label: str) -> Html:
    # a time first, then what happened then
    head = sorted(dict.fromkeys(key for row in rows for key in row), key=lambda key: (not _is_time(key), key))
    shown = [[_fact(key, row.get(key, "")) for key in head] for row in rows[:MOST_ROWS]]
    more = note(f"{len(rows) - MOST_ROWS:,} more.") if len(rows) > MOST_ROWS else ""
    return join([table([_title(key) for key in head], shown, label=label), more])


def _unit_figure(spans: list[tuple[str, Span]], clock: Clock) -> Figure:
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "y": [unit for unit, _ in spans],
        "base": [round(clock.minutes(span.start_t), 3) for _, span in spans],
        "x": [round(max(span.stop_t - span.start_t, 0.05) / 60, 3) for _, span in spans],
        "marker": {"color": ["@bad" if span.failed else "@mean" for _, span in spans]},
        "hovertemplate": "%{y}: %{x:.2f} min from minute %{base:.2f}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "minutes of running time"}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "type": "category", "showgrid": False},
        "showlegend": False,
        "hovermode": "closest",
        "bargap": 0.35,
    }
    units = len({unit for unit, _ in spans})
    return Figure(
        "figure-units", [trace], layout, 90 + 26 * units, "When each unit ran", "Red: an attempt that failed."
    )


def _sample_figure(samples: list[dict[str, Any]], clock: Clock) -> Figure:
    minutes = [clock.minutes(sample["t"]) for sample in samples]

    def minute_line(values: list[Any], name: str, colour: str, axis: str) -> Trace:
        x, y = thin([round(value, 3) for value in minutes], values)
        return line(x, y, name, colour, yaxis=axis)

    cpu = [sample.get("cpu_percent") for sample in samples]
    memory = [_gigabytes(sample.get("ram_used_bytes")) for sample in samples]
    units = [_gigabytes(_unit_bytes(sample)) for sample in samples]
    panels: list[tuple[str, float, dict[str, Any]]] = [
        ("Processor, % of all cores", 1, {"range": [0, 105]}),
        ("Memory, GB", 1, {}),
    ]
    traces = [
        minute_line(cpu, "processor", "@moving_average", "y"),
        minute_line(memory, "memory of the machine", "@muted", "y2"),
        minute_line(units, "memory of this run's units", "@mean", "y2"),
    ]
    for number in range(max(len(sample.get("gpus") or ()) for sample in samples)):
        gpus = [(sample.get("gpus") or [{}] * (number + 1))[number] for sample in samples]
        axis = f"y{len(panels) + 1}"
        panels.append((f"GPU {number}, %", 1, {"range": [0, 105]}))
        traces.append(
            minute_line([gpu.get("util_percent") for gpu in gpus], f"GPU {number}", "@follow_classifier", axis)
        )
        memory = [_gigabytes(gpu.get("memory_used_bytes")) for gpu in gpus]
        traces.append(minute_line(memory, f"GPU {number} memory, GB", "@buy_and_hold", "y2"))
    height_px = 110 + 150 * len(panels)
    layout = stacked(panels, height_px)
    layout["xaxis"] |= {"title": {"text": "minutes of running time"}, "rangemode": "tozero"}
    layout["yaxis2"]["rangemode"] = "tozero"
    return Figure("figure-resources", traces, layout, height_px, "Use of processor, memory and GPU over time")


def _unit_bytes(sample: dict[str, Any]) -> int:
    """Memory of all units that ran when the sample was taken."""
    return sum(unit.get("rss_bytes", 0) for unit in (sample.get("units") or {}).values())


def _copy_button() -> Html:
    return tag("button", "Copy", type="button", class_="copy", data_copy="command")


def _fact(key: str, value: Any) -> object:
    """One value, written by what its name says it is."""
    if key.endswith("_bytes"):
        return numbers.size(value)
    if _is_time(key):
        return numbers.minute(value)
    if key.endswith("_frac"):
        return numbers.signed_percent(value)
    if key.endswith("_s") and numbers.is_number(value):
        return numbers.duration(value)
    return numbers.ratio(value, 1) if isinstance(value, float) else _plain(value)


def _is_time(key: str) -> bool:
    return key == "t" or key.endswith("_t")


def _title(key: str) -> str:
    return (
        "time, UTC"
        if key == "t"
        else key.removesuffix("_bytes").removesuffix("_frac").removesuffix("_t").removesuffix("_s").replace("_", " ")
    )


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or numbers.NONE
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: numbers.NONE}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _gigabytes(size_bytes: Any) -> float | None:
    return size_bytes / 1e9 if numbers.is_number(size_bytes) else None
