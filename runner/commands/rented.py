"""`launch list`, `logs`, `stop` and `reap`: the machines that are rented now."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from configs.errors import ConfigError, ExitCode
from configs.secrets import redact
from runner.commands.options import json_option, runs_dir_option
from runner.launch.providers import PROVIDERS

if TYPE_CHECKING:
    from runner.launch.book import Book
    from runner.launch.provider import Machine, Provider
    from runner.launch.survey import Seen, Survey

provider_option = click.option("--provider", "name", type=click.Choice(list(PROVIDERS)), help="Only this provider.")
store_option = click.option("--store", default="", metavar="URL", help="Store of runs that another computer launched.")


@click.command("list")
@provider_option
@store_option
@runs_dir_option
@json_option
def list_(name: str | None, store: str, runs_dir: Path, as_json: bool) -> ExitCode:
    """List rented machines and mark those that nobody needs."""
    found = _survey(name, store, runs_dir)
    if as_json:
        click.echo(json.dumps(_object(found)))
    else:
        _print(found)
    return ExitCode.MACHINE_UNFIT if found.is_blind else ExitCode.DONE


@click.command()
@click.argument("run")
@click.option(
    "-n", "--lines", type=click.IntRange(1, 5000), default=100, show_default=True, help="Last lines, at most."
)
@click.option("-f", "--follow", is_flag=True, help="Show what comes, until the machine is gone.")
@provider_option
@store_option
@runs_dir_option
def logs(run: str, lines: int, follow: bool, name: str | None, store: str, runs_dir: Path) -> ExitCode:
    """Show what RUN prints on its machine. Once that is gone: its last lines."""
    from runner.launch.provider import LaunchError
    from runner.launch.survey import end_in

    book = _book(runs_dir)
    providers = _providers_of(run, name, book)
    troubles: list[str] = []
    for provider in providers:
        try:
            machines = provider.machines(run)
        except LaunchError as error:
            troubles.append(f"not asked: {provider.name}: {error}")
            continue
        for machine in machines:
            for line in provider.logs(machine.id, lines, follow):
                click.echo(redact(line))
            return ExitCode.DONE
    urls = [entry.store for entry in book.entries() if entry.run_id == run and entry.store] + ([store] if store else [])
    for url in dict.fromkeys(urls):
        if end := end_in(url, run):
            click.echo(end.console_tail)
            click.echo(f"the machine {end.machine} is gone; exit code {end.exit_code} {end.reason}", err=True)
            return ExitCode.DONE
    if troubles:
        raise LaunchError("; ".join(troubles))
    where = _names(providers)
    raise ConfigError(f"no machine of run {run!r} at {where}, and no store known here has its end; give --store")


@click.command()
@click.argument("run")
@provider_option
@runs_dir_option
def stop(run: str, name: str | None, runs_dir: Path) -> ExitCode:
    """End the machine of RUN now.

    What its last snapshot does not have (`store ls RUN` shows it) is lost; the same launch command goes on from there.
    """
    from runner.launch import life

    book = _book(runs_dir)
    ended: list[str] = []
    troubles: list[str] = []
    providers = _providers_of(run, name, book)
    for provider in providers:
        ids, refused = life.end_run(provider, book, run)
        ended += [f"{provider.name} machine {machine_id}" for machine_id in ids]
        troubles += refused
    nothing = f"run {run} has no machine at {_names(providers)}; nothing to end"
    if ended or not troubles:
        click.echo(f"ended {', '.join(ended)}" if ended else nothing)
    return _told(troubles)


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask where the reason is sure; leave the others.")
@provider_option
@store_option
@runs_dir_option
def reap(yes: bool, name: str | None, store: str, runs_dir: Path) -> ExitCode:
    """End the machines that nobody needs, each after asking."""
    from runner.launch import life
    from runner.launch.provider import LaunchError

    book = _book(runs_dir)
    found = _survey(name, store, runs_dir)
    troubles = [f"not asked: {who}: {trouble}" for who, trouble in found.troubles.items()]
    if not found.orphans:
        click.echo("no orphans")
    for one in found.orphans:
        what = f"{one.provider.name} machine {one.machine.id} ({one.machine.name}, {_price(one.machine)}): {one.orphan}"
        if yes and not one.is_sure:
            click.echo(f"left, for that is not sure; without --yes it is asked for: {what}")
        elif yes or click.confirm(f"{what}. End it?"):
            try:
                life.end_one(one.provider, book, one.machine)
            except LaunchError as error:
                troubles.append(f"not ended: {what}: {error}")
            else:
                click.echo(f"ended {what}")
    return _told(troubles)


def _told(troubles: list[str]) -> ExitCode:
    for trouble in troubles:
        click.echo(f"error: {trouble}", err=True)
    return ExitCode.MACHINE_UNFIT if troubles else ExitCode.DONE


def _book(runs_dir: Path) -> Book:
    from runner.launch.book import Book

    return Book(runs_dir)


def _survey(name: str | None, store: str, runs_dir: Path) -> Survey:
    from runner.launch.survey import survey

    book = _book(runs_dir)
    names = {name} if name else {entry.provider for entry in book.entries() if not entry.ended}
    names |= set() if name else {known for known, provider in PROVIDERS.items() if provider.is_configured()}
    if not names:
        needs = ", ".join(f"{provider.needs} ({known})" for known, provider in PROVIDERS.items())
        raise ConfigError(f"no provider can be asked: there is none of {needs}")
    return survey([PROVIDERS[known].build() for known in PROVIDERS if known in names], book, store)


def _providers_of(run: str, name: str | None, book: Book) -> list[Provider]:
    """Where a run may have a machine, the likeliest first: the named provider, or those it was launched on from here
    and all that can be asked, for it may have been launched on another since, or elsewhere."""
    noted = [entry for entry in book.entries() if entry.run_id == run]
    configured = [known for known, one in PROVIDERS.items() if one.is_configured()]
    names = [entry.provider for entry in noted if not entry.ended] + configured
    names = [name] if name else names or [entry.provider for entry in noted]
    if not names:
        raise ConfigError(f"run {run!r} was not launched from here; name its provider with --provider")
    return [PROVIDERS[known].build() for known in dict.fromkeys(names)]


def _names(providers: Sequence[Provider]) -> str:
    return ", ".join(provider.name for provider in providers)


def _object(found: Survey) -> dict[str, Any]:
    machines = [
        {
            "provider": one.provider.name,
            "run_id": one.machine.name,
            "machine_id": one.machine.id,
            "status": one.machine.status,
            "says": one.machine.says,
            "region": one.machine.region,
            "price_usd_per_hour": one.machine.price_usd_per_hour,
            "created_t": one.machine.created_t,
            "launched_here": one.entry is not None,
            "store": one.entry.store if one.entry else "",
            "orphan": one.orphan or None,
        }
        for one in found.seen
    ]
    return {"machines": machines, "others": found.others, "troubles": found.troubles}


def _print(found: Survey) -> None:
    from runner.console import print_table

    columns = ("provider", "run", "machine", "status", "region", "price", "since", "")
    print_table(f"{len(found.seen)} machines", columns, [_row(one) for one in found.seen])
    if found.others:
        click.echo(f"and {found.others} of the same accounts that are not of this program")
    for who, trouble in found.troubles.items():
        click.echo(f"not asked: {who}: {trouble}", err=True)
    if found.orphans:
        click.echo(f"{len(found.orphans)} may be orphans; `sequence-runner launch reap` ends them, after asking")


def _row(one: Seen) -> tuple[str, ...]:
    machine = one.machine
    since_t = machine.created_t or (one.entry.asked_t if one.entry else 0.0)
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(since_t)) if since_t else "?"
    status = f"{machine.status} ({machine.says})" if machine.says.lower() != machine.status else machine.status
    orphan = f"orphan: {one.orphan}" if one.orphan else ""
    return (one.provider.name, machine.name, machine.id, status, machine.region, _price(machine), since, orphan)


def _price(machine: Machine) -> str:
    return f"{machine.price_usd_per_hour:.2f} USD/h" if machine.price_usd_per_hour else "price unknown"
