"""What an instance is told at its first boot: cloud-init's configuration with the program that carries out the run.

Everything travels in clear, to be read by root on the machine; Lambda shows it to nobody again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files

from runner.launch.provider import BadRequestError, Order

MAX_BYTES = 1_000_000
"""Of user data; Lambda's API 1.8.3 says 1 MB."""
MAX_VALUE_BYTES = 60_000
"""Docker reads an environment file line by line, up to 64 KiB."""
PAUSE_S = 5.0
"""Between two tries of anything on the machine."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def user_data(order: Order, environment: Mapping[str, str], api_key: str, api_url: str, tag: str) -> str:
    """The whole text.

    Args:
        order: what is carried out.
        environment: all variables of the container, secrets too.
        api_key: with it the machine ends itself; empty where others will.
        api_url: address of Lambda's API, without a slash at its end.
        tag: its value for this instance, which no other has; by it the machine knows itself.

    Raises:
        BadRequestError: a variable cannot be handed over, or all is too large.
    """
    settings = {
        "run_id": order.run_id,
        "tag": tag,
        "image": order.image,
        "arguments": list(order.arguments),
        "keep_alive": environment.get("SEQUENCE_KEEP_ALIVE", "") not in ("", "0"),
        "api_url": api_url,
        "max_s": round(order.max_hours * 3600),
        "pause_s": PAUSE_S,
        "docker_config": "/etc/docker/daemon.json",
    }
    here = files("runner.launch.lambda_cloud")
    text = filled(
        (here / "user_data.yaml").read_text(),
        {
            "machine": (here / "machine.py").read_text(),
            "settings": json.dumps(settings, indent=2),
            "environment": "\n".join(f"{name}={one_line(name, value)}" for name, value in sorted(environment.items())),
            "api_key": api_key,
            "max_s": str(round(order.max_hours * 3600)),
        },
    )
    if (size := len(text.encode())) > MAX_BYTES:
        raise BadRequestError(
            f"what the machine is to be told has {size} bytes, Lambda takes {MAX_BYTES}; hand over fewer variables"
        )
    return text


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with `{{name}}` replaced; a text of several lines takes the indentation of its first."""

    def fill(line: str) -> str:
        found = re.search(r"\{\{(\w+)\}\}", line)
        if not found:
            return line
        indent = line[: found.start()] if line[: found.start()].isspace() else ""
        return line.replace(found[0], values[found[1]].rstrip("\n").replace("\n", "\n" + indent))

    return "\n".join(fill(line) for line in template.split("\n"))


def one_line(name: str, value: str) -> str:
    """The value as docker's environment file can hold it: one line, as it stands; JSON is put on one line.

    Raises:
        BadRequestError: it cannot be held.
    """
    if not NAME.fullmatch(name):
        raise BadRequestError(f"{name!r} is no name of a variable; expected letters, digits and _")
    if not value.isprintable():
        try:
            value = json.dumps(json.loads(value))
        except ValueError:
            raise BadRequestError(
                f"the value of {name} has line breaks or control characters, which an instance cannot be handed; "
                "expected one line of text, or JSON"
            ) from None
    if (size := len(value.encode())) > MAX_VALUE_BYTES:
        raise BadRequestError(f"the value of {name} has {size} bytes; docker takes {MAX_VALUE_BYTES} in one variable")
    return value
