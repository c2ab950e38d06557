"""`status`, `logs`, `stop`, `report` and `compare`: on any run directory, running or finished."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from configs.errors import ConfigError, ExitCode
from configs.run_dir import RunDir
from configs.secrets import redact
from runner.commands.options import json_option, runs_dir_option
from runner.guard import owner_of, signal_owner
from runner.locate import Found, find_run

FOLLOW_EVERY_S = 0.2


@click.command()
@click.argument("run", default="")
@runs_dir_option
@json_option
def status(run: str, runs_dir: Path, as_json: bool) -> ExitCode:
    """Show how a run stands (the one started last, unless RUN names another)."""
    from runner.graph import expand
    from runner.summary import run_object
    from runner.view import view_of

    found = find_and_say(run, runs_dir)
    owner = owner_of(found.run.root)
    view = view_of(found.run.events, [unit.id for unit in expand(found.run.load_config())])
    if not owner:
        view.settle()
    state = f"running (pid {owner})" if owner else _ended_how(view.exit_code)
    if as_json:
        units = {unit.id: {"state": unit.state, "share": unit.share, "note": unit.note} for unit in view.units.values()}
        click.echo(json.dumps(run_object(found.run, view.exit_code) | {"state": state, "units": units}))
        return ExitCode.DONE
    from runner.console import print_status

    print_status(view, f"run {found.run.run_id}: {state}", run_object(found.run, view.exit_code))
    return ExitCode.DONE


@click.command()
@click.argument("run", default="")
@click.argument("unit", default="")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("-n", "--lines", default=20, show_default=True, help="Last lines of each log to begin with.")
@runs_dir_option
def logs(run: str, unit: str, follow: bool, lines: int, runs_dir: Path) -> ExitCode:
    """Print the logs of a run's units (of one unit, if named)."""
    found = _find_with_unit(run, unit, runs_dir)
    readers = {path: _LogReader(path, lines) for path in _log_paths(*found)}
    while True:
        owned = bool(owner_of(found[0].root))
        if new := list(_new_lines(readers, found, lines)):
            click.echo(redact("\n".join(new)))
        if not follow or not owned:
            return ExitCode.DONE
        time.sleep(FOLLOW_EVERY_S)


@click.command()
@click.argument("run", default="")
@runs_dir_option
def stop(run: str, runs_dir: Path) -> ExitCode:
    """Ask the runner of a run to stop at the next safe boundary."""
    found = find_and_say(run, runs_dir)
    pid = signal_owner(found.run.root)
    click.echo(f"asked run {found.run.run_id} (pid {pid}) to stop; the same command goes on from there", err=True)
    return ExitCode.DONE


@click.command()
@click.argument("run", default="")
@runs_dir_option
def report(run: str, runs_dir: Path) -> ExitCode:
    """Write the report of a run anew and print its path."""
    from runner.epilogue import render_report

    click.echo(render_report(find_and_say(run, runs_dir).run).resolve())
    return ExitCode.DONE


@click.command()
@click.argument("a")
@click.argument("b")
@runs_dir_option
@json_option
def compare(a: str, b: str, runs_dir: Path, as_json: bool) -> ExitCode:
    """Show what differs between two runs, and their figures side by side."""
    from runner.compare import comparison

    found = comparison(find_run(a, runs_dir).run, find_run(b, runs_dir).run)
    if as_json:
        click.echo(json.dumps(found))
        return ExitCode.DONE
    from runner.console import print_comparison

    print_comparison(found)
    return ExitCode.DONE


def find_and_say(name: str, runs_dir: Path) -> Found:
    """The run that is meant; on stderr which one was taken where none was named.

    Raises:
        ConfigError: there is no such run.
    """
    found = find_run(name, runs_dir)
    if found.others:
        click.echo(f"run {found.run.run_id}, started last; others: {', '.join(found.others)}", err=True)
    elif not name:
        click.echo(f"run {found.run.run_id}", err=True)
    return found


def _find_with_unit(run: str, unit: str, runs_dir: Path) -> tuple[RunDir, str]:
    """`logs RUN UNIT`, or `logs UNIT` of the run started last."""
    if run and not unit:
        try:
            return find_run(run, runs_dir).run, ""
        except ConfigError:
            latest = find_run("", runs_dir).run
            if latest.log_path(run).exists():
                return latest, run
            raise
    found = find_and_say(run, runs_dir).run
    if unit and not found.log_path(unit).exists():
        known = [path.relative_to(found.logs).as_posix().removesuffix(".log") for path in _log_paths(found, "")]
        raise ConfigError(f"unit {unit!r} has no log in run {found.run_id}; expected one of {', '.join(known)}")
    return found, unit


def _log_paths(run: RunDir, unit: str) -> list[Path]:
    return [run.log_path(unit)] if unit else sorted(run.logs.rglob("*.log"))


def _new_lines(readers: dict[Path, _LogReader], found: tuple[RunDir, str], lines: int) -> Iterator[str]:
    for path in _log_paths(*found):
        reader = readers.setdefault(path, _LogReader(path, lines))
        name = path.relative_to(found[0].logs).as_posix().removesuffix(".log")
        for line in reader.new_lines():
            yield line if found[1] else f"{name} | {line}"


class _LogReader:
    """Reads a growing log, complete lines only, beginning with the last few."""

    def __init__(self, path: Path, lines: int) -> None:
        self._path = path
        data = path.read_bytes()
        kept = data.splitlines(keepends=True)[-lines:] if lines > 0 else []
        self._offset = len(data) - sum(map(len, kept))

    def new_lines(self) -> list[str]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        return complete.decode(errors="replace").splitlines()


def _ended_how(exit_code: Any) -> str:
    if exit_code is None:
        return "not running, cut off"
    return "finished" if exit_code == 0 else f"ended with exit code {exit_code}"
