"""The supervisor: starts units side by side, watches them, retries, stops, and leaves no process behind.

Stop signals reach this process alone. It asks units to stop (SIGTERM: they end
at a safe boundary) and kills what is left after the grace time. It never reads
what a unit computed, only whether its result is there and intact.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from configs.errors import CannotWriteError, ExitCode
from configs.events import EventLog
from configs.run_dir import Request, Result, RunDir
from configs.schema import Config
from runner.attempt import Attempt
from runner.executor import Executor, Slot
from runner.gates import Gates
from runner.graph import Unit, halved_batch, without
from runner.guard import kill_group
from runner.heartbeat import beat
from runner.identity import Keys
from runner.out_of_memory import OomKills
from runner.reasons import OUTCOMES, Reason, Status, reason_of
from runner.resources import Sampler
from runner.reuse import clear_for, done_result, find_equal, has_durable_progress, link_equal
from runner.schedule import in_turn
from runner.stopping import StopSignals
from runner.view import RUN, EventTail, RunView
from runner.watch import Ending, Watcher

POLL_S = 0.05
MAX_NOTE = 1_500
"""Longest text of a unit's last words in an event; the line stays below its limit."""
MAX_HALVINGS = 3

GOES_ON = "the same command goes on from here"
NOTHING_DONE = "before anything was finished"


