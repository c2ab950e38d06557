"""One invocation of `run`: from what was asked to a run directory that is ours.

Which run a command means is decided by its resolved configuration and the
digest of its data, never by what happens to lie in the runs directory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from configs.assets import DEFAULT_DATA_DIRS, DatasetName, is_path
from configs.errors import BadDataError, ConfigError, DatasetNotFoundError
from configs.files import digest, write_json
from configs.load import Resolved, differing_keys, flatten, is_operational, lay_over, operational_values, resolve
from configs.run_dir import RunDir, check_run_id
from configs.schema import Config
from runner import data, windows
from runner.data_dirs import searched
from runner.dataset_url import DatasetUrl, bring, is_url
from runner.identity import Keys, gpu_names, next_free_id, run_id_of
from runner.machines import inexact_reasons, machines_of, this_machine
from runner.overlap import require_overlap
from runner.say import say
from runner.store.lease import owner_facts

DEFAULT_RUNS_DIR = Path("runs")
DEFAULT_PROFILE = "quick"
DATASET_FACTS = ("name", "path", "digest", "rows", "first_t", "last_t", "timeframe_s", "synthetic")
"""What `run.json` records of the answer of `data check`: enough to go on where the file is gone."""
WINDOWED = frozenset({"walk_forward", "ablation"})
"""Stages that play walk-forward windows."""


@dataclass(frozen=True)
class Ask:
    """What a command asks for, as the command line gives it."""

    dataset: str = ""
    """A name, the path of a file, or the URL of one that was sent to a store."""
    symbol: str = ""
    timeframe: str = ""
    """`symbol` and `timeframe` of a file whose name does not say them."""
    data_dirs: tuple[Path, ...] = ()
    profile: str = DEFAULT_PROFILE
    config_file: Path | None = None
    settings: tuple[str, ...] = ()
    runs_dir: Path = DEFAULT_RUNS_DIR
    run_id: str = ""
    fresh: bool = False
    resume: str = ""
    offline: bool = False


@dataclass(frozen=True)
class Plan:
    """A resolved command: which run, with which configuration, on which data."""

    run: RunDir
    config: Config
    facts: dict[str, Any]
    """What `data check` says about the dataset, or said when it was last seen."""
    place: str
    """Path or URL of the dataset's file where it was given so."""
    data_dirs: tuple[Path, ...]
    command: tuple[str, ...]
    """The command that reproduces the run."""
    reuse: bool
    """False for a run begun with `--fresh`: it takes nothing from the runs beside it."""
    assets: tuple[dict[str, Any], ...] = ()
    """The same as `facts` of each further dataset of the portfolio."""
    not_found: dict[str, str] = field(default_factory=dict)
    """Name of a dataset -> why it is not here; its facts are those recorded, enough once it has been prepared."""
    no_windows: str = ""
    """Why the data hold no walk-forward window, where one was asked for."""

    @property
    def exists(self) -> bool:
        """The run has been started before."""
        return self.run.config_yaml.exists()

    @property
    def datasets(self) -> dict[str, dict[str, Any]]:
        """Name -> facts of every dataset that the run reads, its own first."""
        return dict(zip(self.config.asset_datasets(), (self.facts, *self.assets), strict=True))

    def require_data(self, read: Collection[str]) -> None:
        """Refuse to start where a dataset is gone that is still read.

        Raises:
            DatasetNotFoundError: as the search for it said.
        """
        for name, says in self.not_found.items():
            if name in read:
                raise DatasetNotFoundError(says)
            facts = self.datasets[name]
            say(
                f"the dataset {name} is not here; going on with what was prepared from it: {facts['rows']:,} bars, "
                f"digest {facts['digest'][:12]}"
            )

    def require_windows(self, stages: Collection[str]) -> None:
        """Refuse to start stages that play walk-forward windows where the data hold none.

        Raises:
            NoWindowError: what was found, what is needed and what to do.
        """
        if self.no_windows and not WINDOWED.isdisjoint(stages):
            raise windows.NoWindowError(self.no_windows)

    def keys(self) -> Keys:
        """What makes the cache keys of this run's units."""
        return Keys.of_this_program(self.config, digests(self.datasets))


