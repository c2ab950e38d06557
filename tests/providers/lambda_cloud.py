"""A fake of Lambda Cloud's API 1.8.3 on loopback: refuses every field that the real one does not know.

Fields, limits, codes and their HTTP statuses are those of Lambda's OpenAPI description. Of a call that comes too
early it documents the limit alone, so 429 with a code of ours is a guess.
"""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

from tests.providers.base import Call, FakeApi, Refusal, Reply

KEY = "secret_fake-account_0123456789abcdef"
TYPES = {
    # name: (cents per hour, GPUs, regions with capacity)
    "gpu_1x_a10": (75, 1, ["us-west-1", "us-east-1", "europe-central-1"]),
    "gpu_1x_a100": (129, 1, []),
    "gpu_8x_h100_sxm5": (2392, 8, ["us-south-1"]),
}
REGIONS = frozenset(
    "europe-central-1 asia-south-1 australia-east-1 me-west-1 asia-northeast-1 asia-northeast-2 us-east-1 us-west-2 "
    "us-west-1 us-south-1 us-west-3 us-midwest-1 us-east-2 us-south-2 us-south-3 us-east-3 us-midwest-2".split()
)
MAX_USER_DATA = 1_000_000
LAUNCH, TERMINATE = "POST /instance-operations/launch", "POST /instance-operations/terminate"
GONE = ("terminating", "terminated")


def error(status: int, code: str, message: str = "", **headers: str) -> Reply:
    """An answer as Lambda refuses."""
    return Reply(status, {"error": {"code": code, "message": message or code}}, headers)


NO_CAPACITY = error(400, "instance-operations/launch/insufficient-capacity", "Not enough capacity.")
QUOTA = error(400, "global/quota-exceeded", "Quota exceeded.")
INACTIVE = error(403, "global/account-inactive", "Your account is inactive.")
INTERNAL = error(500, "global/internal-error", "An internal server error occurred.")
UNAVAILABLE = error(503, "provider/internal-unavailable", "Provider unavailable")
TOO_EARLY = error(429, "global/too-many-requests", **{"Retry-After": "1"})


class FakeLambda(FakeApi):
    """One account. Tests change what it has and read what it was asked."""

    prefix = "/api/v1"

    def __init__(self) -> None:
        super().__init__(KEY)
        self.ssh_keys = ["laptop"]
        self.types: dict[str, tuple[int, int, list[str]]] = dict(TYPES)
        self.boots_after = 1
        """An instance is active from the so many-th listing on."""
        self.keeps_terminating = False
        """A terminated instance stays listed as `terminating`; else it is gone at once."""
        self.shows_tags = True
        """The schema of an instance has them and does not require them."""
        self.interval_s = self.launch_interval_s = 0.0
        self.too_early = 0
        """Requests that kept no interval."""
        self.instances: dict[str, dict[str, Any]] = {}
        self.listed: dict[str, int] = {}
        self.user_data: dict[str, str] = {}
        """Instance id -> what it was launched with; the real API never shows it again."""
        self._last_t: dict[str, float] = {}

    def add(self, name: str, status: str = "active", gpu: str = "gpu_1x_a10", region: str = "us-west-1") -> str:
        """An instance, as if it had been launched."""
        cents, gpus, _ = self.types[gpu]
        machine_id = uuid.uuid4().hex
        self.instances[machine_id] = {
            "id": machine_id,
            "name": name,
            "ip": "198.51.100.2",
            "private_ip": "10.0.2.100",
            "status": status,
            "ssh_key_names": ["laptop"],
            "file_system_names": [],
            "region": {"name": region, "description": region},
            "instance_type": _instance_type(gpu, cents, gpus),
            "actions": {
                action: {"available": True} for action in ("migrate", "rebuild", "restart", "cold_reboot", "terminate")
            },
        }
        return machine_id

    def named(self, name: str) -> list[dict[str, Any]]:
        """Instances of a name that cost money."""
        return [one for one in self.instances.values() if one["name"] == name and one["status"] not in GONE]

    def answer(self, call: Call) -> Reply:
        known = {
            "GET /instance-types": self._instance_types,
            "GET /ssh-keys": self._ssh_keys,
            "GET /instances": self._instances,
            LAUNCH: lambda: self._launch(call.body),
            TERMINATE: lambda: self._terminate(call.body),
        }
        if call.what not in known:
            raise Refusal(error(404, "global/object-does-not-exist", f"no {call.what}"))
        self._keep_pace(call)
        if call.method == "POST" and not isinstance(call.body, dict):
            raise _invalid("the body is no object")
        return Reply(200, {"data": known[call.what]()})

    def refuse_key(self) -> Reply:
        return error(401, "global/invalid-api-key", "API key was invalid, expired, or deleted.")

    def _keep_pace(self, call: Call) -> None:
        now = time.monotonic()
        for what, interval_s in (("", self.interval_s), (LAUNCH, self.launch_interval_s)):
            if what in ("", call.what):
                if now - self._last_t.get(what, -1e9) < interval_s:
                    self.too_early += 1
                    raise Refusal(TOO_EARLY)
                self._last_t[what] = now

    def _instance_types(self) -> Any:
        return {
            name: {
                "instance_type": _instance_type(name, cents, gpus),
                "regions_with_capacity_available": [{"name": region, "description": region} for region in regions],
            }
            for name, (cents, gpus, regions) in self.types.items()
        }

    def _ssh_keys(self) -> Any:
        return [{"id": uuid.uuid4().hex, "name": name, "public_key": "ssh-ed25519 AAAA"} for name in self.ssh_keys]

    def _instances(self) -> Any:
        for machine_id, one in self.instances.items():
            self.listed[machine_id] = self.listed.get(machine_id, 0) + 1
            if one.get("status") == "booting" and self.listed[machine_id] >= self.boots_after:
                one["status"] = "active"
        hidden = set() if self.shows_tags else {"tags"}
        there = [one for one in self.instances.values() if one.get("status") != "terminated"]
        return [{field: value for field, value in one.items() if field not in hidden} for one in there]

    def _launch(self, body: dict[str, Any]) -> Any:
        _check_launch(body)
        if body["instance_type_name"] not in self.types:
            raise Refusal(error(404, "global/object-does-not-exist", "The instance type does not exist."))
        if body["ssh_key_names"][0] not in self.ssh_keys:
            raise Refusal(error(404, "global/object-does-not-exist", "The SSH key does not exist."))
        if body["region_name"] not in self.types[body["instance_type_name"]][2]:
            raise Refusal(NO_CAPACITY)
        machine_id = self.add(body.get("name", ""), "booting", body["instance_type_name"], body["region_name"])
        self.instances[machine_id] |= {"tags": body.get("tags", []), "ssh_key_names": body["ssh_key_names"]}
        self.user_data[machine_id] = body.get("user_data", "")
        return {"instance_ids": [machine_id]}

    def _terminate(self, body: dict[str, Any]) -> Any:
        _know(body, {"instance_ids"})
        ended = [self.instances.get(one, {}) for one in body["instance_ids"]]
        if any(one.get("status", "terminated") == "terminated" for one in ended):
            raise Refusal(error(404, "global/object-does-not-exist", "Specified instance does not exist."))
        for one in ended:
            one["status"] = "terminating" if self.keeps_terminating else "terminated"
        return {"terminated_instances": ended}


