"""Spot pods of RunPod: only its older GraphQL API rents them, and that is announced to go.

They cost what is bid, here never more than the listed price, and may be taken
away at any time: SIGTERM, and 5 seconds later SIGKILL (runpod/docs before commit 8e5aebdb).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from runner.launch.provider import BadRequestError, CandidateRefusedError, Machine, Offer, Order, UnclearError, number

QUERY = (
    "mutation rent($input: PodRentInterruptableInput!) "
    "{ podRentInterruptable(input: $input) { id desiredStatus costPerHr } }"
)
WARNING = (
    "a spot pod may be taken away at any time, 5 seconds after a signal: what counts is the last checkpoint in the "
    "store; the same command goes on from there"
)
NO_CAPACITY = ("no longer any instances", "no instances", "not available", "capacity", "specifications")
"""Words of a refusal that another offer may not get; RunPod has no code for it."""


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


def created(answer: Any, order: Order, offer: Offer) -> Machine:
    """The pod of an answer; a refusal comes as 200 with a list of errors.

    Raises:
        CandidateRefusedError: no capacity.
        BadRequestError: anything else that is wrong.
        UnclearError: neither a pod nor an error.
    """
    answer = answer if isinstance(answer, dict) else {}
    pod = (answer.get("data") or {}).get("podRentInterruptable") or {}
    if pod.get("id"):
        price = number(pod.get("costPerHr")) or offer.price_usd_per_hour
        return Machine(pod["id"], order.run_id, "starting", str(pod.get("desiredStatus", "")), price, offer.region)
    says = "; ".join(str(error.get("message", "")) for error in answer.get("errors") or () if isinstance(error, dict))
    if not says:
        raise UnclearError("RunPod answers with neither a pod nor an error")
    if any(words in says.lower() for words in NO_CAPACITY):
        raise CandidateRefusedError(f"RunPod rents no spot pod: {says}")
    raise BadRequestError(f"RunPod rents no spot pod: {says}")
