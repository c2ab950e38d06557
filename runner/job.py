"""The main job: resolve, own, check, supervise, report. Every step prints to stderr only."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, ExitCode
from configs.events import EventLog
from configs.run_dir import RunDir
from configs.schema import Config
from runner.console import watching
from runner.graph import Unit, expand, select, with_needs
from runner.guard import Owner, Terminated
from runner.identity import Keys
from runner.plan import bars_needed
from runner.preflight.check import CheckResult, Context, Verdict
from runner.preflight.checks import exit_code, run_checks
from runner.reuse import has_durable_progress, standing
from runner.say import say
from runner.session import Ask, Plan, establish, resolve_ask
from runner.supervisor import GOES_ON, MAX_NOTE, NOTHING_DONE, Supervisor
from runner.view import RUN
from runner.watch import Ending

NOT_OK: dict[Verdict, str] = {"warn": "to note", "fail": "failed", "skipped": "skipped"}


@dataclass(frozen=True)
class Choice:
    """How much of the job is to be done, and how it is shown."""

    stages: tuple[str, ...] = ()
    until: str = ""
    skip_preflight: bool = False
    require_gpu: bool = False
    verbose: bool = False
    take_over: bool = False
    """Take the run in the store from its owner, whoever that is."""
    push: bool = True
    """Publish the results where a repository is set."""


@dataclass(frozen=True)
class Job:
    """A resolved command with its graph."""

    plan: Plan
    units: tuple[Unit, ...]
    """The chosen units and what they need."""
    chosen: tuple[Unit, ...]
    keys: Keys

    @classmethod
    def of(cls, ask: Ask, choice: Choice) -> Job:
        """Resolve a command; writes nothing.

        Raises:
            ProjectError: something about it is wrong.
        """
        plan = resolve_ask(ask)
        units = expand(plan.config)
        chosen = select(units, choice.stages, choice.until)
        return cls(plan, tuple(with_needs(units, chosen)), tuple(chosen), plan.keys())

    def standing(self) -> dict[str, str]:
        """How each unit stands before anything is started."""
        return standing(self.plan.run, self.units, self.keys, self.plan.reuse)

    def refuse_missing(self, states: dict[str, str]) -> None:
        """Refuse to start when a stage that was not chosen has work to do.

        Raises:
            ConfigError: the message names the unit and its stage.
        """
        chosen = {unit.id for unit in self.chosen}
        for unit in self.units:
            if states[unit.id] == "to run" and unit.id not in chosen:
                raise ConfigError(
                    f"unit {unit.id!r} is not done and its stage {unit.stage!r} was not chosen; add it to --stages"
                )


def run_job(job: Job, ask: Ask, choice: Choice) -> Ending:
    """Do what is not done yet and write the report."""
    run = job.plan.run
    states = job.standing()
    if run.report.exists() and run.run_json.exists() and set(states.values()) == {"done"}:
        say(f"run {run.run_id} is finished; nothing to do")
        return Ending(ExitCode.DONE)
    job.refuse_missing(states)
    with Owner(run.root) as owner:
        establish(job.plan)
        events = EventLog(run.events, "supervisor")
        try:
            events.emit("run_started", RUN, command=" ".join(sys.argv)[:MAX_NOTE])
            ending = _stoppable(run, lambda: _carry_out(job, ask, choice, owner, events))
            verdict = _verdict(run) if ending.exit_code == ExitCode.DONE else None
            events.emit(
                "run_finished", RUN, exit_code=int(ending.exit_code), verdict=verdict, says=ending.message[:MAX_NOTE]
            )
        finally:
            events.close()
        _report_at_the_end(run, ending)
    return ending


def preflight(
    config: Config, ask: Ask, facts: Callable[[], dict[str, Any]], require_gpu: bool = False
) -> list[CheckResult]:
    """Check the machine, and by `facts` (what `data check` says) the dataset."""
    context = Context(
        runs_dir=ask.runs_dir,
        offline=ask.offline,
        require_gpu=require_gpu,
        bars_needed=lambda: bars_needed(config, expand(config)),
        dataset=facts,
    )
    return run_checks(config, context)


def preflight_ending(results: Sequence[CheckResult]) -> Ending:
    """What the checks decide."""
    failed = [result for result in results if result.verdict == "fail"]
    lines = [f"{result.name}: found {result.found}, needed {result.needed}; {result.remedy}" for result in failed]
    return Ending(exit_code(results), "pre-flight failed\n  " + "\n  ".join(lines) if failed else "")


def render_report(run: RunDir) -> Path:
    """Write the report anew."""
    from runner.report import write_report  # heavy: figures

    path: Path = write_report(run)
    return path


def _report_at_the_end(run: RunDir, ending: Ending) -> None:
    """Write the report of what there is; where the run did not succeed, a fault of the report masks nothing."""
    if ending.exit_code == ExitCode.DONE:
        render_report(run)
    elif has_durable_progress(run):
        try:
            render_report(run)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 -- the ending matters more
            say(f"no report of what there is: {type(error).__name__}: {error}")


def _carry_out(job: Job, ask: Ask, choice: Choice, owner: Owner, events: EventLog) -> Ending:
    if not choice.skip_preflight:
        say("pre-flight: checking the machine, the data and what the stages need")
        results = preflight(job.plan.config, ask, lambda: job.plan.facts, choice.require_gpu)
        for result in results:
            events.emit("check", RUN, **result.to_json())
        show_checks(results, everything=choice.verbose)
        ending = preflight_ending(results)
        if ending.exit_code != ExitCode.DONE:
            return ending
    supervisor = Supervisor(
        job.plan.run,
        job.units,
        job.keys,
        owner=owner,
        events=events,
        reuse=job.plan.reuse,
    )
    with watching(f"run {job.plan.run.run_id}", choice.verbose) as observe:
        return supervisor.run(observe)


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


def _stoppable(run: RunDir, work: Callable[[], Ending]) -> Ending:
    """Carry out `work`; an interruption outside the supervisor ends the run like one inside it."""
    try:
        return work()
    except KeyboardInterrupt as interruption:
        if has_durable_progress(run):
            return Ending(ExitCode.INTERRUPTED, GOES_ON)
        code = ExitCode.TERMINATED if isinstance(interruption, Terminated) else ExitCode.CTRL_C
        return Ending(code, NOTHING_DONE)


def _verdict(run: RunDir) -> str | None:
    result = run.result("evaluate")
    return result.metrics.get("verdict") if result else None
