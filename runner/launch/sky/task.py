"""The task file of a run: what SkyPilot is asked for, and the command line that hands it over.

Source of every field: SkyPilot 0.14.1, sky/utils/schemas.py; `make sky-check` has that version read the file.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

import yaml

from configs.errors import ExitCode
from runner.launch.provider import BadRequestError, Offer, Order

RUNNER = "/opt/venv/bin/sequence-runner"
"""In the image, whose ENTRYPOINT SkyPilot does not use and whose PATH its login shell replaces."""
NAME_PATTERN = re.compile(r"[a-zA-Z]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?")
"""sky/skylet/constants.py, CLUSTER_NAME_VALID_REGEX."""
CONTAINER = {"docker": {"run_options": ["-e HOME=/root"]}}
"""SkyPilot puts its SSH key below the HOME of the image, and its SSH server looks below root's."""
STOP_GRACE_S = 120
RECOVERED = (ExitCode.INTERRUPTED, ExitCode.TERMINATED)
"""A run that was told to stop goes on elsewhere from its store. Everything else would end the same way again, and
137 (killed, for want of memory or by the host) must not be listed."""


def check(order: Order) -> None:
    """Refuse what SkyPilot cannot carry out with our image.

    Raises:
        BadRequestError: the run id is no name of a job, or the region cannot be used.
    """
    if not NAME_PATTERN.fullmatch(order.run_id):
        raise BadRequestError(
            f"SkyPilot takes no job named {order.run_id!r}: letters, digits and '-_.', a letter first, no sign last; "
            "give another --run-id"
        )
    for region in order.regions:
        if region.lower().split("/")[0] == "runpod":
            raise BadRequestError(
                "on RunPod SkyPilot starts its own program through the image's entry point, which is ours; "
                "use `sequence-runner launch runpod`"
            )


def task(order: Order, offer: Offer) -> dict[str, Any]:
    """The task as SkyPilot reads it; no secret is in it, nor the name of one."""
    gpu = order.gpu if ":" in order.gpu else f"{order.gpu}:{order.gpu_count}"
    resources: dict[str, Any] = {
        "accelerators": gpu,
        "use_spot": order.spot,
        "image_id": f"docker:{order.image}",
        "disk_size": order.disk_gb,
        "job_recovery": {"max_restarts_on_errors": 0},
    }
    if "--store" in order.arguments:  # without one there is nothing to go on from
        resources["job_recovery"]["recover_on_exit_codes"] = [int(code) for code in RECOVERED]
    if offer.price_usd_per_hour:
        resources["max_hourly_cost"] = offer.price_usd_per_hour
    if order.regions:
        resources["any_of"] = [{"infra": region} for region in order.regions]
    return {
        "name": order.run_id,
        "resources": resources,
        "config": CONTAINER,
        "envs": dict(order.environment),
        "run": _script(order),
    }


def task_text(order: Order, offer: Offer) -> str:
    """The task file."""
    return yaml.dump(task(order, offer), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


def launch_arguments(order: Order, path: str) -> list[str]:
    """Of `sky`, to hand the file over; it looks secrets up in its own environment by their names."""
    secrets = [part for name in order.secrets for part in ("--secret", name)]
    return ["jobs", "launch", "--name", order.run_id, "--yes", "--detach-run", *secrets, path]


def _script(order: Order) -> str:
    """What the job's shell does; a start that goes on too long is ended with 124, which is not recovered."""
    limit = ["timeout", f"--kill-after={STOP_GRACE_S}", f"{order.max_hours * 3600:.0f}"]
    command = shlex.join([*limit, RUNNER, *order.arguments])
    return f"cd /\nexec {command}\n"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
