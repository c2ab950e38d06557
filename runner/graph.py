"""The stages of a run, as data, and the units they expand into.

A unit is one process. What enters its cache key is declared here: the settings
it reads, the units whose files it reads, the packages whose code it may import.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from configs.errors import ConfigError
from configs.schema import Config
from runner import expansion
from runner.expansion import Inputs, Units

TRAINING = ("configs", "training")
GAME = ("configs", "training", "ppo")


@dataclass(frozen=True)
class Kind:
    """Units of a stage that read the same settings and run alike."""

    units: Callable[[Config], Units]
    settings: tuple[str, ...]
    """Dotted paths of the configuration that its units read; `seed` always counts."""
    ignored: tuple[str, ...] = ()
    """Settings below `settings` that decide which units exist, not what one unit computes."""
    datasets: Callable[[Config], tuple[str, ...]] = lambda _config: ()
    """Names of the datasets whose files its units read."""
    uses_gpu: bool = False
    halvable: str = ""
    """The setting that is halved for a unit that ran out of memory; empty where there is no batch."""


@dataclass(frozen=True)
class Stage:
    """One stage: a module that runs each of its units as a process."""

    name: str
    module: str
    packages: tuple[str, ...]
    """Packages whose `.py` files enter the cache key."""
    kinds: tuple[Kind, ...]
    on_demand: bool = False
    """Part of a run only where it is asked for by name."""


@dataclass(frozen=True)
class Unit:
    """One process to run."""

    id: str
    stage: str
    module: str
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    uses_gpu: bool = False
    halvable: str = ""
    timeout_s: float = 86_400.0
    stall_timeout_s: float = 3_600.0
    max_attempts: int = 1


LENGTH_SETTINGS = (
    "labels.horizon_bars",
    "labels.kind",
    "classifiers.lookback_bars",
    "classifiers.folds",
    "classifiers.early_stop_frac",
    "ppo.eval_slices",
)
"""What decides how many bars the plan needs."""
COLLAPSE_SETTINGS = ("judging.collapse_position_changes", "judging.collapse_weight_frac")
WINDOW_SETTINGS = ("walk_forward.windows", "walk_forward.first_test_month")
STAGES = (
    Stage(
        name="prepare",
        module="training.stages.prepare",
        packages=TRAINING,
        kinds=(
            Kind(
                units=expansion.prepare_units,
                settings=("dataset", "market", "features", "splits", *LENGTH_SETTINGS),
                datasets=lambda config: (config.dataset.name,),
            ),
        ),
    ),
    Stage(
        name="synthetic",
        module="training.stages.synthetic",
        packages=TRAINING,
        kinds=(
            Kind(
                units=expansion.synthetic_units,
                settings=(
                    *("dataset.name", "synthetic", "splits", "market", *WINDOW_SETTINGS),
                    *("walk_forward.train_months", "walk_forward.early_stop_frac"),
                ),
            ),
        ),
    ),
    Stage(
        name="pretrain",
        module="ppo.stages.pretrain",
        packages=GAME,
        kinds=(
            Kind(
                units=expansion.pretrain_units,
                settings=(
                    *("dataset.name", "features", "ensemble", "market", "costs", "env", "ppo", "synthetic", "pretrain"),
                    *COLLAPSE_SETTINGS,
                ),
                uses_gpu=True,
                halvable="ppo.minibatch_size",
            ),
        ),
    ),
    Stage(
        name="classifiers",
        module="training.stages.classifiers",
        packages=TRAINING,
        kinds=(
            Kind(
                units=expansion.member_units,
                settings=("features", "labels", "splits", "classifiers"),
                ignored=("classifiers.members",),
                uses_gpu=True,
                halvable="classifiers.batch_size",
            ),
            Kind(
                units=expansion.ensemble_units,
                settings=("features", "labels", "splits", "classifiers", "ensemble"),
                uses_gpu=True,
            ),
        ),
    ),
    Stage(
        name="ppo",
        module="ppo.stages.ppo",
        packages=GAME,
        kinds=(
            Kind(
                units=expansion.ppo_units,
                settings=(
                    *("features", "splits", "ensemble", "market", "costs", "env", "agent", "ppo"),
                    *COLLAPSE_SETTINGS,
                ),
                ignored=("agent.seeds",),
                uses_gpu=True,
                halvable="ppo.minibatch_size",
            ),
        ),
    ),
    Stage(
        name="lstm_ppo",
        module="ppo.stages.lstm_ppo",
        packages=GAME,
        kinds=(
            Kind(
                units=expansion.lstm_ppo_units,
                settings=("features", "ensemble", "market", "costs", "env", "lstm_ppo", *COLLAPSE_SETTINGS),
                uses_gpu=True,
                halvable="lstm_ppo.minibatch_size",
            ),
        ),
    ),
    Stage(
        name="multi_asset",
        module="ppo.stages.multi_asset",
        packages=GAME,
        kinds=(
            Kind(
                units=expansion.portfolio_data_units,
                settings=(
                    *("dataset", "features", "labels", "classifiers", "ensemble", "market"),
                    *("multi_asset.assets", "env.observation_clip"),
                ),
                datasets=Config.asset_datasets,
                uses_gpu=True,
            ),
            Kind(
                units=expansion.portfolio_agent_units,
                settings=(
                    *("dataset.name", "features", "ensemble", "market", "costs", "env", "multi_asset"),
                    *COLLAPSE_SETTINGS,
                ),
                uses_gpu=True,
                halvable="multi_asset.minibatch_size",
            ),
        ),
    ),
    Stage(
        name="walk_forward",
        module="ppo.stages.walk_forward",
        packages=GAME,
        kinds=(
            Kind(
                units=expansion.monthly_member_units,
                settings=(
                    *("features", "labels", "classifiers"),
                    *("walk_forward.train_months", "walk_forward.epochs", *WINDOW_SETTINGS),
                ),
                ignored=("classifiers.members",),
                uses_gpu=True,
                halvable="classifiers.batch_size",
            ),
            Kind(
                units=expansion.window_units,
                settings=(
                    *("features", "ensemble", "market", "costs", "env", "agent.seeds", "ppo", "walk_forward"),
                    *("labels.horizon_bars", *COLLAPSE_SETTINGS),
                ),
                ignored=("walk_forward.windows",),
                uses_gpu=True,
                halvable="ppo.minibatch_size",
            ),
        ),
    ),
    Stage(
        name="evaluate",
        module="ppo.stages.evaluate",
        packages=GAME,
        kinds=(
            Kind(
                units=expansion.evaluate_units,
                settings=(
                    *("features", "labels", "splits", "ensemble", "classifiers.members"),
                    *("classifiers.folds", "classifiers.lookback_bars", "agent.seeds"),
                    *("market", "costs", "env", "judging", "walk_forward.train_months", *WINDOW_SETTINGS),
                    *("multi_asset.gross_limit", "multi_asset.asset_cap"),
                    *("multi_asset.allow_short", "multi_asset.rebalance_threshold"),
                ),
            ),
        ),
    ),
    Stage(
        name="ablation",
        module="ppo.stages.ablation",
        packages=GAME,
        kinds=(
            Kind(
                units=expansion.ablation_units,
                settings=(
                    *("dataset.name", "features", "labels.horizon_bars", "ensemble", "market", "costs", "env", "ppo"),
                    *("synthetic", "pretrain", "walk_forward", "ablation", *COLLAPSE_SETTINGS),
                ),
                ignored=("ablation.seeds",),
                uses_gpu=True,
                halvable="ppo.minibatch_size",
            ),
            Kind(
                units=expansion.ablation_summary_units,
                settings=(
                    *("dataset.name", "features", "labels.horizon_bars", "ensemble", "market", "costs", "env"),
                    *("walk_forward", "ablation", "judging"),
                ),
            ),
        ),
        on_demand=True,
    ),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def expand(config: Config, asked: Collection[str] = (), stages: Sequence[Stage] = STAGES) -> list[Unit]:
    """All units of a run, each after the units it reads; of the stages on demand, those in `asked`."""
    units = [
        _unit(config, stage, kind, unit_id, inputs)
        for stage in stages
        if not stage.on_demand or stage.name in asked
        for kind in stage.kinds
        for unit_id, inputs in kind.units(config).items()
    ]
    return without(units, ())


def _unit(config: Config, stage: Stage, kind: Kind, unit_id: str, inputs: Inputs) -> Unit:
    return Unit(
        id=unit_id,
        stage=stage.name,
        module=stage.module,
        needs=inputs.needs,
        wants=inputs.wants,
        settings=kind.settings,
        ignored=kind.ignored,
        datasets=kind.datasets(config),
        packages=stage.packages,
        uses_gpu=kind.uses_gpu and config.compute.device == "cuda",
        halvable=kind.halvable,
        timeout_s=config.runtime.unit_timeout_s,
        stall_timeout_s=config.runtime.stall_timeout_s,
        max_attempts=config.runtime.max_attempts,
    )


def chosen_stages(stages: Collection[str] = (), until: str = "") -> list[str]:
    """The named stages, or all that are not on demand, up to and including `until`.

    Raises:
        ConfigError: a stage does not exist, or nothing is left.
    """
    default = [stage.name for stage in STAGES if not stage.on_demand]
    for name in [*stages, *([until] if until else [])]:
        if name not in STAGE_NAMES:
            raise ConfigError(f"unknown stage {name!r}; expected one of {', '.join(STAGE_NAMES)}")
    named = stages or default
    if until and until not in default and until not in named:
        raise ConfigError(f"{until} is done on demand alone: by `sequence-runner ablate`, or by --stages {until}")
    last = STAGE_NAMES.index(until) if until else len(STAGE_NAMES)
    found = [name for place, name in enumerate(STAGE_NAMES) if name in named and place <= last]
    if not found:
        raise ConfigError(f"--until {until} leaves nothing of --stages {','.join(named)}: each comes after it")
    return found


def with_inputs(units: Sequence[Unit], chosen: Sequence[Unit], wanted: bool = False) -> list[Unit]:
    """The chosen units and all that they need, and with `wanted` all that they want, in the order of `units`."""
    by_id = {unit.id: unit for unit in units}
    found: set[str] = set()
    open_ids = [unit.id for unit in chosen]
    while open_ids:
        unit_id = open_ids.pop()
        if unit_id not in found:
            found.add(unit_id)
            unit = by_id[unit_id]
            open_ids.extend((*unit.needs, *(unit.wants if wanted else ())))
    return [unit for unit in units if unit.id in found]


def without(units: Sequence[Unit], left_out: Collection[str]) -> list[Unit]:
    """The units that are not left out; they want each other alone."""
    kept = [unit for unit in units if unit.id not in left_out]
    ids = {unit.id for unit in kept}
    return [replace(unit, wants=tuple(want for want in unit.wants if want in ids)) for unit in kept]


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
