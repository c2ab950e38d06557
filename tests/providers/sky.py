"""A program `sky` that takes the flags of SkyPilot 0.14.1 and keeps its jobs in a file beside it; a real process.

Its answers are what the real one printed: noise before JSON, the error of a user without jobs.
"""

from __future__ import annotations

import json
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = r"""
import argparse, json, os, sys, time
from pathlib import Path

here = Path(__file__).parent
state = here / "jobs.json"
jobs = json.loads(state.read_text()) if state.exists() else []
with (here / "calls.jsonl").open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\n")
for word in (here / "trouble").read_text().split() if (here / "trouble").exists() else []:
    if word == sys.argv[2]:
        sys.exit("\x1b[31msky.exceptions.ResourcesUnavailableError: no cloud has it, " + os.environ.get("PRINTED", ""))
    if word == "slow-" + sys.argv[2]:
        time.sleep(600)

parser = argparse.ArgumentParser(prog="sky", allow_abbrev=False)
commands = parser.add_subparsers(required=True).add_parser("jobs").add_subparsers(dest="command", required=True)
launch = commands.add_parser("launch", allow_abbrev=False)
launch.add_argument("--name", "-n", required=True)
launch.add_argument("--yes", "-y", action="store_true", required=True)
launch.add_argument("--detach-run", "-d", action="store_true", required=True)
launch.add_argument("--secret", action="append", default=[])
launch.add_argument("entrypoint")
queue = commands.add_parser("queue", allow_abbrev=False)
queue.add_argument("--output", "-o", choices=["table", "json"], required=True)
for flag in ("--all", "--skip-finished", "--verbose"):
    queue.add_argument(flag, action="store_true", required=True)
cancel = commands.add_parser("cancel", allow_abbrev=False)
cancel.add_argument("--yes", "-y", action="store_true", required=True)
cancel.add_argument("job", type=int)
logs = commands.add_parser("logs", allow_abbrev=False)
logs.add_argument("--follow", action=argparse.BooleanOptionalAction, default=True)
logs.add_argument("--tail", type=int, default=-1)
logs.add_argument("job", type=int)
asked = parser.parse_args()

print("\x1b[2mFailed to connect to SkyPilot API server. Starting a local server.\x1b[0m")
alive = [job for job in jobs if job["status"] not in ("SUCCEEDED", "FAILED", "CANCELLED")]
if asked.command == "launch":
    for name in asked.secret:
        if "=" in name or name not in os.environ:
            sys.exit(f"Usage: {name} is not set in local environment.")
    job = {"job_id": len(jobs) + 1, "job_name": asked.name, "status": "PENDING", "submitted_at": 1790000000.5}
    secrets = {name: os.environ[name] for name in asked.secret}
    jobs.append(job | {"infra": None, "task": Path(asked.entrypoint).read_text(), "secrets": secrets})
    print(f"\nManaged Job ID: \x1b[1m{job['job_id']}\x1b[0m\n" if not (here / "mute").exists() else "submitted")
elif asked.command == "queue":
    if not alive:
        sys.exit("sky.exceptions.ClusterNotUpError: No in-progress managed jobs.")
    print(json.dumps(alive, indent=2))
    for job in jobs:
        job["status"] = "RUNNING" if job["status"] == "PENDING" else job["status"]
elif asked.command == "cancel":
    if not alive:
        sys.exit("sky.exceptions.ClusterNotUpError: No in-progress managed jobs.")
    for job in jobs:
        if job["job_id"] == asked.job:
            job["status"] = "CANCELLED"
else:
    tail = asked.tail if asked.tail > 0 else 100
    print("\n".join([f"line {number}" for number in range(10)][-tail:]), flush=True)
    if asked.follow:
        time.sleep(600)
    sys.exit(100)  # as the real one does of a job that failed
new = state.with_suffix(".new")
new.write_text(json.dumps(jobs))
new.replace(state)  # tests read it meanwhile
"""


@dataclass(frozen=True)
class FakeSky:
    """The program, and what was asked of it."""

    path: Path

    @property
    def calls(self) -> list[list[str]]:
        """Arguments of every call."""
        log = self.path.parent / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """Every job, with the task file and the secrets that it was launched with."""
        state = self.path.parent / "jobs.json"
        return json.loads(state.read_text()) if state.exists() else []

    def set_status(self, job: int, status: str) -> None:
        """Let a job be in another state."""
        jobs = self.jobs
        jobs[job - 1]["status"] = status
        (self.path.parent / "jobs.json").write_text(json.dumps(jobs))

    def has_trouble_with(self, *commands: str) -> None:
        """Let these commands fail; `slow-launch` never ends."""
        (self.path.parent / "trouble").write_text(" ".join(commands))

    def is_mute(self) -> None:
        """Let a launch say nothing of its job."""
        (self.path.parent / "mute").touch()


def install(folder: Path) -> FakeSky:
    """Put the program into a folder."""
    path = folder / "sky"
    path.write_text(f"#!{sys.executable}\n{PROGRAM}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return FakeSky(path)
