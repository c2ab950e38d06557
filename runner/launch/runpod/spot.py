"""Spot pods of RunPod: only its older GraphQL API rents them, and that is announced to go.

They cost what is bid, here never more than the listed price, and may be taken
away at any time: SIGTERM, and 5 seconds later SIGKILL (runpod/docs before commit 8e5aebdb).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from runner.launch.http import MAX_SAID_CHARACTERS
from runner.launch.provider import (
    BadRequestError,
    CandidateRefusedError,
    LaunchError,
    Machine,
    Offer,
    Order,
    UnclearError,
    number,
)
from runner.launch.secrets import clean

QUERY = (
    "mutation rent($input: PodRentInterruptableInput!) "
    "{ podRentInterruptable(input: $input) { id desiredStatus costPerHr } }"
)
WARNING = (
    "a spot pod may be taken away at any time, 5 seconds after a signal: what counts is the last checkpoint in the "
    "store; the same command goes on from there"
)
NO_CAPACITY = ("no longer any instances", "no instances", "capacity", "specifications", "resources to deploy")
"""Words of a refusal that another offer may not get; RunPod has no code for it."""
NO_MONEY = ("balance", "funds")
REFUSED = (
    *("graphql_validation_failed", "graphql_parse_failed", "bad_user_input", "unauthenticated", "forbidden"),
    *("got invalid value", "of required type", "cannot query field", "syntax error", "unauthorized", "not authorized"),
)
"""Codes of GraphQL servers and words of what was never begun, and would be refused again."""


def body(order: Order, offer: Offer, environment: Mapping[str, str]) -> dict[str, Any]:
    """The request: a fixed query, all that varies in its variables."""
    rented: dict[str, Any] = {
        "name": order.run_id,
        "imageName": order.image,
        "dockerArgs": shlex.join(order.arguments),
        "gpuTypeId": order.gpu,
        "gpuCount": order.gpu_count,
        "bidPerGpu": offer.details.get("price_usd_per_gpu_hour", offer.price_usd_per_hour / order.gpu_count),
        "cloudType": str(order.options.get("cloud", "SECURE")),
        "containerDiskInGb": order.disk_gb,
        "volumeInGb": 0,
        "env": [{"key": name, "value": value} for name, value in environment.items()],
    }
    rented |= {"dataCenterId": offer.region} if offer.region else {}
    options = order.options
    rented |= {"containerRegistryAuthId": options["registry"]} if options.get("registry") else {}
    if options.get("volume"):
        rented |= {"networkVolumeId": options["volume"], "volumeMountPath": "/workspace"}
    return {"query": QUERY, "variables": {"input": rented}}


def check(order: Order) -> None:
    """Refuse what is not known to be possible.

    Raises:
        BadRequestError: of the hosts of spot pods nothing can be asked.
    """
    if order.spot and order.options.get("min_cuda"):
        raise BadRequestError("a spot pod cannot be asked for with a CUDA version; leave out --spot or --min-cuda")


def created(answer: Any, order: Order, offer: Offer, secrets: Mapping[str, str]) -> Machine:
    """The pod of an answer; a refusal comes as 200 with a list of errors, which may repeat the secrets of the order.

    Raises:
        CandidateRefusedError: no capacity.
        LaunchError: the balance is too low.
        BadRequestError: the request is wrong, or the key may not do this.
        UnclearError: anything else: what failed may have failed after the pod was rented.
    """
    answer = answer if isinstance(answer, dict) else {}
    pod = (answer.get("data") or {}).get("podRentInterruptable") or {}
    if pod.get("id"):
        price = number(pod.get("costPerHr")) or offer.price_usd_per_hour
        return Machine(pod["id"], order.run_id, "starting", str(pod.get("desiredStatus", "")), price, offer.region)
    words = "; ".join(_words(error) for error in answer.get("errors") or () if isinstance(error, dict))
    if not words:
        raise UnclearError("RunPod answers with neither a pod nor an error")
    raise _kind(words.lower())(f"RunPod answers a wish for a spot pod: {clean(words, secrets)[:MAX_SAID_CHARACTERS]}")


def _words(error: Mapping[str, Any]) -> str:
    """Of an error its message, and its code where it has one."""
    more = error.get("extensions")
    code = more.get("code") if isinstance(more, dict) else None
    return f"{error.get('message') or ''}{f' ({code})' if code else ''}".strip()


def _kind(says: str) -> type[LaunchError]:
    """What an error means, by its words."""
    for kind, known in ((CandidateRefusedError, NO_CAPACITY), (LaunchError, NO_MONEY), (BadRequestError, REFUSED)):
        if any(words in says for words in known):
            return kind
    return UnclearError
