"""What this machine really costs, where its provider tells it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from configs.errors import ProjectError
from configs.load import operational_values
from runner.host.addresses import address
from runner.host.calls import Reply, UnansweredError, call, in_time
from runner.host.runpod import KEY, pod_url
from runner.host.where import Host
from runner.say import say
from runner.session import Ask

ANSWER_S = 4.0
LIMIT_S = 10.0
"""No run waits longer than this for a price."""
LAMBDA_KEY = "LAMBDA_API_KEY"
SETTING = "budget.price_usd_per_hour"


def with_true_price(ask: Ask, host: Host, environment: Mapping[str, str] = os.environ) -> Ask:
    """The command with the provider's price, which beats what a launcher stated and no other setting of the user's.

    Raises:
        ConfigError: a setting is malformed.
    """
    if _stated(operational_values({}, ask.settings, ask.config_file)) is not None:
        return ask
    expected = _stated(operational_values(environment, ()))
    try:
        found = in_time(lambda: true_price(host, environment), LIMIT_S)
    except ProjectError as error:
        so = f"going on with the {expected:g} USD per hour that it was launched for" if expected else "it stays unknown"
        say(f"the price of this machine cannot be read from its provider: {error}; {so}")
        return ask
    if found is None:
        return ask
    if expected and f"{expected:.4g}" != f"{found:.4g}":
        say(f"this machine costs {found:g} USD per hour; it was launched for {expected:g}")
    return replace(ask, settings=(f"{SETTING}={found!r}", *ask.settings))


def true_price(host: Host, environment: Mapping[str, str]) -> float | None:
    """USD per hour by the provider's API; None where there is none, or no key for it.

    Raises:
        ProjectError: it does not tell.
    """
    if host.kind == "runpod":
        reply = call("GET", pod_url(host.machine, environment), KEY, environment, answer_s=ANSWER_S)
        return _price(reply.json().get("cost") if reply.status == 200 else None, reply)
    if host.kind == "lambda" and environment.get(LAMBDA_KEY):
        url = f"{address('SEQUENCE_LAMBDA_URL', environment)}/instances"
        reply = call("GET", url, LAMBDA_KEY, environment, answer_s=ANSWER_S)
        return _price(_cents(reply.json().get("data"), host.machine), reply, per_usd=100)
    return None


def _cents(instances: Any, name: str) -> Any:
    """The price of the one instance of that name; None where there is not exactly one.

    A machine is known here by its name and, after a hyphen, what tells it from others of the name.
    """
    names = {name, name.rpartition("-")[0]}
    found = [one for one in instances or () if isinstance(one, dict) and one.get("name") in names]
    kind = found[0].get("instance_type") if len(found) == 1 else None
    return kind.get("price_cents_per_hour") if isinstance(kind, dict) else None


def _price(value: Any, reply: Reply, per_usd: int = 1) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UnansweredError(f"it names none: {reply}")
    return value / per_usd


def _stated(operational: Mapping[str, Any]) -> float | None:
    """The price among operational settings."""
    budget = operational.get("budget")
    value = budget.get("price_usd_per_hour") if isinstance(budget, dict) else None
    return value if isinstance(value, int | float) else None
