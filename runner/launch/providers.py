"""The providers there are; each is imported only when it is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
    calls_itself: Literal["id", "name", ""] = "name"
    """What of the machine the run inside knows, by which the end that it leaves in the store is called."""


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
    "runpod": Known(_runpod, lambda: bool(os.environ.get("RUNPOD_API_KEY")), "RUNPOD_API_KEY", calls_itself="id"),
    "lambda": Known(_lambda, lambda: bool(os.environ.get("LAMBDA_API_KEY")), "LAMBDA_API_KEY"),
    "sky": Known(_sky, _has_sky, "the program sky, on PATH or named by SEQUENCE_SKY", False, ""),
}


def name_inside(provider: str, machine: Machine) -> str:
    """What the run on a machine calls it; empty where only the run itself is known."""
    attribute = PROVIDERS[provider].calls_itself
    return str(getattr(machine, attribute)) if attribute else ""
