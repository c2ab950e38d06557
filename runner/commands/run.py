"""`run`, `ablate`, `plan` and `preflight`."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from configs.errors import BadDataError, DatasetNotFoundError, ExitCode, ProjectError
from configs.load import is_operational
from runner.commands.options import ask_of, ask_options, json_option, start_options
from runner.graph import STAGE_NAMES, Unit, expand
from runner.host.deadman import work_s
from runner.host.ending import Command
from runner.host.price import with_true_price
from runner.host.where import this_host
from runner.identity import shell_line
from runner.say import say
from runner.session import Ask, resolve_config
from runner.store.layout import Spent

STAGES = ", ".join(STAGE_NAMES)

if TYPE_CHECKING:
    from runner.job import Job
    from runner.plan import RunPlan


@click.command()
@ask_options
@click.option(
    "--stages",
    default="",
    metavar="A,B",
    help=f"Only these of {STAGES}; what they cannot do without must be done already.",
)
@click.option("--until", default="", metavar="STAGE", help="Stages up to and including this one.")
@start_options
def run(stages: str, until: str, **options: Any) -> ExitCode:
    """Run the whole job on a dataset (the default command)."""
    names = tuple(name.strip() for name in stages.split(",") if name.strip())
    return _start(options, {"stages": names, "until": until})


@click.command()
@ask_options
@click.option("--seeds", type=int, metavar="N", help="Pairs of agents per window.  [default: 5]")
@start_options
def ablate(seeds: int | None, **options: Any) -> ExitCode:
    """Compare agents with and without pre-training. What that needs is done first; the run stays the one of `run`."""
    if seeds is not None:
        options["settings"] = (*options["settings"], f"ablation.seeds={seeds}")
    return _start(options, {"stages": ("ablation",), "with_needs": True})


def _start(options: dict[str, Any], which: dict[str, Any]) -> ExitCode:
    """Start or go on with a run; `which` says how much of it."""
    from runner.console import print_ending
    from runner.job import Choice, Job
    from runner.start import run_job
    from runner.summary import next_steps, run_object

    if options["resume"]:
        _refuse_beside_resume(options)
    ask, until_s = ask_of(options), math.inf
    if not options["dry_run"]:
        host = this_host()
        ask, until_s = with_true_price(ask, host), time.monotonic() + work_s(host)
    choice = Choice(
        **which,
        skip_preflight=options["skip_preflight"],
        require_gpu=options["require_gpu"],
        verbose=options["verbose"],
        take_over=options["take_over"],
        push=not options["no_push"],
        yes=options["yes"],
        until_s=until_s,
    )
    job = Job.of(ask, choice)
    if command := click.get_current_context().find_object(Command):
        command.plan = job.plan
    if options["dry_run"]:
        return _dry_run(job, options["as_json"])
    ending = run_job(job, ask, choice)
    summary = run_object(job.plan.run, int(ending.exit_code), ending.message)
    if command:
        command.says = ending.message
    print_ending(ending, None if options["as_json"] else summary, next_steps(summary, ask.runs_dir))
    if options["as_json"]:
        click.echo(json.dumps(summary))
    return ending.exit_code


@click.command()
@ask_options
@click.option("--require-gpu", is_flag=True, help="Fail where no GPU is found.")
@json_option
def preflight(**options: Any) -> ExitCode:
    """Check whether this machine can do the run."""
    from runner import start
    from runner.budget import spent
    from runner.job import Job
    from runner.plan import describe
    from runner.preflight.budget import check_budget
    from runner.preflight.checks import to_json
    from runner.reuse import left_fracs

    ask = ask_of(options)
    found = _job_or_refusal(ask)
    resolved = found if isinstance(found, Job) else None
    config = resolved.plan.config if resolved else resolve_config(ask).config
    units = resolved.to_run(resolved.standing()) if resolved else expand(config)
    answers = functools.cache(lambda: describe(config, units))

    def facts() -> dict[str, Any]:
        if isinstance(found, Job):
            return found.plan.facts
        raise found

    results = start.preflight(config, ask, facts, answers, require_gpu=options["require_gpu"])
    if resolved and config.budget.is_limited and not start.preflight_ending(results).message:
        planned = _predicted(resolved, units, ask.runs_dir, left=left_fracs(resolved.plan.run))
        results.append(check_budget(config.budget, spent(resolved.plan.run.events), planned))
    if options["as_json"]:
        click.echo(json.dumps(to_json(results)))
    else:
        start.show_checks(results)
    return start.preflight_ending(results).exit_code


@click.command()
@ask_options
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    help="Measure again, so many seconds for each kind of work.  [default: what is known, else 1]",
)
@json_option
def plan(**options: Any) -> ExitCode:
    """Predict a run's time, cost, memory and disk. This machine is measured for it."""
    from runner.budget import spent
    from runner.calibration import FILE_NAME
    from runner.job import Choice, Job
    from runner.preflight.budget import check_budget

    ask = ask_of(options)
    job = Job.of(ask, Choice())
    run, limits = job.plan.run, job.plan.config.budget
    planned = _predicted(job, job.units, ask.runs_dir, options["seconds"])
    if options["as_json"]:
        click.echo(json.dumps({"run_id": run.run_id, **planned.to_json()}))
        return ExitCode.DONE
    from runner.plan_table import print_plan

    print_plan(planned, run.run_id, limits, spent(run.events), str(ask.runs_dir / FILE_NAME))
    if limits.is_limited:
        whole = check_budget(limits, Spent(), planned)
        fits = whole.verdict == "ok"
        click.echo(f"limits:      {'a whole run fits' if fits else 'a whole run would be refused'}: {whole.found}")
    return ExitCode.DONE


