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
from runner.say import Heedless

PROGRAM = "sequence-runner"
EXIT_CODES = "\b\nExit codes:\n" + "\n".join(f"  {code.value:>3}  {text}" for code, text in EXIT_CODE_MEANING.items())


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # `nohup` has it ignored
        signal.signal(signal.SIGHUP, _hang_up)
    with _heedless_of_readers():
        return _answered(arguments)


@contextlib.contextmanager
def _heedless_of_readers() -> Iterator[None]:
    """No command ends, or ends otherwise, because nobody reads what it says; a stream that is closed stays so."""
    out, err = (stream and Heedless(stream) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


def _answered(arguments: Sequence[str]) -> int:
    try:
        code = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        return int(code or ExitCode.DONE)
    except click.ClickException as error:
        error.show()
        return _failed(arguments, error.exit_code, error.format_message(), shown=True)
    except ProjectError as error:
        return _failed(arguments, int(error.exit_code), str(error))
    except OSError as error:
        code = CannotWriteError.exit_code if error.errno in CANNOT_WRITE_ERRNOS else ExitCode.UNIT_FAILED
        return _failed(arguments, int(code), f"{error.filename or 'a file'}: {error.strerror or error}")
    except (KeyboardInterrupt, click.Abort) as error:  # click makes Abort of a KeyboardInterrupt
        was_terminated = isinstance(error, Terminated) or isinstance(error.__cause__, Terminated)
        code = ExitCode.TERMINATED if was_terminated else ExitCode.CTRL_C
        return _failed(arguments, int(code), "interrupted")
    except Exception as error:  # noqa: BLE001 -- the last line of defence: a message, never a traceback
        return _failed(arguments, ExitCode.UNIT_FAILED, f"a fault of this program: {type(error).__name__}: {error}")


def _failed(arguments: Sequence[str], code: int, message: str, shown: bool = False) -> int:
    if not shown:
        click.echo(f"error: {message}", err=True)
    if "--json" in arguments:
        click.echo(json.dumps({"run_id": None, "exit_code": int(code), "verdict": None, "error": message}))
    return int(code)


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
