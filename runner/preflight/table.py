"""The pre-flight table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from runner.preflight.check import CheckResult

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def render_table(results: Sequence[CheckResult]) -> Table:
    """Check, found, needed, verdict and what to do, one row per check."""
    table = Table(title="Pre-flight", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("Check", "Found", "Needed", "Verdict", "What to do"):
        table.add_column(column, overflow="fold", no_wrap=column in ("Check", "Verdict"))
    for result in results:
        cells = (result.name, result.found, result.needed)
        verdict = Text(result.verdict, style=STYLES[result.verdict])
        # Text, not str: a path in brackets is not markup.
        table.add_row(*(Text(cell) for cell in cells), verdict, Text(result.remedy))
    return table
