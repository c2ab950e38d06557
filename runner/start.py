"""The start of a run: own it, check the machine, predict, supervise, report. Every step prints to stderr only."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from configs.errors import ExitCode, ProjectError
from configs.events import EventLog
from configs.run_dir import RunDir
from configs.schema import Config, PublishConfig
from configs.unit import CANNOT_WRITE_ERRNOS
from runner.budget import HOUR_S, Budget, opening, spent, within
from runner.calibration import FILE_NAME, MOST_S, Seconds
from runner.console import watching
from runner.epilogue import Epilogue
from runner.executor import LocalExecutor
from runner.exit_record import write_exit_record
from runner.forecast import keep
from runner.guard import Owner, Terminated
from runner.job import Choice, Job
from runner.notify import Notice, notify, occasion_of
from runner.plan import Answers, describe, make_plan, measured, most_bars
from runner.plan_table import print_plan
from runner.preflight.budget import check_budget
from runner.preflight.check import CheckResult, Context, Verdict
from runner.preflight.checks import exit_code, run_checks
from runner.restarts import refuse_fruitless, unseen_starts
from runner.reuse import has_durable_progress, left_fracs
from runner.say import say
from runner.session import Ask, Plan, establish, settle
from runner.stopping import StopSignals
from runner.store.hold import Hold, contact, held
from runner.store.keeper import Keeper
from runner.store.layout import Spent
from runner.store.live import broadcasting
from runner.store.place import read_place
from runner.supervisor import GOES_ON, MAX_NOTE, NOTHING_DONE, Supervisor
from runner.view import RUN
from runner.watch import Ending

NOT_OK: dict[Verdict, str] = {"warn": "to note", "fail": "failed", "skipped": "skipped"}


def run_job(job: Job, ask: Ask, choice: Choice) -> Ending:
    """Do what is not done yet, write the report, and keep both where the configuration says."""
    run = job.plan.run
    if run.report.exists() and job.is_finished(states := job.standing()) and _is_kept(job.plan):
        job.tell_what_is_missed(states)
        say(f"run {run.run_id} is finished; nothing to do")
        return Ending(ExitCode.DONE)
    with StopSignals(job.plan.config.runtime.stop_grace_s) as signals:
        return _stoppable(run, lambda: _own(job, ask, choice, signals))


def _own(job: Job, ask: Ask, choice: Choice, signals: StopSignals) -> Ending:
    """Own the run here and in its store, bring it here, and go on with it."""
    run = job.plan.run
    with Owner(run.root) as owner, held(run, job.plan.config.store, choice.take_over, say) as hold:
        job = Job.from_plan(settle(job.plan, ask), choice)
        states = job.standing()
        if hold and job.is_finished(states) and read_place(run).is_kept(job.plan.config.store.url, hold.lease.head):
            say(f"run {run.run_id} is finished; nothing to do")
            return Ending(ExitCode.DONE)
        ledger, known = spent(run.events), hold.lease.head.spent if hold else Spent()
        budget = _budget(job.plan, ledger, known, choice.until_s - time.monotonic())
        with _refusals_recorded(run, hold, budget):
            job.refuse_missing(states)
            job.require_data(states)
            establish(job.plan)
            job.tell_what_is_missed(states)
            if not job.is_finished(states):
                unseen = unseen_starts(run.events, hold.lease.head, hold.known) if hold else 0
                refuse_fruitless(run.events, job.plan.config.runtime.max_fruitless_starts, unseen)
                budget.refuse_spent()
        with contextlib.closing(EventLog(run.events, "supervisor")) as events:
            opened = opening(job.plan.config.budget.price_usd_per_hour, ledger, known)
            stages = list(dict.fromkeys(unit.stage for unit in job.units if states[unit.id] != "left out"))
            events.emit("run_started", RUN, command=" ".join(sys.argv)[:MAX_NOTE], stages=stages, **opened)
            return _Start(job, ask, choice, owner, events, signals, budget, hold).carry_out(states)


def _budget(plan: Plan, ledger: Spent, known: Spent, machine_s: float) -> Budget:
    """What is left, on this machine; the store may have seen more than the log here, or less."""

    def warn(says: str) -> None:
        say(says)
        used = budget.spent()
        notify(Notice(plan.run.run_id, "budget", says=says, wall_s=used.wall_s, cost_usd=used.cost_usd), wait_s=0)

    before = Spent(wall_s=max(ledger.wall_s, known.wall_s), cost_usd=max(ledger.cost_usd, known.cost_usd))
    limits = within(plan.config.budget, before, machine_s)
    if limits != plan.config.budget:
        here = f"the run gets {max(0.0, machine_s) / HOUR_S:.2f} h here"
        say(f"this machine is ended before the budget is used up: {here}, the same command goes on elsewhere")
    budget = Budget(limits, before, grace_s=plan.config.runtime.stop_grace_s, warn=warn)
    return budget


@contextlib.contextmanager
def _refusals_recorded(run: RunDir, hold: Hold | None, budget: Budget) -> Iterator[None]:
    """An error inside leaves an exit record, where there is a run, and is told."""
    try:
        yield
    except ProjectError as error:
        if run.run_json.exists():
            refused = Ending(error.exit_code, str(error))
            used = budget.spent()
            write_exit_record(run, refused, used, hold.lease.head.snapshot if hold else "")
            code, says = error.exit_code, refused.message
            notify(Notice(run.run_id, occasion_of(code), int(code), None, says, used.wall_s, used.cost_usd))
        raise


@dataclass
class _Start:
    """One start of a run that is ours and here."""

    job: Job
    ask: Ask
    choice: Choice
    owner: Owner
    events: EventLog
    signals: StopSignals
    budget: Budget
    hold: Hold | None

    def carry_out(self, states: dict[str, str]) -> Ending:
        """Pre-flight, the units, and what follows them."""
        run, config = self.job.plan.run, self.job.plan.config
        with self._keeping() as keeper, self._telling(states):
            ending = _stoppable(run, lambda: _fault_as_ending(lambda: self._work(states, keeper)))
            epilogue = Epilogue(
                run, config, self.events, self.signals, self.budget.spent, keeper=keeper, push=self.choice.push
            )
            return epilogue.wind_up(ending)

    def _keeping(self) -> contextlib.AbstractContextManager[Keeper | None]:
        if self.hold is None:
            return contextlib.nullcontext()
        self.hold.spent = self.budget.spent
        return Keeper(self.job.plan.run, self.hold, self.job.plan.config.store, self.events)

    def _telling(self, states: dict[str, str]) -> contextlib.AbstractContextManager[object]:
        """Who follows the run from afar is told what it looks like."""
        if self.hold is None:
            return contextlib.nullcontext()
        shown = [unit.id for unit in self.job.units if states[unit.id] != "left out"]
        return broadcasting(self.job.plan.run, self.hold.lease.epoch, self.job.plan.config.store, shown)

    def _work(self, states: dict[str, str], keeper: Keeper | None) -> Ending:
        if self.job.is_finished(states):
            return Ending(ExitCode.DONE)
        if keeper:
            keeper.request("a start")
        answers = functools.cache(lambda: describe(self.job.plan.config, self.job.units))
        ending = Ending(ExitCode.DONE) if self.choice.skip_preflight else self._preflight(answers)
        if ending.exit_code == ExitCode.DONE:
            ending = self._predict(states, answers)
        return self._supervise(states, keeper) if ending.exit_code == ExitCode.DONE else ending

    def _supervise(self, states: dict[str, str], keeper: Keeper | None) -> Ending:
        plan = self.job.plan
        supervisor = Supervisor(
            plan.run,
            self.job.units,
            self.job.keys,
            executor=LocalExecutor(plan.config, self.owner.reaper),
            events=self.events,
            reuse=plan.reuse,
            watchers=[keeper, self.budget] if keeper else [self.budget],
        )
        supervisor.leave_out({unit for unit, state in states.items() if state == "left out"})
        with watching(f"run {plan.run.run_id}", self.choice.verbose) as observe:
            try:
                return supervisor.run(self.signals, observe)
            finally:
                ceiling_s = time.monotonic() + self.budget.left_s()  # holds for what follows a run that ends by itself
                self.signals.limit(min(supervisor.deadline_s, ceiling_s))

    def _preflight(self, answers: Callable[[], Answers]) -> Ending:
        say("pre-flight: checking the machine, the data and what the stages need")
        plan = self.job.plan
        config = plan.config if self.choice.push else plan.config.model_copy(update={"publish": PublishConfig()})
        results = preflight(
            config,
            self.ask,
            lambda: plan.facts,
            answers,
            require_gpu=self.choice.require_gpu,
            limit_s=self.budget.work_s(),
        )
        self._note(results)
        show_checks(results, everything=self.choice.verbose)
        return self.budget.verdict() or preflight_ending(results)

    def _predict(self, states: dict[str, str], answers: Callable[[], Answers]) -> Ending:
        """Predict time and cost of what is to run, and refuse what the limits do not leave room for."""
        plan, limits = self.job.plan, self.budget.limits
        to_run = self.job.to_run(states)
        # half of what is left at most: the rest is for the work
        seconds = Seconds(plan.config.runtime.calibrate_s, most=min(MOST_S, max(0.0, self.budget.work_s()) / 2))
        if not to_run or not (seconds.each or limits.is_limited):
            return Ending(ExitCode.DONE)
        bars, runs_dir = plan.facts["rows"], plan.run.root.parent
        facts = measured(self.job.keys, to_run, answers(), bars, runs_dir, seconds=seconds, tell=say)
        planned = make_plan(replace(facts, left_fracs=left_fracs(plan.run)))
        keep(plan.run, planned)
        self.events.emit(
            "plan", RUN, units=len(to_run), wall_s=asdict(planned.wall_s), cost_usd=asdict(planned.cost_usd)
        )
        used = self.budget.spent()
        print_plan(planned, plan.run.run_id, limits, used, str(runs_dir / FILE_NAME), stderr=True)
        if not limits.is_limited:
            return Ending(ExitCode.DONE)
        result = check_budget(limits, used, planned, accepted=self.choice.yes)
        self._note([result])
        if result.verdict == "warn":
            say(f"{result.found}, {result.needed}; going on because of --yes")
        return self.budget.verdict() or preflight_ending([result])

    def _note(self, results: Sequence[CheckResult]) -> None:
        for result in results:
            self.events.emit("check", RUN, **result.to_json())


def preflight(
    config: Config,
    ask: Ask,
    facts: Callable[[], dict[str, Any]],
    answers: Callable[[], Answers],
    *,
    require_gpu: bool = False,
    limit_s: float = math.inf,
) -> list[CheckResult]:
    """Check the machine, and by `facts` (what `data check` says) the dataset.

    Args:
        config: of the run.
        ask: the command.
        facts: asks what the dataset is.
        answers: asks what the stages say about themselves.
        require_gpu: fail where there is none.
        limit_s: longest wait for the answers.
    """
    context = Context(
        runs_dir=ask.runs_dir,
        offline=ask.offline,
        require_gpu=require_gpu,
        bars_needed=lambda: most_bars(answers()),
        dataset=facts,
    )
    return run_checks(config, context, limit_s=limit_s)


def preflight_ending(results: Sequence[CheckResult]) -> Ending:
    """What the checks decide."""
    failed = [result for result in results if result.verdict == "fail"]
    lines = [f"{result.name}: found {result.found}, needed {result.needed}; {result.remedy}" for result in failed]
    return Ending(exit_code(results), "pre-flight failed\n  " + "\n  ".join(lines) if failed else "")


def show_checks(results: Sequence[CheckResult], everything: bool = True) -> None:
    """The pre-flight table on stderr; without `everything`, only what is not ok."""
    from rich.console import Console

    from runner.preflight.table import render_table

    shown = [result for result in results if everything or result.verdict in ("warn", "fail")]
    if shown:
        width = None if sys.stderr.isatty() else 120
        Console(stderr=True, highlight=False, width=width).print(render_table(shown))
    counts = Counter(result.verdict for result in results)
    others = [f", {counts[verdict]} {word}" for verdict, word in NOT_OK.items() if counts[verdict]]
    say(f"pre-flight: {counts['ok']} of {len(results)} checks ok{''.join(others)}")


def _fault_as_ending(work: Callable[[], Ending]) -> Ending:
    """Carry out `work`; an error that has an exit code is an ending, so that what was done is still kept."""
    try:
        return work()
    except ProjectError as error:
        return Ending(error.exit_code, str(error))
    except OSError as error:
        if error.errno not in CANNOT_WRITE_ERRNOS:
            raise
        return Ending(ExitCode.CANNOT_WRITE, f"{error.filename or 'a file'}: {error.strerror}")


def _is_kept(plan: Plan) -> bool:
    """Nothing that is here is missing in the store; true where the run has none."""
    url = plan.config.store.url
    if not url:
        return True
    head = contact(url, plan.run.run_id)
    return head is not None and read_place(plan.run).is_kept(url, head)


def _stoppable(run: RunDir, work: Callable[[], Ending]) -> Ending:
    """Carry out `work`; an interruption outside the supervisor ends the run like one inside it."""
    try:
        return work()
    except KeyboardInterrupt as interruption:
        if has_durable_progress(run):
            return Ending(ExitCode.INTERRUPTED, GOES_ON)
        code = ExitCode.TERMINATED if isinstance(interruption, Terminated) else ExitCode.CTRL_C
        return Ending(code, NOTHING_DONE)
