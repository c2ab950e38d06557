"""`status`, `logs`, `stop`, `report` and `compare`: on any run directory, running or finished.

With `--store`, the first two and `report` read what the store has, and need nothing else.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from configs.errors import ConfigError, ExitCode
from configs.files import write_atomic
from configs.run_dir import RunDir, check_run_id
from configs.secrets import redact
from runner.commands.options import json_option, runs_dir_option, store_option
from runner.graph import expand
from runner.guard import owner_of, signal_owner
from runner.heartbeat import beat
from runner.locate import Found, find_run
from runner.say import is_read
from runner.view import RunView, view_of

FOLLOW_EVERY_S = 0.2
SHOWN_TAIL_LINES = 5


@click.command()
@click.argument("run", default="")
@runs_dir_option
@store_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends, and end with its exit code.")
@json_option
def status(run: str, runs_dir: Path, store: str, follow: bool, as_json: bool) -> ExitCode:
    """Show how a run stands. Without RUN: the one started last."""
    if follow and as_json:
        raise click.UsageError("--follow shows a live table; leave out --json")
    if follow:
        return _follow(run, runs_dir, store)
    if store:
        from runner.remote import fetched, light_files

        with fetched(store, run, light_files) as remote:
            return _show_status(remote.run, remote.state(), remote.to_json(), as_json, remote.live)
    found = find_and_say(run, runs_dir)
    owner = owner_of(found.run.root)
    return _show_status(found.run, f"running ({owner})" if owner else "", {}, as_json)


def _follow(name: str, runs_dir: Path, store: str) -> ExitCode:
    """Show a run until it ends; its exit code."""
    from runner.launch.follow import follow, follow_here

    if not store:
        return follow_here(find_and_say(name, runs_dir).run, runs_dir)
    from runner.remote import only_run
    from runner.store.open import open_store

    return follow(store, check_run_id(name or only_run(open_store(store))))


def _show_status(
    run: RunDir, running: str, kept: dict[str, Any], as_json: bool, live: RunView | None = None
) -> ExitCode:
    """`running` says who runs it, empty where nobody does; `kept` and `live` what only a store knows."""
    from runner.exit_record import read_exit_record
    from runner.summary import run_object

    view = live or view_of(
        run.events, [unit.id for unit in expand(run.load_config())] if run.config_yaml.exists() else []
    )
    if not running or kept.get("silent"):
        view.settle()
    if kept:  # what is said of the store below is newer than its own log can be
        view.snapshot = {}
    state, record = running or _ended_how(view.exit_code), read_exit_record(run)
    summary = run_object(run, view.exit_code)
    if as_json:
        units = {unit.id: {"state": unit.state, "share": unit.share, "note": unit.note} for unit in view.units.values()}
        answer = summary | {"state": state, "units": units, "gates": view.gates, "windows": _windows_of(run)}
        answer |= {"exit_record": record or None}
        # what was fetched lies in a place that is gone when this is read
        click.echo(json.dumps(answer | ({"store": kept, "run_dir": None, "report": None} if kept else {})))
        return ExitCode.DONE
    from runner.console import print_status

    print_status(view, f"run {run.run_id}: {state}", summary | ({"report": None} if kept else {}))
    for line in (*kept.get("says", ()), *(_record_lines(record) if not running else ())):
        click.echo(line)
    return ExitCode.DONE


def _windows_of(run: RunDir) -> dict[str, Any]:
    """The walk-forward windows that fit the data of the run."""
    if not run.config_yaml.exists():
        return {}
    walk_forward = run.load_config().walk_forward
    return {"count": walk_forward.windows, "first_test_month": walk_forward.first_test_month}


def _record_lines(record: dict[str, Any]) -> list[str]:
    """The exit record in short; nothing where the run ended well."""
    if not record.get("exit_code"):
        return []
    tail = [f"  | {line}" for line in str(record.get("log_tail", "")).splitlines()[-SHOWN_TAIL_LINES:]]
    return [f"exit code {record['exit_code']}: {record.get('reason')} (unit {record.get('stage') or 'none'})", *tail]


@click.command()
@click.argument("run", default="")
@click.argument("unit", default="")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends. Not with --store.")
@click.option("-n", "--lines", default=20, show_default=True, help="Last lines of each log to begin with.")
@runs_dir_option
@store_option
def logs(run: str, unit: str, follow: bool, lines: int, runs_dir: Path, store: str) -> ExitCode:
    """Print the logs of a run's units, or of one UNIT."""
    if store:
        from runner.remote import fetched, log_files

        if follow:
            raise click.UsageError("a store gets logs with each snapshot; leave out --follow, or see `status --follow`")
        with fetched(store, run, log_files) as remote:
            return _print_logs(_with_unit(remote.run, unit), lines)
    return _print_logs(_find_with_unit(run, unit, runs_dir), lines, follow)


def _print_logs(found: tuple[RunDir, str], lines: int, follow: bool = False) -> ExitCode:
    readers = {path: _LogReader(path, lines) for path in _log_paths(*found)}
    while True:
        owned = bool(owner_of(found[0].root))
        if new := list(_new_lines(readers, found, lines)):
            click.echo(redact("\n".join(new)))
        if not follow or not owned or not is_read(sys.stdout):
            return ExitCode.DONE
        beat()
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
@store_option
@click.option("--to", type=click.Path(path_type=Path), help="With --store: the file.  [default: ./RUN-report.html]")
def report(run: str, runs_dir: Path, store: str, to: Path | None) -> ExitCode:
    """Write the report of a run anew and print its path."""
    from runner.epilogue import render_report

    if store:
        from runner.remote import fetched, light_files

        with fetched(store, run, light_files) as remote:
            path = to or Path(f"{remote.run.run_id}-report.html")
            write_atomic(path, render_report(remote.run).read_bytes())
        click.echo(path.resolve())
        return ExitCode.DONE
    if to:
        raise click.UsageError("--to needs --store; a local report lies in the run's directory")
    click.echo(render_report(find_and_say(run, runs_dir).run).resolve())
    return ExitCode.DONE


@click.command()
@click.argument("a")
@click.argument("b")
@runs_dir_option
@json_option
def compare(a: str, b: str, runs_dir: Path, as_json: bool) -> ExitCode:
    """Show how two runs differ, and their figures."""
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
    return _with_unit(find_and_say(run, runs_dir).run, unit)


def _with_unit(found: RunDir, unit: str) -> tuple[RunDir, str]:
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
