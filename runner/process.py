"""Stage processes: how they are started, what they are asked, how their last words are read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from configs.errors import (
    BadDataError,
    CannotWriteError,
    ConfigError,
    DatasetNotFoundError,
    MachineUnfitError,
    ProjectError,
)
from configs.secrets import is_secret_name
from configs.unit import thread_environment
from runner.guard import die_with_parent, stops_wait
from runner.heartbeat import beat
from runner.identity import PROJECT_ROOT

_ERRORS: dict[int, type[ProjectError]] = {
    int(error.exit_code): error
    for error in (BadDataError, DatasetNotFoundError, MachineUnfitError, CannotWriteError, ConfigError)
}
_FAULT_LINE = re.compile(r"(?:error|[A-Za-z_.]*(?:Error|Exception|Requested)): ")
_STORE_VARIABLES = ("AWS_", "GOOGLE_")
"""What the SDKs of the stores read; a stage has no business there."""
_LAST_WORDS_LINES = 20
_TAIL_BYTES = 16_384


class ProcessFailedError(ProjectError):
    """A helper process ended badly for no reason we know."""


def stage_command(module: str, run_dir: Path, unit: str, *more: str) -> list[str]:
    """The line that starts a unit; the same by hand."""
    return [sys.executable, "-m", module, "--run-dir", str(run_dir.resolve()), "--unit", unit, *more]


def stage_environment(threads: int) -> dict[str, str]:
    """Environment of a stage process: ours without its secrets, its threads, and this program on the import path."""
    path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]))
    held_back = {name for name in os.environ if name.startswith(_STORE_VARIABLES) or is_secret_name(name)}
    kept = {name: value for name, value in os.environ.items() if name not in held_back}
    return kept | thread_environment(threads) | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def start(command: Sequence[str], environment: dict[str, str], log: Path, before_exec: Callable[[], None]) -> Any:
    """Start a process in its own session, stdout and stderr appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            restore_signals=False,  # else SIGPIPE from a dead reaper would kill the child in `before_exec`
            preexec_fn=before_exec,
        )


def ask(command: Sequence[str], heard: Callable[[str], None] = lambda _line: None, threads: int = 1) -> Any:
    """Run a process that answers with one JSON value on stdout.

    Args:
        command: what to run.
        heard: called with each line on its stderr as it comes.
        threads: what its numeric libraries may use.

    Raises:
        ProjectError: it failed; the error of its exit code with its own message.
    """
    return ask_together([command], heard, threads)[0]


def ask_together(
    commands: Sequence[Sequence[str]],
    heard: Callable[[str], None] = lambda _line: None,
    threads: int = 1,
    limit_s: float = 0.0,
    environments: Sequence[Mapping[str, str]] = (),
) -> list[Any]:
    """`ask` of several processes that run at the same time; their answers in order.

    Args:
        commands: what to run.
        heard: called with each line on the stderr of any of them.
        threads: what the numeric libraries of each may use.
        limit_s: those that have not ended by then are killed; 0 waits for ever.
        environments: further variables of each.

    Raises:
        ProjectError: one failed or was killed; the others have ended, too.
    """
    asked: list[_Asked] = []
    with contextlib.ExitStack() as closing:
        try:
            for command, more in zip(commands, environments or [{}] * len(commands), strict=True):
                asked.append(_Asked.start(command, heard, {**stage_environment(threads), **more}))
                closing.enter_context(asked[-1].process)
                asked[-1].listener.start()  # not before an interruption would end it
            with _killing(asked, limit_s):
                texts = [one.wait() for one in asked]
        except KeyboardInterrupt:
            for one in asked:
                one.process.kill()
            raise
    return [one.answer(text) for one, text in zip(asked, texts, strict=True)]


@dataclass
class _Asked:
    """A process that was asked something."""

    process: subprocess.Popen[str]
    title: str
    said: list[str]
    listener: threading.Thread

    @classmethod
    def start(cls, command: Sequence[str], heard: Callable[[str], None], environment: Mapping[str, str]) -> _Asked:
        parent_pid = os.getpid()
        with stops_wait():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                text=True,
                preexec_fn=lambda: die_with_parent(parent_pid),
            )
        said: list[str] = []
        listener = threading.Thread(target=_listen, args=(process.stderr, said, heard), daemon=True)
        return cls(process, " ".join(command[1:4]), said, listener)

    def wait(self) -> str:
        """What it wrote on stdout, once it has ended."""
        text = self.process.stdout.read() if self.process.stdout else ""
        self.listener.join()
        self.process.wait()
        beat()
        return text

    def answer(self, text: str) -> Any:
        """The JSON value that it wrote."""
        if self.process.returncode:
            message = last_words("\n".join(self.said)) or f"{self.title} ended with status {self.process.returncode}"
            raise _ERRORS.get(self.process.returncode, ProcessFailedError)(message)
        try:
            return json.loads(text)
        except ValueError as error:
            raise ProcessFailedError(f"{self.title} answered no JSON but {text[:200]!r}") from error


@contextlib.contextmanager
def _killing(asked: Sequence[_Asked], limit_s: float) -> Iterator[None]:
    """Kill after `limit_s` what has not ended by then."""
    if not limit_s:
        yield
        return

    def kill_all() -> None:
        for one in asked:
            one.process.kill()

    killer = threading.Timer(limit_s, kill_all)
    killer.start()
    try:
        yield
    finally:
        killer.cancel()
        killer.join()


def _listen(stream: IO[str], said: list[str], heard: Callable[[str], None]) -> None:
    # an interrupted caller closes the stream under us
    with contextlib.suppress(ValueError, OSError):
        for line in stream:
            beat()
            said.append(line.rstrip("\n"))
            heard(line)


def log_tail(log: Path, offset: int = 0, until: int | None = None) -> str:
    """The end of a log, from byte `offset` on, and of what comes before byte `until`."""
    try:
        end = log.stat().st_size if until is None else until
        begin = max(offset, end - _TAIL_BYTES)
        with log.open("rb") as file:
            file.seek(begin)
            return file.read(max(0, end - begin)).decode(errors="replace")
    except OSError:
        return ""


def last_words(text: str) -> str:
    """The message of the last error in a log, without its class; else the last line that says anything."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    faults = [number for number, line in enumerate(lines) if _FAULT_LINE.match(line)]
    if not faults:
        return lines[-1] if lines else ""
    words = lines[faults[-1] :][:_LAST_WORDS_LINES]
    return "\n".join([_FAULT_LINE.sub("", words[0], count=1), *words[1:]])
