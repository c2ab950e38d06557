"""The providers there are; each is imported only when it is used."""

from __future__ import annotations

import os
import shutil
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
    keeps_results: bool = False
    """Results survive the machine without a store."""


def _runpod() -> Provider:
    from runner.launch.runpod.provider import RunPod

    return RunPod()


def _lambda() -> Provider:
    from runner.launch.lambda_cloud.provider import LambdaCloud

    return LambdaCloud()


def _sky() -> Provider:
    from runner.launch.sky.provider import SkyPilot  # type: ignore[import-not-found, unused-ignore]

    return SkyPilot()  # type: ignore[no-any-return, unused-ignore]


PROVIDERS: dict[str, Known] = {
    "runpod": Known(_runpod, lambda: bool(os.environ.get("RUNPOD_API_KEY")), "RUNPOD_API_KEY"),
    "lambda": Known(_lambda, lambda: bool(os.environ.get("LAMBDA_API_KEY")), "LAMBDA_API_KEY"),
    "sky": Known(_sky, lambda: shutil.which("sky") is not None, "the program sky"),
}
