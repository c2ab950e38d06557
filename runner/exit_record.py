"""The exit record: the last thing a runner says, small enough to be read where nothing else is left (`exit.json`)."""

from __future__ import annotations

import time
from typing import Any

from configs.errors import EXIT_CODE_MEANING, ExitCode
from configs.files import read_json, write_json
from configs.run_dir import RunDir
from configs.secrets import redact
from runner.process import log_tail
from runner.store.layout import Spent
from runner.view import RunView, UnitView, view_of
from runner.watch import Ending

FORMAT = 1
NO_RECORD = "its runner is gone without an exit record; the same command goes on from there"
TAIL_LINES = 40
TAIL_CHARACTERS = 8_000


def write_exit_record(run: RunDir, ending: Ending, spent: Spent, last_snapshot: str = "") -> None:
    """Write `exit.json`.

    Args:
        run: the run that ends.
        ending: how.
        spent: by all its starts so far.
        last_snapshot: the newest that is committed now; the record's own comes after it.
    """
    unit = _unit_at_work(view_of(run.events))
    meaning = EXIT_CODE_MEANING[ending.exit_code]
    record = {
        "format": FORMAT,
        "exit_code": int(ending.exit_code),
        "reason": redact(f"{meaning}: {ending.message}" if ending.message else meaning),
        "stage": unit.id if unit else "",
        "step": unit.done if unit else 0,
        "wall_s": round(spent.wall_s, 1),
        "cost_usd": round(spent.cost_usd, 4),
        "last_snapshot": last_snapshot,
        "ended_t": round(time.time(), 3),
        "log_tail": redact(_tail(run, unit.id)) if unit else "",
    }
    write_json(run.root / "exit.json", record)


def read_exit_record(run: RunDir) -> dict[str, Any]:
    """The exit record; empty where the runner left none."""
    try:
        record = read_json(run.root / "exit.json")
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def recorded_ending(run: RunDir) -> Ending:
    """How the run ended last, as its exit record has it."""
    record = read_exit_record(run)
    if not record:
        return Ending(ExitCode.INTERRUPTED, NO_RECORD)
    code = exit_code_of(record["exit_code"])
    return Ending(code, "" if code == ExitCode.DONE else str(record["reason"]))


def exit_code_of(number: int) -> ExitCode:
    """The exit code of that number; one that is none of ours is a failure."""
    return ExitCode(number) if number in set(ExitCode) else ExitCode.UNIT_FAILED


def _unit_at_work(view: RunView) -> UnitView | None:
    """The unit that failed, else the one that was stopped last, else the one heard of last."""
    units = [unit for unit in view.units.values() if unit.last_t]
    order = {"failed": 2, "running": 1, "stopped": 1}
    return max(units, key=lambda unit: (order.get(unit.state, 0), unit.last_t), default=None)


def _tail(run: RunDir, unit: str) -> str:
    return "\n".join(log_tail(run.log_path(unit)).splitlines()[-TAIL_LINES:])[-TAIL_CHARACTERS:]