def resolve_ask(ask: Ask) -> Plan:
    """Decide which run a command means; reads the dataset and, where the run is not here, its store; writes nothing.

    Raises:
        ProjectError: the configuration, the dataset or the run id is wrong.
    """
    return _resumed(ask) if ask.resume else _asked(ask)


def resolve_config(ask: Ask) -> Resolved:
    """The configuration of a command, with the origin of each value.

    Raises:
        ProjectError: a setting or the dataset's name is wrong.
    """
    return resolve(
        dataset_name(ask.dataset, ask.symbol, ask.timeframe),
        ask.profile,
        gpus=len(gpu_names()),
        file=ask.config_file,
        environment=os.environ,
        settings=ask.settings,
    )


def dataset_facts(ask: Ask, config: Config) -> dict[str, Any]:
    """What `data check` says about the dataset of a command.

    Raises:
        ProjectError: the dataset is missing or wrong.
    """
    data_dirs = searched(ask.data_dirs, ask.runs_dir)
    return data.check(config, data_dirs, place=_brought(_place(ask), ask), offline=ask.offline, tell=say)


def establish(plan: Plan) -> None:
    """Write `run.json` and `config.yaml`; the run must be owned by the caller.

    Raises:
        ConfigError: the run exists with another configuration or other data; the message names what differs.
    """
    known = _known(plan.run)
    if plan.exists:
        refuse_other(plan, known)
    keys = plan.keys()
    mine = this_machine(plan.config, keys.lock, owner_facts().place)
    machines = machines_of(plan.run, known, mine)
    reasons = inexact_reasons(machines, plan.config)
    for reason in reasons:
        say(f"not bit-exact, {reason}")
    write_json(
        plan.run.run_json,
        {
            "run_id": plan.run.run_id,
            "created_t": known.get("created_t", int(time.time())),
            "config_digest": digest(plan.config.identity()),
            "dataset_digest": plan.facts["digest"],
            "dataset": _recorded(plan.facts),
            "assets": [_recorded(facts) | {"name": name} for name, facts in plan.datasets.items()],
            "data_path": str(Path(plan.facts["path"]).resolve()) if plan.facts["path"] else "",
            "data_place": plan.place,
            "data_dirs": [str(path.resolve()) for path in plan.data_dirs],
            "code_digest": digest(keys.code),
            "lock_digest": keys.lock,
            "machine": mine,
            "machines": machines,
            "bit_exact": not reasons,
            "bit_exact_reasons": reasons,
            "command": list(plan.command),
            "reuse": plan.reuse,
        },
    )
    plan.run.save_config(plan.config)


def refuse_other(plan: Plan, known: dict[str, Any]) -> None:
    """Refuse to go on with a run that is not the one that was asked for.

    Raises:
        ConfigError: the configuration or the data differs; the message names what.
    """
    differing = differing_keys(plan.run.load_config().identity(), plan.config.identity())
    before = _recorded_digests(plan.run.load_config(), known) if known else {}
    for name, facts in plan.datasets.items():
        if name in before and before[name] != facts["digest"]:
            differing.append(f"digest of the data {name}: {before[name][:12]} -> {facts['digest'][:12]}")
    if differing:
        raise ConfigError(
            f"run {plan.run.run_id!r} exists with another configuration; this command differs in\n  "
            + "\n  ".join(differing)
            + "\nchoose another --run-id, or leave it out"
        )


def settle(plan: Plan, ask: Ask) -> Plan:
    """The plan with what its run directory says by now, which may have come from the store since."""
    if not plan.exists:
        return plan
    here, known = plan.run.load_config(), _known(plan.run)
    if ask.resume:
        config = _laid_over(here, ask)
    else:
        halvings = here.runtime.batch_halvings | plan.config.runtime.batch_halvings
        config = plan.config.model_copy(
            update={"runtime": plan.config.runtime.model_copy(update={"batch_halvings": halvings})}
        )
    return replace(plan, config=config, reuse=known.get("reuse", plan.reuse))


