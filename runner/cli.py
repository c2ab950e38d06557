"""The command line: `sequence-runner [run] --dataset NAME ...`.

Errors are caught here and nowhere else: one clear message, the exit code of its class.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import click

from configs.errors import EXIT_CODE_MEANING, CannotWriteError, ExitCode, ProjectError
from configs.unit import CANNOT_WRITE_ERRNOS
from runner.commands.chaos import chaos
from runner.commands.config import config
from runner.commands.data import data
from runner.commands.evaluate import evaluate
from runner.commands.inspect import compare, logs, report, status, stop
from runner.commands.launch import launch
from runner.commands.publish import publish
from runner.commands.run import ablate, plan, preflight, run
from runner.commands.store import store
from runner.guard import Terminated
from runner.heartbeat import beat
from runner.host.ending import Command, carried_out
from runner.say import Heedless, Tail

PROGRAM = "sequence-runner"
EXIT_CODES = "Options of a run: `sequence-runner run --help`\n\n\b\nExit codes:\n" + "\n".join(
    f"  {code.value:>3}  {text}" for code, text in EXIT_CODE_MEANING.items()
)


class DefaultToRun(click.Group):
    """A group whose command may be left out: `sequence-runner --dataset X` is `sequence-runner run --dataset X`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `run` before options that are not the group's own."""
        if args and args[0].startswith("-") and args[0] not in ("--help", "--version"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=DefaultToRun, epilog=EXIT_CODES, context_settings={"max_content_width": 110})
@click.version_option(package_name=PROGRAM)
def cli() -> None:
    """One command from an OHLCV dataset to a verified trading-agent report.

    `sequence-runner --dataset ADA-EUR_1H` runs everything; the same command again continues or repeats nothing.
    """


COMMANDS = (
    *(run, ablate, preflight, plan, status, logs, stop, report, compare, evaluate, publish, store, data, config),
    *(launch, chaos),
)
for each in COMMANDS:
    cli.add_command(each)
JOBS = {"run": run, "ablate": ablate}
"""What a machine is rented for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    beat()
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_job = _is_job(arguments)
    command = Command(arguments, is_job, _understood(arguments) if is_job else {})
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # `nohup` has it ignored
        signal.signal(signal.SIGHUP, _hang_up)
    with _heedless_of_readers(command.tail):
        code = carried_out(command, lambda: _answered(command))
    _leave_threads_behind(code)
    return code


def _is_job(arguments: Sequence[str]) -> bool:
    """What is no other command is the job of a machine, even where it is mistyped."""
    return not arguments or arguments[0] not in cli.commands or arguments[0] in JOBS


def _understood(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a job, as far as they can be understood; nothing is refused."""
    job = JOBS.get(arguments[0], run) if arguments else run
    with click.Context(job, ignore_unknown_options=True, allow_extra_args=True, resilient_parsing=True) as context:
        job.parse_args(context, list(arguments[1:] if arguments and not arguments[0].startswith("-") else arguments))
        return context.params


@contextlib.contextmanager
def _heedless_of_readers(tail: Tail) -> Iterator[None]:
    """No command ends, or ends otherwise, because nobody reads what it says; a stream that is closed stays so."""
    out, err = (stream and Heedless(stream, tail) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


def _answered(command: Command) -> int:
    try:
        code = cli.main(command.arguments, prog_name=PROGRAM, standalone_mode=False, obj=command)
        return int(code or ExitCode.DONE)
    except click.ClickException as error:
        error.show()
        return _failed(command, error.exit_code, error.format_message(), shown=True)
    except ProjectError as error:
        return _failed(command, int(error.exit_code), str(error))
    except OSError as error:
        code = CannotWriteError.exit_code if error.errno in CANNOT_WRITE_ERRNOS else ExitCode.UNIT_FAILED
        return _failed(command, int(code), f"{error.filename or 'a file'}: {error.strerror or error}")
    except (KeyboardInterrupt, click.Abort) as error:  # click makes Abort of a KeyboardInterrupt
        was_terminated = isinstance(error, Terminated) or isinstance(error.__cause__, Terminated)
        code = ExitCode.TERMINATED if was_terminated else ExitCode.CTRL_C
        return _failed(command, int(code), "interrupted")
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- the last line of defence: a message, never a traceback
        return _failed(command, ExitCode.UNIT_FAILED, f"a fault of this program: {type(error).__name__}: {error}")


def _failed(command: Command, code: int, message: str, shown: bool = False) -> int:
    command.says = message
    if not shown:
        click.echo(f"error: {message}", err=True)
    if "--json" in command.arguments:
        click.echo(json.dumps({"run_id": None, "exit_code": int(code), "verdict": None, "error": message}))
    return int(code)


def _leave_threads_behind(code: int) -> None:
    """End the process at once where an upload was given up: the interpreter would wait for its threads."""
    keeper = sys.modules.get("runner.store.keeper")
    if keeper and any(thread.name == keeper.THREAD for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _terminate(_number: int, _frame: Any) -> None:
    raise Terminated


def _hang_up(_number: int, _frame: Any) -> None:
    """The terminal is gone (a lost connection): what is said goes nowhere, and whoever takes SIGTERM takes this."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):  # one that was closed before
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
