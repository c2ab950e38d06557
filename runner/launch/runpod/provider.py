"""RunPod as a provider of machines: pods of REST v2, found by their name.

Sources: github.com/runpod/docs api-reference-v2/openapi.json; spot through the
GraphQL API, in which REST v2 has no part (see `spot.py`).
"""

from __future__ import annotations

import difflib
import json
import shlex
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from configs.errors import ConfigError
from runner.host.deadman import END_AFTER
from runner.host.where import LAUNCHED_BY
from runner.launch.http import AnswerError, Api
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
from runner.launch.runpod import spot
from runner.launch.secrets import masked, values_of
from runner.say import say

MAX_VARIABLES = 50
VOLUME_PATH = "/workspace"
IDLE_S = 3.0
"""A log stream that is silent for so long has shown what there was."""
RECONNECT_S, RECONNECT_PAUSE_S = 90.0, 2.0
"""One that is followed is asked for anew after so long a silence: its connection may be dead."""
STATUS: dict[str, Status] = {
    "PROVISIONING": "starting",
    "STARTING": "starting",
    "RUNNING": "running",
    "EXITED": "stopped",
    "ERROR": "failed",
    "TERMINATED": "ended",
}
BY_AVAILABILITY = ("HIGH", "MEDIUM", "LOW", "NONE")
"""`NONE` is tried last: the catalogue orders candidates, it reserves nothing."""


class RunPod:
    """Pods of one account."""

    name = "runpod"

    def __init__(self) -> None:
        """Prepare calls; nothing is sent, and no key is needed yet."""
        self._api = Api("RunPod", "SEQUENCE_RUNPOD_URL", "RUNPOD_API_KEY")
        self._graphql = Api("RunPod", "SEQUENCE_RUNPOD_GRAPHQL_URL", "RUNPOD_API_KEY")

    def offers(self, order: Order) -> list[Offer]:
        """One candidate for each data centre that has the GPU, the most available first, then wherever there is one."""
        spot.check(order)
        query = {"include": "AVAILABILITY", "product": "POD", "count": order.gpu_count, "cloud": _cloud(order)}
        if order.options.get("min_cuda"):
            query["minCudaVersion"] = order.options["min_cuda"]
        return self._api.read("/catalog/gpus", lambda answer: self._offers_in(answer, order), query)

    def _offers_in(self, catalogue: Any, order: Order) -> list[Offer]:
        gpus = {gpu["id"]: gpu for gpu in catalogue["gpus"]}
        gpu = gpus.get(order.gpu)
        if gpu is None:
            raise BadRequestError(_unknown(order.gpu, gpus))
        cloud = _cloud(order).lower()
        most = number(gpu["maxCount"][cloud]) if gpu[cloud] else 0
        if most < order.gpu_count:
            raise CandidateRefusedError(
                f"RunPod has no pod with {order.gpu_count} x {order.gpu} in its {cloud} cloud; the most are {most:g}"
            )
        return self._offers_of(order, gpu, number(gpu["price"][cloud]) * order.gpu_count)

    def request(self, order: Order, offer: Offer) -> Request:
        """What `create` would send, its secrets masked."""
        api, body = self._asked(order, offer, masked(order.secrets))
        return Request("POST", api.url + ("" if order.spot else "/pods"), body)

    def create(self, order: Order, offer: Offer) -> Machine:
        """Create the pod, once."""
        if order.spot:
            say(spot.WARNING)
        secrets = values_of(order.secrets)
        api, body = self._asked(order, offer, secrets)
        try:
            answer = api.post("" if order.spot else "/pods", body, secrets=secrets)
        except AnswerError as error:
            raise _meaning(error) from error
        if order.spot:
            return spot.created(answer, order, offer, secrets)
        try:
            return _machine(answer)
        except (AttributeError, KeyError, TypeError) as error:
            raise UnclearError("RunPod answers a creation with what is no pod; its API may have changed") from error

    def machines(self, name: str = "") -> list[Machine]:
        """All pods that are not gone, or those of a name."""
        pods = self._api.read("/pods", lambda answer: readable("RunPod", answer["pods"], _machine))
        return [pod for pod in pods if pod.status != "ended" and name in ("", pod.name)]

    def end(self, machine_id: str) -> None:
        """Delete a pod."""
        try:
            self._api.delete(f"/pods/{machine_id}")
        except AnswerError as error:
            if error.status != 404:
                raise

    def logs(self, machine_id: str, lines: int, follow: bool) -> Iterator[str]:
        """What the container printed; with `follow` until the pod is gone."""
        query = {"source": "container", "tail": min(max(lines, 1), 5000)}
        last_id = ""
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
            stream = self._api.lines(f"/pods/{machine_id}/logs", query, headers, RECONNECT_S if follow else IDLE_S)
            try:
                for seen_id, line in events(stream):
                    last_id = seen_id or last_id
                    yield line
            except AnswerError as error:
                if error.status == 404 and last_id:
                    return
                raise
            except LaunchError as error:
                if not follow:
                    raise
                say(f"{error}; asking again")
                time.sleep(RECONNECT_PAUSE_S)
            if not follow or not any(pod.id == machine_id for pod in self.machines()):
                return

    def _asked(self, order: Order, offer: Offer, secrets: Mapping[str, str]) -> tuple[Api, dict[str, Any]]:
        spot.check(order)
        environment = {**order.environment, END_AFTER: f"{order.max_hours:.4f}", **secrets}
        if len(environment) > MAX_VARIABLES:
            raise ConfigError(f"RunPod takes {MAX_VARIABLES} variables, and this order has {len(environment)}")
        if order.spot:
            return self._graphql, spot.body(order, offer, environment)
        return self._api, _body(order, offer, environment)

    def _offers_of(self, order: Order, gpu: Mapping[str, Any], price: float) -> list[Offer]:
        details = {"price_usd_per_gpu_hour": price / order.gpu_count}
        centres = [
            Offer(order.gpu, centre["id"], price, centre["availability"], details)
            for centre in gpu.get("dataCenters") or ()
            if not order.regions or centre["id"] in order.regions
        ]
        listed = {centre.region for centre in centres}
        # a volume, or a wish for a place, may be in a centre that has none listed now
        centres += [
            Offer(order.gpu, region, price, "NONE", details) for region in order.regions if region not in listed
        ]
        order_of = {word: at for at, word in enumerate(BY_AVAILABILITY)}
        centres.sort(key=lambda offer: order_of.get(offer.availability, order_of["NONE"]))
        return centres or [Offer(order.gpu, "", price, gpu.get("availability", ""), details)]


