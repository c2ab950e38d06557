"""Which run a command means: an id in the runs directory, a path, or the one started last."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError
from configs.run_dir import RunDir, check_run_id


@dataclass(frozen=True)
class Found:
    """The run that is meant."""

    run: RunDir
    others: tuple[str, ...] = ()
    """Ids that were passed over because none was named."""


def find_run(name: str, runs_dir: Path) -> Found:
    """The run `name` means; empty for the one started last.

    Raises:
        ConfigError: there is no such run; the message names near ones.
    """
    runs = runs_by_start(runs_dir)
    if not name:
        if not runs:
            raise ConfigError(f"there is no run in {runs_dir}; start one, or name its directory with --runs-dir")
        return Found(runs[0], tuple(run.run_id for run in runs[1:]))
    if "/" in name or Path(name).joinpath("config.yaml").exists():
        run = RunDir(Path(name))
    else:
        run = RunDir(runs_dir / check_run_id(name))
    if not run.config_yaml.exists():
        near = difflib.get_close_matches(name, [known.run_id for known in runs], n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(f"there is no run {name!r} in {runs_dir}{hint}")
    return Found(run)


def runs_by_start(runs_dir: Path) -> list[RunDir]:
    """All runs of a directory, the one started last first."""
    configs = sorted(runs_dir.glob("*/config.yaml"), key=lambda path: (path.stat().st_mtime, path), reverse=True)
    return [RunDir(path.parent) for path in configs]
