"""What follows the units: exit record, report, publication, the last snapshot, a notification.

No fault of one step keeps the next from being tried, and a stop request never leaves more than the rest undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from configs.errors import EXIT_CODE_MEANING, ExitCode, ProjectError
from configs.events import EventLog
from configs.run_dir import RunDir
from configs.schema import Config
from runner.exit_record import write_exit_record
from runner.heartbeat import beat
from runner.machines import note_exactness
from runner.notify import LIMIT_S, Notice, notify, occasion_of
from runner.reuse import current_result, has_durable_progress
from runner.say import say
from runner.stopping import StopSignals
from runner.store.keeper import Keeper
from runner.store.layout import Spent
from runner.supervisor import GOES_ON, MAX_NOTE
from runner.view import RUN
from runner.watch import Ending

REPORT_S = 8.0
"""With less time than this until the program must be gone, no report is begun."""
PUBLISH_S = 10.0
"""The same for a publication."""
EXIT_S = 1.0
"""Kept of that time for the way out."""
PUBLISHED = (ExitCode.DONE, ExitCode.UNIT_FAILED, ExitCode.GIVEN_UP, ExitCode.BUDGET)
"""Endings that are worth a commit; what was stopped goes on and publishes later."""


@dataclass
class Epilogue:
    """The end of one start of a run."""

    run: RunDir
    config: Config
    events: EventLog
    signals: StopSignals
    spent: Callable[[], Spent]
    keeper: Keeper | None = None
    push: bool = True

    def wind_up(self, ending: Ending) -> Ending:
        """Do all of it; returns how the run ended after all."""
        with self.signals.shield():
            self._try("exit record", lambda: self._record(ending))
            final = self._keep(ending)
            if final != ending:
                self._try("exit record", lambda: self._record(final))
            self._try("notification", lambda: self._notify(final))
            return final

    def _keep(self, ending: Ending) -> Ending:
        if ending.exit_code == ExitCode.OWNED_BY_ANOTHER:
            return ending  # the run is another's: nothing more is told about it
        ending = self._report(ending)
        self._publish(ending)
        return self._last_upload(ending)

    def _record(self, ending: Ending) -> None:
        snapshot = self.keeper.committed if self.keeper else ""
        write_exit_record(self.run, ending, self.spent(), snapshot)
        self.events.emit(
            "run_finished",
            RUN,
            exit_code=int(ending.exit_code),
            verdict=self._verdict(ending),
            says=ending.message[:MAX_NOTE],
            signal=self.signals.name,
        )

    def _notify(self, ending: Ending) -> None:
        used = self.spent()
        notice = Notice(
            self.run.run_id,
            occasion_of(ending.exit_code),
            int(ending.exit_code),
            self._verdict(ending),
            ending.message,
            used.wall_s,
            used.cost_usd,
        )
        notify(notice, wait_s=max(0.0, min(LIMIT_S, self.signals.left_s() - EXIT_S)))

    def _report(self, ending: Ending) -> Ending:
        """Write the report of what there is; where the run did not succeed, a fault of the report masks nothing."""
        if ending.exit_code != ExitCode.DONE and not has_durable_progress(self.run):
            return ending
        if self.signals.hurried or self.signals.left_s() < REPORT_S:
            say("no time for a report; `sequence-runner report` writes it")
            return Ending(ExitCode.INTERRUPTED, GOES_ON) if ending.exit_code == ExitCode.DONE else ending
        fault = self._try("report", lambda: render_report(self.run))
        if ending.exit_code != ExitCode.DONE:
            return ending
        if self.signals.name:
            return Ending(ExitCode.INTERRUPTED, GOES_ON)
        return fault or ending

    def _publish(self, ending: Ending) -> None:
        publish = self.config.publish
        if not self.push or not publish.git_url or ending.exit_code not in PUBLISHED:
            return
        if not has_durable_progress(self.run) or self.signals.left_s() < PUBLISH_S:
            return
        say(f"publishing to branch {publish.branch} of {publish.git_url}")
        self._try("publication", self._push)

    def _push(self) -> None:
        from runner.publish import TIMEOUT_S, publish_quietly  # heavy: git

        timeout_s = min(TIMEOUT_S, self.signals.left_s() - EXIT_S)
        result = publish_quietly(self.run, self.config.publish, timeout_s)
        say(f"publish: {result.found}" + (f"; {result.remedy}" if result.remedy else ""))
        self.events.emit("check", RUN, **result.to_json())

    def _last_upload(self, ending: Ending) -> Ending:
        """Commit what there is; of an ending that is no success, only the message changes where that fails."""
        if self.keeper is None:
            return ending
        url, started_s = self.config.store.url, time.monotonic()
        reason = f"the end: {EXIT_CODE_MEANING[ending.exit_code]}"
        if self.keeper.finish(reason, started_s + self.config.store.final_upload_s, self._is_out_of_time):
            say(f"everything is kept in {url}, snapshot {self.keeper.committed}")
            return ending
        if fenced := self.keeper.verdict():
            return fenced
        why = self.keeper.trouble or "there was no time for it"
        behind = (
            f"the last upload to {url} was not possible ({why}); everything is in {self.run.root}, and the same "
            "command sends it when the store can be reached"
        )
        if ending.exit_code != ExitCode.DONE:
            return Ending(ending.exit_code, f"{ending.message}; {behind}" if ending.message else behind)
        return Ending(ExitCode.INTERRUPTED if self.signals.name else ExitCode.STORE_DAMAGED, behind)

    def _is_out_of_time(self) -> bool:
        return self.signals.hurried or self.signals.left_s() < EXIT_S

    def _try(self, what: str, step: Callable[[], object]) -> Ending | None:
        """Take a step that a stop request may interrupt; a fault is said and returned as the ending it would make."""
        beat()
        try:
            with self.signals.exposed():
                step()
        except Exception as error:  # noqa: BLE001 -- the steps after it matter more
            text = f"no {what}: {type(error).__name__}: {error}"
            say(text)
            return Ending(error.exit_code if isinstance(error, ProjectError) else ExitCode.UNIT_FAILED, text)
        return None

    def _verdict(self, ending: Ending) -> str | None:
        result = current_result(self.run, "evaluate") if ending.exit_code == ExitCode.DONE else None
        return result.metrics.get("verdict") if result else None


def render_report(run: RunDir) -> Path:
    """Write the report anew."""
    from runner.report import write_report  # heavy: figures

    if run.run_json.exists():
        note_exactness(run)
    path: Path = write_report(run)
    return path
