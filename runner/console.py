"""What a person sees: a live table on a terminal, plain lines otherwise, and the final block.

Everything here goes to stderr except the final block; nothing here decides anything.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from configs.errors import ExitCode
from runner.container import seen_from_outside
from runner.preflight.check import human_bytes
from runner.say import say
from runner.summary import family_rows, rows_of
from runner.view import RunView, UnitView, folded
from runner.watch import Ending

LIVE_EVERY_S = 0.25
STOPPING = "stopping at the next safe boundary; Ctrl-C again kills"
PLAIN_EVERY_S = 15.0
STATE_STYLES = {
    "waiting": "dim",
    "running": "bold cyan",
    "done": "green",
    "reused": "green",
    "skipped": "green",
    "gated": "yellow",
    "failed": "bold red",
    "stopped": "yellow",
}
VERDICT_STYLES = {"edge": "bold green", "no evidence of an edge": "bold yellow", "collapsed": "bold red"}
FIGURES = {"sharpe": "{:.2f}", "total_return": "{:+.1%}", "max_drawdown": "{:.1%}", "trades": "{:,.0f}"}
FIGURE_TITLES = ("Sharpe", "return", "max drawdown", "trades")
MAX_VALUES = 4
COLUMNS: dict[str, dict[str, Any]] = {
    "unit": {},
    "state": {},
    "progress": {"width": 12},
    "rate": {"justify": "right"},
    "left": {"justify": "right"},
    "elapsed": {"justify": "right"},
    "last values": {"ratio": 1, "overflow": "ellipsis"},
}
"""Of the table of units."""
WIDE, WIDE_ONLY = 100, ("rate", "elapsed")
"""Columns that a narrower terminal does without."""
MOST_UNITS_SHOWN = 16
"""More are folded into a line for each stage, so that a run of many windows fits 24 lines."""
OWN_LINE = ("running", "failed", "stopped")
"""States of units that are shown below their folded stage."""


@contextmanager
def watching(title: str, verbose: bool = False) -> Iterator[Callable[[RunView], None]]:
    """Show a run while inside: give the yielded function the current view as often as you like."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield PlainLines(verbose)
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:
        table = _LiveTable(live, title)
        try:
            yield table
        finally:
            table.draw()


class _LiveTable:
    def __init__(self, live: Live, title: str) -> None:
        self._live, self._title, self._next_s = live, title, 0.0
        self._view = RunView()

    def __call__(self, view: RunView) -> None:
        self._view = view
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + LIVE_EVERY_S
            self.draw()

    def draw(self) -> None:
        stopping = f"  ({STOPPING})" if self._view.stopping else ""
        self._live.update(render_view(self._view, self._title + stopping, time.time()), refresh=True)


class PlainLines:
    """One line per change of a unit, and its progress at a modest rate."""

    def __init__(self, verbose: bool = False) -> None:
        """`verbose` shows progress five times as often."""
        self._every_s = PLAIN_EVERY_S / (5 if verbose else 1)
        self._store_said, self._stopping, self._gates_said = "", False, 0
        self._seen: dict[str, tuple[str, int]] = {}
        self._next_s: dict[str, float] = {}

    def __call__(self, view: RunView) -> None:
        """Print what is new."""
        if view.stopping and not self._stopping:
            say(STOPPING)
        self._stopping = view.stopping
        if view.store_says != self._store_said:
            self._store_said = view.store_says
            say(view.store_says or "store: a snapshot has come through")
        for gate in view.gates[self._gates_said :]:
            say(gate_text(gate))
        self._gates_said = len(view.gates)
        for unit in view.units.values():
            mark = (unit.state, unit.attempt)
            if mark != self._seen.get(unit.id, ("waiting", 0)):
                self._seen[unit.id] = mark
                self._next_s[unit.id] = time.monotonic() + self._every_s
                say(f"{unit.id}: {unit.state}{_duration_note(unit)}{f': {unit.note}' if unit.note else ''}")
            elif unit.state == "running" and unit.total and time.monotonic() >= self._next_s[unit.id]:
                self._next_s[unit.id] = time.monotonic() + self._every_s
                say(f"{unit.id}: {progress_text(unit, time.time())}")


