"""What a rented Lambda instance does by itself: carry out one run, then end itself.

This file is copied to the machine as it stands (`user_data.yaml`) and started by systemd there,
`run` at every boot and `end` when the machine's time is over. So it needs nothing but docker and the
standard library of Python 3.8. Beside it lie `settings.json`, `environment` (docker's `--env-file`)
and `api-key`; whatever goes wrong here, the way out is `end`, which never gives up.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SETTINGS = json.loads((HERE / "settings.json").read_text())
CONTAINER = "sequence-runner"
ENDING = HERE / "ending"
"""Exists from the moment on at which this machine is to end: nothing is started any more, whatever reboots."""
END_AT = HERE / "end-at"
"""Unix seconds, by this machine's clock at its first boot: reboots do not move the end of its time."""
TAG = "sequence-runner"
RUN_AGAIN = frozenset({75, 137, 139, 143})
"""Interrupted, killed (memory), crashed in native code, terminated; every other exit code is the run's own answer."""
MOST_STARTS = 4
GONE = frozenset({"terminating", "terminated"})
PAUSE_S = float(SETTINGS["pause_s"])
LONGEST_PAUSES = 60
say = logging.getLogger(CONTAINER).warning


def run() -> None:
    """Carry out the run, then end the machine unless it is to be kept alive."""
    is_over = True
    try:
        is_over = ENDING.exists() or left_s() <= 0
        if not is_over:
            set_timer(left_s())
            say("the run is over on this machine: %s", carry_out())
    finally:
        if is_over or not SETTINGS["keep_alive"] or ENDING.exists():
            end()
    say("KEPT ALIVE: this machine costs money until its time is over or `sequence-runner launch stop` ends it")


def left_s() -> float:
    """How long this machine may go on; where its disk does not keep since when it is, all of its time from here."""
    limit_s = float(SETTINGS["max_s"])
    try:
        if not END_AT.exists():
            new = END_AT.with_suffix(".new")
            new.write_text(str(time.time() + limit_s))
            new.replace(END_AT)
        return min(float(END_AT.read_text()) - time.time(), limit_s)
    except (OSError, ValueError) as error:
        say("only the time since this boot counts: %s", error)
        return limit_s


def set_timer(wait_s: float) -> None:
    """Have systemd end this machine even if this program hangs; the timer of its own that begins at boot stays."""
    ends = ["systemctl", "start", "--no-block", "sequence-runner-end.service"]
    do(["systemd-run", "--unit=sequence-runner-end-at", f"--on-active={wait_s:.0f}s", *ends])


def carry_out() -> str:
    """Start the container, again where it was interrupted, and say how that ended."""
    if not succeeds(["docker", "info"], tries=60):
        return "docker does not answer"
    use_cgroupfs()
    if not succeeds(["nvidia-smi"], tries=60):
        return "no GPU answers (nvidia-smi)"
    starts = 0
    while not ENDING.exists():
        state, code = container()
        if state == "running":
            do(["docker", "wait", CONTAINER], limit_s=None)
        elif state == "exited" and (code not in RUN_AGAIN or starts == MOST_STARTS):
            return f"the container ended with exit code {code}"
        elif starts == MOST_STARTS:
            return "the container cannot be started"
        elif not state and not succeeds(["docker", "pull", "--quiet", SETTINGS["image"]], tries=5, limit_s=3600):
            return f"the image {SETTINGS['image']} cannot be pulled"
        else:
            starts += 1
            do(["docker", "start", CONTAINER] if state else first_start(), limit_s=600)
        time.sleep(PAUSE_S)
    return "its time is over"


