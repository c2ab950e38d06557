"""The process side of a unit: `python -m <package>.stages.<name> --run-dir DIR [--unit ID]`.

A stage module gives `run_stage` two functions: one that does the work of a unit
and one that describes the stage for `plan`. Everything else (arguments, stop
flag, events, result, exit code, last words) is here, once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import faulthandler
import io
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from configs.errors import ExitCode, OutOfMemoryError, ProjectError, StopRequested
from configs.events import EventLog
from configs.run_dir import RunDir
from configs.schema import Config
from configs.secrets import redact

OUT_OF_MEMORY_STATUS = 71
"""Exit status (EX_OSERR) of a unit that ran out of memory, for the supervisor alone: the same unit with a smaller
batch may get through."""
CANNOT_WRITE_ERRNOS = {errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EDQUOT}
LOG_EVERY_S = 10.0
"""Progress goes to the event log always, to the readable log this often."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
KEEP_MEMORY_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""glibc gives freed buffers of some MB back to the kernel, and pays page faults for them at every training step:
half of the time of an LSTM step of 256 windows. Kept, they are used again."""


@dataclass
class Unit:
    """One unit at work: its files, its configuration, its event log."""

    run: RunDir
    id: str
    config: Config
    events: EventLog
    _stop: list[bool] = field(default_factory=lambda: [False])
    _next_log_s: float = 0.0

    @property
    def dir(self) -> Path:
        """Where the unit writes its artifacts."""
        return self.run.unit_dir(self.id)

    @property
    def name(self) -> str:
        """The part of the id after the stage, or the stage itself."""
        return self.id.rpartition("/")[2]

    @property
    def batch_halvings(self) -> int:
        """How often the unit's batch is to be halved, because it ran out of memory before."""
        return self.config.runtime.batch_halvings.get(self.id, 0)

    def progress(self, done: float, total: float, rate: float | None = None, **fields: Any) -> None:
        """Report `done` of `total` and check for a stop: call it at safe boundaries only."""
        if time.monotonic() >= self._next_log_s:
            self._next_log_s = time.monotonic() + LOG_EVERY_S
            self.log(f"{done:,.6g} of {total:,.6g}" + "".join(f", {name} {value}" for name, value in fields.items()))
        self.events.emit("progress", self.id, done=done, total=total, rate=rate, **fields)
        self.check_stop()

    def metric(self, name: str, **values: Any) -> None:
        """Record named values, for example one row of a training curve."""
        self.events.emit("metric", self.id, name=name, **values)

    def log(self, text: str) -> None:
        """One line in the unit's log, which is its process's stdout."""
        print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}", flush=True)  # noqa: T201 -- as described

    def check_stop(self) -> None:
        """Raise StopRequested when the supervisor has asked for a stop."""
        if self._stop[0]:
            raise StopRequested(f"unit {self.id!r} stopped at a safe boundary")


def run_stage(
    argv: list[str] | None,
    work: Callable[[Unit], dict[str, Any]],
    describe: Callable[[Config], dict[str, Any]],
) -> int:
    """Run one unit as a process and return its exit code.

    Args:
        argv: command line without the program; or None for `sys.argv`, in a process of the unit's own: its
            signals, streams and fault handler are then set up too.
        work: does the unit's work, writes its artifacts under `unit.dir`, returns its metrics (finite JSON values).
        describe: facts for `plan`, printed as JSON by `--describe`: at least `bars_needed`, `memory_bytes`, `work`
            (list of {"name", "amount", "rate_per_s"}: seconds are amount / rate).
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--unit", required=True)
    parser.add_argument("--describe", action="store_true")
    arguments = parser.parse_args(argv)
    run, stop = RunDir(arguments.run_dir), [False]
    if argv is None:
        _leave_last_words()
    if not arguments.describe:
        _listen_for_stop(stop)
    try:
        config = run.load_config()
        if arguments.describe:
            print(json.dumps(describe(config)))  # noqa: T201 -- the answer is this process's output
            return ExitCode.DONE
        return _run_unit(run, arguments.unit, config, stop, work)
    except ProjectError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 -- stderr is the unit's log
        return OUT_OF_MEMORY_STATUS if isinstance(error, OutOfMemoryError) else error.exit_code
    except MemoryError:
        traceback.print_exc()
        return OUT_OF_MEMORY_STATUS
    except OSError as error:
        traceback.print_exc()
        return ExitCode.CANNOT_WRITE if error.errno in CANNOT_WRITE_ERRNOS else ExitCode.UNIT_FAILED
    except Exception:  # noqa: BLE001 -- the end of a unit's process: the log keeps the traceback
        traceback.print_exc()
        return ExitCode.UNIT_FAILED


def _run_unit(
    run: RunDir, unit_id: str, config: Config, stop: list[bool], work: Callable[[Unit], dict[str, Any]]
) -> int:
    request = run.request(unit_id)
    unit = Unit(run=run, id=unit_id, config=config, events=EventLog(run.events, unit_id), _stop=stop)
    unit.check_stop()
    run.clear_outputs(unit_id)
    unit.log(f"unit {unit_id} begins")
    metrics = work(unit)
    run.save_result(request.unit, metrics)
    unit.log(f"unit {unit_id} is done")
    return ExitCode.DONE


def _listen_for_stop(stop: list[bool]) -> None:
    """From here on a stop only raises the flag; before, while modules load, it simply ends the process."""

    def ask_to_stop(_signal: int, _frame: Any) -> None:
        stop[0] = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)


def _leave_last_words() -> None:
    """Crashes leave the stacks of all threads in the log, SIGUSR1 asks a hung unit for them; no secret is printed."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    sys.stdout, sys.stderr = RedactedStream(sys.stdout), RedactedStream(sys.stderr)


class RedactedStream(io.TextIOBase):
    """A text stream whose lines pass the filter for secrets; a line is written when it is whole, or flushed.

    A line that a full disk refuses is lost: it must not change how the unit ends.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun = stream, ""

    def write(self, text: str) -> int:
        """Write the lines that `text` completes."""
        *lines, self._begun = (self._begun + text).split("\n")
        self._pass_on("".join(redact(line) + "\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        """Write what was begun, too."""
        begun, self._begun = self._begun, ""
        self._pass_on(redact(begun))

    def _pass_on(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()

    def fileno(self) -> int:
        """The file below."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """As the stream below."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Always."""
        return True


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables that hold every numeric library of a unit to `threads` threads."""
    return (
        {name: str(threads) for name in THREAD_VARIABLES}
        | dict.fromkeys(KEEP_MEMORY_VARIABLES, str(2**32))
        | {"PYTHONHASHSEED": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    )
