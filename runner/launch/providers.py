"""The providers there are; each is imported only when it is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from runner.launch.provider import Provider


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
    "runpod": Known(_runpod, lambda: bool(os.environ.get("RUNPOD_API_KEY")), "RUNPOD_API_KEY"),
    "lambda": Known(_lambda, lambda: bool(os.environ.get("LAMBDA_API_KEY")), "LAMBDA_API_KEY"),
    "sky": Known(_sky, _has_sky, "the program sky, on PATH or named by SEQUENCE_SKY", needs_store=False),
}