def container() -> tuple[str, int]:
    """State and exit code of the container; an empty state where there is none."""
    succeeds(["docker", "info"], tries=60)
    found = do(["docker", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", CONTAINER])
    state, _, code = found.stdout.strip().partition(" ")
    return (state, int(code)) if found.returncode == 0 and code else ("", 0)


def first_start() -> list[str]:
    """`docker run` of the order; its values reach docker as a list and as a file, never through a shell."""
    runs = HERE / "runs"
    runs.mkdir(exist_ok=True)
    runs.chmod(0o777)  # the image may run as any user
    options = ["--name", CONTAINER, "--gpus", "all", "--shm-size", "8g", "--stop-timeout", "60"]
    files = ["--env-file", str(HERE / "environment"), "--volume", f"{runs}:/runs"]
    return ["docker", "run", "--detach", *options, *files, SETTINGS["image"], *SETTINGS["arguments"]]


def use_cgroupfs() -> None:
    """Keep the GPU in the container when systemd reloads its units (NVIDIA/nvidia-container-toolkit#48)."""
    if do(["docker", "info", "--format", "{{.CgroupDriver}}"]).stdout.strip() != "systemd":
        return
    path = Path(SETTINGS["docker_config"])
    try:
        config = json.loads(path.read_text()) if path.exists() else {}
        others = [option for option in config.get("exec-opts", []) if "native.cgroupdriver" not in option]
        path.write_text(json.dumps({**config, "exec-opts": [*others, "native.cgroupdriver=cgroupfs"]}))
    except (OSError, ValueError) as error:
        say("docker keeps its cgroup driver: %s: %s", path, error)
        return
    do(["systemctl", "restart", "docker"], limit_s=300)
    succeeds(["docker", "info"], tries=60)


def end() -> None:
    """Stop the container as a run is stopped, then terminate this instance, however often it has to be asked."""
    with contextlib.suppress(OSError):  # a disk that is full, or read-only by now, keeps no machine alive
        ENDING.touch()
    do(["docker", "stop", "-t", "60", CONTAINER], limit_s=180)
    if not api_key():
        say("THIS MACHINE COSTS MONEY and has no API key to end itself: `sequence-runner launch stop` ends it")
        return
    asked, pauses = "", 1
    while True:
        try:
            found = find_myself()
            live = [one["id"] for one in found if one["status"] not in GONE]
            if (asked and asked not in live) or (found and not live):
                say("this machine is being terminated")
                return
            if len(live) == 1:
                say("terminating instance %s", live[0])
                time.sleep(PAUSE_S)  # one request a second is allowed
                call("POST", "instance-operations/terminate", {"instance_ids": live})
                asked = live[0]
            else:
                say("THIS MACHINE COSTS MONEY: %d instances are named %s, so none is ended", len(live), name())
        except urllib.error.HTTPError as error:
            answer = error.read(500).decode(errors="replace")
            say("THIS MACHINE COSTS MONEY: it cannot end itself: HTTP %d: %s", error.code, answer)
        except (OSError, http.client.HTTPException, AttributeError, ValueError, KeyError, TypeError) as error:
            say("THIS MACHINE COSTS MONEY: it cannot end itself: %s", error)
        time.sleep(PAUSE_S * pauses)
        pauses = min(2 * pauses, LONGEST_PAUSES)


def find_myself() -> list[dict[str, Any]]:
    """What may be this instance: what has its tag, which no other was ever given; else what has its name.

    An instance that shows another's tag is another. The API describes tags in its answers, but promises none.
    """
    listed = call("GET", "instances")["data"]
    tagged = [one for one in listed if SETTINGS["tag"] in tags_of(one)]
    return tagged or [one for one in listed if one.get("name") == name() and not tags_of(one)]


def tags_of(instance: dict[str, Any]) -> list[str]:
    """What instances of a run have under our tag."""
    return [tag.get("value") for tag in instance.get("tags") or () if tag.get("key") == TAG]


def name() -> str:
    """Of the run and of this instance."""
    return str(SETTINGS["run_id"])


def api_key() -> str:
    """Empty where this machine is to be ended by others."""
    path = HERE / "api-key"
    return path.read_text().strip() if path.exists() else ""


def call(method: str, path: str, body: Any = None) -> Any:
    """One request of Lambda's API."""
    request = urllib.request.Request(
        f"{SETTINGS['api_url']}/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {api_key()}",
            "Content-Type": "application/json",
            "User-Agent": "sequence-runner",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def succeeds(command: list[str], *, tries: int, limit_s: float = 60) -> bool:
    """Whether the command succeeds in one of so many tries."""
    for _ in range(tries):
        if ENDING.exists():
            return False
        if do(command, limit_s=limit_s).returncode == 0:
            return True
        time.sleep(PAUSE_S)
    return False


def do(command: list[str], limit_s: float | None = 60) -> subprocess.CompletedProcess[str]:
    """Run a command and say why where it fails; one that is missing or hangs fails as well."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        done = subprocess.CompletedProcess(command, 127, "", str(error))
    if done.returncode:
        say("%s: exit code %d: %s", " ".join(command[:2]), done.returncode, done.stderr.strip()[-500:])
    return done


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stdout)
    {"run": run, "end": end}[sys.argv[1]]()
