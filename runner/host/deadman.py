"""The last guard of a rented pod: a process beside the runner that ends the pod when its time is over.

The runner keeps its ceiling by itself. This is for the case that it hangs: REST v2 of RunPod has no switch that would
end a pod, so one must be in the pod. The time is absolute, so that restarts do not move it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping

from runner.guard import die_with_parent, stops_wait
from runner.host.runpod import end_pod
from runner.host.where import Host
from runner.say import say

END_BY = "SEQUENCE_END_BY_T"
"""Unix seconds; set by the launcher, which leaves half an hour beyond the ceiling."""
LOOK_S = 20.0
"""Longest sleep: a clock that is set right after a start is noticed."""
RETRY_S = 60.0


@contextlib.contextmanager
def guarded(host: Host, environment: Mapping[str, str]) -> Iterator[None]:
    """Have the machine ended at its time, whatever happens inside; to be entered before any thread is started."""
    end_by_t = _end_by(environment) if host.launched and host.kind == "runpod" else None
    if end_by_t is None:
        yield
        return
    parent_pid = os.getpid()
    with stops_wait():
        pid = os.fork()
        if pid == 0:
            try:
                die_with_parent(parent_pid)
                _watch(host, end_by_t, environment)
            finally:
                os._exit(0)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _end_by(environment: Mapping[str, str]) -> float | None:
    text = environment.get(END_BY, "")
    try:
        return float(text) if text else None
    except ValueError:
        say(f"{END_BY}={text!r} is no time; expected Unix seconds: nothing but the run's ceiling ends this machine")
        return None


def _watch(host: Host, end_by_t: float, environment: Mapping[str, str]) -> None:
    while (left_s := end_by_t - time.time()) > 0:
        time.sleep(min(left_s, LOOK_S))
    while True:
        say(f"the time of {host} is over, and it should be gone: it is ended, whatever still runs on it")
        for answer in end_pod(host.machine, environment):
            say(f"end of {host.kind} machine {host.machine} asked for by {answer}")
        time.sleep(RETRY_S)
