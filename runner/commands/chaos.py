"""`chaos`: prove by killing that a run can be killed."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from configs.errors import ExitCode
from runner.commands.options import data_dir_option, json_option
from runner.say import say

if TYPE_CHECKING:
    from runner.chaos import Reference, Setup, Verdict


@click.command()
@click.option("-n", "count", default=50, show_default=True, type=click.IntRange(min=1), help="Trials.")
@click.option("--seed", default=0, show_default=True, help="Draws the moments and what is killed.")
@click.option("--dataset", default="", help="Instead of four months of the synthetic DEMO-USD_1H.")
@data_dir_option
@click.option("--store", default="", metavar="URL", help="Instead of a file:// store beside the runs.")
@click.option("--no-store", is_flag=True, help="Every run goes on where it lies.")
@click.option("--dir", "folder", default="", help="Where the runs lie; kept.  [default: a temporary directory]")
@click.option("--keep-going", is_flag=True, help="Go on after a trial that failed.")
@json_option
def chaos(**options: Any) -> ExitCode:
    """Kill a small run at many moments and compare every byte. The other side is an undisturbed run."""
    from runner.chaos import DATASET, Setup

    folder = Path(options["folder"] or tempfile.mkdtemp(prefix="chaos-")).resolve()
    store = "" if options["no_store"] else options["store"] or f"file://{folder}/store"
    setup = Setup(folder, options["dataset"] or DATASET, data_dirs=options["data_dirs"], store=store)
    say(f"chaos in {folder}")
    verdicts, known = _run_all(setup, options["count"], options["seed"], options["keep_going"])
    equal = sum(verdict.equal for verdict in verdicts)
    if options["as_json"]:
        rows = [verdict.to_json() for verdict in verdicts]
        click.echo(json.dumps({"equal": equal, "of": options["count"], "seed": options["seed"], "trials": rows}))
    else:
        _print_table(verdicts)
        click.echo(f"undisturbed: {known.wall_s:.1f} s")
        click.echo(f"{equal} of {options['count']} ended with the same bytes")
    if equal < options["count"]:
        return ExitCode.UNIT_FAILED
    if not options["folder"]:
        shutil.rmtree(folder)
    return ExitCode.DONE


def _run_all(setup: Setup, count: int, seed: int, keep_going: bool) -> tuple[list[Verdict], Reference]:
    from runner.chaos import carry_out, plan_trials, reference

    say("two undisturbed runs")
    known = reference(setup)
    say(f"both ended with the same bytes, the last in {known.wall_s:.1f} s")
    verdicts = []
    for trial in plan_trials(count, seed, known, bool(setup.store)):
        verdict = carry_out(trial, setup, known)
        verdicts.append(verdict)
        said = verdict.to_json()
        killed = "; ".join(
            f"{target} at {moment}" for target, moment in zip(said["killed"], said["moments"], strict=True)
        )
        how = "equal" if verdict.equal else "; ".join([*verdict.differences, f"kept in {verdict.kept}"])
        say(
            f"{trial.number} of {count}: killed {killed or 'nothing'}; {said['resumed']}, {verdict.wall_s:.0f} s, {how}"
        )
        if not (verdict.equal or keep_going):
            break
    return verdicts, known


def _print_table(verdicts: list[Verdict]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Chaos", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("Trial", "Killed", "At", "Resumed", "Wall", "Equal"):
        table.add_column(column, overflow="fold", justify="right" if column in ("Trial", "Wall") else "left")
    for verdict in verdicts:
        said = verdict.to_json()
        cells = ("\n".join(said["killed"]), "\n".join(said["moments"]), said["resumed"], f"{verdict.wall_s:.0f} s")
        table.add_row(str(verdict.trial.number), *cells, "yes" if verdict.equal else "NO")
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)
