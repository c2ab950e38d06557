"""What a run that was followed leaves: fetched from its store, and told as a local run tells it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from configs.errors import ExitCode, ProjectError, StoreError
from configs.files import write_atomic
from configs.run_dir import RunDir
from runner.console import print_ending
from runner.heartbeat import beat
from runner.remote import bring_light, fetched, light_files
from runner.say import say
from runner.store.hold import Trouble
from runner.store.objects import StoreDeniedError
from runner.summary import next_steps, run_object
from runner.watch import Ending

PATIENCE_S = 600.0
"""A store that cannot be used for so long gives nothing."""
WAIT_S = 5.0


def conclude(url: str, run_id: str, ending: Ending, to: Path | None) -> ExitCode:
    """Fetch what is to be had here, and print what a local run prints at its end; the run's exit code.

    Args:
        url: of its store.
        run_id: which run.
        ending: of it.
        to: the runs directory that gets the report and all that `status` and `compare` read; None fetches nothing.

    Raises:
        StoreError: nothing can be fetched of a run that ended well.
    """
    summary: dict[str, Any] = {}
    steps = [f"sequence-runner status {run_id} --store {url}"]
    try:
        summary, steps = _patiently_fetched(url, run_id, ending, to)
    except ProjectError as error:
        if ending.exit_code == ExitCode.DONE:
            say(f"run {run_id} is done; what it made is in {url}, and could not be fetched")
            raise
        say(f"nothing is fetched: {error}")
    print_ending(ending, summary, steps)
    return ending.exit_code


def _patiently_fetched(url: str, run_id: str, ending: Ending, to: Path | None) -> tuple[dict[str, Any], list[str]]:
    give_up_s, trouble = time.monotonic() + PATIENCE_S, Trouble()
    trouble.tell = say
    while True:
        try:
            return _fetched(url, run_id, ending, to)
        except StoreError as error:
            is_for_good = not error.retryable or isinstance(error, StoreDeniedError)
            if is_for_good or time.monotonic() > give_up_s:
                raise
            trouble.note(error)
        beat()
        time.sleep(WAIT_S)


def _fetched(url: str, run_id: str, ending: Ending, to: Path | None) -> tuple[dict[str, Any], list[str]]:
    """Summary of the run, and what may be done next."""
    if to and (run := bring_light(url, run_id, to)):
        summary = run_object(run, int(ending.exit_code))
        return summary, next_steps(summary, to)
    with fetched(url, run_id, light_files) as remote:
        report = _copy_report(remote.run, to) if to else None
        summary = run_object(remote.run, int(ending.exit_code)) | {"report": report}
    return summary, [f"sequence-runner status {run_id} --store {url}"]


def _copy_report(run: RunDir, runs_dir: Path) -> str | None:
    """The report beside a run directory that holds another state of the run; its path, None where there is none."""
    if not run.report.exists():
        return None
    path = runs_dir / f"{run.run_id}-report.html"
    write_atomic(path, run.report.read_bytes())
    return str(path.resolve())
