"""Lambda Cloud through its API 1.8.3: one instance for one run, found by its name, ended by itself.

Lambda has no spot machines, no stopped machines and no logs. It allows one
request a second, and one launch in 12 seconds. Source: its OpenAPI description,
version 1.8.3.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, TypeVar

from runner.host.where import MACHINE
from runner.launch.http import AnswerError, Api
from runner.launch.lambda_cloud.user_data import user_data
from runner.launch.provider import (
    BadRequestError,
    CandidateRefusedError,
    LaunchError,
    Machine,
    Offer,
    Order,
    Request,
    Status,
    UnclearError,
    number,
    readable,
)
from runner.launch.secrets import masked, value_of, values_of

KEY = "LAMBDA_API_KEY"
REQUEST_INTERVAL_S, LAUNCH_INTERVAL_S = 1.0, 12.0
LAUNCH = "/instance-operations/launch"
MAX_NAME = 64
TAG = "sequence-runner"
STATUS: dict[str, Status] = {
    "booting": "starting",
    "active": "running",
    "unhealthy": "failed",
    "preempted": "failed",  # what it costs is not documented: better looked at once more than paid for
    "terminating": "ended",
    "terminated": "ended",
}
Read = TypeVar("Read")
NO_CAPACITY = "instance-operations/launch/insufficient-capacity"
REMEDY = {
    "global/account-inactive": "verify the account's e-mail address and payment method",
    "global/invalid-address": "correct the account's billing address",
    "global/quota-exceeded": "end other machines, or ask Lambda for more",
    "global/object-does-not-exist": "check --gpu and --ssh-key",
}
"""What to do about codes that no other region helps with."""


@dataclass(frozen=True)
class Kind:
    """One instance type of the catalogue."""

    price_usd_per_hour: float
    regions: tuple[str, ...]
    """With capacity now."""
    details: dict[str, Any]


class LambdaCloud:
    """Lambda's machines."""

    name = "lambda"

    def __init__(self) -> None:
        """Sends nothing."""
        self._api = Api("Lambda", "SEQUENCE_LAMBDA_URL", KEY, interval_s=REQUEST_INTERVAL_S)
        self._next_launch_t = 0.0
        self._only_ssh_key = ""

    def offers(self, order: Order) -> list[Offer]:
        """Regions with capacity: in the order asked for, else in Lambda's."""
        _check(order)
        types = self._get("/instance-types", _types)
        kind = types.get(order.gpu)
        if not kind:
            raise BadRequestError(f"Lambda has no instance type {order.gpu!r}; {_near(order.gpu, types)}")
        if order.gpu_count not in (1, kind.details["gpus"]):
            raise BadRequestError(
                f"{order.gpu} has {kind.details['gpus']} GPU(s), not {order.gpu_count}; the instance type decides"
            )
        wanted = [region for region in order.regions or kind.regions if region in kind.regions]
        if not wanted:
            raise CandidateRefusedError(_no_capacity(order, types))
        return [Offer(order.gpu, region, kind.price_usd_per_hour, "capacity", kind.details) for region in wanted]

    def request(self, order: Order, offer: Offer) -> Request:
        """What `create` would send; nothing is asked for it, and `user_data` stands apart, as the machine reads it."""
        environment = {**order.environment, **masked(order.secrets)}
        key = masked([KEY])[KEY] if _ends_itself(order) else ""
        ssh_key = order.options.get("ssh_key") or "<the only SSH key of the account>"
        region = offer.region or "<a region with capacity>"
        body = self._body(order, region, ssh_key, environment, key, _tag(order, "<8 hex>"))
        text = body.pop("user_data")
        return Request("POST", self._api.url + LAUNCH, f"{json.dumps(body, indent=1)}\n\nuser_data:\n{text}")

    def create(self, order: Order, offer: Offer) -> Machine:
        """Launch one instance; 429 is waited out, everything else is the caller's to decide."""
        secrets = {**values_of(order.secrets), KEY: value_of(KEY)}
        environment = {**order.environment, **{name: secrets[name] for name in order.secrets}}
        key = secrets[KEY].strip() if _ends_itself(order) else ""
        ssh_key = order.options.get("ssh_key") or self._ssh_key()
        # a second creation, after an unclear answer to the first, is another machine
        body = self._body(order, offer.region, ssh_key, environment, key, _tag(order, token_hex(4)))
        time.sleep(max(0.0, self._next_launch_t - time.monotonic()))
        try:
            ids = self._api.post(LAUNCH, body, secrets=secrets, pause_s=LAUNCH_INTERVAL_S)["data"]["instance_ids"]
        except AnswerError as error:
            raise _refusal(error, offer) from error
        except (KeyError, TypeError) as error:
            raise UnclearError("Lambda answers a launch with something else than its instance") from error
        finally:
            self._next_launch_t = time.monotonic() + LAUNCH_INTERVAL_S
        if not ids:
            raise UnclearError("Lambda answers a launch with no instance")
        return Machine(str(ids[0]), order.run_id, "starting", "launched", offer.price_usd_per_hour, offer.region)

    def machines(self, name: str = "") -> list[Machine]:
        """Instances that are not terminated, all or those of a name."""
        found = self._get("/instances", lambda data: readable("Lambda", data, _machine))
        return [machine for machine in found if machine.costs and name in ("", machine.name)]

    def end(self, machine_id: str) -> None:
        """Terminate an instance; one that is gone is fine."""
        try:
            self._api.post("/instance-operations/terminate", {"instance_ids": [machine_id]}, repeat=True)
        except AnswerError as error:
            if error.status != 404:
                raise LaunchError(f"{error}; end instance {machine_id} in Lambda's dashboard") from error

    def logs(self, machine_id: str, lines: int, follow: bool) -> Iterator[str]:
        """Lambda keeps none: says where they are."""
        del lines, follow
        hosts = self._get("/instances", lambda data: {one["id"]: one.get("ip") for one in data})
        host = hosts.get(machine_id) or "<address>"
        raise LaunchError(
            "Lambda keeps no logs. The run's are in its store (the launch command again with --wait, or status "
            f"--store URL). While the machine lives: ssh ubuntu@{host} sudo docker logs --follow sequence-runner, and "
            "of the machine itself: sudo journalctl --unit sequence-runner"
        )

    def _body(
        self, order: Order, region: str, ssh_key: str, environment: Mapping[str, str], key: str, tag: str
    ) -> dict[str, Any]:
        _check(order)
        return {
            "region_name": region,
            "instance_type_name": order.gpu,
            "ssh_key_names": [ssh_key],
            "name": order.run_id,
            "tags": [{"key": TAG, "value": tag}],
            "user_data": user_data(order, environment, key, self._api.url, tag),
        }

    def _ssh_key(self) -> str:
        """The account's only key: Lambda wants one with every launch."""
        if not self._only_ssh_key:
            names = self._get("/ssh-keys", lambda data: [str(key["name"]) for key in data])
            if not names:
                raise BadRequestError("Lambda wants an SSH key with every launch and the account has none; add one")
            if len(names) > 1:
                raise BadRequestError(
                    f"Lambda wants one SSH key with a launch; choose with --ssh-key: {', '.join(names)}"
                )
            self._only_ssh_key = names[0]
        return self._only_ssh_key

    def _get(self, path: str, read: Callable[[Any], Read]) -> Read:
        return self._api.read(path, lambda answer: read(answer["data"]))


