"""One invocation of `run`: from what was asked to a run directory that is ours.

Which run a command means is decided by its resolved configuration and the
digest of its data, never by what happens to lie in the runs directory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import BadDataError, ConfigError
from configs.files import digest, write_json
from configs.load import Resolved, differing_keys, flatten, resolve
from configs.run_dir import RunDir, check_run_id
from configs.schema import Config
from runner import data
from runner.identity import Keys, found_device, machine_facts, next_free_id, run_id_of
from runner.say import say

DEFAULT_DATA_DIRS = (Path("data"), Path("/data"))
DEFAULT_RUNS_DIR = Path("runs")
DEFAULT_PROFILE = "quick"


@dataclass(frozen=True)
class Ask:
    """What a command asks for, as the command line gives it."""

    dataset: str = ""
    """A name, or the path of a file."""
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
    """What `data check` says about the dataset."""
    place: str
    """Path of the dataset's file where it was given by path."""
    data_dirs: tuple[Path, ...]
    command: tuple[str, ...]
    """The command that reproduces the run."""
    reuse: bool
    """False for a run begun with `--fresh`: it takes nothing from the runs beside it."""

    @property
    def exists(self) -> bool:
        """The run has been started before."""
        return self.run.config_yaml.exists()

    def keys(self) -> Keys:
        """What makes the cache keys of this run's units."""
        return Keys.of_this_program(self.config, self.facts["digest"])


def resolve_ask(ask: Ask) -> Plan:
    """Decide which run a command means; reads the dataset, writes nothing.

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
        device=found_device(),
        file=ask.config_file,
        environment=os.environ,
        settings=ask.settings,
    )


def dataset_facts(ask: Ask, config: Config) -> dict[str, Any]:
    """What `data check` says about the dataset of a command.

    Raises:
        ProjectError: the dataset is missing or wrong.
    """
    data_dirs = ask.data_dirs or DEFAULT_DATA_DIRS
    return data.check(config, data_dirs, place=_place(ask), offline=ask.offline, tell=say)


def establish(plan: Plan) -> None:
    """Write `run.json` and `config.yaml`; the run must be owned by the caller.

    Raises:
        ConfigError: the run exists with another configuration or other data; the message names what differs.
    """
    known = plan.run.load_facts() if plan.run.run_json.exists() else {}
    if plan.exists:
        refuse_other(plan, known)
    keys = plan.keys()
    write_json(
        plan.run.run_json,
        {
            "run_id": plan.run.run_id,
            "created_t": known.get("created_t", int(time.time())),
            "config_digest": digest(plan.config.identity()),
            "dataset_digest": plan.facts["digest"],
            "data_path": str(Path(plan.facts["path"]).resolve()) if plan.facts["path"] else "",
            "data_place": plan.place,
            "data_dirs": [str(path.resolve()) for path in plan.data_dirs],
            "code_digest": digest(keys.code),
            "lock_digest": keys.lock,
            "machine": machine_facts(),
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
    if known and known["dataset_digest"] != plan.facts["digest"]:
        differing.append(f"digest of the data: {known['dataset_digest'][:12]} -> {plan.facts['digest'][:12]}")
    if differing:
        raise ConfigError(
            f"run {plan.run.run_id!r} exists with another configuration; this command differs in\n  "
            + "\n  ".join(differing)
            + "\nchoose another --run-id, or leave it out"
        )


def _asked(ask: Ask) -> Plan:
    if ask.run_id:
        check_run_id(ask.run_id)
    resolved = resolve_config(ask)
    facts = dataset_facts(ask, resolved.config)
    base = ask.run_id or run_id_of(resolved.config, facts["digest"])
    run_id = next_free_id(base, ask.runs_dir) if ask.fresh else base
    run = RunDir(ask.runs_dir / check_run_id(run_id))
    known = run.load_facts() if run.run_json.exists() else {}
    reuse = known.get("reuse", not ask.fresh)
    command = reproducing_command(ask, resolved)
    return Plan(run, resolved.config, facts, _place(ask), ask.data_dirs or DEFAULT_DATA_DIRS, command, reuse)


def _resumed(ask: Ask) -> Plan:
    run = RunDir(ask.runs_dir / check_run_id(ask.resume))
    if not run.run_json.exists():
        raise ConfigError(f"there is no run {ask.resume!r} in {ask.runs_dir}; see `sequence-runner status`")
    config, known = run.load_config(), run.load_facts()
    data_dirs = ask.data_dirs or tuple(Path(path) for path in known["data_dirs"])
    place = known["data_place"]
    facts = data.check(config, data_dirs, place=place, offline=ask.offline, tell=say)
    if facts["digest"] != known["dataset_digest"]:
        raise BadDataError(
            f"{facts['path']} is not the data of run {ask.resume!r} any more: digest {facts['digest'][:12]}, "
            f"expected {known['dataset_digest'][:12]}; start a new run"
        )
    return Plan(run, config, facts, place, data_dirs, tuple(known["command"]), known.get("reuse", True))


def reproducing_command(ask: Ask, resolved: Resolved) -> tuple[str, ...]:
    """The command that gives the same run on another machine: choices made here are written out."""
    chosen: dict[str, Any] = {
        path: value
        for path, value in flatten(resolved.config.model_dump(mode="json")).items()
        if resolved.origins[path] == "environment" or (path == "compute.device" and resolved.origins[path] == "chosen")
    }
    settings = [f"{path}={value}" for path, value in chosen.items()] + list(ask.settings)
    return (
        *("sequence-runner", "--dataset", ask.dataset, "--profile", ask.profile),
        *(("--symbol", ask.symbol) if ask.symbol else ()),
        *(("--timeframe", ask.timeframe) if ask.timeframe else ()),
        *_repeated("--data-dir", [str(path) for path in ask.data_dirs]),
        *(("--config", str(ask.config_file)) if ask.config_file else ()),
        *_repeated("--set", settings),
    )


def dataset_name(dataset: str, symbol: str = "", timeframe: str = "") -> str:
    """The name of a dataset that is given by name, or by the path of its file.

    Raises:
        ProjectError: it is neither.
    """
    return data.name_of_file(dataset, symbol, timeframe) if _is_path(dataset) else dataset


def _place(ask: Ask) -> str:
    return str(Path(ask.dataset).resolve()) if _is_path(ask.dataset) else ""


def _is_path(dataset: str) -> bool:
    return "/" in dataset or Path(dataset).is_file()


def _repeated(option: str, values: Sequence[str]) -> list[str]:
    return [part for value in values for part in (option, value)]
