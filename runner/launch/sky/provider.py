"""SkyPilot's managed jobs as machines: a job is found by its name, started again by SkyPilot, and ends with the run."""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.load import profile_names
from runner.launch.provider import LaunchError, Machine, Offer, Order, Request, Status, UnclearError, number, readable
from runner.launch.secrets import values_of
from runner.launch.sky import program
from runner.launch.sky.task import check, launch_arguments, task_text
from runner.say import say

LAUNCH_LIMIT_S = 1800.0
"""The first job of all waits for SkyPilot's controller, a machine of its own."""
CALL_LIMIT_S = 300.0
"""The first call of all starts SkyPilot's server on this computer."""
NO_JOBS = "No in-progress managed jobs"
"""How `sky` says, as an error, that it has never had a job or has none now (sky/utils/controller_utils.py)."""
JOB_ID = re.compile(r"Managed Job ID: (\d+)")
RUN_NAME = re.compile(rf".+-({'|'.join(profile_names())})-[0-9a-f]{{8}}(-\d+)?")
"""Names that this program gives: a queue shows nothing else of what was sent, so a job with a `--run-id` is known only
where the book has it."""
STATUS: dict[str, Status] = {
    "PENDING": "starting",
    "SUBMITTED": "starting",
    "STARTING": "starting",
    "RECOVERING": "starting",
    "RUNNING": "running",
    "CANCELLING": "running",
}
"""sky/jobs/state.py, ManagedJobStatus; in every other state the job's machine is gone."""


class SkyPilot:
    """Managed jobs of one user."""

    name = "sky"

    def offers(self, order: Order) -> list[Offer]:
        """One: SkyPilot chooses cloud and region. The price is the highest that is taken, where there is one."""
        check(order)
        program.require()
        return [Offer(order.gpu, " or ".join(order.regions), float(order.options.get("max_price") or 0))]

    def request(self, order: Order, offer: Offer) -> Request:
        """The command line and the task file; no secret is in either."""
        check(order)
        command = shlex.join(["sky", *launch_arguments(order, "task.yaml")])
        return Request("run", command, task_text(order, offer))

    def create(self, order: Order, offer: Offer) -> Machine:
        """Submit the job, once."""
        check(order)
        secrets = values_of(order.secrets)
        say("submitting the job; where SkyPilot has no controller yet it rents one, which takes minutes")
        with tempfile.TemporaryDirectory(prefix="sequence-sky-") as folder:
            path = Path(folder) / "task.yaml"
            path.write_text(task_text(order, offer))
            try:
                said = program.run(launch_arguments(order, str(path)), LAUNCH_LIMIT_S, secrets)
            except program.SkyError as error:
                return self._left_by(order.run_id, error)
        if found := JOB_ID.search(said):
            return Machine(found[1], order.run_id, "starting", "PENDING", offer.price_usd_per_hour)
        return self._left_by(order.run_id, UnclearError("sky jobs launch ended well and named no job"))

    def machines(self, name: str = "") -> list[Machine]:
        """All jobs that have not ended, or those of a name."""
        try:
            said = program.run(
                ["jobs", "queue", "--all", "--skip-finished", "--verbose", "--output", "json"], CALL_LIMIT_S
            )
        except program.SkyError as error:
            if NO_JOBS in str(error):
                return []
            raise
        jobs = readable("SkyPilot", [job for job in _jobs(said) if job.get("status") in STATUS], _machine)
        return [job for job in jobs if name in ("", job.name)]

    def end(self, machine_id: str) -> None:
        """Cancel a job, which ends its machine."""
        try:
            program.run(["jobs", "cancel", "--yes", machine_id], CALL_LIMIT_S)
        except program.SkyError:
            if any(job.id == machine_id for job in self.machines()):
                raise

    def logs(self, machine_id: str, lines: int, follow: bool) -> Iterator[str]:
        """What the job printed, on whatever machines."""
        how = "--follow" if follow else "--no-follow"
        return program.lines(["jobs", "logs", how, "--tail", str(lines), machine_id])

    def _left_by(self, name: str, error: LaunchError) -> Machine:
        """The job that a failed call has left all the same.

        Raises:
            LaunchError: `error`, where there is none.
            UnclearError: that is not known.
        """
        try:
            found = self.machines(name)
        except LaunchError as trouble:
            raise UnclearError(f"{error}; and whether there is a job is not known: {trouble}") from error
        if not found:
            raise error
        return max(found, key=lambda job: int(job.id))


def _jobs(said: str) -> list[dict[str, Any]]:
    """The JSON list in what `sky` printed, which has other lines before it.

    Raises:
        LaunchError: there is none.
    """
    for start in re.finditer(r"^\[", said, re.MULTILINE):
        try:
            jobs, _ = json.JSONDecoder().raw_decode(said, start.start())
        except ValueError:
            continue
        if all(isinstance(job, dict) for job in jobs):
            return list(jobs)
    raise LaunchError(f"sky jobs queue printed no list of jobs: {program.last_words(said)}; SkyPilot 0.14 is needed")


def _machine(job: dict[str, Any]) -> Machine:
    return Machine(
        id=str(job["job_id"]),
        name=str(job.get("job_name") or ""),
        status=STATUS[job["status"]],
        says=str(job["status"]),
        region=str(job.get("infra") or ""),
        created_t=number(job.get("submitted_at")),
        ours=bool(RUN_NAME.fullmatch(str(job.get("job_name") or ""))),
    )
