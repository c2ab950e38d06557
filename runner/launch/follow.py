"""Following a run from its store: the live table of a machine that is elsewhere, then its report here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from configs.errors import ExitCode, StoreError
from configs.run_dir import RunDir
from runner.console import print_ending, watching
from runner.exit_record import NO_RECORD, recorded_ending
from runner.graph import expand
from runner.guard import owner_of
from runner.heartbeat import beat
from runner.launch.following import DRAW_S, PACE, Followed, Pace, Rented
from runner.launch.results import conclude
from runner.say import say
from runner.summary import next_steps, run_object
from runner.view import EventTail, RunView
from runner.watch import Ending


def follow(
    store_url: str,
    run_id: str,
    *,
    machine: Rented | None = None,
    to: Path | None = None,
    pace: Pace = PACE,
) -> ExitCode:
    """Show a run until it ends, and what has come of it; returns its exit code.

    Args:
        store_url: where it is kept.
        run_id: which run.
        machine: see `until_end`.
        to: the runs directory that gets the report and all that `status` and `compare` read; None fetches nothing.
        pace: of it all.

    Raises:
        StoreError: of `until_end` and `conclude`.
        KeyboardInterrupt: Ctrl-C; the run goes on.
    """
    return conclude(store_url, run_id, until_end(store_url, run_id, machine, pace), to)


def until_end(store_url: str, run_id: str, machine: Rented | None = None, pace: Pace = PACE) -> Ending:
    """Show a run until it ends; how it did: 69 where its machine runs and no run begins, 75 where that was lost, 79
    where it is there too long.

    Args:
        store_url: where it is kept.
        run_id: which run.
        machine: that carries it out. Without one, the run has ended when its owner lets it go.
        pace: of it all.

    Raises:
        StoreError: access is denied at the first look, or what is there cannot be understood.
        KeyboardInterrupt: Ctrl-C; the run goes on.
    """
    ending = _watched(Followed(store_url, run_id, machine, pace), lambda: False)
    assert ending
    return ending


def until_word(store_url: str, run_id: str, machine: Rented, pace: Pace = PACE) -> Ending | None:
    """Wait until the run is heard of: None then, or where its store cannot be used from here; else how it ended.

    Raises:
        KeyboardInterrupt: Ctrl-C; the machine goes on.
    """
    followed = Followed(store_url, run_id, machine, pace)
    try:
        ending = _watched(followed, lambda: followed.is_begun or followed.is_deaf)
        trouble = "" if ending or followed.is_begun else followed.trouble
    except StoreError as error:
        ending, trouble = None, str(error)
    if trouble:
        say(f"whether the run has begun is not known, for its store cannot be used from here: {trouble}")
    return ending


def _watched(followed: Followed, is_enough: Callable[[], bool]) -> Ending | None:
    try:
        return followed.until_end(is_enough)
    except KeyboardInterrupt:
        say(f"the run goes on: {followed.again} follows it again")
        raise


def follow_here(run: RunDir, runs_dir: Path) -> ExitCode:
    """Show a run of this machine until nobody works on it; its exit code."""
    view, tail = RunView(), EventTail(run.events)
    view.expect(unit.id for unit in expand(run.load_config()))
    with watching(f"run {run.run_id}") as observe:
        is_owned = True
        while is_owned:
            is_owned = bool(owner_of(run.root))
            for event in tail.poll():
                view.apply(event)
            if not is_owned:
                view.settle()
            observe(view)
            beat()
            time.sleep(DRAW_S if is_owned else 0)
    ending = recorded_ending(run) if view.exit_code is not None else Ending(ExitCode.INTERRUPTED, NO_RECORD)
    summary = run_object(run, int(ending.exit_code))
    print_ending(ending, summary, next_steps(summary, runs_dir))
    return ending.exit_code
