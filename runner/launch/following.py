"""A run whose machine is elsewhere, looked at through its store and its provider until it has ended.

It only reads. A connection that is lost is waited for: only the run's end, the loss of its machine, the end of that
machine's time or Ctrl-C ends it, and the machine is asked for while the store cannot be.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from configs.errors import EXIT_CODE_MEANING, ExitCode, ProjectError, StoreError
from configs.secrets import redact
from runner.console import clock, short, watching
from runner.exit_record import exit_code_of, recorded_ending
from runner.heartbeat import beat
from runner.host.deadman import IMAGE_S
from runner.launch.provider import Status
from runner.remote import fetched
from runner.say import say
from runner.store.ends import ends, newest_end
from runner.store.hold import Trouble
from runner.store.layout import End, Head, Live, head_key
from runner.store.lease import read_head
from runner.store.live import read_live, view_in
from runner.store.objects import StoreDeniedError
from runner.store.open import open_store
from runner.view import RunView
from runner.watch import Ending

ANSWER_S = 10.0
DRAW_S = 0.25
GONE: frozenset[Status] = frozenset({"stopped", "ended", "failed"})
TAIL_LINES = 12
LOST = "machine lost ({status}); the same launch command goes on from the last snapshot"
NOT_KNOWN = "; how the run ended there is not known, for its store cannot be used: {trouble}"
OVERDUE = "the machine should have been gone by now, is {status}, and nothing is heard of the run: its time is over"
UNHEARD = (
    "the machine has been running for {minutes:.0f} min without a word of the run: its container has not come to "
    "start the runner; is the image for the machine's kind of processor, and what its arguments say?"
)
MACHINE_SAYS: dict[Status | None, str] = {
    None: "its provider does not say",
    "starting": "asked for, being provided",
    "running": "running; it may be fetching the image",
    "stopped": "stopped",
    "ended": "ended",
    "failed": "failed",
}
Observe = Callable[[RunView], None]
AskMachine = Callable[[], Status]


@dataclass(frozen=True)
class Pace:
    """How often is looked, and how long waited; another one in tests."""

    poll_s: float = 5.0
    """Between two looks; while the store cannot be used, doubled up to `last_poll_s`."""
    last_poll_s: float = 40.0
    silent_s: float = 60.0
    """A run that has said nothing for so long makes us ask for its machine."""
    ask_s: float = 15.0
    gone_s: float = 60.0
    """The last word of a machine that is gone may still be on its way."""
    store_s: float = 600.0
    """The machine is gone, and the store, which has its last word, cannot be used: it is given up after this."""
    word_s: float = IMAGE_S
    """A machine that runs for so long without a word of its run has no runner: it may be bringing the image."""


PACE = Pace()


@dataclass(frozen=True)
class Rented:
    """The machine of a followed run, as its launcher knows it."""

    ask: AskMachine
    """How it stands; a `ProjectError` is waited for."""
    inside: str = ""
    """What the run there calls it: only the end that is told under this name counts. Empty where it is not known: then
    any that is told after `since_t`."""
    since_t: float = 0.0
    """What the store had before this moment, in Unix seconds, is no word of this machine."""
    end_by_t: float = math.inf
    """The machine is to be gone by then."""
    printed: Callable[[], list[str]] = list
    """What its container printed last."""


class Followed:
    """One run, looked at as often as its store and its provider let us."""

    def __init__(self, url: str, run_id: str, machine: Rented | None, pace: Pace) -> None:
        """Prepare; nothing is asked yet."""
        self._run_id, self._machine, self._pace = run_id, machine, pace
        self._url, self._store = url, open_store(url, answer_s=ANSWER_S, deadline_s=0)
        self._trouble = Trouble()
        self._trouble.tell, self._trouble.meanwhile = say, "; the run goes on, and so does following it"
        self._has_looked = False
        self._history: frozenset[tuple[str, str]] | None = None
        """Key and tag of the ends that were told before a run without a known machine was joined."""
        self._head: Head | None = None
        """Of a start that is meant."""
        self._live: Live | None = None
        self._view = RunView()
        self._behind_s = math.inf
        """The owner's clock behind ours; the least that was seen, for a word takes a while to get here."""
        self._heard_s = -math.inf
        self._status: Status | None = None
        self._fault, self._next_ask_s = "", 0.0
        self._over_since_s: float | None = None
        self._runs_since_s = 0.0
        """Since when the machine is seen running without a word; 0 where it is not."""
        self._phase = ""

    @property
    def again(self) -> str:
        """The command that follows it anew."""
        return f"`sequence-runner status {self._run_id} --store {self._url} --follow`"

    @property
    def trouble(self) -> str:
        """With the store, now; empty where there is none."""
        return self._trouble.last

    @property
    def is_begun(self) -> bool:
        """A runner has taken the run."""
        return self._head is not None

    @property
    def is_deaf(self) -> bool:
        """The store cannot be used from the start, or not by the time that a word should be there."""
        return bool(self.trouble) and (not self._has_looked or self._has_run_long)

    def until_end(self, is_enough: Callable[[], bool]) -> Ending | None:
        """Show the run until it has ended; None where it is enough before."""
        wait_s = self._pace.poll_s
        with contextlib.ExitStack() as stack:
            observe = None
            while True:
                ending = self._look()
                if not ending and is_enough():
                    return None
                if observe is None and any(unit.state != "waiting" for unit in self._view.units.values()):
                    self._introduce()
                    observe = stack.enter_context(watching(f"run {self._run_id}"))
                if ending:
                    self._show(observe)
                    return ending
                self._tell_phase(observe is not None)
                self._pause(wait_s, observe)
                wait_s = min(2 * wait_s, self._pace.last_poll_s) if self.trouble else self._pace.poll_s

    def _look(self) -> Ending | None:
        """Learn what is new; how the run ended, once it has. The machine is asked for whatever the store does."""
        if ending := self._in_store(self._read):
            return ending
        self._ask()
        return self._ending_without_word()

    def _in_store(self, read: Callable[[], Ending | None]) -> Ending | None:
        """What the store tells of the end; None where it tells none, or cannot be used now."""
        try:
            ending = read()
        except StoreError as error:
            if not error.retryable or (isinstance(error, StoreDeniedError) and not self._has_looked):
                raise
            self._trouble.note(error)
            return None
        self._has_looked = True
        self._trouble.over()
        return ending

    def _read(self) -> Ending | None:
        head = self._newest_head()
        end = self._end_of_machine() if self._machine else self._end_of_any(head)
        if head:
            if self._head and self._head.epoch != head.epoch:
                say(f"the runner was lost or stopped; another goes on from the store ({head.owner.place})")
            self._head = head
            self._hear(read_live(self._store, self._run_id, head.epoch))
        return Ending(exit_code_of(end.exit_code), _said(end)) if end else None

    def _newest_head(self) -> Head | None:
        """HEAD; None where its owner cannot be on the machine, which was not there when HEAD was last renewed."""
        if self._machine:
            found = self._store.list(head_key(self._run_id))
            if not any(stat.modified_t > self._machine.since_t for stat in found):
                return None
        return read_head(self._store, self._run_id)

    def _end_of_machine(self) -> End | None:
        assert self._machine
        end = newest_end(self._store, ends(self._store, self._run_id, self._machine.inside))
        return end if end and (self._machine.inside or end.ended_t > self._machine.since_t) else None

    def _end_of_any(self, head: Head | None) -> End | None:
        """Where a runner was, what machines said before the first look is history."""
        found = ends(self._store, self._run_id)
        if self._history is None:
            self._history = frozenset((stat.key, stat.tag) for stat in found if head)
        return newest_end(self._store, [stat for stat in found if (stat.key, stat.tag) not in self._history])

    def _hear(self, live: Live | None) -> None:
        before = self._live
        if live is None or (before and (live.epoch, live.updated_t) == (before.epoch, before.updated_t)):
            return
        if before is None or before.epoch != live.epoch:
            self._behind_s = math.inf  # another machine has another clock
        self._live, self._heard_s = live, time.monotonic()
        self._behind_s = min(self._behind_s, time.time() - live.updated_t)
        self._view = view_in(live).moved(self._behind_s)

    def _ask(self) -> None:
        """Ask the provider for the machine of a run that says nothing."""
        now_s = time.monotonic()
        if self._machine is None or not self._is_silent or now_s < self._next_ask_s:
            return
        self._next_ask_s = now_s + self._pace.ask_s
        try:
            self._status, self._fault = self._machine.ask(), ""
        except ProjectError as error:
            self._status, self._fault = None, str(error)
        if self._live or self._status != "running":
            self._runs_since_s = 0.0
        else:
            self._runs_since_s = self._runs_since_s or now_s

    @property
    def _is_silent(self) -> bool:
        return time.monotonic() - self._heard_s > self._pace.silent_s

    def _ending_without_word(self) -> Ending | None:
        """How it ended where its owner or its machine is gone and no end was written."""
        is_released = self._head is not None and self._head.released
        is_gone = self._machine is not None and self._is_silent and self._status in GONE
        if not is_gone and self._is_overdue:
            return Ending(ExitCode.BUDGET, OVERDUE.format(status=self._machine_says()))
        if self._has_run_long and not (self.is_begun or self.trouble):
            return self._unheard()
        if not (is_gone or (is_released and self._machine is None)):
            self._over_since_s = None
            return None
        self._over_since_s = self._over_since_s or time.monotonic()
        over_s = time.monotonic() - self._over_since_s
        if self._machine and over_s < self._pace.gone_s:
            return None
        if is_released and (recorded := self._in_store(self._last_record)):
            return recorded
        if self.trouble and not (self._machine and over_s > self._pace.store_s):
            return None
        not_known = NOT_KNOWN.format(trouble=self.trouble) if self.trouble else ""
        return Ending(ExitCode.INTERRUPTED, LOST.format(status=self._status) + not_known)

    @property
    def _has_run_long(self) -> bool:
        """So long that a word of the run should be there."""
        return bool(self._runs_since_s) and time.monotonic() - self._runs_since_s > self._pace.word_s

    def _unheard(self) -> Ending:
        assert self._machine
        try:
            printed = [redact(line) for line in self._machine.printed()]
        except ProjectError as error:
            printed = [str(error)]
        says = UNHEARD.format(minutes=self._pace.word_s / 60)
        return Ending(ExitCode.MACHINE_UNFIT, "\n  | ".join((says, *printed[-TAIL_LINES:])))

    @property
    def _is_overdue(self) -> bool:
        if self._machine is None or time.time() < self._machine.end_by_t:
            return False
        # one that was heard, and is being provided anew after it was taken, has time left that it has not used
        return self._is_silent and not (self._live and self._status == "starting")

    def _last_record(self) -> Ending:
        """As the exit record of the newest snapshot has it."""
        with fetched(self._url, self._run_id, lambda path: path == "exit.json") as remote:
            return recorded_ending(remote.run)

    def _introduce(self) -> None:
        """What a local run has said by the time its table appears."""
        for check in self._view.checks:
            say(f"pre-flight, {check['verdict']}: {check['name']}: {check['found']}; {check['remedy']}")
        if self._view.plan:
            say(f"expected: {_expected_text(self._view.plan)}")

    def _tell_phase(self, is_shown: bool) -> None:
        phase = self._phase_now(is_shown)
        if phase != self._phase:
            self._phase = phase
            say(phase)

    def _phase_now(self, is_shown: bool) -> str:
        if self._live and not self._is_silent:
            return "the run is at work" if is_shown else "the run has begun: pre-flight, then the time it will take"
        about = (
            f"machine: {self._machine_says()}" if self._machine else "its runner may be gone, or have lost the store"
        )
        if self._live:
            return f"no word from the run for more than {self._pace.silent_s:.0f} s; {about}"
        if self._head and not self._head.released:
            return f"the runner has begun ({self._head.owner.place}): it fetches what it needs"
        return about if self._machine else f"nothing of the run is in {self._url} yet; waiting for it"

    def _machine_says(self) -> str:
        return f"its provider cannot be asked: {self._fault}" if self._fault else MACHINE_SAYS[self._status]

    def _pause(self, wait_s: float, observe: Observe | None) -> None:
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0:
            self._show(observe)
            beat()
            time.sleep(min(DRAW_S, left_s))

    def _show(self, observe: Observe | None) -> None:
        if observe:
            observe(self._view)


def _said(end: End) -> str:
    """Why it ended and its last lines; nothing where it ended well."""
    if end.exit_code == ExitCode.DONE:
        return ""
    reason = end.reason or EXIT_CODE_MEANING[exit_code_of(end.exit_code)]
    return "\n  | ".join((reason, *end.console_tail.splitlines()[-TAIL_LINES:]))


def _expected_text(plan: dict[str, Any]) -> str:
    """`5:10 (4:10 to 6:20), 0.42 USD`."""
    time_s, cost_usd = plan["wall_s"], plan["cost_usd"]
    text = f"{clock(time_s['expected'])} ({clock(time_s['low'])} to {clock(time_s['high'])})"
    return f"{text}, {short(cost_usd['expected'])} USD" if cost_usd["expected"] else text
