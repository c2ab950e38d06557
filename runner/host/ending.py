"""The end of a machine that was rented for one run: whatever ends the run ends the machine.

It wraps the whole command, so that a word that was mistyped ends the machine too. First the store is told how the
run ended, then the machine is asked to go; until it does, this program holds: it does no work, and it does not exit,
for a container that exits is started again. What the provider stops, or will start again, is left to it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from configs.errors import EXIT_CODE_MEANING, ConfigError, ExitCode
from configs.secrets import redact
from runner.heartbeat import beat
from runner.host.deadman import end_after_h, guarded
from runner.host.where import Host, this_host
from runner.say import Tail, say

if TYPE_CHECKING:
    from runner.session import Plan

KEEP_ALIVE = "SEQUENCE_KEEP_ALIVE"
STOPPED = {ExitCode.INTERRUPTED, ExitCode.CTRL_C, ExitCode.TERMINATED}
"""By a signal: the provider takes the machine, or a restart goes on."""
NOT_KEPT = {ExitCode.STORE_DAMAGED, ExitCode.MACHINE_UNFIT, ExitCode.OWNED_BY_ANOTHER}
"""Lost again, or not reached, or still leased to the attempt before, which could not let it go."""
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 300.0
"""Between two requests for the end of a machine, and between two attempts to reach a store that is lost."""
BEAT_S = 10.0
ONLY_COPY_S = 3600.0
"""So long a run without limits tries to save what only this machine has."""
RECORD_S = 30.0
MAX_REASON = 2_000


@dataclass
class Command:
    """What this process was started for, as far as it is known."""

    arguments: Sequence[str]
    is_job: bool
    """It is what a machine is rented for, not a look at it."""
    options: Mapping[str, Any]
    """Those of the arguments that could be understood."""
    tail: Tail = field(default_factory=Tail)
    plan: Plan | None = None
    """Once the command is resolved."""
    says: str = ""
    """How it ended, for people."""

    @property
    def keep_alive(self) -> bool:
        """Hold at the end, rather than end the machine."""
        return bool(self.options.get("keep_alive")) or os.environ.get(KEEP_ALIVE, "") not in ("", "0")

    @property
    def run_id(self) -> str:
        """Empty where nothing says it."""
        return self.plan.run.run_id if self.plan else self.options.get("run_id") or self.options.get("resume") or ""

    @property
    def store_url(self) -> str:
        """Empty where nothing says it."""
        if self.plan:
            return self.plan.config.store.url
        settings = [text.partition("=") for text in self.options.get("settings") or ()]
        named = [value for path, _, value in settings if path.strip() == "store.url"]
        return self.options.get("store") or (named and named[-1]) or os.environ.get("SEQUENCE_STORE__URL", "")


def carried_out(command: Command, work: Callable[[], int]) -> int:
    """The exit code of `work`; where this is the job of a machine that was rented for it, after ending the machine."""
    try:
        host = this_host()
    except ConfigError:
        return work()  # it says so itself
    if not command.is_job or not (host.launched or command.keep_alive):
        return work()
    with _answering_for(host) as is_ours:
        if is_ours:
            with guarded(host, os.environ):
                return _to_the_end(command, host, work)
        say("another runner answers for this machine, which is not ended with this one")
        return work()


def waits() -> Iterator[float]:
    """Seconds between attempts: doubling, up to a limit."""
    wait_s = FIRST_WAIT_S
    while True:
        yield wait_s
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


@contextlib.contextmanager
def _answering_for(host: Host) -> Iterator[bool]:
    """Whether this process is the first here, while inside: one that somebody starts beside it ends no machine.

    A name of a socket needs no directory that can be written, and goes with its process. Where it cannot be had for
    another reason than that somebody has it, the machine is answered for: better asked for its end twice than never.
    """
    is_taken = False
    with contextlib.ExitStack() as kept:
        try:
            name = kept.enter_context(socket.socket(socket.AF_UNIX))
            name.bind(f"\0sequence-runner {hashlib.sha256(host.machine.encode()).hexdigest()[:32]}")
        except OSError as error:
            is_taken = error.errno == errno.EADDRINUSE
        yield not (is_taken and host.launched)


def _to_the_end(command: Command, host: Host, work: Callable[[], int]) -> int:
    code: int = ExitCode.TERMINATED
    try:
        code = _worked(command, host, work)
        if host.launched:
            with _going_on():
                code = _with_everything_kept(command, code, work)
        if code in STOPPED:
            return code
        if host.launched:
            with _going_on():
                _record(command, host, code)
        if command.keep_alive:
            _hold(lambda _, wait_s: _say_kept(host, code, wait_s))
        elif host.launched and host.kind == "runpod":
            _hold(lambda number, wait_s: _ask_for_the_end(command, host, code, number, wait_s))
    except KeyboardInterrupt:
        with _going_on():
            say(f"stopped after the run had ended with exit code {code}")
    return code


def _worked(command: Command, host: Host, work: Callable[[], int]) -> int:
    with _going_on():
        if host.launched:
            end = "it is kept alive at the end" if command.keep_alive else "it is ended with the run"
            say(f"this is {host}; {end}")
    try:
        return work()
    except Exception as error:  # noqa: BLE001 -- what cannot even say what went wrong, say on a full disk
        command.says = f"{type(error).__name__}: {error}"
        return ExitCode.UNIT_FAILED


@contextlib.contextmanager
def _going_on() -> Iterator[None]:
    """Whatever fails inside is said at most: a program that exits with an error is started again, and never ends."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        with contextlib.suppress(Exception):
            say(f"the end goes on without one of its steps: {redact(f'{type(error).__name__}: {error}')}")


