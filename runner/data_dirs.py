"""Where datasets are looked for by their names, and where one that is fetched is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from configs.assets import DEFAULT_DATA_DIRS
from runner.dataset_url import KEPT
from runner.preflight.check import existing_ancestor
from runner.preflight.mounts import goes_with_container


def searched(given: Sequence[Path], runs_dir: Path, *more: Path) -> tuple[Path, ...]:
    """The directories given, or the default ones, then `more`, and last what is kept with the runs."""
    return tuple(dict.fromkeys((*(given or DEFAULT_DATA_DIRS), *more, runs_dir / KEPT)))


def fetched_into(data_dirs: Sequence[Path]) -> Path:
    """The first that can be written and outlives the container, else the last.

    A run that is started again elsewhere must find the very bars it began with: a service has newer ones by then.
    """
    return next((path for path in data_dirs if _keeps(path)), data_dirs[-1])


def _keeps(path: Path) -> bool:
    volume = existing_ancestor(path)
    return os.access(volume, os.W_OK) and not goes_with_container(volume)
