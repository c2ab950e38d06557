"""The providers there are; each is imported only when it is used."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runner.host.deadman import HOUR_S
from runner.launch.book import Entry
from runner.launch.provider import Machine, Provider


@dataclass(frozen=True)
class Known:
    """One provider of the table."""

    build: Callable[[], Provider]
    """Sends nothing and needs no key."""
    is_configured: Callable[[], bool]
    """Whether this computer has what it takes to ask it."""
    needs: str
    """What that is."""
    needs_store: bool = True
    """A run without a store is refused; else it is warned of what ends with the machine."""
    tells_id: bool = False
    """The run inside knows the machine's id; else it gets a name from its launcher."""
    is_managed: bool = False
    """Its machines are jobs of a manager. It lets them wait and starts them again: no moment is known by which one is
    gone. It counts them, from 1 again where it is made anew: an id says nothing without the name."""


def _runpod() -> Provider:
    from runner.launch.runpod.provider import RunPod

    return RunPod()


def _lambda() -> Provider:
    from runner.launch.lambda_cloud.provider import LambdaCloud

    return LambdaCloud()


def _sky() -> Provider:
    from runner.launch.sky.provider import SkyPilot

    return SkyPilot()


def _has_sky() -> bool:
    from runner.launch.sky import program

    return bool(program.find())


PROVIDERS: dict[str, Known] = {
    "runpod": Known(_runpod, lambda: bool(os.environ.get("RUNPOD_API_KEY")), "RUNPOD_API_KEY", tells_id=True),
    "lambda": Known(_lambda, lambda: bool(os.environ.get("LAMBDA_API_KEY")), "LAMBDA_API_KEY"),
    "sky": Known(_sky, _has_sky, "the program sky, on PATH or named by SEQUENCE_SKY", False, is_managed=True),
}


def name_inside(provider: str, machine: Machine, entry: Entry | None) -> str:
    """What the run on a machine calls it, and so the end that it leaves in the store; empty where that is not known.

    Args:
        provider: whose it is.
        machine: the one.
        entry: of its launch.
    """
    if PROVIDERS[provider].tells_id:
        return machine.id
    return entry.inside if entry else ""


def came_of(entry: Entry, machine: Machine) -> bool:
    """Whether a machine, which has or had the run's name, came of this launch and not of another computer's."""
    if PROVIDERS[entry.provider].is_managed:
        return machine.name == entry.run_id and not entry.ended and entry.machine_id in ("", machine.id)
    return entry.machine_id == machine.id or not (entry.machine_id or entry.ended)


def entry_for(machine: Machine, entries: Iterable[Entry]) -> Entry | None:
    """The record that a machine may be of, by its name, or by an id that is given once."""
    for entry in entries:
        is_known = machine.id == entry.machine_id and not PROVIDERS[entry.provider].is_managed
        if is_known or machine.name == entry.run_id:
            return entry
    return None


def end_by_t(entry: Entry) -> float:
    """When the machine of a launch is to be gone, in Unix seconds; infinite where that is not known."""
    is_known = not (entry.elsewhere or PROVIDERS[entry.provider].is_managed)
    return entry.asked_t + entry.max_hours * HOUR_S if is_known else math.inf
