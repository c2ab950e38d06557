"""Checks of the world outside: network and clock, both by one HEAD request each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from configs.schema import Config
from runner.preflight.check import CheckResult, Context

HTTP_DATE_RESOLUTION_S = 1.0


@dataclass(frozen=True)
class Answer:
    """When a server answered, by its clock and by ours."""

    date: str
    """The HTTP `Date` header, empty where there was none."""
    local_t: float
    """Our clock half-way between request and answer, Unix seconds."""
    wall_s: float


def check_network(config: Config, context: Context) -> CheckResult:
    """Whether the outside can be reached; needed only to fetch data."""
    url, needed = config.preflight.probe_url, "an answer (only to fetch data)"
    if context.offline:
        return CheckResult("network", "not asked (--offline)", needed, "skipped")
    try:
        answer = ask(url, config.preflight.check_timeout_s / 2)
    except (OSError, ValueError) as error:
        remedy = "check the connection and proxy, or pass --offline"
        return CheckResult("network", f"{url}: {_reason(error)}", needed, "warn", remedy)
    return CheckResult("network", f"{url} answered in {answer.wall_s * 1000:.0f} ms", needed, "ok")


def check_clock(config: Config, context: Context) -> CheckResult:
    """Difference between this machine's clock and a server's `Date`."""
    limit_s = config.preflight.max_clock_skew_s
    needed = f"within {limit_s:g} s"
    if context.offline:
        return CheckResult("clock", "not asked (--offline)", needed, "skipped")
    try:
        answer = ask(config.preflight.probe_url, config.preflight.check_timeout_s / 2)
        skew_s = skew(answer)
    except (OSError, ValueError) as error:
        return CheckResult("clock", f"no time to compare with: {_reason(error)}", needed, "skipped")
    ok = abs(skew_s) <= limit_s
    return CheckResult(
        name="clock",
        found=f"{'in step' if abs(skew_s) < 1 else f'{abs(skew_s):.0f} s ' + ('ahead' if skew_s > 0 else 'behind')}",
        needed=needed,
        verdict="ok" if ok else "warn",
        remedy="" if ok else "synchronise the clock (timedatectl set-ntp true); uploads are refused when it is off",
    )


def ask(url: str, timeout_s: float) -> Answer:
    """Send one HEAD request; any HTTP status is an answer.

    Raises:
        OSError: the server cannot be reached in time.
        ValueError: the address is not http(s).
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"preflight.probe_url is {url!r}; expected http:// or https://")
    started_t = time.time()
    started_s = time.monotonic()
    try:
        with urlopen(Request(url, method="HEAD"), timeout=timeout_s) as response:
            date = response.headers.get("Date", "")
    except HTTPError as error:
        date = error.headers.get("Date", "")
    wall_s = time.monotonic() - started_s
    return Answer(date, started_t + wall_s / 2, wall_s)


def skew(answer: Answer) -> float:
    """Our clock less the server's, in seconds; 0 within what `Date` and the request's length can tell.

    Raises:
        ValueError: the answer has no valid `Date`.
    """
    if not answer.date:
        raise ValueError("the answer has no Date header")
    server_t = parsedate_to_datetime(answer.date).timestamp() + HTTP_DATE_RESOLUTION_S / 2
    difference_s = answer.local_t - server_t
    uncertainty_s = HTTP_DATE_RESOLUTION_S / 2 + answer.wall_s / 2
    return 0.0 if abs(difference_s) <= uncertainty_s else difference_s


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)  # urllib wraps the system's error
    return str(getattr(cause, "strerror", None) or cause) or type(error).__name__
