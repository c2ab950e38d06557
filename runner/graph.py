"""The stages of a run, as data, and the units they expand into.

A unit is one process. What enters its cache key is declared here: the settings
it reads, the units whose files it reads, the packages whose code it may import.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.errors import ConfigError
from configs.schema import Config

Needs = dict[str, tuple[str, ...]]
"""Unit id -> ids of the units whose files it reads."""

TRAINING = ("configs", "training")
GAME = ("configs", "training", "ppo")


@dataclass(frozen=True)
class Stage:
    """One stage: a module that runs each of its units as a process."""

    name: str
    module: str
    packages: tuple[str, ...]
    """Packages whose `.py` files enter the cache key."""
    units: Callable[[Config], Needs]
    settings: tuple[str, ...]
    """Dotted paths of the configuration that its units read; `seed` always counts."""
    settings_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Units that read other settings than the rest of their stage."""
    ignored: tuple[str, ...] = ()
    """Settings below `settings` that decide which units exist, not what one unit computes."""
    ignored_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Units that ignore other settings than the rest of their stage."""
    uses_gpu: bool = False
    halvable: str = ""
    """The setting that is halved for a unit that ran out of memory; empty where there is no batch."""
    not_halvable: tuple[str, ...] = ()
    """Units of the stage without a batch."""


@dataclass(frozen=True)
class Unit:
    """One process to run."""

    id: str
    stage: str
    module: str
    needs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    uses_gpu: bool = False
    halvable: str = ""
    timeout_s: float = 86_400.0
    stall_timeout_s: float = 3_600.0
    max_attempts: int = 1


def _prepare_units(_config: Config) -> Needs:
    return {"prepare": ()}


def _classifier_units(config: Config) -> Needs:
    members: Needs = {f"classifiers/{name}": ("prepare",) for name in config.classifiers.members}
    return members | {"classifiers/ensemble": ("prepare", *members)}


def _ppo_units(config: Config) -> Needs:
    return {f"ppo/seed-{seed}": ("prepare", "classifiers/ensemble") for seed in range(config.agent.seeds)}


def _evaluate_units(config: Config) -> Needs:
    return {"evaluate": ("prepare", *_classifier_units(config), *_ppo_units(config))}


LENGTH_SETTINGS = (
    "labels.horizon_bars",
    "labels.kind",
    "classifiers.lookback_bars",
    "classifiers.folds",
    "classifiers.early_stop_frac",
    "ppo.eval_slices",
)
"""What decides how many bars the plan needs."""
STAGES = (
    Stage(
        name="prepare",
        module="training.stages.prepare",
        packages=TRAINING,
        units=_prepare_units,
        settings=("dataset", "market", "features", "splits", *LENGTH_SETTINGS),
    ),
    Stage(
        name="classifiers",
        module="training.stages.classifiers",
        packages=TRAINING,
        units=_classifier_units,
        settings=("features", "labels", "splits", "classifiers"),
        settings_of={"classifiers/ensemble": ("features", "labels", "splits", "classifiers", "ensemble")},
        ignored=("classifiers.members",),
        ignored_by={"classifiers/ensemble": ()},
        uses_gpu=True,
        halvable="classifiers.batch_size",
        not_halvable=("classifiers/ensemble",),
    ),
    Stage(
        name="ppo",
        module="ppo.stages.ppo",
        packages=GAME,
        units=_ppo_units,
        settings=(
            *("features", "splits", "ensemble", "market", "costs", "env", "agent", "ppo"),
            *("judging.collapse_position_changes", "judging.collapse_weight_frac"),
        ),
        ignored=("agent.seeds",),
        uses_gpu=True,
        halvable="ppo.minibatch_size",
    ),
    Stage(
        name="evaluate",
        module="ppo.stages.evaluate",
        packages=GAME,
        units=_evaluate_units,
        settings=(
            *("features", "labels", "splits", "ensemble", "classifiers.members"),
            *("classifiers.folds", "classifiers.lookback_bars"),
            *("market", "costs", "env", "agent", "judging"),
        ),
    ),
)


def expand(config: Config, stages: Sequence[Stage] = STAGES) -> list[Unit]:
    """All units of a run, each after the units it needs."""
    return [
        Unit(
            id=unit_id,
            stage=stage.name,
            module=stage.module,
            needs=needs,
            settings=stage.settings_of.get(unit_id, stage.settings),
            ignored=stage.ignored_by.get(unit_id, stage.ignored),
            packages=stage.packages,
            uses_gpu=stage.uses_gpu and config.compute.device == "cuda",
            halvable="" if unit_id in stage.not_halvable else stage.halvable,
            timeout_s=config.runtime.unit_timeout_s,
            stall_timeout_s=config.runtime.stall_timeout_s,
            max_attempts=config.runtime.max_attempts,
        )
        for stage in stages
        for unit_id, needs in stage.units(config).items()
    ]


def select(units: Sequence[Unit], stages: Collection[str] = (), until: str = "") -> list[Unit]:
    """The units of the named stages, or of all stages up to and including `until`.

    Raises:
        ConfigError: a stage does not exist.
    """
    names = list(dict.fromkeys(unit.stage for unit in units))
    for name in [*stages, *([until] if until else [])]:
        if name not in names:
            raise ConfigError(f"unknown stage {name!r}; expected one of {', '.join(names)}")
    wanted = set(stages or names)
    if until:
        wanted &= set(names[: names.index(until) + 1])
    return [unit for unit in units if unit.stage in wanted]


def with_needs(units: Sequence[Unit], chosen: Sequence[Unit]) -> list[Unit]:
    """The chosen units and all that they need, in the order of `units`."""
    by_id = {unit.id: unit for unit in units}
    wanted: set[str] = set()
    open_ids = [unit.id for unit in chosen]
    while open_ids:
        unit_id = open_ids.pop()
        if unit_id not in wanted:
            wanted.add(unit_id)
            open_ids.extend(by_id[unit_id].needs)
    return [unit for unit in units if unit.id in wanted]


def settings_of(unit: Unit, config: Config) -> dict[str, Any]:
    """The settings that enter the unit's cache key: dotted path -> value."""
    values = config.model_dump(mode="json")
    chosen = {path: _at(values, path) for path in unit.settings} | {"seed": config.seed}
    for path in unit.ignored:
        section, _, key = path.rpartition(".")
        if isinstance(chosen.get(section), dict):
            chosen[section] = {name: value for name, value in chosen[section].items() if name != key}
    return chosen


def halved_batch(unit: Unit, config: Config) -> int:
    """The unit's batch after the halvings that `config` records for it."""
    whole = int(_at(config.model_dump(mode="json"), unit.halvable))
    return max(1, whole >> config.runtime.batch_halvings.get(unit.id, 0))


def _at(values: dict[str, Any], path: str) -> Any:
    value: Any = values
    for key in path.split("."):
        value = value[key]
    return value
