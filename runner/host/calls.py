"""One call to a provider's API from inside a rented machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from configs.errors import ExitCode, ProjectError
from configs.secrets import one_line
from runner.host.addresses import is_loopback

if TYPE_CHECKING:
    import ssl

    import httpx

Found = TypeVar("Found")


class UnansweredError(ProjectError):
    """Nobody could be asked, or what came back is no answer; the message says why."""

    exit_code = ExitCode.MACHINE_UNFIT


@dataclass(frozen=True)
class Reply:
    """What a service answered."""

    status: int
    text: str
    date: str = ""
    """When, by the service's clock, as HTTP writes it."""

    def __str__(self) -> str:
        """In one line, without secrets."""
        return f"{self.status} {one_line(self.text)}".strip()

    def json(self) -> dict[str, Any]:
        """Its JSON object; empty where it is none."""
        try:
            value = json.loads(self.text)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


def call(
    method: str, url: str, key: str, environment: Mapping[str, str], *, answer_s: float, body: Any = None
) -> Reply:
    """Send one request.

    Args:
        method: of HTTP.
        url: of https, or on this very machine.
        key: name of the variable that has the key.
        environment: where the key is.
        answer_s: longest wait for the connection, and again for the answer.
        body: JSON values.

    Raises:
        UnansweredError: there is no key, or no answer.
    """
    import httpx  # heavy

    if not environment.get(key):
        raise UnansweredError(f"{key} is not set here")
    headers = {"Authorization": f"Bearer {environment[key]}"}
    try:
        with client_for(url, answer_s) as client:
            reply = client.request(method, url, json=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # a key that no header can hold
        raise UnansweredError(f"no answer: {type(error).__name__} {one_line(error)}") from error
    return Reply(reply.status_code, reply.text, reply.headers.get("date", ""))


def client_for(url: str, timeout: float | httpx.Timeout) -> httpx.Client:
    """A client for one address; no proxy of the environment stands between this machine and itself."""
    import httpx  # heavy

    trust_env = not is_loopback(url)
    return httpx.Client(timeout=timeout, trust_env=trust_env, verify=_certificates(trust_env))


@cache
def _certificates(trust_env: bool) -> ssl.SSLContext:
    import httpx  # heavy

    return httpx.create_ssl_context(trust_env=trust_env)  # reading them takes longer than most calls


def in_time(ask: Callable[[], Found], limit_s: float) -> Found:
    """What `ask` finds, waited for at most so long: a search for a name on the network knows no limit of its own.

    Raises:
        ProjectError: there was no answer, or `ask` says why there is none.
    """
    found: list[Found] = []
    troubles: list[ProjectError] = []

    def work() -> None:
        try:
            found.append(ask())
        except ProjectError as error:
            troubles.append(error)

    thread = threading.Thread(target=work, name="ask", daemon=True)
    thread.start()
    thread.join(limit_s)
    if found:
        return found[0]
    raise troubles[0] if troubles else UnansweredError(f"no answer within {limit_s:.0f} s")
