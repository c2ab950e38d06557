"""All that a run directory tells, read with tolerance: what is missing or damaged is noted, not fatal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.events import read_events, without_repeats
from configs.files import parse_yaml, read_json
from configs.load import flatten, resolve
from configs.run_dir import RunDir
from configs.verdicts import FAMILIES, leading
from runner import forecast
from runner.budget import spent
from runner.forecast import Row
from runner.gates import JUDGE
from runner.graph import expand
from runner.reuse import outdated, unjudged

Columns = dict[str, list]
CHANGED = "this run"
"""Origin of a value that differs from what dataset and profile alone give."""


@dataclass
class Family:
    """The agents of one kind, as the test part judged them."""

    evaluation: dict[str, Any] = field(default_factory=dict)
    equity: Columns = field(default_factory=dict)


@dataclass
class Stress:
    """What the stage `synthetic` tells of its worlds."""

    gallery: Columns = field(default_factory=dict)
    tags: Columns = field(default_factory=dict)
    moments: dict[str, Any] = field(default_factory=dict)


@dataclass
class Facts:
    """One run as its files tell it; an empty value where a file is not there (yet)."""

    run_id: str
    root: Path
    run: dict[str, Any] = field(default_factory=dict)
    """`run.json`."""
    config: dict[str, Any] = field(default_factory=dict)
    """`config.yaml`; plain values, so that a file of an older schema can still be shown."""
    origins: dict[str, str] = field(default_factory=dict)
    """Setting -> where its value stands: default, asset class, profile, or `CHANGED`."""
    dataset: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, Any] = field(default_factory=dict)
    families: dict[str, Family] = field(default_factory=dict)
    """Those that were judged, in the order of `FAMILIES`."""
    classifiers: dict[str, Any] = field(default_factory=dict)
    """Member or `ensemble` -> its scores on the test part."""
    targets: list[dict[str, Any]] = field(default_factory=list)
    stress: Stress = field(default_factory=Stress)
    ablation: dict[str, Any] = field(default_factory=dict)
    forecast: list[Row] = field(default_factory=list)
    """Predicted against actual, the whole run last."""
    price_usd_per_hour: float = 0.0
    """Of the newest plan that has one; 0 where none had."""
    cost_usd: float = 0.0
    """Of all starts, each from beginning to end at its own price."""
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Unit id -> metrics of its result."""
    histories: dict[str, Any] = field(default_factory=dict)
    """Unit id -> `history.json`."""
    units: list[str] = field(default_factory=list)
    """Ids of the units the configuration expands into."""
    events: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """Files that are there but cannot be read, with the reason."""
    outdated: dict[str, list[str]] = field(default_factory=dict)
    """Unit id -> the units of which it read results that are no longer here; an evaluation that is, is not shown."""
    unjudged: list[str] = field(default_factory=list)
    """Families of agents that the evaluation did not read."""

    @property
    def primary(self) -> str:
        """The family that the page shows in detail: the first there is; empty before any was judged."""
        return next(iter(self.families), "")

    @property
    def evaluation(self) -> dict[str, Any]:
        """The primary family's."""
        return self.families[self.primary].evaluation if self.primary else {}

    @property
    def equity(self) -> Columns:
        """The primary family's."""
        return self.families[self.primary].equity if self.primary else {}

    @property
    def leading(self) -> str:
        """The family whose verdict is the run's; empty before any was judged."""
        return leading({name: family.evaluation.get("verdict") for name, family in self.families.items()})

    @property
    def finished(self) -> bool:
        """Whether the newest start has come to its end."""
        kinds = [event["kind"] for event in self.events if event["kind"] in ("run_started", "run_finished")]
        return kinds[-1:] == ["run_finished"]

    @property
    def synthetic(self) -> bool:
        """Whether the bars are generated; any file that says so is believed."""
        return any(source.get("synthetic") is True for source in self._datasets())

    @property
    def dataset_name(self) -> str:
        """Name of the dataset, from the first file that has it."""
        return next((str(source["name"]) for source in self._datasets() if source.get("name")), "unknown dataset")

    @property
    def profile(self) -> str:
        """Name of the profile."""
        return str(self.config.get("profile") or "unknown profile")

    def _datasets(self) -> list[dict[str, Any]]:
        sources = (self.config.get("dataset"), self.dataset, self.evaluation.get("dataset"))
        return [source for source in sources if isinstance(source, dict)]


