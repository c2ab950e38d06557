"""Checkpoints of one job: `<directory>/<step>/{state.safetensors, <part>.safetensors..., manifest.json}`.

A checkpoint is written beside and renamed, so a directory with a number for a name is complete; the digest of
every file is checked all the same before it is used. Parts never change once written: they are linked from the
checkpoint before, so they cost neither time nor, in a content-addressed store, a second upload. Nothing is
compressed: weights and their moments are noise to a compressor (zstd saves 7 % of a reference learner's 27 MB).

The format has a number. 1 had one file, `learner.safetensors`, and no global random states; 2 is this one.
A checkpoint of an older format is read through `MIGRATIONS`, one step of versions at a time.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load
from safetensors.numpy import save as to_bytes
from torch import Tensor, nn

from configs.errors import ProjectError
from configs.files import digest, fsync_directory, read_json, write_atomic, write_json
from configs.unit import Unit
from training.determinism import random_state, restore_random_state

FORMAT = 2
MANIFEST = "manifest.json"
STATE = "state"
RANDOM = "random/"
KEPT = 2
"""The newest may be in the process of being replaced."""
FIRST_AFTER_S = 1.0
"""The first checkpoint comes early: what one costs is not known before."""
COSTS_KEPT = 3

Arrays = dict[str, np.ndarray]
Manifest = dict[str, Any]
Say = Callable[[str], None]


class DamagedCheckpointError(ProjectError):
    """A checkpoint does not hold what its manifest says."""


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds."""

    step: int
    arrays: Arrays
    scalars: dict[str, Any]
    """JSON values."""
    parts: dict[str, Arrays] = field(default_factory=dict)
    random: Arrays = field(default_factory=dict)
    """The global generators, as `training.determinism.random_state` gave them."""


def save(
    directory: Path,
    step: int,
    arrays: Arrays,
    scalars: dict[str, Any],
    cache_key: str,
    parts: Mapping[str, Arrays] | None = None,
) -> Path:
    """Write a checkpoint, whole or not at all, and forget all but the newest two of this request.

    Args:
        directory: where the job keeps its checkpoints.
        step: how far the job is; the higher, the newer.
        arrays: the job's state; the global random states are added.
        scalars: the rest of it, finite JSON values.
        cache_key: what was asked for; only an equal request may go on from here.
        parts: name -> arrays that stay as they are in every later checkpoint.

    Raises:
        CannotWriteError: the disk refuses; the checkpoints before this one are as they were.
    """
    for leftover in directory.glob(".*"):
        if leftover.name[1:].isdigit() or leftover.name.startswith(".going-"):
            shutil.rmtree(leftover)
    beside, final = directory / f".{step}", directory / str(step)
    before = _own_by_step(directory, cache_key)
    random = {f"{RANDOM}{name}": array for name, array in random_state().items()}
    files = {STATE: _write(beside / f"{STATE}.safetensors", arrays | random)}
    for name, part in (parts or {}).items():
        path = beside / f"{name}.safetensors"
        files[name] = _link(path, name, before) or _write(path, part)
    manifest = {"format": FORMAT, "cache_key": cache_key, "step": step, "files": files, "scalars": scalars}
    write_json(beside / MANIFEST, manifest | {"sha256": digest(manifest)})
    if final.exists():
        _remove(final)
    beside.replace(final)
    fsync_directory(directory)
    kept = _own_by_step(directory, cache_key)[:KEPT]
    for old in _by_step(directory):
        if old not in kept:
            _remove(old)
    return final


def newest(directory: Path, cache_key: str, say: Say = lambda _text: None) -> Saved | None:
    """The newest intact checkpoint of the same request.

    A damaged one is moved to `.damaged-<step>`. Whatever is passed over is said, with the reason.
    """
    found, passed_over = None, []
    for path in _by_step(directory):
        try:
            manifest = _manifest(path)
            if manifest["cache_key"] == cache_key:
                found = _read(path, manifest)
                break
            passed_over.append(f"checkpoint {path.name} was made for another request")
        except DamagedCheckpointError as error:
            _set_aside(path)
            passed_over.append(f"checkpoint {path.name} is damaged ({error})")
    for fault in passed_over:
        say(f"{fault}, {'starting anew' if found is None else f'going on from {found.step}'}")
    return found


