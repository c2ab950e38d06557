"""The last guard of a rented pod: a process beside the runner that ends the pod when its time is over.

The runner keeps its ceiling by itself. This is for the case that it hangs: REST v2 of RunPod has no switch that would
end a pod, so one must be in the pod. Its time counts from when the pod was made, and now is when RunPod says: no clock
but the provider's has a part in it, and restarts do not move it. Where the pod's key may not read that, it counts from
this start of the container; each restart is counted by the run's own ceiling then, and by its guard against restarts.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from runner.guard import die_with_parent, stops_wait
from runner.host.calls import UnansweredError, call, in_time
from runner.host.runpod import KEY, end_pod, pod_url
from runner.host.where import Host
from runner.say import say

END_AFTER = "SEQUENCE_END_AFTER_H"
"""Hours; set by the launcher: the run's ceiling, and half an hour to publish after it."""
HOUR_S = 3600.0
IMAGE_S = HOUR_S
"""Given to a pod for bringing the image, which RunPod's time of making it comes before."""
CLOSING_S = 900.0
"""Kept of a pod's time for the end of its run: to stop, to publish, and to leave word of it."""
ASK_S, ANSWER_S = 300.0, 15.0
"""Between two questions when the pod was made, until one is answered."""
RETRY_S = 60.0


@contextlib.contextmanager
def guarded(host: Host, environment: Mapping[str, str]) -> Iterator[None]:
    """Have the machine ended at its time, whatever happens inside; to be entered before any thread is started."""
    hours = _guarded_h(host, environment)
    if host.launched and environment.get(END_AFTER) and not end_after_h(environment):
        with contextlib.suppress(OSError):
            say(f"{END_AFTER}={environment[END_AFTER]!r} is no number of hours; it ends nothing")
    pid = _forked(host, hours * HOUR_S, environment) if hours else 0
    try:
        yield
    finally:
        if pid:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def end_after_h(environment: Mapping[str, str]) -> float | None:
    """How long a machine of this order may be there; None where nothing, or nothing sensible, says it."""
    try:
        hours = float(environment.get(END_AFTER) or "nan")
    except ValueError:
        return None
    return hours if 0 < hours < math.inf else None


def work_s(host: Host, environment: Mapping[str, str] = os.environ) -> float:
    """How long a run may work here so that it ends before its machine is ended; infinite where nothing ends that.

    The launcher reckons with the price of its catalogue, and a run that turns out to cost less would go on longer.
    """
    hours = _guarded_h(host, environment)
    if not hours:
        return math.inf
    age_s = None
    with contextlib.suppress(UnansweredError):
        age_s = in_time(lambda: _age_s(host.machine, environment), ANSWER_S)
    return hours * HOUR_S - CLOSING_S + (0.0 if age_s is None else IMAGE_S - age_s)


def _guarded_h(host: Host, environment: Mapping[str, str]) -> float | None:
    return end_after_h(environment) if host.launched and host.kind == "runpod" else None


def _forked(host: Host, limit_s: float, environment: Mapping[str, str]) -> int:
    """Process id of the guard; 0 where there can be none, for a run without it is better than no run and no end."""
    parent_pid = os.getpid()
    try:
        with stops_wait():
            pid = os.fork()
            if pid == 0:
                try:
                    die_with_parent(parent_pid)
                    _watch(host, limit_s, environment)
                finally:
                    os._exit(0)
            return pid
    except OSError as error:
        with contextlib.suppress(OSError):
            say(f"nothing but the run's own ceiling ends this machine: no process can be started: {error}")
        return 0


def _watch(host: Host, limit_s: float, environment: Mapping[str, str]) -> None:
    """Wait, then end it; the monotonic clock is not set by anybody."""
    end_s, is_known = time.monotonic() + limit_s, False
    while (left_s := end_s - time.monotonic()) > 0:
        if not is_known and (age_s := _age_s(host.machine, environment)) is not None:
            end_s, is_known = time.monotonic() + limit_s + IMAGE_S - age_s, True
            continue
        time.sleep(left_s if is_known else min(left_s, ASK_S))
    number = 0
    while True:
        with contextlib.suppress(OSError):  # nobody reads it, or there is no room for it
            say(f"the time of {host} is over, and it should be gone: it is ended, whatever still runs on it")
        for answer in end_pod(host.machine, environment, by_all=number > 0):
            with contextlib.suppress(OSError):
                say(f"end of {host.kind} machine {host.machine} asked for by {answer}")
        number += 1
        time.sleep(RETRY_S)


def _age_s(pod: str, environment: Mapping[str, str]) -> float | None:
    """Seconds since the pod was made, by RunPod's clock alone; None where it does not tell."""
    try:
        reply = call("GET", pod_url(pod, environment), KEY, environment, answer_s=ANSWER_S)
        made = datetime.fromisoformat(reply.json()["createdAt"])
        return max(0.0, (parsedate_to_datetime(reply.date) - made).total_seconds())
    except Exception:  # noqa: BLE001 -- whatever is wrong with the answer, the guard stands
        return None