class Supervisor:
    """Runs the units of one run directory to their end."""

    def __init__(
        self,
        run: RunDir,
        units: Sequence[Unit],
        keys: Keys,
        *,
        executor: Executor,
        events: EventLog,
        reuse: bool = True,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        """Prepare; nothing is started.

        Args:
            run: the run; its `config.yaml` is written.
            units: the graph, each unit after those it needs.
            keys: what makes the cache keys.
            executor: where processes run.
            events: the log of the supervisor, opened by the caller.
            reuse: link equal units of other runs beside this one.
            watchers: hear every event of the run; an ending of one of them stops it.
        """
        self._run, self._units, self._keys, self._reuse = run, list(units), keys, reuse
        self._executor, self._events = executor, events
        self._config: Config = keys.config
        self._gates = Gates(keys.config, units)
        self._gated: set[str] = set()
        """Units that a closed gate left out."""
        self._waiting = {unit.id: unit for unit in units}
        self._begun: list[str] = []
        """Stage of each unit that had its turn."""
        self._running: dict[str, Attempt] = {}
        self._attempts: dict[str, int] = {}
        self._retries: dict[str, int] = {}
        """Attempts that were repeated as they were."""
        self._oom_kills = OomKills()
        self._results: dict[str, Result] = {}
        self._watchers = tuple(watchers)
        self._decided: Ending | None = None
        """What a failed unit or a watcher decided."""
        self._decided_s = math.inf
        """When a watcher did; a failure has no deadline."""
        self._tail = EventTail(run.events)
        self._next_sample_s = 0.0
        self.view = RunView()
        self.view.expect(self._waiting)

    def leave_out(self, ids: Collection[str]) -> None:
        """These units are no part of this start; the others go without them."""
        left_out = [unit for unit in self._units if unit.id in ids]
        self._units = without(self._units, ids)
        self._gates = Gates(self._config, self._units)
        for unit in left_out:
            self._gates.forget(unit)
        self._waiting = {unit.id: unit for unit in self._units}
        self.view = RunView()
        self.view.expect(self._waiting)

    def run(self, signals: StopSignals, observe: Callable[[RunView], None] = lambda _view: None) -> Ending:
        """Run all units; returns when no process is left.

        Args:
            signals: the stop requests, taken by the caller and only noted meanwhile.
            observe: called about twenty times a second with the current view.
        """
        self._signals, self._observe = signals, observe
        self._tail.skip()
        self.view.started_t = time.time()
        self._sampler = Sampler(self._run.root)
        try:
            with signals.shield():
                return self._supervise()
        finally:
            self.view.stopping = False
            for attempt in self._running.values():
                kill_group(attempt.process.pid)
                attempt.process.wait()

    def _supervise(self) -> Ending:
        while True:
            try:
                self._take_turn()
            except (OSError, CannotWriteError) as error:
                # the units are asked to stop and may still save what they have
                self._decide(Ending(ExitCode.CANNOT_WRITE, f"cannot write to {self._run.root}: {error}; free space"))
            if not self._running and (self._stopping or not self._waiting):
                return self._ending()
            time.sleep(POLL_S)

    def _take_turn(self) -> None:
        beat()
        self._hear()  # else words that came while this process stood still would not count
        self._collect_ended()
        self._enforce_limits()
        self._consult_watchers()
        self._pass_on_stop()
        if not self._stopping:
            self._start_ready()
        self._look()

    def _decide(self, ending: Ending) -> None:
        """The first decision stands."""
        self._decided = self._decided or ending

    @property
    def _stopping(self) -> bool:
        return bool(self._signals.name) or self._decided is not None

    @property
    def deadline_s(self) -> float:
        """When the whole program must be gone, by `time.monotonic`; infinite where nobody asked for a stop."""
        return min(self._signals.deadline_s, self._decided_s + self._config.runtime.stop_grace_s)

    # -- starting

    def _start_ready(self) -> None:
        for verdict in self._gates.decide(self._results, self._gated):
            self._events.emit("gate", RUN, **verdict.to_json())
        for unit in list(self._waiting.values()):
            if says := self._gates.leaves_out(unit, self._gated):
                del self._waiting[unit.id]
                self._gated.add(unit.id)
                self._events.emit("unit_finished", unit.id, state="gated", says=says)
        while found := self._first_startable():
            unit, slot = found
            del self._waiting[unit.id]
            self._begun.append(unit.stage)
            self._take(unit, slot)

    def _first_startable(self) -> tuple[Unit, Slot] | None:
        """The next unit that waits for nothing but a place, and a free place for it."""
        running = list(self._running.values())
        stages, slots = [attempt.unit.stage for attempt in running], [attempt.slot for attempt in running]
        for unit in in_turn(self._waiting.values(), stages, self._begun, self._config.parallel_models):
            if self._gates.lets_start(unit, self._results, self._gated):
                slot = self._executor.slot_for(unit, slots)
                if slot is not None:
                    return unit, slot
        return None

    def _take(self, unit: Unit, slot: Slot) -> None:
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
        self._start(unit, slot, request)

    def _start(self, unit: Unit, slot: Slot, request: Request) -> None:
        number = self._attempts.get(unit.id, 0) + 1
        self._attempts[unit.id] = number
        clear_for(self._run, request)
        self._run.save_request(request)
        log = self._run.log_path(unit.id)
        log_offset = log.stat().st_size if log.exists() else 0
        if not self._running:
            self._oom_kills.rebase()
        self._events.emit("unit_started", unit.id, attempt=number, cache_key=request.cache_key)
        now_s = time.monotonic()
        process = self._executor.start(unit, slot, self._run, log)
        self._running[unit.id] = Attempt(unit, slot, number, process, request, log, log_offset, now_s, now_s)

    # -- ending

    def _collect_ended(self) -> None:
        for attempt in list(self._running.values()):
            if attempt.has_exited():
                # the group's id is ours until the leader is reaped: what it left behind dies now
                kill_group(attempt.process.pid)
                attempt.process.wait()
                self._executor.forget(attempt.process)
                del self._running[attempt.unit.id]
                self._conclude(attempt)

    def _conclude(self, attempt: Attempt) -> None:
        unit, return_code = attempt.unit, attempt.process.returncode
        result = done_result(self._run, attempt.request)
        lacked_memory = return_code == -signal.SIGKILL and self._oom_kills.grew()
        reason = reason_of(return_code, result is not None, attempt.stopped_for, lacked_memory)
        outcome = OUTCOMES[reason]
        if outcome.status is Status.DONE and result is not None:
            self._finish(unit, "done", result, wall_s=attempt.wall_s())
            return
        says = attempt.says(reason)
        again = self._try_again(unit, reason) if outcome.retry and not self._stopping else ""
        facts = {"reason": str(reason), "attempt": attempt.number}
        if again:
            self._events.emit("retry", unit.id, **facts, says=_joined(says, again))
            self._waiting[unit.id] = unit
            return
        if outcome.status is Status.FAILED:
            self._decide(self._failed(unit, reason, says))
        facts |= {"return_code": return_code, "wall_s": attempt.wall_s()}
        self._events.emit("unit_finished", unit.id, state=str(outcome.status), **facts, says=_joined(says))

    def _try_again(self, unit: Unit, reason: Reason) -> str:
        """Prepare another attempt and say how it differs; empty where there is none."""
        if reason is Reason.OUT_OF_MEMORY and unit.halvable:
            return self._halve_batch(unit)
        self._retries[unit.id] = self._retries.get(unit.id, 0) + 1
        return "it is tried again" if self._retries[unit.id] < unit.max_attempts else ""

    def _halve_batch(self, unit: Unit) -> str:
        halvings = self._config.runtime.batch_halvings
        times, batch = halvings.get(unit.id, 0) + 1, halved_batch(unit, self._config)
        if times > MAX_HALVINGS or batch < 2:
            return ""
        runtime = self._config.runtime.model_copy(update={"batch_halvings": halvings | {unit.id: times}})
        self._config = self._config.model_copy(update={"runtime": runtime})
        self._keys = self._keys.with_config(self._config)
        self._run.save_config(self._config)
        return (
            f"it begins anew with {unit.halvable} {halved_batch(unit, self._config)} instead of {batch} "
            f"(halved {times} of at most {MAX_HALVINGS} times; checkpoints of another batch do not fit)"
        )

    def _failed(self, unit: Unit, reason: Reason, says: str) -> Ending:
        outcome = OUTCOMES[reason]
        message = f"unit {unit.id!r} {says}\n(log: {self._run.log_path(unit.id)})"
        if outcome.remedy:
            return Ending(outcome.exit_code, f"{message}\n{outcome.remedy}")
        given_up = outcome.retry and self._retries.get(unit.id, 0) > 1
        return Ending(ExitCode.GIVEN_UP if given_up else outcome.exit_code, message)

    def _finish(self, unit: Unit, state: str, result: Result, **fields: Any) -> None:
        self._results[unit.id] = result
        self._events.emit("unit_finished", unit.id, state=state, reason=str(Reason.FINISHED), **fields)

    def _ending(self) -> Ending:
        done = all(unit.id in self._results or unit.id in self._gated for unit in self._units)
        if self._decided is not None and not (done and self._decided.exit_code == ExitCode.BUDGET):
            return self._decided
        if done:
            return Ending(ExitCode.DONE)
        if has_durable_progress(self._run):
            return Ending(ExitCode.INTERRUPTED, GOES_ON)
        interrupted = self._signals.name == "SIGINT"
        return Ending(ExitCode.CTRL_C if interrupted else ExitCode.TERMINATED, NOTHING_DONE)

    # -- watching

    def _enforce_limits(self) -> None:
        for attempt in self._running.values():
            if reason := attempt.overstayed():
                attempt.ask_to_stop(reason, self._unit_grace_s)
            attempt.press()

    def _consult_watchers(self) -> None:
        for watcher in self._watchers:
            ending = watcher.verdict() if self._decided is None else None
            if ending is not None:
                self._decided, self._decided_s = ending, time.monotonic()

    def _pass_on_stop(self) -> None:
        for attempt in self._running.values() if self._stopping else ():
            if attempt.stopped_for is None:
                attempt.ask_to_stop(Reason.STOPPED, self._unit_grace_s)
            latest_s = 0.0 if self._signals.hurried else self.deadline_s - self._reserve_s
            attempt.kill_at_s = min(attempt.kill_at_s, latest_s)
            attempt.press()

    @property
    def _reserve_s(self) -> float:
        """Part of the grace time that is kept for what comes after the units: records, and the last upload."""
        grace_s = self._config.runtime.stop_grace_s
        goes_out = self._config.store.url or self._config.publish.git_url
        return min(10.0, 0.4 * grace_s) if goes_out else min(2.0, 0.2 * grace_s)

    @property
    def _unit_grace_s(self) -> float:
        return self._config.runtime.stop_grace_s - self._reserve_s

    def _look(self) -> None:
        self.view.stopping = self._stopping
        if time.monotonic() >= self._next_sample_s:
            self._next_sample_s = time.monotonic() + self._config.runtime.sample_resources_every_s
            pids = {unit_id: attempt.process.pid for unit_id, attempt in self._running.items()}
            self._events.emit("resources", RUN, **self._sampler.sample(pids))
        self._hear()
        self._observe(self.view)

    def _hear(self) -> None:
        for event in self._tail.poll():
            self.view.apply(event)
            for watcher in self._watchers:
                watcher.on_event(event)
            if event["unit"] in self._running:
                self._running[event["unit"]].heard_s = time.monotonic()


def _joined(*parts: str) -> str:
    """Texts as one note; where it is too long the first, a unit's last words, is cut."""
    rest = "".join(f"; {part}" for part in parts[1:])
    return parts[0][: MAX_NOTE - len(rest)] + rest
