"""The launcher's own records: what was asked for, noted before it is asked, so that no machine is ever forgotten.

<runs-dir>/.launches/<provider>-<run-id>.json
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from configs.errors import CannotWriteError, ConfigError
from configs.files import write_json
from runner.say import say

FOLDER = ".launches"


class Entry(BaseModel):
    """One launch, of the run that the machine was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    provider: str
    run_id: str
    machine_id: str = ""
    """Empty while it is unknown, or whether there is one."""
    inside: str = ""
    """Name of this one launch, by which the run there knows its machine; empty where that is the machine's id, or where
    another computer launched it."""
    store: str = ""
    asked_t: float
    """Unix seconds."""
    price_usd_per_hour: float = 0.0
    """As the catalogue had it; 0 where it is not known."""
    max_hours: float
    """The machine is to be gone so long after `asked_t`."""
    keep_alive: bool = False
    """The machine is not ended with its run."""
    ends_itself: bool = True
    """Else whoever waits for its run ends it."""
    elsewhere: bool = False
    """Another computer launched the machine: what it was told there, its ceiling above all, is not known here."""
    ended: bool = False
    """The launcher has seen the machine's end, or that there was none."""


class Book:
    """All records below one runs directory."""

    def __init__(self, runs_dir: Path) -> None:
        """Wrap a directory; nothing is created."""
        self.folder = runs_dir / FOLDER

    def path(self, provider: str, run_id: str) -> Path:
        """Where the newest launch of a run on a provider is noted."""
        return self.folder / f"{provider}-{run_id}.json"

    def write(self, entry: Entry) -> Entry:
        """Note a launch, durably, and return it.

        Raises:
            CannotWriteError: the directory refuses.
        """
        write_json(self.path(entry.provider, entry.run_id), entry.model_dump())
        return entry

    def end(self, entry: Entry) -> Entry:
        """Note that the machine is gone."""
        return self.write(entry.model_copy(update={"ended": True}))

    def find(self, provider: str, run_id: str) -> Entry | None:
        """The newest launch of a run, if it was launched from here."""
        return next((entry for entry in self.entries() if (entry.provider, entry.run_id) == (provider, run_id)), None)

    def entries(self) -> list[Entry]:
        """Every record that can be read, the newest first; of others a line is said."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                found.append(Entry.model_validate_json(path.read_bytes()))
            except (OSError, ValidationError):
                say(f"{path} cannot be read; machines are found by their name all the same")
        return sorted(found, key=lambda entry: entry.asked_t, reverse=True)

    @contextmanager
    def alone(self, provider: str, run_id: str) -> Iterator[None]:
        """While inside, no other launch of the run is going on from this runs directory.

        Raises:
            ConfigError: one is.
            CannotWriteError: the directory refuses.
        """
        path = self.folder / f"{provider}-{run_id}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except OSError as error:
            raise CannotWriteError(f"cannot write {path}: {error.strerror}; choose another --runs-dir") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(f"run {run_id} is being launched by another process here; wait for it") from error
            yield