def render_view(view: RunView, title: str, now_t: float) -> RenderableType:
    """The table of units with the machine's load below."""
    lines = [Text(gate_text(gate), style="dim" if gate["verdict"] == "open" else "yellow") for gate in view.gates]
    lines.append(Text(_load_line(view, now_t), style="dim"))
    if view.snapshot and view.exit_code is None:
        lines.append(Text(_store_line(view, now_t), style="dim"))
    if view.store_says:
        told = time.strftime("%H:%M:%S", time.localtime(view.store_said_t))
        lines.append(Text(f"{told} {view.store_says}", style="yellow"))
    return Group(_UnitTable(view, title, now_t), *lines)


class _UnitTable:
    """The units; on a narrow terminal without the columns that the last values and notes need the room of."""

    def __init__(self, view: RunView, title: str, now_t: float) -> None:
        self._view, self._title, self._now_t = view, title, now_t

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        shown = [name for name in COLUMNS if options.max_width >= WIDE or name not in WIDE_ONLY]
        table = Table(
            title=self._title,
            title_justify="left",
            title_style="bold",
            header_style="dim",
            expand=True,
            box=None,
            pad_edge=False,
        )
        for name in shown:
            table.add_column(name, no_wrap=True, **COLUMNS[name])
        for row in _rows(self._view):
            cells = dict(zip(COLUMNS, _cells(row, self._now_t), strict=True))
            table.add_row(*(cells[name] for name in shown))
        yield table


def gate_text(gate: dict[str, Any]) -> str:
    """`gate of lstm_ppo closed: ...`."""
    return f"gate of {gate['stage']} {gate['verdict']}: {gate['says']}"


def progress_text(unit: UnitView, now_t: float) -> str:
    """`45 % (90/200), 12.3/s, 0:21 left, loss 0.61`."""
    eta_s = unit.eta_s(now_t)
    parts = [
        f"{unit.share:.0%} ({short(unit.done)}/{short(unit.total)})",
        f"{short(unit.rate)}/s" if unit.rate else "",
        f"{clock(eta_s)} left" if eta_s is not None else "",
        values_text(unit.values),
    ]
    return ", ".join(part for part in parts if part)


def values_text(values: dict[str, Any]) -> str:
    """The last reported values, the newest few."""
    return " ".join(f"{key} {short(value)}" for key, value in list(values.items())[:MAX_VALUES])


def short(value: Any) -> str:
    """A number in few characters: 1,234 or 0.0123 or 2.5M."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1_000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def clock(seconds: float) -> str:
    """`1:02:03`, `2:03` or `7 s`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if not hours and not minute:
        return f"{second} s"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def render_final(summary: dict[str, Any], steps: Sequence[str]) -> RenderableType:
    """Verdict first, agents beside baselines, report path, next steps."""
    lines: list[RenderableType] = [_verdict_line(summary)]
    families = family_rows(summary)
    if len(families) > 1:
        lines.append(_families_table(families))
    rows = rows_of(summary)
    if rows:
        titles = [Text(f"{families[0][0]}, each seed, beside what needs no skill")] if families else []
        lines += [*titles, _metrics_table(rows), Text(_foot_note(summary), style="dim")]
    if summary.get("time"):
        lines.append(_pair("time", _time_text(summary["time"])))
    if summary.get("cost_usd"):
        lines.append(_pair("cost", f"{short(summary['cost_usd'])} USD for all starts"))
    if summary["report"]:
        lines.append(_pair("report", summary["report"]))
    if "out" in summary:
        lines.append(_pair("files", summary["out"]))
    lines += [_pair("next", step) for step in steps]
    return Group(*lines)


