"""Who may end a run besides its units: what the supervisor tells its watchers, and what they may answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from configs.errors import ExitCode


@dataclass(frozen=True)
class Ending:
    """How a supervised run ended."""

    exit_code: ExitCode
    message: str = ""

    @property
    def is_stop(self) -> bool:
        """The run was stopped from outside; nothing failed."""
        return self.exit_code in (ExitCode.INTERRUPTED, ExitCode.CTRL_C, ExitCode.TERMINATED)


class Watcher(Protocol):
    """Looks on while units run; both calls come from the supervisor's loop, about twenty times a second, and return
    at once."""

    def on_event(self, event: dict[str, Any]) -> None:
        """An event was written, by a unit or by the supervisor."""

    def verdict(self) -> Ending | None:
        """An ending stops the run: units are asked to stop, and the run ends with it."""
