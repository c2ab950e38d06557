"""One machine from whatever is offered: candidates are asked for in turn, and an unclear answer is looked into."""

from __future__ import annotations

import time
from dataclasses import replace

from runner.launch.order import Prepared
from runner.launch.provider import (
    CandidateRefusedError,
    LaunchError,
    Machine,
    Offer,
    Provider,
    UnclearError,
)
from runner.launch.providers import PROVIDERS
from runner.say import say

LOOKS_S = (2.0, 5.0, 10.0, 20.0)
"""Pauses before each look for a machine that may have been created."""
MOST_UNCLEAR = 3
"""Creations whose outcome was unclear after which no further one is tried."""


def offers_for(provider: Provider, prepared: Prepared) -> list[Offer]:
    """Candidates for all GPUs that will do, in order.

    Raises:
        LaunchError: nothing can be had.
    """
    offers: list[Offer] = []
    refusals = []
    for gpu in prepared.gpus:
        try:
            offers += provider.offers(replace(prepared.order, gpu=gpu))
        except CandidateRefusedError as error:
            refusals.append(str(error))
    if not offers:
        raise CandidateRefusedError("; ".join(refusals) or f"{provider.name} offers nothing for this order")
    return offers


def create(provider: Provider, prepared: Prepared, offers: list[Offer], gone: frozenset[str]) -> tuple[Machine, Offer]:
    """A machine from the first offer that can be had.

    Raises:
        CandidateRefusedError: none can.
        UnclearError: there may be one.
        LaunchError: no offer will do.
    """
    refusals = []
    unclear = 0
    for offer in offers:
        order = prepared.for_price(offer.price_usd_per_hour, offer.gpu)
        prepared.require_price(offer.price_usd_per_hour)
        _tell(provider, offer, prepared)
        while True:
            try:
                return provider.create(order, offer), offer
            except CandidateRefusedError as error:
                refusals.append(f"{_place(offer)}: {error}")
                say(refusals[-1])
                break
            except UnclearError as error:
                unclear += 1
                if found := _look_after(provider, order.run_id, error, gone):
                    return found, offer
                if unclear == MOST_UNCLEAR:
                    raise
                say("no machine was created; asking again")
    raise CandidateRefusedError(
        f"none of {len(offers)} offers could be had; where all are refused alike, the request is at fault:\n  "
        + "\n  ".join(refusals)
    )


def _look_after(provider: Provider, run_id: str, unclear: UnclearError, gone: frozenset[str]) -> Machine | None:
    """The machine that an unclear answer has left, or None once it is sure that there is none.

    Raises:
        UnclearError: the provider does not say.
    """
    say(f"{unclear}; looking for a machine named {run_id}")
    trouble: LaunchError | None = None
    for pause_s in LOOKS_S:
        time.sleep(pause_s)
        try:
            found = [machine for machine in provider.machines(run_id) if machine.costs and machine.id not in gone]
        except LaunchError as error:
            trouble = error
            continue
        trouble = None
        if found:
            say(f"{provider.name} machine {found[0].id} was created")
            return found[0]
    if trouble:
        raise UnclearError(
            f"a machine named {run_id} may have been created, and {provider.name} does not say: {trouble}"
        ) from trouble
    return None


def _tell(provider: Provider, offer: Offer, prepared: Prepared) -> None:
    price = prepared.price_usd_per_hour or offer.price_usd_per_hour
    costs = f"{price:.3g} USD per hour" if price else "at a price that the provider does not tell"
    available = f", availability {offer.availability}" if offer.availability else ""
    hours, longest = prepared.hours_at(price), prepared.longest_hours_at(price)
    if PROVIDERS[provider.name].is_managed:
        counted = "over all its starts" if prepared.store else "at each of its starts, for it has no store"
        one = _use(prepared.for_price(price).max_hours, price)
        limits = (
            f"the run may use {_use(hours, price)}, {counted}; SkyPilot ends each start after {one}, and how often it "
            "starts the job again is not limited; its controller costs as well"
        )
    else:
        by_us = "" if prepared.ends_itself else " by this command, which must stay"
        limits = (
            f"the run may use {_use(hours, price)}; with starting and stopping the machine is ended{by_us} after "
            f"{_use(longest, price)}, at the latest"
        )
    say(f"asking for {_place(offer)}: {costs}{available}; {limits}")


def _use(hours: float, price: float) -> str:
    """`11.4 h, 5.00 USD`."""
    return (f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min") + (
        f", {hours * price:.2f} USD" if price else ""
    )


def _place(offer: Offer) -> str:
    return f"{offer.gpu}{f' in {offer.region}' if offer.region else ''}"
