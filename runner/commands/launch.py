"""`launch`: rent a machine for one run, and look after the machines that were rented."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from configs.errors import ExitCode, ProjectError
from configs.secrets import redact
from runner.commands.options import Command, ask_of, ask_options
from runner.commands.rented import list_, logs, reap, stop
from runner.launch.providers import PROVIDERS

if TYPE_CHECKING:
    from pathlib import Path

    from runner.launch.book import Book
    from runner.launch.life import Launched
    from runner.launch.order import Prepared
    from runner.launch.provider import Provider
    from runner.watch import Ending


def launch_options(command: Command) -> Command:
    """What every provider takes, beside what it runs."""
    for option in reversed(
        (
            click.option(
                "--run-id", default="", help="Name of run and machine instead of <dataset>-<profile>-<8 hex>."
            ),
            click.option("--image", default="", metavar="REFERENCE", help="What to run.  [default: $SEQUENCE_IMAGE]"),
            click.option(
                "--secret",
                "secrets",
                multiple=True,
                metavar="NAME",
                help="Environment variable here that the machine gets too; repeatable. Those of the store, git and the "
                "webhook go along unasked.",
            ),
            click.option("--stages", default="", metavar="A,B", help="Only these stages."),
            click.option("--until", default="", metavar="STAGE", help="Stages up to and including this one."),
            click.option("--yes", is_flag=True, help="Run although more is expected to be needed than the ceiling."),
            click.option(
                "--keep-alive", is_flag=True, help="Leave the machine on when the run ends; it goes on costing."
            ),
            click.option("--wait", is_flag=True, help="Follow the run to its end, and end with its exit code."),
            click.option("--dry-run", is_flag=True, help="Print what would be sent, secrets masked; send nothing."),
        )
    ):
        command = option(command)
    return command


def several_gpus(example: str) -> Callable[[Command], Command]:
    """`--gpu`, where several may be named."""
    return click.option(
        "--gpu", "gpus", required=True, multiple=True, metavar="NAME", help=f"{example}; repeat for second choices."
    )


def _cuda(_context: click.Context, _option: click.Parameter, version: str) -> str:
    if version and not re.fullmatch(r"\d+\.\d+", version):
        raise click.BadParameter(f"{version!r} is no CUDA version; expected for example 12.8")
    return version


region_option = click.option(
    "--region", "regions", multiple=True, metavar="NAME", help="Only in this region; repeatable."
)
spot_help = "Cheaper, and may be taken away at any time"
DISK = "Size of the machine's disk."
disk_option = click.option("--disk-gb", type=click.IntRange(min=10), default=40, show_default=True, help=DISK)


@click.group()
def launch() -> None:
    """Rent a machine for one run; it is ended with the run.

    The ceiling is --max-cost and --max-hours.  [default: 12 hours]
    """


for each in (list_, logs, stop, reap):
    launch.add_command(each)


@launch.command()
@several_gpus('As RunPod names it, for example "NVIDIA A40"')
@ask_options
@launch_options
@click.option("--gpu-count", type=click.IntRange(min=1), default=1, show_default=True, help="GPUs of the machine.")
@click.option(
    "--cloud",
    type=click.Choice(["SECURE", "COMMUNITY"]),
    default="SECURE",
    show_default=True,
    help="SECURE: data centres; COMMUNITY: other people's machines, cheaper.",
)
@click.option(
    "--min-cuda", default="", callback=_cuda, metavar="X.Y", help="Only hosts whose driver knows this CUDA version."
)
@click.option("--volume", default="", metavar="ID", help="Network volume, found at /workspace.")
@click.option("--registry", default="", metavar="ID", help="RunPod's credential for a private image.")
@click.option("--spot", is_flag=True, help=f"{spot_help}: 5 seconds after a signal.")
@region_option
@disk_option
def runpod(**options: Any) -> ExitCode:
    """Run on a RunPod pod; the key is in RUNPOD_API_KEY.

    --secret NAME=runpod:SECRET hands over a secret that RunPod keeps.
    """
    own = {name: value for name in ("cloud", "min_cuda", "volume", "registry") if (value := options.pop(name))}
    return _launch("runpod", options, own)


@launch.command("lambda")
@several_gpus("Instance type, for example gpu_1x_a10")
@ask_options
@launch_options
@region_option
@click.option("--ssh-key", default="", metavar="NAME", help="One of the account's SSH keys.  [default: its only one]")
@click.option(
    "--no-self-terminate",
    is_flag=True,
    help="Keep the API key off the machine: this command ends it, so it needs --wait, and a computer that stays on.",
)
def lambda_(ssh_key: str, no_self_terminate: bool, **options: Any) -> ExitCode:
    """Run on a Lambda instance; the key is in LAMBDA_API_KEY.

    The machine gets that key too, to end itself; Lambda's keys are good for the whole account.
    """
    if no_self_terminate and not (options["wait"] or options["dry_run"]):
        raise click.UsageError("with --no-self-terminate nothing but this command ends the machine: add --wait")
    return _launch("lambda", options, {"ssh_key": ssh_key, "self_terminate": not no_self_terminate})


@launch.command()
@click.option("--gpu", required=True, metavar="NAME:N", help="As SkyPilot names it, for example A100:1.")
@ask_options
@launch_options
@click.option("--spot", is_flag=True, help=f"{spot_help}; SkyPilot starts it again.")
@click.option("--region", "regions", multiple=True, metavar="CLOUD[/REGION]", help="Only in this one; repeatable.")
@click.option("--disk-gb", type=click.IntRange(min=50), default=256, show_default=True, help=DISK)
def sky(gpu: str, **options: Any) -> ExitCode:
    """Run on any cloud that SkyPilot knows, as a managed job.

    SkyPilot is the program `sky` on PATH, or the one that SEQUENCE_SKY names. --price is the most that is paid: dearer
    machines are not taken, and costs are counted with it.
    """
    count = gpu.partition(":")[2]
    machine = {"gpus": (gpu,), "gpu_count": int(count) if count.isdecimal() else 1}
    return _launch("sky", {**options, **machine}, {"max_price": options["price"]})


def _secret(provider: str, secret: str) -> str:
    """A name, or `NAME=text` where the text only names what RunPod keeps."""
    name, equals, place = secret.partition("=")
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise click.BadParameter(f"--secret {name!r} is no name of a variable; expected letters, digits and _")
    kept = place.removeprefix("runpod:")
    if equals and (provider != "runpod" or kept == place or not kept.replace("_", "").isalnum()):
        raise click.BadParameter(
            f"--secret {name}=...: expected the NAME of a variable here (on RunPod also NAME=runpod:SECRET), never the "
            "secret itself"
        )
    return f"{name}={{{{ RUNPOD_SECRET_{kept} }}}}" if equals else secret


def _launch(name: str, options: dict[str, Any], own: dict[str, Any]) -> ExitCode:
    """Launch a run; `own` are the options that only this provider knows."""
    from runner.launch.order import Wish, prepare

    machine = {key: options[key] for key in ("gpu_count", "disk_gb", "spot", "regions") if key in options}
    wish = Wish(
        provider=name,
        ask=ask_of(options),
        gpus=options["gpus"],
        image=options["image"],
        secrets=tuple(_secret(name, secret) for secret in options["secrets"]),
        flags=_flags(options),
        keep_alive=options["keep_alive"],
        machine=machine | {"options": own},
        needs_store=PROVIDERS[name].needs_store,
        needs_name=not PROVIDERS[name].tells_id,
    )
    prepared = prepare(wish)
    provider = PROVIDERS[name].build()
    if options["dry_run"]:
        return _dry_run(provider, prepared)
    return _carry_out(provider, prepared, options["runs_dir"], options["wait"])


def _flags(options: dict[str, Any]) -> tuple[str, ...]:
    from runner.graph import chosen_stages

    chosen_stages([name.strip() for name in options["stages"].split(",") if name.strip()], options["until"])
    named = [part for name in ("stages", "until") if options[name] for part in (f"--{name}", options[name])]
    return (*named, *(["--yes"] if options["yes"] else []))


def _dry_run(provider: Provider, prepared: Prepared) -> ExitCode:
    from runner.launch.provider import Offer
    from runner.say import say

    say("dry run: nothing is sent; price and data centre are chosen from the catalogue when it is")
    for name, path in prepared.files.items():
        say(f"would send {name} ({path}) to {prepared.store}")
    for gpu in prepared.gpus[:1]:
        request = provider.request(prepared.for_price(0.0, gpu), Offer(gpu, "", prepared.price_usd_per_hour))
        click.echo(f"{request.method} {redact(request.url)}\n")
        click.echo(redact(request.body if isinstance(request.body, str) else json.dumps(request.body, indent=1)))
    return ExitCode.DONE


def _carry_out(provider: Provider, prepared: Prepared, runs_dir: Path, wait: bool) -> ExitCode:
    from runner.launch import life
    from runner.launch.book import Book
    from runner.launch.providers import name_inside
    from runner.launch.results import conclude
    from runner.say import say

    if wait and not prepared.store:
        raise click.UsageError("--wait follows the run from its store: name one with --store")
    book, run_id = Book(runs_dir), prepared.order.run_id
    launched = life.launch(provider, prepared, book, lambda: _send(prepared))
    sight, entry = launched.sight, launched.entry
    if launched.created:
        say(f"{sight} was created for run {run_id}")
    else:
        say(f"run {run_id} is on {sight} already, {sight.machine.says}; nothing was created")
    inside = name_inside(provider.name, sight.machine, entry)
    try:
        machine = life.wait_until_running(launched, book)
        ending = _followed(prepared, launched, inside, wait) if wait or machine.status == "running" else None
    except life.NotStartedError:
        raise
    except BaseException as error:
        _leave(launched, book, error)
        raise
    if ending:
        _see_off(prepared, launched, book)  # before anything is fetched: that may take long, and the machine bills
        return conclude(prepared.store, run_id, ending, runs_dir if wait else None)
    if machine.status == "ended":
        return _gone(prepared.store, launched, inside)
    say(f"run {run_id} is on {sight}; the same command with --wait follows it,")
    say(f"`sequence-runner launch logs {run_id}` shows what it prints, `sequence-runner launch stop {run_id}` ends it")
    return ExitCode.DONE


def _send(prepared: Prepared) -> None:
    from runner.dataset_url import send

    if prepared.files:
        send(prepared.store, prepared.files)


def _followed(prepared: Prepared, launched: Launched, inside: str, to_end: bool) -> Ending | None:
    """How the run ended; without `to_end` only where it did before it was heard of."""
    from runner.launch.follow import until_end, until_word
    from runner.launch.following import PACE, TAIL_LINES, Rented
    from runner.launch.providers import end_by_t
    from runner.say import say

    if not prepared.store:
        return None
    sight, entry = launched.sight, launched.entry

    def printed() -> list[str]:
        return list(sight.provider.logs(sight.machine.id, TAIL_LINES, False))

    rented = Rented(lambda: sight.look().status, inside, entry.asked_t, end_by_t(entry), printed)
    if to_end:
        if not inside:
            say(f"{sight} was launched elsewhere: any end that is told from its beginning on is taken for its own")
        return until_end(prepared.store, entry.run_id, rented)
    say(
        f"waiting for the first word of the run in {prepared.store}, at most {PACE.word_s / 60:.0f} min, for the image "
        "may have to be fetched; Ctrl-C ends only the waiting"
    )
    return until_word(prepared.store, entry.run_id, rented)


def _see_off(prepared: Prepared, launched: Launched, book: Book) -> None:
    """See to it that the machine of a run that is over is gone.

    Raises:
        LaunchError: only this command ends it, and cannot.
    """
    from runner.launch import life
    from runner.say import say

    sight, entry = launched.sight, launched.entry
    if entry.keep_alive or prepared.keep_alive:
        say(f"{sight} is kept alive and COSTS MONEY until `sequence-runner launch stop {entry.run_id}` ends it")
    elif entry.ends_itself:
        life.see_off(sight, book, may_end=not entry.elsewhere)
    else:
        life.end_surely(sight.provider, book, entry.run_id)


def _leave(launched: Launched, book: Book, error: BaseException) -> None:
    """Say what becomes of a machine nobody looks at any more; after an error, end one that does not end itself."""
    from runner.launch import life
    from runner.say import say

    run_id, sight = launched.entry.run_id, launched.sight
    how = f"`sequence-runner launch stop {run_id}` ends it, the same command with --wait looks at it again"
    if launched.entry.ends_itself:
        say(f"{sight} goes on; {how}")
    elif isinstance(error, KeyboardInterrupt):
        say(f"{sight} goes on, COSTS MONEY, and does not end itself: {how}")
    else:
        say(f"{error}; {sight} does not end itself: ending it")
        try:
            life.end_surely(sight.provider, book, run_id)
        except ProjectError as trouble:
            say(str(trouble))
        else:
            say(f"{sight} has been ended, for it does not end itself")


def _gone(store: str, launched: Launched, inside: str) -> ExitCode:
    """How a run ended whose machine went before anybody saw it run."""
    from runner.exit_record import exit_code_of
    from runner.launch.life import NotStartedError
    from runner.launch.survey import end_in
    from runner.say import say

    sight, entry = launched.sight, launched.entry
    since_t = 0.0 if inside else entry.asked_t
    end = end_in(store, entry.run_id, inside, since_t) if store else None
    if end is None:
        raise NotStartedError(f"{sight} is gone, and left no word of run {entry.run_id}; the same command tries again")
    say(f"run {entry.run_id} has ended, and {sight} with it: exit code {end.exit_code} {end.reason}")
    return exit_code_of(end.exit_code)