def arguments_of(order: Order) -> str:
    """The runner's arguments as the one text that RunPod takes, quoted as a shell reads it."""
    return shlex.join(order.arguments)


def events(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Id and log line of each server-sent event (html.spec.whatwg.org, 9.2.6)."""
    data: list[str] = []
    last_id = ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            last_id = value
        elif name == "data":
            data.append(value)
        elif not line and data:
            yield last_id, _log_line("\n".join(data))
            data = []
    if data:
        yield last_id, _log_line("\n".join(data))


def _log_line(data: str) -> str:
    try:
        event = json.loads(data)
    except ValueError:
        return data
    return str(event.get("line", "")) if isinstance(event, dict) else data


def _body(order: Order, offer: Offer, environment: Mapping[str, str]) -> dict[str, Any]:
    """`CreatePodRequest`."""
    regions = [offer.region] if offer.region else list(order.regions)
    options = order.options
    cuda = {"minCudaVersion": options["min_cuda"]} if options.get("min_cuda") else {}
    body: dict[str, Any] = {
        "name": order.run_id,
        "image": order.image,
        "args": arguments_of(order),
        "gpu": {"id": order.gpu, "count": order.gpu_count} | cuda,
        "cloud": _cloud(order),
        "disk": order.disk_gb,
        "env": dict(environment),
    }
    body |= {"dataCenterIds": regions} if regions else {}
    body |= {"registry": options["registry"]} if options.get("registry") else {}
    if options.get("volume"):
        body["mounts"] = {"network": [{"volumeId": options["volume"], "path": VOLUME_PATH}]}
    return body


def _machine(pod: Any) -> Machine:
    """A pod as the API shows it; of its `env`, which holds secrets, only a name is looked at.

    Raises:
        AttributeError, KeyError, TypeError: it is none.
    """
    says = str(pod["status"])
    return Machine(
        id=_text(pod["id"]),
        name=str(pod.get("name") or ""),
        status=STATUS.get(says, "running"),  # by a word of tomorrow no pod is taken for lost
        says=says,
        price_usd_per_hour=number(pod.get("cost")),
        region=str(pod.get("dataCenterId") or ""),
        created_t=_unix_s(pod.get("createdAt")),
        ours=LAUNCHED_BY in (pod.get("env") or ()),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("no id")
    return value


def _unix_s(text: Any) -> float:
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except (TypeError, ValueError):
        return 0.0


def _meaning(error: AnswerError) -> LaunchError:
    """What a refused creation means, by the table of `createPod` in the published API."""
    if error.status in (400, 403, 409):
        return CandidateRefusedError(str(error))
    if error.status == 402:
        return LaunchError(f"{error}; the account's balance is too low, no other offer will do")
    return error if error.status == 429 else BadRequestError(str(error))


def _unknown(gpu: str, gpus: Mapping[str, Mapping[str, Any]]) -> str:
    names = {name.lower(): id for id, item in gpus.items() for name in (id, str(item.get("name")))}
    near = [names[name] for name in difflib.get_close_matches(gpu.lower(), names, n=3, cutoff=0.3)]
    near += [id for name, id in names.items() if gpu.lower() in name]
    return f"RunPod has no GPU {gpu!r}; did you mean {', '.join(dict.fromkeys(near)) or ', '.join(gpus)}?"


def _cloud(order: Order) -> str:
    return str(order.options.get("cloud", "SECURE"))