def store_url(ask: Ask) -> str:
    """The store that a command names, where there is no configuration yet that could."""
    section = operational_values(os.environ, ask.settings).get("store") or {}
    return str(section.get("url", "")) if isinstance(section, dict) else ""


def _asked(ask: Ask) -> Plan:
    if ask.run_id:
        check_run_id(ask.run_id)
    resolved = resolve_config(ask)
    facts = dataset_facts(ask, resolved.config)
    data_dirs = _searched(_place_here(_place(ask), ask), ask, ask.data_dirs)
    assets = tuple(
        data.check(resolved.config, data_dirs, name=name, offline=ask.offline, tell=say)
        for name in resolved.config.asset_datasets()[1:]
    )
    config, no_windows = _with_windows(resolved.config, facts)
    plan = Plan(
        run=RunDir(ask.runs_dir),
        config=config,
        facts=facts,
        place=_place(ask),
        data_dirs=data_dirs,
        command=reproducing_command(ask, resolved),
        reuse=not ask.fresh,
        assets=assets,
        no_windows=no_windows,
    )
    require_overlap(plan.datasets, config)
    base = ask.run_id or run_id_of(config, digests(plan.datasets))
    run_id = next_free_id(base, lambda name: _is_taken(name, ask, config)) if ask.fresh else base
    return settle(replace(plan, run=RunDir(ask.runs_dir / check_run_id(run_id))), ask)