def _with_everything_kept(command: Command, code: int, work: Callable[[], int]) -> int:
    """Where the store was lost at the end, do `work` again, which only sends what is missing, while there is time."""
    plan = command.plan
    if code != ExitCode.STORE_DAMAGED or plan is None or not plan.run.report.is_file():
        return code
    give_up_s = time.monotonic() + _left_s(plan)
    for wait_s in waits():
        left_s = give_up_s - time.monotonic()
        if left_s <= 0:
            say(f"given up: what {plan.config.store.url} does not have of run {plan.run.run_id} goes with this machine")
            return code
        say(f"only this machine has all of run {plan.run.run_id}; trying again in {min(wait_s, left_s):.0f} s")
        _wait(min(wait_s, left_s))
        code = work()
        if code not in NOT_KEPT:
            break
    return code


def _left_s(plan: Plan) -> float:
    """What the limits of the run leave."""
    from runner.budget import left_s, spent  # heavy

    by_limits_s = left_s(plan.config.budget, spent(plan.run.events))
    return by_limits_s if math.isfinite(by_limits_s) else ONLY_COPY_S


def _record(command: Command, host: Host, code: int) -> None:
    """Tell the store how the run ended here; without it the machine is ended all the same."""
    if not (command.store_url and command.run_id):
        say("no record of the end is left: no store or no run id is known")
        return
    try:
        from runner.store.ends import write_end  # heavy
        from runner.store.layout import End
        from runner.store.open import open_store

        meaning = EXIT_CODE_MEANING.get(ExitCode(code), "")
        end = End(
            machine=host.machine,
            exit_code=code,
            reason=redact(f"{meaning}: {command.says}" if command.says else meaning)[:MAX_REASON],
            ended_t=round(time.time(), 3),
            console_tail=redact(command.tail.text()),
        )
        write_end(open_store(command.store_url, deadline_s=RECORD_S), command.run_id, end)
    except Exception as error:  # noqa: BLE001 -- a machine that is not ended costs more than a record
        say(f"no record of the end is left: {redact(f'{type(error).__name__}: {error}')}")


def _hold(step: Callable[[int, float], None]) -> None:
    """Take a step, told its number and the wait after it, again and again, and do nothing else until a signal comes."""
    for number, wait_s in enumerate(waits()):
        with _going_on():
            step(number, wait_s)
        _wait(wait_s)


def _wait(wait_s: float) -> None:
    end_s = time.monotonic() + wait_s
    while (left_s := end_s - time.monotonic()) > 0:
        beat()
        time.sleep(min(left_s, BEAT_S))


def _ask_for_the_end(command: Command, host: Host, code: int, number: int, wait_s: float) -> None:
    from runner.host.runpod import end_pod  # heavy

    answers = end_pod(host.machine, os.environ, by_all=number > 0)
    for answer in answers:
        say(f"end of {host.kind} machine {host.machine} asked for by {answer}")
    if answers[-1].accepted and number == 0:
        say("the machine is on its way out; this program holds until it is gone, and does no work")
        return
    name = command.run_id or host.machine
    say(
        f"THIS MACHINE IS STILL HERE AND BILLS: its run has ended with exit code {code}, it does no work, and asks for "
        f"its end again in {wait_s:.0f} s; end it by hand with `sequence-runner launch stop {name}` on your computer, "
        "or in the provider's console"
    )


def _say_kept(host: Host, code: int, wait_s: float) -> None:
    """Neither the command's own wish nor this program ends what is kept; what else does is said."""
    bills = "a stop signal ends this program"
    if host.launched and host.kind == "lambda":
        bills = (
            "THIS MACHINE BILLS UNTIL YOU END IT, or its own timer does half an hour after the run's ceiling (with "
            "--no-self-terminate it has none)"
        )
    elif host.launched and (hours := end_after_h(os.environ)) and host.kind == "runpod":
        bills = f"THIS MACHINE BILLS UNTIL YOU END IT, or until the {hours:.4g} h are over that it was launched for"
    elif host.launched:
        timer = ", or `timeout` does half an hour after the run's ceiling" if host.kind == "sky" else ""
        bills = f"THIS MACHINE BILLS UNTIL YOU END IT{timer}"
    say(f"kept alive after the run ended with exit code {code}: {bills}; said again in {wait_s:.0f} s")
