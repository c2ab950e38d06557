"""A RunPod on loopback: REST v2 as its published schemas have it, and of GraphQL what rents a spot pod.

Bodies and answers are checked against `runpod_openapi.json`; what is unknown is
422, as with the real one. Pods go from PROVISIONING over STARTING to RUNNING as
they are looked at; `on_create` may start something real in a pod's place.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.providers.base import Call, FakeApi, Fault, Refusal, Reply
from tests.providers.schema import faults

SCHEMAS = json.loads(Path(__file__).with_name("runpod_openapi.json").read_text())["schemas"]
KEY = "rpa_TESTKEY0123456789abcdef"
ACTIONS = {
    "PROVISIONING": ["terminate"],
    "STARTING": ["stop", "terminate"],
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
    "ERROR": ["terminate"],
}
SPOT_FIELDS = {
    "bidPerGpu": (int, float),
    "cloudType": str,
    "containerDiskInGb": int,
    "containerRegistryAuthId": str,
    "dataCenterId": str,
    "dockerArgs": str,
    "env": list,
    "gpuCount": int,
    "gpuTypeId": str,
    "imageName": str,
    "name": str,
    "networkVolumeId": str,
    "volumeInGb": int,
    "volumeMountPath": str,
}
"""Of PodRentInterruptableInput, as far as it is used."""


@dataclass
class Pod:
    """One pod."""

    id: str
    body: dict[str, Any]
    """The request that made it, as of REST."""
    cost: float
    region: str
    spot: bool = False
    status: str = "PROVISIONING"
    looks: int = 0
    """Times that it was shown since it was made; it moves on with them."""
    lines: list[str] = field(default_factory=list)
    created_t: float = field(default_factory=time.time)

    @property
    def name(self) -> str:
        return str(self.body["name"])

    def shown(self) -> dict[str, Any]:
        runs = self.status == "RUNNING"
        asked = {key: self.body[key] for key in ("name", "image", "args", "env")}
        gpu = {key: self.body["gpu"][key] for key in ("id", "count")}
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.created_t))
        return asked | {
            "id": self.id,
            "status": self.status,
            "actions": ACTIONS[self.status],
            "disk": self.body.get("disk", 50),
            "mounts": self.body.get("mounts", {}),
            "ports": [],
            "registry": self.body.get("registry"),
            "gpu": gpu,
            "cloud": self.body.get("cloud", "SECURE"),
            "dataCenterId": self.region,
            "cudaVersion": "12.8",
            "ssh": {"proxy": None, "direct": None},
            "template": None,
            "cost": 0.0 if self.status == "EXITED" else self.cost,
            "locked": False,
            "globalNetworking": {"enabled": False},
            "runtime": {"uptime": self.looks, "gpus": []} if runs else None,
            "createdAt": created,
            "startedAt": created if runs else None,
        }


def gpu_type(id: str, name: str, price: float, centres: dict[str, str], most: int = 8) -> dict[str, Any]:
    """A GPU of the catalogue: data centre -> availability."""
    levels = ("HIGH", "MEDIUM", "LOW", "NONE")
    overall = min(centres.values(), key=levels.index, default="NONE")
    return {
        "id": id,
        "name": name,
        "pool": None,
        "manufacturer": "NVIDIA",
        "memory": 48,
        "secure": True,
        "community": False,
        "price": {"secure": price, "community": 0.0},
        "maxCount": {"secure": most, "community": 0},
        "availability": overall,
        "dataCenters": [{"id": id, "name": id.title(), "availability": level} for id, level in centres.items()],
    }


class FakeRunPod(FakeApi):
    """One account."""

    prefix = "/v2"

    def __init__(self, key: str = KEY) -> None:
        super().__init__(key)
        self.gpus = [
            gpu_type("NVIDIA A40", "A40", 0.44, {"CA-MTL-1": "LOW", "EU-SE-1": "HIGH"}),
            gpu_type("NVIDIA RTX A5000", "RTX A5000", 0.27, {"EU-RO-1": "MEDIUM"}),
            gpu_type("NVIDIA GeForce RTX 4090", "RTX 4090", 0.69, {}),
        ]
        self.pods: dict[str, Pod] = {}
        self.gone: dict[str, Pod] = {}
        self.first_of_ids = "pod"
        """What every pod's id begins with."""
        self.pod_keys: dict[str, str] = {}
        """Keys that are good for one pod alone -> its id."""
        self.rest_takes_pod_keys = True
        """Whether the real one does is not documented."""
        self.graphql_takes_pod_keys = True
        self.on_create: Callable[[Pod], None] = lambda pod: None
        """Told of each pod that is made; it may start what the pod stands for."""
        self.on_end: Callable[[Pod], None] = lambda pod: None
        """Told of each pod that is deleted."""
        self.looks_to_run = 2
        """Looks at a pod until it runs, half of them PROVISIONING."""

    @property
    def graphql_url(self) -> str:
        return f"{self.origin}/graphql"

    def named(self, name: str) -> list[Pod]:
        """The pods of a name that are there."""
        return [pod for pod in self.pods.values() if pod.name == name]

    def add(self, name: str, status: str = "RUNNING", **more: Any) -> Pod:
        """A pod that was made some other way."""
        gpu = {"id": "NVIDIA A40", "count": 1}
        pod = self._made({"name": name, "image": "some/image", "args": "", "env": {}, "gpu": gpu}, 0.44, "EU-SE-1")
        pod.status = status
        vars(pod).update(more)
        return pod

    def refuse_key(self) -> Reply:
        return problem(401, "Unauthorized", "missing bearer token")

    def check_key(self, call: Call) -> None:
        pod = self.pod_keys.get(call.headers.get("authorization", "").removeprefix("Bearer "))
        if pod is None:
            super().check_key(call)
        elif call.path == "/graphql":
            if not self.graphql_takes_pod_keys or _terminated(call.body) != pod:
                raise Refusal(Reply(200, {"errors": [{"message": "not allowed for this key"}], "data": None}))
        elif not self.rest_takes_pod_keys or call.path != f"/pods/{pod}":
            raise Refusal(problem(403, "Forbidden", "the key has not the scope for this"))

    def answer(self, call: Call) -> Reply:
        if call.path == "/graphql":
            return self._graphql(call.body)
        parts = call.path.strip("/").split("/")
        if call.what == "GET /catalog/gpus":
            return self._catalogue(call)
        if call.what == "GET /pods":
            return _checked("ListPodsResponse", {"pods": [self._look(pod) for pod in self.pods.values()]})
        if call.what == "POST /pods":
            return self._create(call.body)
        if parts[0] == "pods" and len(parts) in (2, 3):
            pod = self.pods.get(parts[1])
            if pod is None:
                raise Refusal(problem(404, "Not Found", "pod not found"))
            if call.method == "GET" and parts[2:] == ["logs"]:
                return Reply(200, self._log_stream(pod, call), content_type="text/event-stream")
            if call.method == "GET" and len(parts) == 2:
                return _checked("Pod", self._look(pod))
            if call.method == "DELETE" and len(parts) == 2:
                return self._delete(pod)
        raise Refusal(problem(404, "Not Found", f"no such path: {call.what}"))

    def _catalogue(self, call: Call) -> Reply:
        allowed = {"include", "product", "count", "cloud", "minCudaVersion", "cudaVersions", "countryCodes"}
        if call.query.keys() - allowed:
            raise Refusal(problem(422, "Unprocessable Entity", "Request validation failed."))
        if ("include" in call.query) != ("product" in call.query):
            raise Refusal(problem(400, "Bad Request", "product is required with include=AVAILABILITY"))
        return _checked("ListGpuTypesResponse", {"gpus": self.gpus})

    def _create(self, body: Any) -> Reply:
        if wrong := faults(SCHEMAS, "CreatePodRequest", body):
            raise Refusal(problem(422, "Unprocessable Entity", "Request validation failed.", wrong))
        if ("gpu" in body) == ("cpu" in body):
            raise Refusal(problem(400, "Bad Request", "exactly one of gpu or cpu must be set"))
        if len(body.get("env", {})) > 50:
            raise Refusal(problem(400, "Bad Request", "at most 50 environment variables"))
        gpu = next((gpu for gpu in self.gpus if gpu["id"] == body["gpu"]["id"]), None)
        if gpu is None:
            raise Refusal(problem(400, "Bad Request", "gpu type not found"))
        open_in = {centre["id"] for centre in gpu["dataCenters"] if centre["availability"] != "NONE"}
        wanted = set(body.get("dataCenterIds") or open_in) & open_in
        if not wanted:
            raise Refusal(no_capacity())
        price = gpu["price"]["secure"] * body["gpu"].get("count", 1)
        body = {"args": "", "env": {}} | body | {"gpu": {"count": 1} | body["gpu"]}
        pod = self._made(body, price, min(wanted))
        self.on_create(pod)
        return _checked("Pod", pod.shown(), 201)

    def _made(self, body: dict[str, Any], cost: float, region: str, spot: bool = False) -> Pod:
        pod = Pod(f"{self.first_of_ids}{len(self.pods) + len(self.gone):04d}", body, cost, region, spot)
        self.pods[pod.id] = pod
        return pod

    def _delete(self, pod: Pod) -> Reply:
        self.gone[pod.id] = self.pods.pop(pod.id)
        pod.status = "TERMINATED"
        self.on_end(pod)
        return Reply(204)

    def _look(self, pod: Pod) -> dict[str, Any]:
        if pod.status in ("PROVISIONING", "STARTING"):
            pod.looks += 1
            half = self.looks_to_run / 2
            pod.status = (
                "RUNNING" if pod.looks >= self.looks_to_run else "STARTING" if pod.looks >= half else "PROVISIONING"
            )
        return pod.shown()

    def _log_stream(self, pod: Pod, call: Call) -> Iterator[bytes]:
        """What there is, then what comes, until the pod is gone; never an end of its own."""
        after = call.headers.get("last-event-id", "")
        at = int(after.rpartition("/")[2]) if after else max(0, len(pod.lines) - int(call.query.get("tail", 100)))
        is_there = True
        while is_there and not self._over.wait(0.02):
            is_there = pod.id in self.pods  # what it printed before it went is told all the same
            while at < len(pod.lines):
                at += 1
                stamp = "2026-11-21T12:00:00Z"
                data = json.dumps({"ts": stamp, "source": "container", "line": pod.lines[at - 1]})
                yield f"id: {stamp}/{at:012d}\ndata: {data}\n\n".encode()
            yield b": here\n\n"

    def _graphql(self, body: Any) -> Reply:
        """Client errors come as 200 with a list of errors."""
        given = body.get("variables", {}).get("input", {})
        if "podTerminate" in body["query"]:
            pod = self.pods.get(_terminated(body))
            if pod is None:
                return Reply(200, {"errors": [{"message": "pod not found to terminate"}], "data": None})
            self._delete(pod)
            return Reply(200, {"data": {"podTerminate": None}})
        if "podRentInterruptable(input: $input)" not in body["query"]:
            return Reply(200, {"errors": [{"message": "unknown operation"}]})
        for name, value in given.items():
            if name not in SPOT_FIELDS or not isinstance(value, SPOT_FIELDS[name]):
                text = f'Variable "$input" got invalid value at "input.{name}"'
                return Reply(200, {"errors": [{"message": text}]})
        gpu = next((gpu for gpu in self.gpus if gpu["id"] == given["gpuTypeId"]), None)
        if gpu is None or not gpu["dataCenters"]:
            text = "There are no longer any instances available with the requested specifications."
            return Reply(200, {"errors": [{"message": text}], "data": {"podRentInterruptable": None}})
        body = {
            "name": given["name"],
            "image": given["imageName"],
            "args": given["dockerArgs"],
            "env": {item["key"]: item["value"] for item in given["env"]},
            "gpu": {"id": given["gpuTypeId"], "count": given["gpuCount"]},
            "disk": given["containerDiskInGb"],
        }
        cost = given["bidPerGpu"] * given["gpuCount"]
        pod = self._made(body, cost, given.get("dataCenterId") or gpu["dataCenters"][0]["id"], spot=True)
        self.on_create(pod)
        rented = {"id": pod.id, "desiredStatus": "RUNNING", "costPerHr": cost}
        return Reply(200, {"data": {"podRentInterruptable": rented}})