def digests(datasets: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Name -> digest of the bars."""
    return {name: facts["digest"] for name, facts in datasets.items()}


def _searched(place: str, ask: Ask, given: tuple[Path, ...]) -> tuple[Path, ...]:
    """Further assets of a dataset that is given by its file are looked for beside that file too."""
    return searched(given, ask.runs_dir, *([Path(place).parent] if place else []))


def _with_windows(config: Config, facts: dict[str, Any]) -> tuple[Config, str]:
    """The configuration with the walk-forward windows that fit, and why none does."""
    try:
        fitted = windows.fitted(config, facts)
    except windows.NoWindowError as error:
        return windows.with_windows(config, []), str(error)
    if words := windows.shortfall(config, fitted, facts):
        say(words)
    return fitted, ""


def _recorded(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in DATASET_FACTS if name in facts}


def _recorded_digests(config: Config, known: dict[str, Any]) -> dict[str, str]:
    assets = {asset["name"]: asset["digest"] for asset in known.get("assets", ())}
    return assets | {config.dataset.name: known["dataset_digest"]}


def _is_taken(run_id: str, ask: Ask, config: Config) -> bool:
    if (ask.runs_dir / run_id).exists() or not config.store.url:
        return (ask.runs_dir / run_id).exists()
    from runner.remote import is_kept_at  # heavy: what speaks to stores

    return is_kept_at(config.store.url, run_id)


def _resumed(ask: Ask) -> Plan:
    run, url = RunDir(ask.runs_dir / check_run_id(ask.resume)), store_url(ask)
    if run.run_json.exists():
        return _resumed_from(run, run, ask)
    if not url:
        raise ConfigError(
            f"there is no run {ask.resume!r} in {ask.runs_dir}; see `sequence-runner status`, "
            "or name the store that keeps it with --store"
        )
    from runner.remote import identity  # heavy: what speaks to stores
    from runner.store.open import open_store

    with identity(open_store(url), ask.resume) as source:
        return _resumed_from(source, run, ask)


def _resumed_from(source: RunDir, run: RunDir, ask: Ask) -> Plan:
    """The plan of `run`, read from `source`: itself, or what its store has of it."""
    config, known = _laid_over(source.load_config(), ask), source.load_facts()
    recorded_dirs = tuple(Path(path) for path in known["data_dirs"])
    dirs = tuple(path.resolve() for path in (*ask.data_dirs, *recorded_dirs, *DEFAULT_DATA_DIRS))
    place, not_found, found = known["data_place"], dict[str, str](), []
    data_dirs = _searched(_place_here(place, ask) if is_url(place) else "", ask, dirs)
    if ask.data_dirs and not is_url(place) and not Path(place).is_file():
        place = ""  # a file given by its path, on a machine that has it in one of these directories
    recorded = {asset["name"]: asset for asset in known.get("assets", ())}
    expected = _recorded_digests(config, known)
    for name in config.asset_datasets():
        try:
            own_place = _brought(place, ask) if name == config.dataset.name else ""
            facts = data.check(config, data_dirs, name=name, place=own_place, offline=ask.offline, tell=say)
        except DatasetNotFoundError as error:
            if name not in recorded:
                raise
            facts, not_found[name] = recorded[name], str(error)
        if facts["digest"] != expected[name]:
            raise BadDataError(
                f"{facts['path']} is not the data of run {ask.resume!r} any more: digest {facts['digest'][:12]}, "
                f"expected {expected[name][:12]}; start a new run"
            )
        found.append(facts)
    return Plan(
        run=run,
        config=config,
        facts=found[0],
        place=known["data_place"],
        data_dirs=data_dirs,
        command=tuple(known["command"]),
        reuse=known.get("reuse", True),
        assets=tuple(found[1:]),
        not_found=not_found,
    )


def _laid_over(config: Config, ask: Ask) -> Config:
    return lay_over(config, os.environ, ask.settings)


def _known(run: RunDir) -> dict[str, Any]:
    return run.load_facts() if run.run_json.exists() else {}


def reproducing_command(ask: Ask, resolved: Resolved) -> tuple[str, ...]:
    """The command that gives the same run on another machine: choices made here are written out, and how the run was
    carried out is left out."""
    chosen: dict[str, Any] = {
        path: value
        for path, value in flatten(resolved.config.model_dump(mode="json")).items()
        if resolved.origins[path] == "environment" or (path == "compute.device" and resolved.origins[path] == "chosen")
    }
    settings = [f"{path}={value}" for path, value in chosen.items()] + list(ask.settings)
    settings = [setting for setting in settings if not is_operational(setting)]
    return (
        *("sequence-runner", "--dataset", ask.dataset, "--profile", ask.profile),
        *(("--symbol", ask.symbol) if ask.symbol else ()),
        *(("--timeframe", ask.timeframe) if ask.timeframe else ()),
        *_repeated("--data-dir", [str(path) for path in ask.data_dirs]),
        *(("--config", str(ask.config_file)) if ask.config_file else ()),
        *_repeated("--set", settings),
    )


def dataset_name(dataset: str, symbol: str = "", timeframe: str = "") -> str:
    """The name of a dataset that is given by name, or by the path or URL of its file.

    Raises:
        ProjectError: it is none of them.
    """
    if is_url(dataset):
        name = DatasetUrl.parse(dataset).name
        parsed = DatasetName.parse(name)
        if symbol not in ("", parsed.symbol) or timeframe not in ("", parsed.timeframe):
            raise ConfigError(f"--dataset {dataset!r} is {name}; leave out --symbol and --timeframe")
        return name
    return data.name_of_file(dataset, symbol, timeframe) if is_path(dataset) else dataset


def _place(ask: Ask) -> str:
    """Where the dataset was said to be, good on any machine where it is a URL; empty for a name."""
    if is_url(ask.dataset):
        return ask.dataset
    return str(Path(ask.dataset).resolve()) if is_path(ask.dataset) else ""


def _place_here(place: str, ask: Ask) -> str:
    """The path of a place on this machine, where the file may not be yet."""
    return str(DatasetUrl.parse(place).path(ask.runs_dir)) if is_url(place) else place


def _brought(place: str, ask: Ask) -> str:
    """The path of a place, fetched before where it is a URL."""
    return str(bring(place, ask.runs_dir, offline=ask.offline)) if is_url(place) else place


def _repeated(option: str, values: Sequence[str]) -> list[str]:
    return [part for value in values for part in (option, value)]
