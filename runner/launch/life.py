"""The life of a rented machine, from the look for one that is there already to its end: never two of one name.

What happens in between can be anything: so the launch is noted before it is
asked for, and after an unclear answer the provider is asked what there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from configs.errors import ConfigError, ProjectError
from runner.heartbeat import beat
from runner.launch.book import Book, Entry
from runner.launch.order import Prepared
from runner.launch.provider import (
    CandidateRefusedError,
    LaunchError,
    Machine,
    Offer,
    Provider,
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
ENDING_LIMIT_S, LONGEST_WAIT_S = 3600.0, 60.0
"""So long is tried to end a machine that nothing else ends, with pauses that grow up to the second."""
UNLISTED_S = 60.0
"""A listing may lag: a machine that it has never shown is taken for gone after this."""
MOST_UNCLEAR = 3
"""Creations whose outcome was unclear after which no further one is tried."""


class NotStartedError(LaunchError):
    """The machine was created and never ran."""


class Sight:
    """One machine, looked at again and again."""

    def __init__(self, provider: Provider, machine: Machine, *, is_listed: bool) -> None:
        """Begin with what is known of a machine, and whether the provider's list has shown it."""
        self.provider, self.machine, self._is_listed = provider, machine, is_listed
        self._wait_until_t = time.monotonic() + UNLISTED_S

    def look(self) -> Machine:
        """The machine as it is now: ended where a list that has shown it shows it no more, or never does.

        Raises:
            LaunchError: the provider cannot be asked now.
        """
        named = self.provider.machines(self.machine.name)
        if found := next((each for each in named if each.id == self.machine.id), None):
            self.machine, self._is_listed = found, True
        elif self._is_listed or time.monotonic() > self._wait_until_t:
            self.machine = replace(self.machine, status="ended", says="gone")
        return self.machine

    def __str__(self) -> str:
        """`runpod machine abc`."""
        return f"{self.provider.name} machine {self.machine.id}"


@dataclass(frozen=True)
class Launched:
    """A machine for a run, and its record."""

    sight: Sight
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
        noted = book.find(provider.name, order.run_id)
        if found := _living(provider, order.run_id, noted):
            entry = _join(book, noted, _entry(provider, prepared, found.price_usd_per_hour), found)
            return Launched(Sight(provider, found, is_listed=True), entry, False)
        offers = _offers(provider, prepared)
        send()
        longest = max(offers, key=lambda offer: prepared.longest_hours_at(offer.price_usd_per_hour))
        entry = _entry(provider, prepared, longest.price_usd_per_hour)
        entry = book.write(entry.model_copy(update={"inside": prepared.inside}))
        try:
            return _created(provider, prepared, book, entry, offers)
        except BaseException as error:
            if isinstance(error, (LaunchError, ConfigError)) and not isinstance(error, UnclearError):
                book.end(entry)  # nothing was created
            else:
                say(
                    f"a {provider.name} machine named {order.run_id} may exist and cost: `sequence-runner launch list` "
                    f"shows it, `sequence-runner launch stop {order.run_id}` ends it"
                )
            raise


def wait_until_running(launched: Launched, book: Book, limit_s: float = START_LIMIT_S) -> Machine:
    """The machine once it runs, or once it is gone again; one that cannot run, or does not in time, is ended.

    Raises:
        NotStartedError: it did not.
        LaunchError: the provider cannot be asked any more; the machine may be there.
    """
    sight, give_up_t, told = launched.sight, time.monotonic() + limit_s, ""
    machine = sight.machine
    while machine.status == "starting":
        if machine.says != told:
            say(f"{sight}: {machine.says}")
            told = machine.says
        if time.monotonic() > give_up_t:
            break
        beat()
        time.sleep(POLL_S)
        machine = sight.look()
    if machine.status in ("running", "ended"):
        say(f"{sight}: {machine.says}")
        if machine.status == "ended":
            book.end(launched.entry)
        return machine
    sight.provider.end(machine.id)
    book.end(launched.entry)
    why = f"did not run within {limit_s / 60:.0f} min" if machine.status == "starting" else f"is {machine.says}"
    raise NotStartedError(f"{sight} {why}; it has been ended, the same command tries again")


def end_one(provider: Provider, book: Book, machine: Machine) -> None:
    """End a machine and note it.

    Raises:
        LaunchError: the provider refuses or cannot be asked.
    """
    provider.end(machine.id)
    _note_end(provider, book, machine)


def see_off(sight: Sight, book: Book) -> None:
    """Wait until a machine whose run is over is gone; one that stays is ended, and what goes wrong is only said."""
    give_up_t = time.monotonic() + LEAVE_LIMIT_S
    try:
        while (found := sight.look()).status in ("starting", "running") and time.monotonic() < give_up_t:
            beat()
            time.sleep(POLL_S)
        if found.costs:
            say(f"the run is over and {sight} is still {found.says}: ending it")
            sight.provider.end(found.id)
        _note_end(sight.provider, book, found)
    except ProjectError as error:
        say(
            f"whether {sight} is gone is not known: {error}; `sequence-runner launch list` tells, "
            f"`sequence-runner launch stop {sight.machine.name}` ends it"
        )
    else:
        say(f"{sight} is gone")