def _terminated(body: Any) -> str:
    """Id of the pod that a `podTerminate` is for, written into the query or given beside it."""
    written = re.search(r'podTerminate\(input: *{ *podId: *"([^"]*)" *}\)', body["query"])
    return written[1] if written else str(body.get("variables", {}).get("input", {}).get("podId", ""))


def problem(status: int, title: str, detail: str, errors: list[str] | None = None, **headers: str) -> Reply:
    """An error as RFC 9457 has it."""
    body: dict[str, Any] = {"title": title, "status": status, "detail": detail} | ({"errors": errors} if errors else {})
    assert not faults(SCHEMAS, "ErrorResponse", body)
    return Reply(status, body, headers, "application/problem+json")


def no_capacity() -> Reply:
    """What 400 says where there is no pod to be had; no code tells it from a bad request."""
    return problem(400, "Bad Request", "there are no instances available with the requested specifications")


def too_many(retry_after_s: int) -> Reply:
    """Too many requests."""
    return problem(429, "Too Many Requests", "rate limit exceeded", **{"Retry-After": str(retry_after_s)})


def _checked(schema: str, body: Any, status: int = 200) -> Reply:
    """An answer that is what the published schema says, or the fake itself is wrong."""
    wrong = faults(SCHEMAS, schema, body)
    assert not wrong, f"the fake's {schema}: {wrong}"
    return Reply(status, body)


__all__ = ["KEY", "FakeRunPod", "Fault", "Pod", "gpu_type", "no_capacity", "problem", "too_many"]