def read_facts(run: RunDir) -> Facts:
    """Read every file the report shows."""
    facts = Facts(run.run_id, run.root)
    reader = _Reader(run.root, facts.damaged)
    prepare, worlds = run.unit_dir("prepare"), run.unit_dir("synthetic")
    facts.run = reader.mapping(run.run_json, read_json)
    facts.config = reader.mapping(run.config_yaml, _read_yaml)
    facts.units, facts.origins = _graph_and_origins(run)
    facts.dataset = reader.mapping(prepare / "dataset.json", read_json)
    facts.splits = reader.mapping(prepare / "splits.json", read_json)
    _read_results(facts, run, reader)
    if JUDGE not in facts.outdated:
        _read_evaluation(facts, run.unit_dir(JUDGE), reader)
    facts.stress = Stress(
        gallery=reader.mapping(worlds / "gallery.parquet", _read_parquet),
        tags=reader.mapping(worlds / "tags.parquet", _read_parquet),
        moments=reader.mapping(worlds / "moments.json", read_json),
    )
    facts.ablation = reader.mapping(run.unit_dir("ablation/summary") / "ablation.json", read_json)
    facts.forecast = reader.read(run.root / forecast.FILE_NAME, lambda _: forecast.compared(run)) or []
    prices = [plan.get("price_usd_per_hour") for plan in forecast.load(run)]
    facts.price_usd_per_hour = next((float(price) for price in reversed(prices) if price), 0.0)
    facts.cost_usd = spent(run.events).cost_usd
    facts.events = without_repeats(read_events(run.events)) if run.events.is_dir() else []
    for path in sorted(run.stages.rglob("history.json")):
        unit = path.parent.relative_to(run.stages).as_posix()
        facts.histories[unit] = reader.read(path, read_json)
    return facts


def _read_results(facts: Facts, run: RunDir, reader: _Reader) -> None:
    """What every unit that is done says, and whether it still holds."""
    for path in sorted(run.stages.rglob("result.json")):
        unit = path.parent.relative_to(run.stages).as_posix()
        metrics = reader.mapping(path, read_json).get("metrics")
        facts.metrics[unit] = metrics if isinstance(metrics, dict) else {}
    facts.outdated = {unit: changed for unit in facts.metrics if (changed := outdated(run, unit))}
    with contextlib.suppress(ConfigError):  # a configuration that is not of this version
        facts.unjudged = unjudged(run)


def _read_evaluation(facts: Facts, evaluate: Path, reader: _Reader) -> None:
    """What the test part said of agents and classifiers."""
    facts.families = _families(evaluate, reader)
    facts.classifiers = reader.mapping(evaluate / "classifiers.json", read_json)
    facts.targets = reader.mapping(evaluate / "targets.json", read_json).get("targets") or []


def _families(evaluate: Path, reader: _Reader) -> dict[str, Family]:
    found = {
        name: Family(
            reader.mapping(evaluate / name / "evaluation.json", read_json),
            reader.mapping(evaluate / name / "equity.parquet", _read_parquet),
        )
        for name in FAMILIES
    }
    return {name: family for name, family in found.items() if family.evaluation or family.equity}


def _graph_and_origins(run: RunDir) -> tuple[list[str], dict[str, str]]:
    """Unit ids, and the origin of each setting; nothing where the configuration is not of this version."""
    try:
        config = run.load_config()
        own_class = f"dataset.asset_class={config.dataset.asset_class}"
        gpus = config.runtime.workers if config.compute.device == "cuda" else 0
        plain = resolve(config.dataset.name, config.profile, gpus=gpus, settings=[own_class])
    except ConfigError:
        return [], {}
    values, expected = (flatten(item.model_dump(mode="json")) for item in (config, plain.config))
    origins = {key: plain.origins[key] if value == expected.get(key) else CHANGED for key, value in values.items()}
    return [unit.id for unit in expand(config)], origins | {"dataset.asset_class": "symbol, or declared"}


@dataclass
class _Reader:
    root: Path
    damaged: list[str]

    def read(self, path: Path, parse: Callable[[Path], Any]) -> Any:
        """The parsed file; None where it is missing or damaged."""
        if not path.is_file():
            return None
        try:
            return parse(path)
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.damaged.append(f"{path.relative_to(self.root).as_posix()}: {reason}")
            return None

    def mapping(self, path: Path, parse: Callable[[Path], Any]) -> dict[str, Any]:
        """The parsed file where it holds a mapping, else an empty one."""
        value = self.read(path, parse)
        if value is not None and not isinstance(value, dict):
            self.damaged.append(f"{path.relative_to(self.root).as_posix()}: holds a {type(value).__name__}")
        return value if isinstance(value, dict) else {}


def _read_yaml(path: Path) -> Any:
    return parse_yaml(path.read_text())


def _read_parquet(path: Path) -> Columns:
    import pyarrow.parquet  # heavy: `sequence-runner --help` must not wait for it

    return pyarrow.parquet.read_table(path).to_pydict()
