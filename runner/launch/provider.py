"""What a provider of machines must be able to do, and what is said between it and the launcher.

A machine is found again by its name, which is the run id: so whatever happens to
a request or to this computer, `machines(run_id)` tells what was really created.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from configs.errors import ExitCode, ProjectError
from runner.say import say

Status = Literal["starting", "running", "stopped", "ended", "failed"]
"""`stopped` may be started again and may still cost; `ended` is gone and costs nothing; `failed` cannot be used."""
COSTS: frozenset[Status] = frozenset({"starting", "running", "stopped", "failed"})
"""Machines of these states may appear on the bill."""


class LaunchError(ProjectError):
    """A provider refuses, or cannot do, what was asked."""

    exit_code = ExitCode.MACHINE_UNFIT


class BadRequestError(LaunchError):
    """The request is wrong, or the key may not do this: the same again will not help."""

    exit_code = ExitCode.BAD_CONFIG


class CandidateRefusedError(LaunchError):
    """This offer cannot be had now (no capacity, not allowed); another one may."""


class UnclearError(LaunchError):
    """Whether the request was carried out is unknown (time-out, lost answer): look by name before asking again."""


@dataclass(frozen=True)
class Order:
    """One machine that carries out one run."""

    run_id: str
    """Also the machine's name."""
    image: str
    arguments: tuple[str, ...]
    """Of the runner in the container."""
    gpu: str
    """As the provider names it: `NVIDIA A40`, `gpu_1x_a10`, `A100:1`."""
    gpu_count: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    """Plain values for the container; nothing secret."""
    secrets: tuple[str, ...] = ()
    """Names of variables of this computer that are handed to the container; looked up at the last moment."""
    max_hours: float = 12.0
    """The machine is ended after so long, whatever happens on it, where the provider or the machine itself can."""
    disk_gb: int = 40
    spot: bool = False
    regions: tuple[str, ...] = ()
    """The only ones that may be used; empty for any."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only this provider knows, for example `ssh_key`."""


@dataclass(frozen=True)
class Offer:
    """One candidate for an order, as the provider's catalogue lists it."""

    gpu: str
    region: str
    """Empty where the provider chooses."""
    price_usd_per_hour: float
    """Of the whole machine; 0 where the provider does not tell."""
    availability: str = ""
    """In the provider's words."""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """A machine as the provider shows it."""

    id: str
    name: str
    status: Status
    says: str = ""
    """The provider's own word for the status."""
    price_usd_per_hour: float = 0.0
    region: str = ""
    created_t: float = 0.0
    """Unix seconds; 0 where the provider does not tell."""
    ours: bool = False
    """What was sent when it was created shows that this program did it, on whatever computer."""

    @property
    def costs(self) -> bool:
        """It may appear on the bill."""
        return self.status in COSTS


@dataclass(frozen=True)
class Request:
    """What would be sent, with every secret masked; `--dry-run` prints it."""

    method: str
    """`POST`, or `run` for a program that is started."""
    url: str
    body: Any
    """JSON values, or a text such as a task file."""


class Provider(Protocol):
    """One provider. Every call may raise a `LaunchError`; none prints a secret."""

    name: str

    def offers(self, order: Order) -> list[Offer]:
        """Candidates, the best first.

        Raises:
            BadRequestError: there is no such GPU; the message names near ones.
            CandidateRefusedError: nothing is available now.
        """

    def request(self, order: Order, offer: Offer) -> Request:
        """What `create` would send."""

    def create(self, order: Order, offer: Offer) -> Machine:
        """Ask for the machine, once: no retry in here after anything that may have been carried out.

        Raises:
            CandidateRefusedError: try the next offer.
            UnclearError: it may exist now.
            BadRequestError: no offer will do.
        """

    def machines(self, name: str = "") -> list[Machine]:
        """All machines of this account that are not gone, or those of a name."""

    def end(self, machine_id: str) -> None:
        """End a machine for good; one that is gone already is fine."""

    def logs(self, machine_id: str, lines: int, follow: bool) -> Iterator[str]:
        """What the container printed.

        Raises:
            LaunchError: the provider keeps no logs; the message says where they are.
        """


def readable(who: str, shown: Iterable[Any], read: Callable[[Any], Machine]) -> list[Machine]:
    """The machines that a provider shows; of one that cannot be understood a line is said."""
    found = []
    for each in shown:
        try:
            found.append(read(each))
        except (AttributeError, KeyError, TypeError, ValueError):
            say(f"{who} lists something that is no machine by its published API; it is left out")
    return found


def number(value: Any) -> float:
    """A number that a provider tells; 0 where it tells none."""
    try:
        found = float(value or 0.0)
    except (TypeError, ValueError):
        return 0.0
    return found if math.isfinite(found) else 0.0