def print_final(summary: dict[str, Any], steps: Sequence[str]) -> None:
    """The final block on stdout."""
    _stdout().print(render_final(_for_outside(summary), steps), soft_wrap=True)


def print_ending(ending: Ending, summary: dict[str, Any] | None, steps: Sequence[str]) -> None:
    """How a run ended: why on stderr; of one that succeeded the final block, where there is a summary."""
    if ending.message:
        sys.stderr.write(f"{'stopped' if ending.is_stop else 'error'}: {ending.message}\n")
    if summary and ending.exit_code == ExitCode.DONE:
        print_final(summary, steps)


def print_status(view: RunView, title: str, summary: dict[str, Any]) -> None:
    """How a run stands, on stdout."""
    console = _stdout()
    console.print(render_view(view, title, time.time()))
    if summary["verdict"]:
        console.print(render_final(_for_outside(summary), ()))
    elif summary["time"]:
        console.print(_pair("time", _time_text(summary["time"])))


def _for_outside(summary: dict[str, Any]) -> dict[str, Any]:
    report = summary["report"]
    return summary | {"report": report and report + seen_from_outside(Path(report))}


def print_comparison(found: dict[str, Any]) -> None:
    """Differences first, then figures side by side, on stdout."""
    one, other = found["runs"]
    console = _stdout()
    console.print(Text(f"{one}  and  {other}", style="bold"))
    for line in found["differences"] or ["no difference in configuration, data, code and dependencies"]:
        console.print(Text(f"  {line}"))
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in FIGURE_TITLES:
        table.add_column(title, justify="right")
    for row in found["figures"]:
        cells = [" | ".join(_number(value, FIGURES[key]) for value in row[key]) for key in FIGURES]
        table.add_row(row["name"], *cells)
    verdicts = " | ".join(verdict or "none yet" for verdict in found["verdicts"])
    console.print(Text(f"verdict  {verdicts}"), table)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A title and a plain table on stdout."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = _stdout()
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(table)


