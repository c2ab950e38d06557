"""Checkpoints of a learner: `<directory>/<step>/{learner.safetensors, manifest.json}`, whole or not at all.

A checkpoint is written beside and renamed, so a directory with a number for a
name is complete; its digest is checked all the same before it is used.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save

from configs.files import fsync_directory, read_json, sha256_file, write_atomic, write_json
from ppo.learner.state import Arrays, LearnerState

MANIFEST = "manifest.json"
ARRAYS = "learner.safetensors"
KEPT = 2
"""The newest may be in the process of being replaced."""


def save_checkpoint(directory: Path, state: LearnerState, cache_key: str) -> Path:
    """Write the learner's state and forget all but the newest checkpoints.

    Args:
        directory: where the unit keeps its checkpoints.
        state: a learner between two rollouts.
        cache_key: what the unit was asked for; only an equal request may go on from here.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob(".*"):
        shutil.rmtree(leftover)
    arrays, scalars = state.to_arrays()
    beside, final = directory / f".{state.steps}", directory / str(state.steps)
    write_atomic(beside / ARRAYS, save(arrays))
    manifest = {"cache_key": cache_key, "step": state.steps, "sha256": sha256_file(beside / ARRAYS)}
    write_json(beside / MANIFEST, manifest | {"scalars": scalars})
    if final.exists():
        shutil.rmtree(final)
    beside.replace(final)
    fsync_directory(directory)
    for old in _by_step(directory)[KEPT:]:
        shutil.rmtree(old)
    return final


def newest_checkpoint(directory: Path, cache_key: str) -> tuple[Arrays, dict[str, Any]] | None:
    """What `LearnerState.load_arrays` takes, from the newest intact checkpoint of the same request."""
    for path in _by_step(directory):
        try:
            manifest = read_json(path / MANIFEST)
            if manifest["cache_key"] == cache_key and manifest["sha256"] == sha256_file(path / ARRAYS):
                return load_file(path / ARRAYS), manifest["scalars"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _by_step(directory: Path) -> list[Path]:
    found = [path for path in directory.glob("*") if path.name.isdigit()] if directory.is_dir() else []
    return sorted(found, key=lambda path: int(path.name), reverse=True)
