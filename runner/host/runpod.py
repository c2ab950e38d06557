"""What a pod asks of RunPod about itself: its end.

RunPod starts a container again when it exits, so a pod that has done its work must be ended. Whether REST v2 takes
the key that RunPod puts into every pod is not documented; so each way is tried, in order.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from configs.errors import ConfigError
from configs.secrets import one_line
from runner.host.addresses import address
from runner.host.calls import UnansweredError, call

KEY = "RUNPOD_API_KEY"
ANSWER_S = 15.0
PROGRAM_S = 60.0
_POD = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Answer:
    """What came of one way of asking for the end of a pod."""

    way: str
    accepted: bool
    says: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.way}: {'accepted' if self.accepted else 'refused'}: {self.says}"


def pod_url(pod: str, environment: Mapping[str, str]) -> str:
    """Address of a pod in REST v2.

    Raises:
        ConfigError: it is no id, or the address is refused.
    """
    return f"{address('SEQUENCE_RUNPOD_URL', environment)}/pods/{_checked(pod)}"


def end_pod(pod: str, environment: Mapping[str, str], *, by_all: bool = False) -> list[Answer]:
    """Ask for the end of the pod by every way in order, until one is accepted.

    Args:
        pod: its id.
        environment: with the key, and where the APIs are.
        by_all: go on all the same: what was accepted once and has not ended the pod is not believed again.
    """
    answers: list[Answer] = []
    for way, ask in WAYS.items():
        try:
            accepted, says = ask(pod, environment)
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with one way, the next may do
            accepted, says = False, one_line(error)
        answers.append(Answer(way, accepted, says))
        if accepted and not by_all:
            break
    return answers


def _by_rest(pod: str, environment: Mapping[str, str]) -> tuple[bool, str]:
    reply = call("DELETE", pod_url(pod, environment), KEY, environment, answer_s=ANSWER_S)
    return reply.status in (200, 202, 204), str(reply)  # 404 is a refusal: the pod that asks is there


def _by_graphql(pod: str, environment: Mapping[str, str]) -> tuple[bool, str]:
    query = f"mutation {{ podTerminate(input: {{podId: {json.dumps(_checked(pod))}}}) }}"
    url = address("SEQUENCE_RUNPOD_GRAPHQL_URL", environment)
    reply = call("POST", url, KEY, environment, answer_s=ANSWER_S, body={"query": query})
    # what it refuses it answers with 200 too, and a list of errors
    return reply.status == 200 and "data" in reply.json() and not reply.json().get("errors"), str(reply)


def _by_program(pod: str, environment: Mapping[str, str]) -> tuple[bool, str]:
    program = shutil.which("runpodctl", path=environment.get("PATH"))
    if not program:
        raise UnansweredError("the program is not here")
    command = [program, "pod", "delete", _checked(pod)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROGRAM_S,
            env=dict(environment),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnansweredError(one_line(error)) from error
    return done.returncode == 0, f"exit code {done.returncode} {one_line(done.stdout + done.stderr)}".strip()


WAYS: dict[str, Callable[[str, Mapping[str, str]], tuple[bool, str]]] = {
    "REST v2 DELETE": _by_rest,
    "GraphQL podTerminate": _by_graphql,
    "runpodctl pod delete": _by_program,
}


def _checked(pod: str) -> str:
    if not _POD.fullmatch(pod):
        raise ConfigError(f"{pod!r} is no id of a pod; RUNPOD_POD_ID should have it")
    return pod