def _invalid(message: str) -> Refusal:
    return Refusal(error(400, "global/invalid-parameters", message))


def _know(body: dict[str, Any], fields: set[str]) -> None:
    if unknown := body.keys() - fields:
        raise _invalid(f"unknown: {sorted(unknown)}")


def _check_launch(body: dict[str, Any]) -> None:
    texts = {"region_name", "instance_type_name", "name", "hostname", "user_data"}
    lists = {"ssh_key_names", "file_system_names", "file_system_mounts", "tags", "firewall_rulesets"}
    _know(body, texts | lists | {"image"})
    if missing := {"region_name", "instance_type_name", "ssh_key_names"} - body.keys():
        raise _invalid(f"missing: {sorted(missing)}")
    if wrong := [name for name in texts & body.keys() if not isinstance(body[name], str)]:
        raise _invalid(f"no text: {wrong}")
    if wrong := [name for name in lists & body.keys() if not isinstance(body[name], list)]:
        raise _invalid(f"no list: {wrong}")
    checks = {
        "region_name": body["region_name"] in REGIONS,
        "ssh_key_names": len(body["ssh_key_names"]) == 1,
        "name": len(body.get("name", "")) <= 64,
        "hostname": bool(re.fullmatch("[a-z0-9][0-9a-z-]{0,62}", body.get("hostname", "a"))),
        "user_data": len(body.get("user_data", "").encode()) <= MAX_USER_DATA,
        "tags": all(_is_tag(tag) for tag in body.get("tags", [])),
    }
    if wrong := [name for name, is_right in checks.items() if not is_right]:
        raise _invalid(f"wrong: {wrong}")


def _is_tag(tag: Any) -> bool:
    return (
        tag.keys() == {"key", "value"}
        and bool(re.fullmatch("[a-z][a-z0-9-:]+", tag["key"]))
        and len(tag["key"]) <= 55
        and len(tag["value"]) <= 128
    )


def _instance_type(name: str, cents: int, gpus: int) -> dict[str, Any]:
    return {
        "name": name,
        "description": name.replace("_", " "),
        "gpu_description": name.split("_")[-1].upper(),
        "price_cents_per_hour": cents,
        "specs": {"vcpus": 30, "memory_gib": 200, "storage_gib": 1400, "gpus": gpus},
    }