def _stdout() -> Console:
    """Wide where nobody looks at it live, so that paths stay whole."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _rows(view: RunView) -> list[tuple[str, UnitView]]:
    """Name and view of what has a line: every unit, or stages with those of their units that need a look."""
    units = list(view.units.values())
    if len(units) <= MOST_UNITS_SHOWN:
        return [(unit.id, unit) for unit in units]
    rows = []
    for stage, group in groupby(units, key=lambda unit: unit.id.partition("/")[0]):
        own = list(group)
        if len(own) == 1:
            rows.append((own[0].id, own[0]))
            continue
        ended = sum(unit.share == 1.0 for unit in own)
        rows.append((f"{stage} {ended}/{len(own)}", folded(stage, own)))
        rows += [(f"  {unit.id.partition('/')[2]}", unit) for unit in own if unit.state in OWN_LINE]
    return rows


def _cells(row: tuple[str, UnitView], now_t: float) -> list[RenderableType]:
    name, unit = row
    eta_s = unit.eta_s(now_t)
    if unit.state == "running" and unit.total:
        progress: RenderableType = ProgressBar(total=1.0, completed=unit.share, width=11)
    elif unit.state == "running":
        progress = ProgressBar(total=None, pulse=True, width=11, animation_time=now_t)
    else:
        progress = Text("")
    said = unit.note.splitlines()[0] if unit.note else values_text(unit.values)
    state = f"{unit.state} ({unit.attempt})" if unit.attempt > 1 else unit.state
    return [
        Text(name),
        Text(state, style=STATE_STYLES.get(unit.state, "")),
        progress,
        Text(f"{short(unit.rate)}/s" if unit.rate and unit.state == "running" else ""),
        Text(clock(eta_s) if eta_s is not None else ""),
        Text(clock(unit.elapsed_s(now_t)) if unit.started_t else ""),
        Text(said, style="dim" if not unit.note else STATE_STYLES.get(unit.state, "")),
    ]


def _load_line(view: RunView, now_t: float) -> str:
    parts = [f"elapsed {clock((view.ended_t or now_t) - view.started_t)}"] if view.started_t else []
    use = view.resources
    if use:
        parts.append(f"cpu {use['cpu_percent']:.0f} %")
        parts.append(f"memory {use['ram_used_bytes'] / 1e9:.1f} of {use['ram_total_bytes'] / 1e9:.1f} GB")
        parts.append(f"disk free {use['disk_free_bytes'] / 1e9:.0f} GB")
        for index, gpu in enumerate(use.get("gpus", ())):
            used, total = gpu.get("memory_used_bytes", 0) / 1e9, gpu.get("memory_total_bytes", 0) / 1e9
            parts.append(f"gpu {index}: {gpu.get('util_percent', '?')} %, {used:.1f} of {total:.1f} GB")
    return "  ".join(parts)


def _store_line(view: RunView, now_t: float) -> str:
    number = view.snapshot.get("snapshot", "").partition("-")[0].lstrip("0")
    ago = clock(max(0.0, now_t - view.snapshot["t"]))
    return f"store: snapshot {number}, {human_bytes(view.sent_bytes)} sent, {ago} ago"


def _duration_note(unit: UnitView) -> str:
    ended = unit.state not in ("running", "waiting") and unit.started_t and unit.ended_t
    return f" in {clock(unit.ended_t - unit.started_t)}" if ended else ""


def _verdict_line(summary: dict[str, Any]) -> Text:
    verdict = summary["verdict"]
    line = Text.assemble(("verdict  ", "bold"), (verdict or "none yet", VERDICT_STYLES.get(verdict, "bold")))
    if summary["synthetic"]:
        line.append("   (synthetic data: says nothing about a market)", style="magenta")
    return line


def _metrics_table(rows: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in FIGURE_TITLES:
        table.add_column(name, justify="right")
    for title, metrics in rows:
        cells = [_number(metrics.get(key), form) for key, form in FIGURES.items()]
        table.add_row(title, *cells, style="bold" if title == "agents, mean" else "")
    return table


def _families_table(families: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """One line for each kind of agents: the mean of its seeds, and its verdict."""
    table = Table(box=None, pad_edge=False)
    for name in ("", *FIGURE_TITLES):
        table.add_column(name, justify="right" if name else "left")
    table.add_column("verdict")
    for title, mean in families:
        cells = [_number(mean.get(key), form) for key, form in FIGURES.items()]
        table.add_row(title, *cells, Text(mean["verdict"], style=VERDICT_STYLES.get(mean["verdict"], "")))
    return table


def _foot_note(summary: dict[str, Any]) -> str:
    parts = []
    if summary["bars_per_year"]:
        scored = "" if "scope" in summary else "test part only; "
        parts.append(f"{scored}ratios annualised with {summary['bars_per_year']:,.0f} bars a year")
    detectable = summary["detectable_sharpe"]
    if isinstance(detectable, dict) and detectable["sharpe"] is not None:
        told = f"on these bars a Sharpe ratio of {detectable['sharpe']:.2f} is told from 0 in {detectable['power']:.0%}"
        parts.append(f"{told} of cases, a smaller one in fewer; to beat a baseline of Sharpe b takes about b more")
    return "; ".join(parts)


def _time_text(time: dict[str, float]) -> str:
    """`5:10 from the plan on; 4:50 was expected (4:10 to 6:20)`."""
    low, expected, high = (clock(time[name]) for name in ("low_s", "expected_s", "high_s"))
    return f"{clock(time['actual_s'])} from the plan on; {expected} was expected ({low} to {high})"


def _number(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else "-"


def _pair(name: str, value: str) -> Text:
    return Text.assemble((f"{name:<9}", "bold"), value)
