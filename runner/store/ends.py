"""How a run ended on a machine that was rented for it: written there at the end, read by whoever launched it."""

from __future__ import annotations

from collections.abc import Collection

from runner.store.layout import END_FORMAT, End, end_key
from runner.store.objects import KeyMissingError, ObjectStore, Stat
from runner.store.records import encode, parse


def write_end(store: ObjectStore, run_id: str, end: End) -> None:
    """Keep the end, in place of what that machine said before.

    Raises:
        StoreError: the store cannot be used.
    """
    store.put(end_key(run_id, end.machine), encode(end))


def ends(store: ObjectStore, run_id: str, machine: str = "") -> list[Stat]:
    """What is there of all machines, or of one.

    Raises:
        StoreError: the store cannot be used.
    """
    found = store.list(f"{run_id}/ends/")
    return [stat for stat in found if not machine or stat.key == end_key(run_id, machine)]


def newest_end(store: ObjectStore, found: Collection[Stat]) -> End | None:
    """The last of these that can be understood.

    Raises:
        StoreError: the store cannot be used, or a newer version of this program wrote one.
    """
    for stat in sorted(found, key=lambda stat: stat.modified_t, reverse=True):
        try:
            return End.model_validate(parse(store.get(stat.key)[0], END_FORMAT, f"{store.url}/{stat.key}"))
        except (KeyMissingError, ValueError):
            continue
    return None