class CheckpointClock:
    """When the next checkpoint is due.

    The interval T = sqrt(2 C M), at most M, loses the least time to saving and to doing again what a failure
    undid (Young 1974; first order of Daly 2006): C is the mean cost of the last checkpoints, measured, and M the
    mean time between failures.
    """

    def __init__(self, mean_time_between_failures_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self.interval_s = FIRST_AFTER_S
        self._failures_s, self._now = mean_time_between_failures_s, now
        self._costs_s: deque[float] = deque(maxlen=COSTS_KEPT)
        self._last_s = now()

    def due(self) -> bool:
        """Whether more than the interval has passed since the last checkpoint, or since the start."""
        return self._now() - self._last_s >= self.interval_s

    def measure(self, work: Callable[[], Path]) -> tuple[Path, float]:
        """Save by `work`; its result, and how long it took in seconds, which sets the next interval."""
        began_s = self._now()
        result = work()
        self._last_s = self._now()
        self._costs_s.append(self._last_s - began_s)
        mean_s = sum(self._costs_s) / len(self._costs_s)
        self.interval_s = min(math.sqrt(2 * mean_s * self._failures_s), self._failures_s)
        return result, self._costs_s[-1]


class Checkpoints:
    """The checkpoints of one job: where they lie, whose they are, when the next is due.

    A library object: a stage makes one by `of(unit)`, a notebook by the constructor.
    """

    def __init__(
        self,
        directory: Path,
        cache_key: str,
        clock: CheckpointClock,
        *,
        on_saved: Callable[..., None] = lambda **_facts: None,
        say: Say = lambda _text: None,
    ) -> None:
        """Wrap a directory; nothing is read or written.

        Args:
            directory: where they lie.
            cache_key: what the job is; only checkpoints with an equal key are used.
            clock: decides when one is due.
            on_saved: called after each with step, wall_s, bytes and interval_s.
            say: where notices go.
        """
        self._directory, self._cache_key, self._clock = directory, cache_key, clock
        self._on_saved, self._say = on_saved, say
        self.step = 0
        """Of the last checkpoint; 0 where there is none."""

    @classmethod
    def of(cls, unit: Unit) -> Checkpoints:
        """Those of a unit, which hears of each by an event and of what is odd in its log."""
        return cls(
            unit.dir / "checkpoints",
            unit.run.request(unit.id).cache_key,
            CheckpointClock(unit.config.runtime.mean_time_between_failures_s),
            on_saved=lambda **facts: unit.events.emit("checkpoint", unit.id, **facts),
            say=unit.log,
        )

    def resume(self) -> Saved | None:
        """The newest intact checkpoint, if any; the global random states are put back with it."""
        saved = newest(self._directory, self._cache_key, self._say)
        if saved is not None:
            restore_random_state(saved.random)
            self.step = saved.step
            self._say(f"going on from checkpoint {saved.step}")
        return saved

    def due(self) -> bool:
        """Whether it is time for one; ask at every safe boundary."""
        return self._clock.due()

    def save(
        self, step: int, arrays: Arrays, scalars: dict[str, Any], parts: Mapping[str, Arrays] | None = None
    ) -> None:
        """Save, unless nothing was done since the last one.

        Raises:
            CannotWriteError: the disk refuses.
        """
        if step <= self.step:
            return
        path, wall_s = self._clock.measure(lambda: save(self._directory, step, arrays, scalars, self._cache_key, parts))
        self.step = step
        size_bytes = sum(file.stat().st_size for file in path.iterdir())
        self._on_saved(
            step=step, wall_s=round(wall_s, 6), bytes=size_bytes, interval_s=round(self._clock.interval_s, 3)
        )


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter>/<slot>`."""
    return {
        f"{name}/{slot}": value
        for name, parameter in model.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, each slot on the device where the optimizer wants it."""
    slots = [below(f"{name}/", tensors) for name, _ in model.named_parameters()]
    state = {number: own for number, own in enumerate(slots) if own}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def below(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """What stands under `prefix`, which is cut off."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def to_arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """Copies on the CPU."""
    return {name: value.detach().cpu().numpy().copy() for name, value in tensors.items()}


def to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Copies as tensors on the CPU."""
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _from_1(manifest: Manifest) -> Manifest:
    files = {STATE: {"file": "learner.safetensors", "sha256": manifest["sha256"]}}
    return manifest | {"format": 2, "files": files}


MIGRATIONS: dict[int, Callable[[Manifest], Manifest]] = {1: _from_1}
"""Format -> what makes a manifest of the next format of it."""


def _manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint, brought to the current format: cache_key, step, files and scalars."""
    try:
        manifest = read_json(path / MANIFEST)
        version = manifest.get("format", 1)
        if version != 1 and manifest.pop("sha256") != digest(manifest):
            raise DamagedCheckpointError(f"{MANIFEST} differs from its own sha256")
        while version in MIGRATIONS:
            manifest = MIGRATIONS[version](manifest)
            version = manifest["format"]
        if version != FORMAT:
            raise DamagedCheckpointError(f"{MANIFEST} has format {version}, this program reads 1 to {FORMAT}")
        if manifest["step"] != int(path.name):
            raise DamagedCheckpointError(f"{MANIFEST} is of step {manifest['step']}")
        return {name: manifest[name] for name in ("cache_key", "step", "files", "scalars")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{MANIFEST} cannot be read: {error!r}") from error


def _read(path: Path, manifest: Manifest) -> Saved:
    contents = {
        name: _load(path / Path(entry["file"]).name, entry["sha256"]) for name, entry in manifest["files"].items()
    }
    state = contents.pop(STATE)
    return Saved(
        step=manifest["step"],
        arrays={name: array for name, array in state.items() if not name.startswith(RANDOM)},
        scalars=manifest["scalars"],
        parts=contents,
        random=below(RANDOM, state),
    )


def _load(path: Path, sha256: str) -> Arrays:
    """The arrays of one file; what is hashed is what is read."""
    try:
        data = path.read_bytes()
        if (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise DamagedCheckpointError(f"{path.name} has sha256 {found[:12]}, expected {sha256[:12]}")
        return load(data)
    except (OSError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{path.name} cannot be read: {error}") from error


def _write(path: Path, arrays: Arrays) -> dict[str, str]:
    data = to_bytes(arrays)
    write_atomic(path, data)
    return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}


def _link(path: Path, name: str, before: list[Path]) -> dict[str, str] | None:
    """Link part `name` from the checkpoint before; its entry in the manifest, or None where that cannot be."""
    entry = _manifest(before[0])["files"].get(name) if before else None
    if entry is None:
        return None
    try:
        os.link(before[0] / entry["file"], path)
    except OSError:  # a volume without hard links
        return None
    return {"file": path.name, "sha256": entry["sha256"]}


def _remove(path: Path) -> None:
    """First its name, so that nobody who looks on meanwhile takes half of it for a checkpoint."""
    going = path.parent / f".going-{path.name}"
    path.replace(going)
    shutil.rmtree(going)


def _set_aside(path: Path) -> None:
    aside = path.parent / f".damaged-{path.name}"
    if aside.exists():
        shutil.rmtree(aside)
    path.replace(aside)


def _own_by_step(directory: Path, cache_key: str) -> list[Path]:
    return [path for path in _by_step(directory) if _cache_key(path) == cache_key]


def _cache_key(path: Path) -> str | None:
    try:
        return _manifest(path)["cache_key"]
    except DamagedCheckpointError:
        return None


def _by_step(directory: Path) -> list[Path]:
    found = [path for path in directory.glob("*") if path.name.isdigit()] if directory.is_dir() else []
    return sorted(found, key=lambda path: int(path.name), reverse=True)
