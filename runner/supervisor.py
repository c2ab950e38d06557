"""The supervisor: starts units side by side, watches them, retries, stops, and leaves no process behind.

It alone receives signals. It asks units to stop (SIGTERM: they end at a safe
boundary) and kills what is left after the grace time. It never reads what a
unit computed, only whether its result is there and intact.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.errors import ExitCode
from configs.events import EventLog
from configs.run_dir import Request, Result, RunDir
from configs.schema import Config
from runner.graph import Unit
from runner.guard import Owner, kill_group
from runner.identity import Keys
from runner.process import last_words, log_tail, stage_command, stage_environment, start
from runner.reasons import OUTCOMES, Reason, Status, reason_of
from runner.resources import Sampler
from runner.reuse import clear_for, done_result, find_equal, has_durable_progress, link_equal
from runner.view import RUN, EventTail, RunView
from runner.watch import Ending, Watcher

POLL_S = 0.05
MAX_NOTE = 1_500
"""Longest text of a unit's last words in an event; the line stays below its limit."""


GOES_ON = "the same command goes on from here"
NOTHING_DONE = "before anything was finished"


@dataclass
class Attempt:
    """One running process of a unit."""

    unit: Unit
    number: int
    process: subprocess.Popen
    request: Request
    log_offset: int
    started_s: float
    """Clock of this and the two below: `time.monotonic`."""
    heard_s: float
    kill_at_s: float = math.inf
    stopped_for: Reason | None = None

    def wall_s(self) -> float:
        """Seconds since the start."""
        return round(time.monotonic() - self.started_s, 3)


