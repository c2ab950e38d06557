"""How a run ended on a machine that was rented for it: as whoever launched it reads it."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import ValidationError

from runner.store.layout import END_FORMAT, End
from runner.store.objects import KeyMissingError, ObjectStore, Stat
from runner.store.records import parse


def ends(store: ObjectStore, run_id: str) -> list[Stat]:
    """What machines have said of their ends.

    Raises:
        StoreError: the store cannot be used.
    """
    return list(store.list(f"{run_id}/ends/"))


def newest_end(store: ObjectStore, found: Collection[Stat]) -> End | None:
    """The last of these that can be understood.

    Raises:
        StoreError: the store cannot be used, or a newer version of this program wrote one.
    """
    for stat in sorted(found, key=lambda stat: stat.modified_t, reverse=True):
        try:
            return End.model_validate(parse(store.get(stat.key)[0], END_FORMAT, f"{store.url}/{stat.key}"))
        except (KeyMissingError, ValueError, ValidationError):
            continue
    return None
