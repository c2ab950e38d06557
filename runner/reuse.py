"""Work that need not be done again: results of this run, and equal units of the runs beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from configs.errors import CannotWriteError, ConfigError
from configs.events import read_events
from configs.files import write_json
from configs.run_dir import Request, Result, RunDir
from runner.expansion import agent_units
from runner.gates import JUDGE, Gates
from runner.graph import Unit
from runner.identity import DATASET_PREFIX, Keys, outputs_digest

CHECKPOINTS = "checkpoints/[0-9]*/manifest.json"
"""Below a unit's directory."""


def done_result(run: RunDir, request: Request) -> Result | None:
    """The unit's result when it is what is asked for and its files are intact."""
    result = run.result(request.unit)
    if result is None or result.cache_key != request.cache_key or run.damaged_outputs(result):
        return None
    return result


def find_equal(run: RunDir, request: Request) -> tuple[RunDir, Result] | None:
    """An equal unit in another run of the same runs directory, by run id."""
    for root in sorted(path.parent for path in run.root.parent.glob("*/config.yaml")):
        if root.resolve() != run.root.resolve():
            result = done_result(RunDir(root), request)
            if result is not None:
                return RunDir(root), result
    return None


def link_equal(donor: RunDir, run: RunDir, request: Request, result: Result) -> None:
    """Take over an equal unit: hard links, or copies where the volume has none.

    Raises:
        CannotWriteError: the disk refuses.
    """
    clear_for(run, request)
    run.save_request(request)
    for name in result.outputs:
        source, target = donor.unit_dir(request.unit) / name, run.unit_dir(request.unit) / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(source, target)
        except OSError as error:
            raise CannotWriteError(f"cannot write {target}: {error.strerror}; free space or use --fresh") from error
    write_json(run.unit_dir(request.unit) / "result.json", result.model_dump(mode="json"))


def standing(
    run: RunDir, units: Sequence[Unit], keys: Keys, optional: Collection[str] = (), reuse: bool = True
) -> dict[str, str]:
    """How each unit stands before anything is started: `done`, `reusable`, `to run`, `gated` or `left out`.

    What depends on a unit that is to run counts as to run; it may still turn out equal.

    Args:
        run: where the results lie.
        units: each after those it reads.
        keys: what makes the cache keys.
        optional: units that are only wanted, and not to be run: left out where they are not done here.
        reuse: look for equal units in the runs beside this one too.
    """
    states: dict[str, str] = {}
    results: dict[str, Result] = {}
    gates, gone = Gates(keys.config, units), set[str]()
    for unit in units:
        gates.decide(results, gone)
        states[unit.id] = "to run"
        if gates.leaves_out(unit, [other for other, state in states.items() if state == "gated"]):
            states[unit.id] = "gated"
        elif gates.lets_start(unit, results, gone):
            request = keys.request(unit, results)
            result = done_result(run, request)
            found = find_equal(run, request) if result is None and reuse and unit.id not in optional else None
            if result is not None:
                states[unit.id], results[unit.id] = "done", result
            elif found is not None:
                states[unit.id], results[unit.id] = f"reusable from {found[0].run_id}", found[1]
        if states[unit.id] == "to run" and unit.id in optional:
            states[unit.id] = "left out"
            gates.forget(unit)
        if states[unit.id] in ("gated", "left out"):
            gone.add(unit.id)
    return states


def left_fracs(run: RunDir) -> dict[str, float]:
    """Unit -> share of its work that its newest checkpoint leaves, for those that have one, as their events tell."""
    done: dict[str, float] = {}
    saved: dict[str, float] = {}
    for event in read_events(run.events) if run.events.is_dir() else ():
        unit = event["unit"]
        if event["kind"] == "progress" and event["total"]:
            done[unit] = min(1.0, event["done"] / event["total"])
        elif event["kind"] == "checkpoint" and unit in done:
            saved[unit] = done[unit]
    return {unit: 1 - frac for unit, frac in saved.items() if any(run.unit_dir(unit).glob(CHECKPOINTS))}


def outdated(run: RunDir, unit: str) -> list[str]:
    """Units of which `unit` read other results than those that are here now, if any; empty too where it is not done.

    A result that is gone counts: its unit is being made anew, or that failed.
    """
    read = _read_by(run, unit)
    now = {name: run.result(name) for name in read}
    return [name for name, result in now.items() if result is None or outputs_digest(result) != read[name]]


def current_result(run: RunDir, unit: str) -> Result | None:
    """The unit's result, unless what it read has changed since."""
    return None if outdated(run, unit) else run.result(unit)


def unjudged(run: RunDir) -> list[str]:
    """Families of agents that are all here, and that the evaluation did not read."""
    read = _read_by(run, JUDGE)
    families = agent_units(run.load_config()) if read else {}
    return [
        name
        for name, units in families.items()
        if units and not read.keys() & set(units) and all(run.result(unit) for unit in units)
    ]


def _read_by(run: RunDir, unit: str) -> dict[str, str]:
    """Unit id -> digest of each result that a unit read; empty where it is not done."""
    if run.result(unit) is None:
        return {}
    try:
        read = run.request(unit).inputs
    except ConfigError:
        return {}
    return {name: digest for name, digest in read.items() if not name.startswith(DATASET_PREFIX)}


def clear_for(run: RunDir, request: Request) -> None:
    """Empty a unit's directory before it is written anew.

    Checkpoints and training logs stay when they belong to the same request, so that the unit can go on from them.
    """
    (run.unit_dir(request.unit) / "result.json").unlink(missing_ok=True)
    if _was_asked(run, request):
        run.clear_outputs(request.unit)
    else:
        shutil.rmtree(run.unit_dir(request.unit), ignore_errors=True)


def has_durable_progress(run: RunDir) -> bool:
    """A unit is done or has left a checkpoint."""
    return any(run.stages.rglob("result.json")) or any(run.stages.rglob(CHECKPOINTS))


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a volume without hard links
        shutil.copyfile(source, target)


def _was_asked(run: RunDir, request: Request) -> bool:
    try:
        return run.request(request.unit).cache_key == request.cache_key
    except ConfigError:
        return False
