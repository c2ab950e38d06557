"""The run directory: where everything of one run lies on disk.

    runs/<run-id>/
      run.json  config.yaml  events/<writer>.jsonl  logs/<unit>.log  report/index.html
      stages/<unit>/{unit.json, artifacts..., result.json}

`unit.json` is what the supervisor asks of a unit; `result.json`, written last,
says what the unit made. A unit is done when its result carries the asked cache
key and its outputs are intact.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from configs.errors import BadDataError, ConfigError
from configs.files import parse_yaml, read_json, sha256_file, write_atomic, write_json
from configs.schema import Config

NOT_OUTPUTS = {"unit.json", "result.json", "checkpoints", "tensorboard"}
"""What lies at the top of a unit's directory without being a result of the unit."""
FACTS = {"dataset_digest", "data_place", "data_dirs", "code_digest", "lock_digest", "command"}
"""What every `run.json` says, among others."""
WRITE_ANEW = "remove it, and the command that started the run writes it anew"
RUN_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Request(BaseModel):
    """What the supervisor asks of a unit (`unit.json`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    unit: str
    cache_key: str
    """Digest of the unit's settings, inputs, code, lock, threads and device."""
    inputs: dict[str, str]
    """Unit id -> digest of that unit's outputs."""


class Output(BaseModel):
    """One file a unit made."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    size_bytes: int


class Result(BaseModel):
    """What a unit made (`result.json`); holds no time, so equal runs have equal bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    unit: str
    cache_key: str
    outputs: dict[str, Output]
    """Path relative to the unit's directory -> its digest."""
    metrics: dict[str, Any]


class RunDir:
    """Paths and small files of one run; knows no process."""

    def __init__(self, root: Path) -> None:
        """Wrap `runs/<run-id>`; nothing is created."""
        self.root = root
        self.run_json = root / "run.json"
        self.config_yaml = root / "config.yaml"
        self.events = root / "events"
        self.logs = root / "logs"
        self.stages = root / "stages"
        self.report = root / "report" / "index.html"

    @property
    def run_id(self) -> str:
        """The directory's name."""
        return self.root.name

    def unit_dir(self, unit: str) -> Path:
        """`stages/<unit>`; a unit id is `stage` or `stage/name`."""
        return self.stages / unit

    def log_path(self, unit: str) -> Path:
        """`logs/<unit>.log`."""
        return self.logs / f"{unit}.log"

    def load_config(self) -> Config:
        """The run's resolved configuration.

        Raises:
            ConfigError: the file is missing or does not fit the schema.
        """
        try:
            return Config.model_validate(parse_yaml(self.config_yaml.read_text()))
        except (OSError, yaml.YAMLError, ValueError) as error:  # ValueError: pydantic's, and bytes that are no text
            raise ConfigError(
                f"{self.config_yaml} is not a run's configuration: {error}\nrestore it, or start anew with --fresh"
            ) from error

    def load_facts(self) -> dict[str, Any]:
        """What `run.json` says of the run: its command, data and code.

        Raises:
            ConfigError: the file is missing or damaged.
        """
        try:
            facts = read_json(self.run_json)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.run_json} cannot be read: {error}; {WRITE_ANEW}") from error
        missing = sorted(FACTS - facts.keys()) if isinstance(facts, dict) else sorted(FACTS)
        if missing:
            raise ConfigError(f"{self.run_json} does not say {', '.join(missing)}; {WRITE_ANEW}")
        return dict(facts)

    def save_config(self, config: Config) -> None:
        """Write `config.yaml`."""
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=110)
        write_atomic(self.config_yaml, text)

    def request(self, unit: str) -> Request:
        """What the supervisor asked of `unit`.

        Raises:
            ConfigError: the unit was never asked for in this run.
        """
        path = self.unit_dir(unit) / "unit.json"
        try:
            return Request.model_validate(read_json(path))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is missing or damaged; start the unit through `sequence-runner`") from error

    def save_request(self, request: Request) -> None:
        """Write `unit.json`."""
        write_json(self.unit_dir(request.unit) / "unit.json", request.model_dump(mode="json"))

    def result(self, unit: str) -> Result | None:
        """The unit's result, or None when there is none that can be read."""
        try:
            return Result.model_validate(read_json(self.unit_dir(unit) / "result.json"))
        except (OSError, ValueError):
            return None

    def save_result(self, unit: str, metrics: dict[str, Any]) -> Result:
        """Digest the unit's files and write `result.json`, the last file of a unit.

        Every file under the unit's directory is an output, except `unit.json`
        and what lies in `checkpoints/` or is hidden.
        """
        directory = self.unit_dir(unit)
        outputs = {
            path.relative_to(directory).as_posix(): Output(sha256=sha256_file(path), size_bytes=path.stat().st_size)
            for path in sorted(directory.rglob("*"))
            if path.is_file() and _is_output(path.relative_to(directory))
        }
        result = Result(unit=unit, cache_key=self.request(unit).cache_key, outputs=outputs, metrics=metrics)
        write_json(directory / "result.json", result.model_dump(mode="json"))
        return result

    def clear_outputs(self, unit: str) -> None:
        """Remove what an earlier attempt left, so that no stale file becomes an output; checkpoints stay."""
        directory = self.unit_dir(unit)
        for path in sorted(directory.iterdir()) if directory.is_dir() else []:
            if path.name == "result.json" or path.name not in NOT_OUTPUTS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def damaged_outputs(self, result: Result) -> list[str]:
        """Outputs of a result that are missing or differ from what was written."""
        directory = self.unit_dir(result.unit)
        return [
            name
            for name, output in result.outputs.items()
            if not (directory / name).is_file() or sha256_file(directory / name) != output.sha256
        ]

    def require_output(self, unit: str, name: str) -> Path:
        """Path of a file that another unit made.

        Raises:
            BadDataError: the file is not there.
        """
        path = self.unit_dir(unit) / name
        if not path.is_file():
            raise BadDataError(f"{path} is missing; run unit {unit!r} first")
        return path


def check_run_id(run_id: str) -> str:
    """Return `run_id` when it is safe as a directory name.

    Raises:
        ConfigError: it holds anything but letters, digits, dot, dash and underscore.
    """
    if not RUN_ID_PATTERN.fullmatch(run_id):
        raise ConfigError(
            f"run id {run_id!r} may hold only letters, digits, '.', '_' and '-', start with a letter or digit "
            "and have at most 128 characters"
        )
    return run_id


def _is_output(relative: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return not hidden and relative.parts[0] not in NOT_OUTPUTS