def end_run(provider: Provider, book: Book, run_id: str) -> tuple[list[str], list[str]]:
    """End every machine of a run, whatever is refused on the way: ids of those that were ended, and the troubles."""
    ended: list[str] = []
    troubles: list[str] = []
    entry = book.find(provider.name, run_id)
    try:
        ids = [machine.id for machine in provider.machines(run_id)]
    except LaunchError as error:
        return ended, [f"{provider.name}: {error}"]
    # the one that is noted may have another name by now, or not be listed yet
    unlisted = [entry.machine_id] if entry and entry.machine_id not in ("", *ids) else []
    for machine_id in (*ids, *unlisted):
        try:
            provider.end(machine_id)
        except LaunchError as error:
            troubles.append(f"{provider.name} machine {machine_id} may still cost: {error}")
        else:
            ended += [machine_id] if machine_id in ids else []
    if entry and not entry.ended and not troubles:
        book.end(entry)
    return ended, troubles


def end_surely(provider: Provider, book: Book, run_id: str) -> None:
    """End every machine of a run, which nothing else ends: asked for again and again while it cannot be done.

    Raises:
        LaunchError: not within `ENDING_LIMIT_S`; it may still cost.
    """
    give_up_t, wait_s = time.monotonic() + ENDING_LIMIT_S, POLL_S
    how = f"`sequence-runner launch stop {run_id}` ends it"
    while True:
        _, troubles = end_run(provider, book, run_id)
        if not troubles:
            return
        trouble = f"the machine of run {run_id} COSTS MONEY, does not end itself and could not be ended: {how}: "
        trouble += "; ".join(troubles)
        if time.monotonic() + wait_s > give_up_t:
            raise LaunchError(trouble)
        say(f"{trouble}; asking again in {wait_s:.0f} s")
        beat()
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _note_end(provider: Provider, book: Book, machine: Machine) -> None:
    entry = book.find(provider.name, machine.name)
    if entry and not entry.ended and entry.machine_id in ("", machine.id):
        book.end(entry)


def _entry(provider: Provider, prepared: Prepared, price: float) -> Entry:
    price = prepared.price_usd_per_hour or price
    return Entry(
        provider=provider.name,
        run_id=prepared.order.run_id,
        store=prepared.store,
        asked_t=time.time(),
        price_usd_per_hour=price,
        max_hours=prepared.longest_hours_at(price),
    )


def _join(book: Book, noted: Entry | None, fresh: Entry, machine: Machine) -> Entry:
    """Note the machine that is there, with the launch that it came of; from elsewhere, only the machine is known."""
    begun = {"asked_t": machine.created_t or time.time(), "elsewhere": True}
    entry = noted if noted and noted.is_of(machine) else fresh.model_copy(update=begun)
    return book.write(entry.model_copy(update={"machine_id": machine.id, "ended": False}))


def _living(provider: Provider, run_id: str, noted: Entry | None) -> Machine | None:
    """The machine that carries the run out now; one that does not any more is ended.

    Raises:
        LaunchError: there is one that is not ours, or cannot be ended.
    """
    found = provider.machines(run_id)
    for machine in found:
        if machine.status in ("starting", "running"):
            if len(found) > 1:
                say(f"{len(found)} machines are named {run_id}; `sequence-runner launch stop {run_id}` ends them all")
            return machine
    for machine in found:
        who = f"{provider.name} machine {machine.id} of run {run_id} is {machine.says}, does nothing and may cost"
        if not (machine.ours or (noted and noted.machine_id == machine.id)):
            raise LaunchError(
                f"{who}, and whether this program created it is not known; end it with `sequence-runner launch stop "
                f"{run_id}`, then launch again"
            )
        say(f"{who}: ending it; another one goes on from the store")
        provider.end(machine.id)
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


def _created(provider: Provider, prepared: Prepared, book: Book, entry: Entry, offers: list[Offer]) -> Launched:
    """A new machine, noted as soon as its id is known."""
    machine, offer = _create(provider, prepared, offers)
    price = machine.price_usd_per_hour or offer.price_usd_per_hour
    taken = {"price_usd_per_hour": price, "max_hours": prepared.longest_hours_at(offer.price_usd_per_hour)}
    entry = book.write(entry.model_copy(update={"machine_id": machine.id, **taken}))
    sight = _only_one(provider, machine)
    entry = book.write(entry.model_copy(update={"machine_id": sight.machine.id}))
    return Launched(sight, entry, True)


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
            f"a machine named {run_id} may have been created, and {provider.name} does not say: {trouble}"
        ) from trouble
    return None


def _only_one(provider: Provider, machine: Machine) -> Sight:
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
        return Sight(provider, machine, is_listed=False)
    return Sight(provider, first, is_listed=bool(found))


def _tell(offer: Offer, prepared: Prepared) -> None:
    price = prepared.price_usd_per_hour or offer.price_usd_per_hour
    costs = f"{price:.3g} USD per hour" if price else "at a price that the provider does not tell"
    available = f", availability {offer.availability}" if offer.availability else ""
    hours, longest = prepared.hours_at(price), prepared.longest_hours_at(price)
    say(
        f"asking for {_place(offer)}: {costs}{available}; the run may use {_use(hours, price)}; with starting and "
        f"stopping the machine is ended after {_use(longest, price)}, at the latest"
    )


def _use(hours: float, price: float) -> str:
    """`11.4 h, 5.00 USD`."""
    return (f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min") + (
        f", {hours * price:.2f} USD" if price else ""
    )


def _place(offer: Offer) -> str:
    return f"{offer.gpu}{f' in {offer.region}' if offer.region else ''}"
