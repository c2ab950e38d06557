"""The life of a rented machine, from the look for one that is there already to its end: never two of one name.

What happens in between can be anything: so the launch is noted before it is
asked for, and after an unclear answer the provider is asked what there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from configs.errors import ProjectError
from runner.launch.book import Book, Entry
from runner.launch.order import Prepared
from runner.launch.provider import (
    CandidateRefusedError,
    LaunchError,
    Machine,
    Offer,
    Provider,
    Status,
    UnclearError,
)
from runner.say import say

POLL_S = 5.0
START_LIMIT_S = 1800.0
"""A machine that does not run after this is ended: bringing the image takes minutes."""
LOOKS_S = (2.0, 5.0, 10.0, 20.0)
"""Pauses before each look for a machine that may have been created."""
LEAVE_LIMIT_S = 180.0
"""A machine that is there so long after its run has ended does not end itself."""
MOST_UNCLEAR = 3
"""Creations whose outcome was unclear after which no further one is tried."""


class NotStartedError(LaunchError):
    """The machine was created and never ran."""


@dataclass(frozen=True)
class Launched:
    """A machine for a run, and its record."""

    machine: Machine
    entry: Entry
    created: bool
    """False where it was there already."""


def launch(provider: Provider, prepared: Prepared, book: Book, send: Callable[[], None]) -> Launched:
    """A machine that carries out the run: the one that is there, or a new one.

    Args:
        provider: to ask.
        prepared: what for.
        book: where it is noted.
        send: puts what the run needs into the store, once it is clear that a machine is wanted.

    Raises:
        LaunchError: none could be had, or it is not known whether there is one.
    """
    order = prepared.order
    with book.alone(provider.name, order.run_id):
        entry = book.find(provider.name, order.run_id) or _entry(provider, prepared)
        if found := _living(provider, order.run_id):
            return Launched(found, book.write(entry.model_copy(update={"machine_id": found.id, "ended": False})), False)
        offers = _offers(provider, prepared)
        send()
        entry = book.write(_entry(provider, prepared, offers[0].price_usd_per_hour))
        try:
            machine, offer = _create(provider, prepared, offers)
        except UnclearError:
            raise  # the record stays: there may be one
        except LaunchError:
            book.end(entry)
            raise
        price = machine.price_usd_per_hour or offer.price_usd_per_hour
        noted = {"machine_id": machine.id, "price_usd_per_hour": price}
        entry = book.write(entry.model_copy(update=noted))
        machine = _only_one(provider, machine)
        return Launched(machine, book.write(entry.model_copy(update={"machine_id": machine.id})), True)


def wait_until_running(provider: Provider, launched: Launched, book: Book, limit_s: float = START_LIMIT_S) -> Machine:
    """The machine once it runs, or once it is gone again; one that cannot run, or does not in time, is ended.

    Raises:
        NotStartedError: it did not.
        LaunchError: the provider cannot be asked any more; the machine may be there.
    """
    machine, give_up_t, told = launched.machine, time.monotonic() + limit_s, ""
    while machine.status == "starting":
        if machine.says != told:
            say(f"{provider.name} {machine.id}: {machine.says}")
            told = machine.says
        if time.monotonic() > give_up_t:
            break
        time.sleep(POLL_S)
        machine = _look(provider, machine)
    if machine.status in ("running", "ended"):
        say(f"{provider.name} {machine.id}: {machine.says}")
        if machine.status == "ended":
            book.end(launched.entry)
        return machine
    provider.end(machine.id)
    book.end(launched.entry)
    why = f"did not run within {limit_s / 60:.0f} min" if machine.status == "starting" else f"is {machine.says}"
    raise NotStartedError(
        f"{provider.name} machine {machine.id} {why}; it has been ended, the same command tries again"
    )


def status_of(provider: Provider, machine: Machine) -> Callable[[], Status | None]:
    """How the machine stands whenever it is asked; None where the provider shows none.

    Raises:
        LaunchError: the provider cannot be asked now.
    """

    def ask() -> Status | None:
        return next((found.status for found in provider.machines(machine.name) if found.id == machine.id), None)

    return ask


def end_one(provider: Provider, book: Book, machine: Machine) -> None:
    """End a machine and note it.

    Raises:
        LaunchError: the provider refuses or cannot be asked.
    """
    provider.end(machine.id)
    _note_end(provider, book, machine)


def see_off(provider: Provider, book: Book, machine: Machine) -> None:
    """Wait until a machine whose run is over is gone; one that stays is ended, and what goes wrong is only said."""
    who = f"{provider.name} machine {machine.id}"
    give_up_t = time.monotonic() + LEAVE_LIMIT_S
    try:
        while (found := _look(provider, machine)).status in ("starting", "running") and time.monotonic() < give_up_t:
            time.sleep(POLL_S)
        if found.costs:
            say(f"the run is over and {who} is still {found.says}: ending it")
            provider.end(machine.id)
        _note_end(provider, book, machine)
    except ProjectError as error:
        say(f"whether {who} is gone is not known: {error}; `sequence-runner launch list` tells")
    else:
        say(f"{who} is gone")


def end_run(provider: Provider, book: Book, run_id: str) -> list[Machine]:
    """End every machine of a run; those that there were.

    Raises:
        LaunchError: the provider refuses or cannot be asked.
    """
    found = provider.machines(run_id)
    for machine in found:
        provider.end(machine.id)
    entry = book.find(provider.name, run_id)
    if entry and entry.machine_id and entry.machine_id not in {machine.id for machine in found}:
        provider.end(entry.machine_id)  # it may have another name by now
    if entry and not entry.ended:
        book.end(entry)
    return found


def _note_end(provider: Provider, book: Book, machine: Machine) -> None:
    entry = book.find(provider.name, machine.name)
    if entry and not entry.ended and entry.machine_id in ("", machine.id):
        book.end(entry)


def _look(provider: Provider, machine: Machine) -> Machine:
    """The machine as it is now."""
    for found in provider.machines(machine.name):
        if found.id == machine.id:
            return found
    return Machine(machine.id, machine.name, "ended", "gone")


def _entry(provider: Provider, prepared: Prepared, price: float = 0.0) -> Entry:
    price = prepared.price_usd_per_hour or price
    return Entry(
        provider=provider.name,
        run_id=prepared.order.run_id,
        store=prepared.store,
        asked_t=time.time(),
        price_usd_per_hour=price,
        max_hours=prepared.for_price(price).max_hours,
    )


def _living(provider: Provider, run_id: str) -> Machine | None:
    """The machine that carries the run out now.

    Raises:
        LaunchError: there is one that does not, and costs.
    """
    found = provider.machines(run_id)
    for machine in found:
        if machine.status in ("starting", "running"):
            if len(found) > 1:
                say(f"{len(found)} machines are named {run_id}; `sequence-runner launch stop {run_id}` ends them all")
            return machine
    costly = [machine for machine in found if machine.costs]
    if costly:
        raise LaunchError(
            f"{provider.name} machine {costly[0].id} of run {run_id} is {costly[0].says}, does nothing and may cost; "
            f"end it with `sequence-runner launch stop {run_id}`, then launch again"
        )
    return None


def _offers(provider: Provider, prepared: Prepared) -> list[Offer]:
    """Candidates for all GPUs that will do, in order.

    Raises:
        LaunchError: nothing can be had.
    """
    offers: list[Offer] = []
    refusals = []
    for gpu in prepared.gpus:
        try:
            offers += provider.offers(replace(prepared.order, gpu=gpu))
        except CandidateRefusedError as error:
            refusals.append(str(error))
    if not offers:
        raise CandidateRefusedError("; ".join(refusals) or f"{provider.name} offers nothing for this order")
    return offers


def _create(provider: Provider, prepared: Prepared, offers: list[Offer]) -> tuple[Machine, Offer]:
    """A machine from the first offer that can be had.

    Raises:
        CandidateRefusedError: none can.
        UnclearError: there may be one.
        LaunchError: no offer will do.
    """
    refusals = []
    unclear = 0
    for offer in offers:
        order = prepared.for_price(offer.price_usd_per_hour, offer.gpu)
        prepared.require_price(offer.price_usd_per_hour)
        _tell(offer, prepared)
        while True:
            try:
                return provider.create(order, offer), offer
            except CandidateRefusedError as error:
                refusals.append(f"{_place(offer)}: {error}")
                say(refusals[-1])
                break
            except UnclearError as error:
                unclear += 1
                if found := _look_after(provider, order.run_id, error):
                    return found, offer
                if unclear == MOST_UNCLEAR:
                    raise
                say("no machine was created; asking again")
    raise CandidateRefusedError(
        f"none of {len(offers)} offers could be had; where all are refused alike, the request is at fault:\n  "
        + "\n  ".join(refusals)
    )


def _look_after(provider: Provider, run_id: str, unclear: UnclearError) -> Machine | None:
    """The machine that an unclear answer has left, or None once it is sure that there is none.

    Raises:
        UnclearError: the provider does not say.
    """
    say(f"{unclear}; looking for a machine named {run_id}")
    trouble: LaunchError | None = None
    for pause_s in LOOKS_S:
        time.sleep(pause_s)
        try:
            found = [machine for machine in provider.machines(run_id) if machine.costs]
        except LaunchError as error:
            trouble = error
            continue
        trouble = None
        if found:
            say(f"{provider.name} machine {found[0].id} was created")
            return found[0]
    if trouble:
        raise UnclearError(
            f"a machine named {run_id} may have been created, and {provider.name} does not say: {trouble}; look again "
            f"with `sequence-runner launch list`, end it with `sequence-runner launch stop {run_id}`"
        ) from trouble
    return None


def _only_one(provider: Provider, machine: Machine) -> Machine:
    """Of all machines of the name the first, where an unclear creation or another computer has made more; the others
    are ended, and whoever looks at the same time decides alike."""
    try:
        found = [other for other in provider.machines(machine.name) if other.costs]
        first, *others = sorted(found or [machine], key=lambda other: (other.created_t, other.id))
        for other in others:
            say(f"a second machine was created for run {machine.name}: ending {other.id}, keeping {first.id}")
            provider.end(other.id)
    except LaunchError as error:
        say(f"whether there is only one machine named {machine.name} is not known: {error}")
        return machine
    return first


def _tell(offer: Offer, prepared: Prepared) -> None:
    price = prepared.price_usd_per_hour or offer.price_usd_per_hour
    costs = f"{price:.3g} USD per hour" if price else "at a price that the provider does not tell"
    available = f", availability {offer.availability}" if offer.availability else ""
    limits = [f"{prepared.max_cost_usd:g} USD"] if prepared.max_cost_usd else []
    limits += [f"{prepared.max_hours:g} h"] if prepared.max_hours else []
    hours = prepared.hours_at(price)
    allows = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
    allows += f", at most {hours * price:.2f} USD" if price else ""
    say(f"asking for {_place(offer)}: {costs}{available}; the ceiling ({' and '.join(limits)}) allows {allows}")


def _place(offer: Offer) -> str:
    return f"{offer.gpu}{f' in {offer.region}' if offer.region else ''}"