@dataclass
class Stop:
    """Stop requests that arrived as signals."""

    signals: list[int] = field(default_factory=list)
    first_s: float = math.inf
    """When the first one came, by `time.monotonic`."""

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while inside."""
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: Any) -> None:
        self.first_s = min(self.first_s, time.monotonic())
        self.signals.append(number)


class Supervisor:
    """Runs the units of one run directory to their end."""

    def __init__(
        self,
        run: RunDir,
        units: Sequence[Unit],
        keys: Keys,
        *,
        owner: Owner,
        events: EventLog,
        reuse: bool = True,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        """Prepare; nothing is started.

        Args:
            run: the run; its `config.yaml` is written.
            units: the graph, each unit after those it needs.
            keys: what makes the cache keys.
            owner: the ownership of the run, held by the caller.
            events: the log of the supervisor, opened by the caller.
            reuse: link equal units of other runs beside this one.
            watchers: hear every event of the run; an ending of one of them stops it.
        """
        self._run, self._units, self._keys, self._reuse = run, list(units), keys, reuse
        self._owner, self._events = owner, events
        self._config: Config = keys.config
        self._waiting = {unit.id: unit for unit in units}
        self._running: dict[str, Attempt] = {}
        self._attempts: dict[str, int] = {}
        self._results: dict[str, Result] = {}
        self._watchers = tuple(watchers)
        self._decided: Ending | None = None
        """What a failed unit or a watcher decided."""
        self._decided_s = math.inf
        """When a watcher did; a failure has no deadline."""
        self._stop = Stop()
        self._tail = EventTail(run.events)
        self._next_sample_s = 0.0
        self.view = RunView()
        self.view.expect(self._waiting)

    def run(self, observe: Callable[[RunView], None] = lambda _view: None) -> Ending:
        """Run all units; returns when no process is left.

        Args:
            observe: called about twenty times a second with the current view.
        """
        self._tail.skip()
        self._observe = observe
        self.view.started_t = time.time()
        self._sampler = Sampler(self._run.root)
        try:
            with self._stop.listening():
                return self._supervise()
        finally:
            self.view.stopping = False
            for attempt in self._running.values():
                kill_group(attempt.process.pid)
                attempt.process.wait()

    def _supervise(self) -> Ending:
        while True:
            self._collect_ended()
            self._enforce_limits()
            self._consult_watchers()
            self._pass_on_stop()
            if not self._stopping:
                self._start_ready()
            self._look()
            if not self._running and (self._stopping or not self._waiting):
                break
            time.sleep(POLL_S)
        return self._ending()

    @property
    def _stopping(self) -> bool:
        return bool(self._stop.signals) or self._decided is not None

    @property
    def deadline_s(self) -> float:
        """When the whole program must be gone, by `time.monotonic`; infinite where nobody asked for a stop."""
        return min(self._stop.first_s, self._decided_s) + self._config.runtime.stop_grace_s

    @property
    def hurried(self) -> bool:
        """A second stop signal came: whatever can be left out is to be left out."""
        return len(self._stop.signals) > 1

    # -- starting

    def _start_ready(self) -> None:
        for unit in list(self._waiting.values()):
            if self._has_room(unit) and all(need in self._results for need in unit.needs):
                del self._waiting[unit.id]
                self._take(unit)

    def _has_room(self, unit: Unit) -> bool:
        if len(self._running) >= self._config.runtime.parallel_units:
            return False
        return not (unit.uses_gpu and any(attempt.unit.uses_gpu for attempt in self._running.values()))

    def _take(self, unit: Unit) -> None:
        request = self._keys.request(unit, self._results)
        result = done_result(self._run, request)
        if result is not None:
            self._finish(unit, "skipped", result, says="was done already")
            return
        if self._reuse and (found := find_equal(self._run, request)):
            donor, result = found
            link_equal(donor, self._run, request, result)
            self._finish(unit, "reused", result, says=f"linked from run {donor.run_id}")
            return
        self._start(unit, request)

    def _start(self, unit: Unit, request: Request) -> None:
        number = self._attempts.get(unit.id, 0) + 1
        self._attempts[unit.id] = number
        clear_for(self._run, request)
        self._run.save_request(request)
        log = self._run.log_path(unit.id)
        command = stage_command(unit.module, self._run.root, unit.id)
        log_offset = log.stat().st_size if log.exists() else 0
        self._events.emit("unit_started", unit.id, attempt=number, cache_key=request.cache_key)
        now_s = time.monotonic()
        process = start(
            command, stage_environment(self._config.compute.threads_per_unit), log, self._owner.reaper.before_exec()
        )
        self._running[unit.id] = Attempt(unit, number, process, request, log_offset, now_s, now_s)

    # -- ending

    def _collect_ended(self) -> None:
        for attempt in list(self._running.values()):
            if _has_exited(attempt.process.pid):
                # the group's id is ours until the leader is reaped: what it left behind dies now
                kill_group(attempt.process.pid)
                attempt.process.wait()
                self._owner.reaper.forget(attempt.process.pid)
                del self._running[attempt.unit.id]
                self._conclude(attempt)

    def _conclude(self, attempt: Attempt) -> None:
        unit = attempt.unit
        result = done_result(self._run, attempt.request)
        reason = reason_of(attempt.process.returncode, result is not None, attempt.stopped_for)
        outcome = OUTCOMES[reason]
        if outcome.status is Status.DONE and result is not None:
            self._finish(unit, "done", result, wall_s=attempt.wall_s())
            return
        words = last_words(log_tail(self._run.log_path(unit.id), attempt.log_offset))
        says = f"{outcome.says}: {words}" if words else outcome.says
        if outcome.retry and attempt.number < unit.max_attempts and not self._stopping:
            self._events.emit("retry", unit.id, reason=reason, attempt=attempt.number, says=says[:MAX_NOTE])
            self._waiting[unit.id] = unit
            return
        self._events.emit(
            "unit_finished",
            unit.id,
            state=str(outcome.status),
            reason=str(reason),
            attempt=attempt.number,
            return_code=attempt.process.returncode,
            wall_s=attempt.wall_s(),
            says=says[:MAX_NOTE],
        )
        if outcome.status is Status.FAILED and self._decided is None:
            given_up = outcome.retry and attempt.number > 1
            message = f"unit {unit.id!r} {says}\n(log: {self._run.log_path(unit.id)})"
            self._decided = Ending(ExitCode.GIVEN_UP if given_up else outcome.exit_code, message)

    def _finish(self, unit: Unit, state: str, result: Result, **fields: Any) -> None:
        self._results[unit.id] = result
        self._events.emit("unit_finished", unit.id, state=state, reason=str(Reason.FINISHED), **fields)

    def _ending(self) -> Ending:
        if self._decided is not None:
            return self._decided
        if all(unit.id in self._results for unit in self._units):
            return Ending(ExitCode.DONE)
        if has_durable_progress(self._run):
            return Ending(ExitCode.INTERRUPTED, GOES_ON)
        interrupted = self._stop.signals[0] == signal.SIGINT
        return Ending(ExitCode.CTRL_C if interrupted else ExitCode.TERMINATED, NOTHING_DONE)

    # -- watching

    def _enforce_limits(self) -> None:
        now_s = time.monotonic()
        for attempt in self._running.values():
            if now_s >= attempt.kill_at_s:
                kill_group(attempt.process.pid)
            elif attempt.stopped_for is not None:
                continue
            elif now_s - attempt.started_s > attempt.unit.timeout_s:
                self._ask_to_stop(attempt, Reason.TIMED_OUT)
            elif now_s - attempt.heard_s > attempt.unit.stall_timeout_s:
                self._ask_to_stop(attempt, Reason.STALLED)

    def _consult_watchers(self) -> None:
        for watcher in self._watchers:
            ending = watcher.verdict() if self._decided is None else None
            if ending is not None:
                self._decided, self._decided_s = ending, time.monotonic()

    def _pass_on_stop(self) -> None:
        for attempt in self._running.values():
            if self._stopping and attempt.stopped_for is None:
                self._ask_to_stop(attempt, Reason.STOPPED)
            attempt.kill_at_s = min(attempt.kill_at_s, self.deadline_s - self._reserve_s)
            if self.hurried:
                kill_group(attempt.process.pid)

    @property
    def _reserve_s(self) -> float:
        """Part of the grace time that is kept for what comes after the units: records, and the last upload."""
        grace_s = self._config.runtime.stop_grace_s
        goes_out = self._config.store.url or self._config.publish.git_url
        return min(10.0, 0.4 * grace_s) if goes_out else min(2.0, 0.2 * grace_s)

    def _ask_to_stop(self, attempt: Attempt, reason: Reason) -> None:
        attempt.stopped_for = reason
        attempt.kill_at_s = time.monotonic() + self._config.runtime.stop_grace_s - self._reserve_s
        attempt.process.terminate()

    def _look(self) -> None:
        self.view.stopping = self._stopping
        if time.monotonic() >= self._next_sample_s:
            self._next_sample_s = time.monotonic() + self._config.runtime.sample_resources_every_s
            pids = {unit_id: attempt.process.pid for unit_id, attempt in self._running.items()}
            self._events.emit("resources", RUN, **self._sampler.sample(pids))
        for event in self._tail.poll():
            self.view.apply(event)
            for watcher in self._watchers:
                watcher.on_event(event)
            if event["unit"] in self._running:
                self._running[event["unit"]].heard_s = time.monotonic()
        self._observe(self.view)


def _has_exited(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
