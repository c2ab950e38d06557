"""When each unit of a graph would run: the supervisor's own order, played with seconds instead of processes.

Like the supervisor it is greedy: whenever a place is free, the first unit in the graph's order that waits for
nothing starts. On a graph whose units all wait for whole stages, more places or shorter units never end it later;
on others they may (Graham 1969, "Bounds on multiprocessing timing anomalies"), and then they do so in the run too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.graph import Unit


@dataclass(frozen=True)
class Places:
    """Where units run."""

    workers: int
    """Units side by side."""
    gpus: int = 1
    """Of those, units that use a GPU: each has one of its own."""


@dataclass(frozen=True)
class Span:
    """When one unit runs, in seconds from the start."""

    begin_s: float
    end_s: float


def in_turn(waiting: Iterable[Unit], running: Iterable[str], begun: Iterable[str], take_turns: bool) -> list[Unit]:
    """Waiting units in the order in which a free place is offered to them.

    Args:
        waiting: in the graph's order, which is theirs unless stages take turns.
        running: stage of each unit that runs.
        begun: stage of each unit that was ever started.
        take_turns: the stage with the fewest running units comes first, and of equal ones that which had fewest.
    """
    if not take_turns:
        return list(waiting)
    at_work, had = Counter(running), Counter(begun)
    return sorted(waiting, key=lambda unit: (at_work[unit.stage], had[unit.stage]))


def schedule(
    units: Sequence[Unit],
    seconds: Mapping[str, float],
    waits: Mapping[str, Collection[str]],
    places: Places,
    take_turns: bool = False,
) -> dict[str, Span]:
    """Span of every unit.

    Args:
        units: in the graph's order.
        seconds: of each unit, by id.
        waits: of each unit, the ids of those that must end before; others than `units` are taken to be done.
        places: how many run side by side.
        take_turns: see `in_turn`.
    """
    ids = {unit.id for unit in units}
    open_waits = {unit.id: set(waits.get(unit.id, ())) & ids for unit in units}
    waiting, running = {unit.id: unit for unit in units}, dict[str, Unit]()
    spans, begun = dict[str, Span](), list[str]()
    now_s = 0.0

    def offered() -> list[Unit]:
        return in_turn(waiting.values(), (unit.stage for unit in running.values()), begun, take_turns)

    def has_room(unit: Unit) -> bool:
        return _has_room(unit, running, places)

    while waiting:
        while unit := next((unit for unit in offered() if not open_waits[unit.id] and has_room(unit)), None):
            running[unit.id] = waiting.pop(unit.id)
            begun.append(unit.stage)
            spans[unit.id] = Span(now_s, now_s + seconds[unit.id])
        assert running, "a graph has no cycles"
        now_s = min(spans[unit_id].end_s for unit_id in running)
        for unit_id in [unit_id for unit_id in running if spans[unit_id].end_s <= now_s]:
            del running[unit_id]
            for others in open_waits.values():
                others.discard(unit_id)
    return spans


def wall_s(spans: Mapping[str, Span]) -> float:
    """When the last unit ends."""
    return max((span.end_s for span in spans.values()), default=0.0)


def shares_s(spans: Mapping[str, Span]) -> dict[str, float]:
    """Each unit's part of the wall time: every moment is divided among those that run in it."""
    moments = sorted({moment for span in spans.values() for moment in (span.begin_s, span.end_s)})
    shares = dict.fromkeys(spans, 0.0)
    for begin_s, end_s in zip(moments, moments[1:], strict=False):
        at_work = [name for name, span in spans.items() if span.begin_s <= begin_s and end_s <= span.end_s]
        for name in at_work:
            shares[name] += (end_s - begin_s) / len(at_work)
    return shares


def most_at_once(spans: Mapping[str, Span], amounts: Mapping[str, float]) -> float:
    """The largest sum of the amounts of units that run side by side."""
    begins = [span.begin_s for span in spans.values()]
    return max(
        (sum(amounts[name] for name, span in spans.items() if span.begin_s <= t < span.end_s) for t in begins),
        default=0.0,
    )


def _has_room(unit: Unit, running: Mapping[str, Unit], places: Places) -> bool:
    if len(running) >= places.workers:
        return False
    return not unit.uses_gpu or sum(other.uses_gpu for other in running.values()) < places.gpus