def _tag(order: Order, own: str) -> str:
    """By which the instance knows itself."""
    return f"{order.environment.get(MACHINE) or order.run_id}-{own}"


def _ends_itself(order: Order) -> bool:
    return bool(order.options.get("self_terminate", True))


def _check(order: Order) -> None:
    if order.spot:
        raise BadRequestError("Lambda has no spot machines; leave out --spot")
    if not 1 <= len(order.run_id) <= MAX_NAME:
        raise BadRequestError(
            f"the run id {order.run_id!r} has {len(order.run_id)} characters and is the machine's name, for which "
            f"Lambda takes {MAX_NAME}; give a shorter --run-id"
        )


def _types(data: Any) -> dict[str, Kind]:
    """Name -> instance type, the cheapest first."""
    kinds = {
        name: Kind(
            int(item["instance_type"]["price_cents_per_hour"]) / 100,
            tuple(region["name"] for region in item["regions_with_capacity_available"]),
            {"description": item["instance_type"]["description"], **item["instance_type"]["specs"]},
        )
        for name, item in data.items()
    }
    return dict(sorted(kinds.items(), key=lambda item: item[1].price_usd_per_hour))


def _machine(instance: Mapping[str, Any]) -> Machine:
    says = str(instance["status"])
    return Machine(
        id=str(instance["id"]),
        name=str(instance.get("name") or ""),
        status=STATUS.get(says, "failed"),
        says=says,
        price_usd_per_hour=number((instance.get("instance_type") or {}).get("price_cents_per_hour")) / 100,
        region=str((instance.get("region") or {}).get("name") or ""),
        ours=any(tag.get("key") == TAG for tag in instance.get("tags") or ()),
    )


def _refusal(error: AnswerError, offer: Offer) -> LaunchError:
    """What a refused launch means for the next offer."""
    if error.code == NO_CAPACITY:
        return CandidateRefusedError(f"Lambda has no {offer.gpu} in {offer.region} any more")
    if error.status == 429:
        return error
    remedy = REMEDY.get(error.code)
    return BadRequestError(f"{error}; {remedy}" if remedy else str(error))


def _near(gpu: str, types: Mapping[str, Kind]) -> str:
    near = difflib.get_close_matches(gpu, types, n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}" if near else f"it has {', '.join(types)}"


def _no_capacity(order: Order, types: Mapping[str, Kind]) -> str:
    where = f" in {', '.join(order.regions)}" if order.regions else ""
    if elsewhere := types[order.gpu].regions:
        return f"Lambda has no {order.gpu}{where} now, but in {', '.join(elsewhere)}"
    others = [f"{name} (${kind.price_usd_per_hour:.2f}/h)" for name, kind in types.items() if kind.regions]
    return f"Lambda has no {order.gpu}{where} now; it has {', '.join(others) or 'nothing at all'}"
