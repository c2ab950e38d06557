"""The life of a rented machine, from the look for one that is there already to its end: never two of one name.

What happens in between can be anything: so the launch is noted before it is
asked for, and after an unclear answer the provider is asked what there is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from configs.errors import ConfigError, ProjectError
from runner.heartbeat import beat
from runner.host.deadman import IMAGE_S
from runner.launch.book import Book, Entry
from runner.launch.creation import create, offers_for
from runner.launch.order import Prepared
from runner.launch.provider import LaunchError, Machine, Offer, Provider, UnclearError
from runner.launch.providers import PROVIDERS, came_of
from runner.say import say

POLL_S = 5.0
LEAVE_LIMIT_S = 180.0
"""A machine that is there so long after its run has ended does not end itself."""
ENDING_LIMIT_S, LONGEST_WAIT_S = 3600.0, 60.0
"""So long is tried to end a machine that nothing else ends, with pauses that grow up to the second."""
UNLISTED_S = 60.0
"""A listing may lag: a machine that it has never shown is taken for gone after this."""


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
        found, gone = _living(provider, order.run_id, noted)
        if found:
            entry = _join(book, noted, _entry(provider, prepared, found.price_usd_per_hour), found)
            return Launched(Sight(provider, found, is_listed=True), entry, False)
        offers = offers_for(provider, prepared)
        send()
        longest = max(offers, key=lambda offer: prepared.longest_hours_at(offer.price_usd_per_hour))
        entry = _entry(provider, prepared, longest.price_usd_per_hour)
        entry = book.write(entry.model_copy(update={"inside": prepared.inside}))
        try:
            return _created(provider, prepared, book, entry, offers, gone)
        except BaseException as error:
            if isinstance(error, (LaunchError, ConfigError)) and not isinstance(error, UnclearError):
                book.end(entry)  # nothing was created
            else:
                say(
                    f"a {provider.name} machine named {order.run_id} may exist and cost: `sequence-runner launch list` "
                    f"shows it, `sequence-runner launch stop {order.run_id}` ends it"
                )
            raise


def wait_until_running(launched: Launched, book: Book) -> Machine:
    """The machine once it runs, or once it is gone again; one that cannot run, or does not in time, is ended.

    Raises:
        NotStartedError: it did not.
        LaunchError: the provider cannot be asked any more; the machine may be there.
    """
    sight, give_up_t, told = launched.sight, time.monotonic() + IMAGE_S, ""
    is_managed = PROVIDERS[sight.provider.name].is_managed  # it waits for a machine, and costs nothing meanwhile
    machine = sight.machine
    while machine.status == "starting":
        if machine.says != told:
            say(f"{sight}: {machine.says}")
            told = machine.says
        if time.monotonic() > give_up_t and not is_managed:
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
    why = f"did not run within {IMAGE_S / 60:.0f} min" if machine.status == "starting" else f"is {machine.says}"
    raise NotStartedError(f"{sight} {why}; it has been ended, the same command tries again")


def end_one(provider: Provider, book: Book, machine: Machine) -> None:
    """End a machine and note it.

    Raises:
        LaunchError: the provider refuses or cannot be asked.
    """
    provider.end(machine.id)
    _note_end(provider, book, machine)


def see_off(sight: Sight, book: Book, *, may_end: bool = True) -> None:
    """Wait until a machine whose run is over is gone; one that stays is ended where that may be, and what goes wrong is
    only said."""
    give_up_t = time.monotonic() + LEAVE_LIMIT_S
    how = f"`sequence-runner launch stop {sight.machine.name}` ends it"
    try:
        while (found := sight.look()).status in ("starting", "running") and time.monotonic() < give_up_t:
            beat()
            time.sleep(POLL_S)
        if found.costs and not may_end:
            say(f"{sight} is still {found.says} and COSTS MONEY; launched elsewhere, it may be kept alive: {how}")
            return
        if found.costs:
            say(f"the run is over and {sight} is still {found.says}: ending it")
            sight.provider.end(found.id)
        _note_end(sight.provider, book, found)
    except ProjectError as error:
        say(f"whether {sight} is gone is not known: {error}; `sequence-runner launch list` tells, {how}")
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
    is_open = entry is not None and not entry.ended and not PROVIDERS[provider.name].is_managed
    unlisted = [entry.machine_id] if entry and is_open and entry.machine_id not in ("", *ids) else []
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
        keep_alive=prepared.keep_alive,
        ends_itself=prepared.ends_itself,
    )


def _join(book: Book, noted: Entry | None, fresh: Entry, machine: Machine) -> Entry:
    """Note the machine that is there, with the launch that it came of; from elsewhere, only the machine is known."""
    begun = {"asked_t": machine.created_t or time.time(), "elsewhere": True}
    entry = noted if noted and came_of(noted, machine) else fresh.model_copy(update=begun)
    return book.write(entry.model_copy(update={"machine_id": machine.id, "ended": False}))


def _living(provider: Provider, run_id: str, noted: Entry | None) -> tuple[Machine | None, frozenset[str]]:
    """The machine that carries the run out now; else those that do not any more, which are ended: a list that lags may
    go on showing them.

    Raises:
        LaunchError: there is one that is not ours, or cannot be ended.
    """
    found = provider.machines(run_id)
    if working := _working(found):
        if len(found) > 1:
            say(f"{len(found)} machines are named {run_id}; `sequence-runner launch stop {run_id}` ends them all")
        return working[0], frozenset()
    for machine in found:
        who = f"{provider.name} machine {machine.id} of run {run_id} is {machine.says}, does nothing and may cost"
        if not (machine.ours or (noted and noted.machine_id == machine.id)):
            raise LaunchError(
                f"{who}, and whether this program created it is not known; end it with `sequence-runner launch stop "
                f"{run_id}`, then launch again"
            )
        say(f"{who}: ending it; another one goes on from the store")
        provider.end(machine.id)
    return None, frozenset(machine.id for machine in found)


def _working(found: list[Machine]) -> list[Machine]:
    return [machine for machine in found if machine.status in ("starting", "running")]


def _created(
    provider: Provider, prepared: Prepared, book: Book, entry: Entry, offers: list[Offer], gone: frozenset[str]
) -> Launched:
    """A new machine, noted as soon as its id is known; `gone` are the ids of those that have just been ended."""
    machine, offer = create(provider, prepared, offers, gone)
    price = machine.price_usd_per_hour or offer.price_usd_per_hour
    taken = {"price_usd_per_hour": price, "max_hours": prepared.longest_hours_at(offer.price_usd_per_hour)}
    entry = book.write(entry.model_copy(update={"machine_id": machine.id, **taken}))
    sight = _only_one(provider, machine, gone)
    if sight.machine.id == machine.id:
        return Launched(sight, entry, True)
    fresh = _entry(provider, prepared, sight.machine.price_usd_per_hour)
    return Launched(sight, _join(book, None, fresh, sight.machine), False)


def _only_one(provider: Provider, machine: Machine, gone: frozenset[str]) -> Sight:
    """Of the machine that was just created and all that work and have its name the first, where an unclear creation or
    another computer has made more; the others are ended, and whoever looks at the same time decides alike."""
    try:
        found = provider.machines(machine.name)
        shown = next((other for other in found if other.id == machine.id), None)
        others = [other for other in _working(found) if other.id not in gone | {machine.id}]
        # of equal age, or where none is told, the order is that of the ids
        first, *later = sorted([shown or machine, *others], key=lambda other: (other.created_t or math.inf, other.id))
        for other in later:
            say(f"a second machine was created for run {machine.name}: ending {other.id}, keeping {first.id}")
            provider.end(other.id)
    except LaunchError as error:
        say(f"whether there is only one machine named {machine.name} is not known: {error}")
        return Sight(provider, machine, is_listed=False)
    return Sight(provider, first, is_listed=first in found)
