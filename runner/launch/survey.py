"""What is rented now, beside what the launcher has noted: which machines work, and which only cost."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from configs.errors import ProjectError
from runner.launch.book import Book, Entry
from runner.launch.provider import LaunchError, Machine, Provider
from runner.launch.providers import came_of, end_by_t, entry_for, name_inside
from runner.store.ends import ends, newest_end
from runner.store.layout import End

PATIENCE_S = 10.0
"""For one store."""
IN_PROGRESS_S = 900.0
"""A launch of which nothing is to be seen for so long after it was noted has failed, or its machine is gone."""


@dataclass(frozen=True)
class Seen:
    """One of our machines that may be on the bill."""

    provider: Provider
    machine: Machine
    entry: Entry | None
    """Of the launcher's book; None where another computer launched it, or nobody knows it."""
    orphan: str = ""
    """Why nothing of value can be going on there; empty where a run may be at work."""
    is_sure: bool = True
    """The reason is known, not presumed, and this computer launched it."""


@dataclass
class Survey:
    """Everything that was found."""

    seen: list[Seen] = field(default_factory=list)
    others: int = 0
    """Machines of the accounts that are not of this program."""
    troubles: dict[str, str] = field(default_factory=dict)
    """Provider or store -> why it could not be asked."""

    is_blind: bool = False
    """None of the providers could be asked."""

    @property
    def orphans(self) -> list[Seen]:
        """Those that need not be there."""
        return [one for one in self.seen if one.orphan]


def survey(providers: Sequence[Provider], book: Book, store: str = "") -> Survey:
    """Look at all machines of the providers; what is gone is noted in the book.

    Args:
        providers: to ask.
        book: of the launches from here.
        store: where runs are kept that the book does not know; may be empty.
    """
    found = Survey()
    entries = book.entries()
    for provider in providers:
        own = [entry for entry in entries if entry.provider == provider.name]
        try:
            machines = [machine for machine in provider.machines() if machine.costs]
        except LaunchError as error:
            found.troubles[provider.name] = str(error)
            continue
        for machine in machines:
            entry = entry_for(machine, own)
            if entry is None and not machine.ours:
                found.others += 1
                continue
            found.seen.append(_judged(provider, machine, entry, store, found))
        _note_gone(book, own, machines)
    found.is_blind = all(provider.name in found.troubles for provider in providers)
    return found


def end_in(url: str, run_id: str, machine: str = "", since_t: float = 0.0) -> End | None:
    """The newest end of a run in a store: of one machine, or of any, later than a moment (Unix seconds).

    Raises:
        ProjectError: the store cannot be used.
    """
    from runner.store.open import open_store  # heavy: what speaks to stores

    store = open_store(url, deadline_s=PATIENCE_S)
    end = newest_end(store, ends(store, run_id, machine))
    return end if end and end.ended_t > since_t else None


def _judged(provider: Provider, machine: Machine, entry: Entry | None, store: str, found: Survey) -> Seen:
    of_it = entry if entry and came_of(entry, machine) else None
    inside = name_inside(provider.name, machine, of_it)
    url = entry.store if entry and entry.store else store
    ended = None
    if url:
        try:
            ended = _end_of(machine, url, inside, of_it)
        except ProjectError as error:
            found.troubles[url] = str(error)
    why, is_sure = _orphan(machine, entry, ended)
    return Seen(provider, machine, entry, why, is_sure and of_it is not None and (bool(inside) or not ended))


def _end_of(machine: Machine, url: str, inside: str, entry: Entry | None) -> End | None:
    """How the run ended on this machine; where its name inside is not known, any end since it began."""
    if inside:
        return end_in(url, machine.name, inside)
    begun_t = machine.created_t or (entry.asked_t if entry else 0.0)
    return end_in(url, machine.name, since_t=begun_t) if begun_t else None


def _orphan(machine: Machine, entry: Entry | None, ended: End | None) -> tuple[str, bool]:
    """Why the machine need not be there, and whether that is sure where it was launched from here."""
    if ended:
        return f"its run ended {_ago(ended.ended_t)} with exit code {ended.exit_code}", True
    if machine.status in ("stopped", "failed"):
        return f"it is {machine.says or machine.status}: it does nothing and may cost", True
    if entry is None:
        return "nobody here has launched it, or its record is lost", False
    if entry.ended:
        return "it was seen to be gone, or was told to end", True
    if entry.machine_id and entry.machine_id != machine.id:
        return f"the run was launched on {entry.machine_id}, and this is another machine", False
    if (over_s := time.time() - entry.asked_t - entry.max_hours * 3600) > 0:
        return f"its ceiling of {entry.max_hours:g} h passed {_hours(over_s)} ago", end_by_t(entry) < math.inf
    return "", True


def _note_gone(book: Book, entries: Sequence[Entry], machines: Sequence[Machine]) -> None:
    there = [entry_for(machine, entries) for machine in machines]
    for entry in entries:
        is_young = time.time() - entry.asked_t < IN_PROGRESS_S
        if not entry.ended and not is_young and entry not in there:
            book.end(entry)


def _ago(unix_s: float) -> str:
    return f"{_hours(max(0.0, time.time() - unix_s))} ago"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