def _predicted(
    job: Job,
    units: Sequence[Unit],
    runs_dir: Path,
    seconds: float | None = None,
    left: Mapping[str, float] | None = None,
) -> RunPlan:
    """What these units take; `seconds` of measuring anew instead of the configured."""
    from runner.calibration import Seconds
    from runner.plan import describe, make_plan, measured

    config, bars = job.plan.config, job.plan.facts["rows"]
    measuring = Seconds(config.runtime.calibrate_s) if seconds is None else Seconds(seconds, anew=True)
    answers = describe(config, units)
    found = measured(job.keys, units, answers, bars, runs_dir, seconds=measuring, tell=say)
    return make_plan(replace(found, left_fracs=left or {}))


def _job_or_refusal(ask: Ask) -> Job | ProjectError:
    """What `run` would do, or why its data are refused, which is one of the checks."""
    from runner.job import Choice, Job

    try:
        return Job.of(ask, Choice())
    except (BadDataError, DatasetNotFoundError) as error:
        return error


def _refuse_beside_resume(options: dict[str, Any]) -> None:
    options = {**options, "settings": [item for item in options["settings"] if not is_operational(item)]}
    beside = [
        "--" + name.replace("_", "-").removesuffix("-file").replace("settings", "set")
        for name in (
            "dataset",
            "symbol",
            "timeframe",
            "profile",
            "assets",
            "parallel_models",
            "config_file",
            "settings",
            "run_id",
            "fresh",
        )
        if options[name] and click.get_current_context().get_parameter_source(name) == ParameterSource.COMMANDLINE
    ]
    if beside:
        raise click.UsageError(
            f"--resume takes everything from that run but its operational settings; leave out {', '.join(beside)}"
        )


def _dry_run(job: Job, as_json: bool) -> ExitCode:
    from runner.remote import as_kept

    plan = job.plan
    with as_kept(plan.run, plan.config.store.url) as run:
        states, exists = job.standing(run), run.config_yaml.exists()
    refused = _refusal(job, states)
    chosen = {unit.id for unit in job.chosen}
    for unit_id, state in states.items():
        if state == "to run" and unit_id not in chosen:
            states[unit_id] = "missing: its stage was not chosen"
        elif state == "left out":
            states[unit_id] = "left out: its stage was not chosen"
    if as_json:
        would = {"run_id": plan.run.run_id, "exists": exists, "units": states}
        click.echo(json.dumps(would | ({"error": str(refused)} if refused else {})))
        return refused.exit_code if refused else ExitCode.DONE
    click.echo(f"run {plan.run.run_id} ({'exists' if exists else 'new'}) in {plan.run.root.parent}")
    width = max(map(len, states)) + 2
    for unit_id, state in states.items():
        click.echo(f"  {unit_id:<{width}}{state}")
    click.echo(f"reproduce with: {shell_line(plan.command)}")
    if refused:
        raise refused
    return ExitCode.DONE


def _refusal(job: Job, states: dict[str, str]) -> ProjectError | None:
    """Why a start would be refused, as things stand."""

    try:
        job.refuse_missing(states)
        job.require_data(states)
    except ProjectError as error:
        return error
    return None
