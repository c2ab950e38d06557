"""Resolve a configuration: defaults < asset class < profile < file < environment < `--set`.

All faults are reported at once, each with its path, the value, what was
expected and the nearest right key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from configs.assets import DatasetName, asset_class_of, class_layer
from configs.errors import ConfigError
from configs.files import parse_yaml
from configs.schema import OPERATIONAL_SECTIONS, Config
from configs.secrets import redact

PROFILES_DIR = Path(__file__).parent / "profiles"
ENVIRONMENT_PREFIX = "SEQUENCE_"
NOT_SETTINGS = frozenset(
    f"SEQUENCE_{name}"
    for name in (
        *("WEBHOOK_URL", "GIT_TOKEN", "GIT_USER"),
        *("HOST", "MACHINE", "KEEP_ALIVE", "IMAGE", "RUNPOD_URL", "RUNPOD_GRAPHQL_URL", "LAMBDA_URL", "SKY"),
        *("HEARTBEAT", "END_AFTER_H"),
    )
)
"""Variables of ours that are secrets, or about the machine: read where they are used, no part of any configuration."""
UNION_BRANCHES = ("function-", "constrained-", "literal[")
"""What pydantic adds to a location for a branch of a union; no key of ours."""


@dataclass(frozen=True)
class Layer:
    """One source of settings, lowest first."""

    origin: str
    values: dict


@dataclass(frozen=True)
class Resolved:
    """A configuration and where each of its values came from (`section.key` -> origin)."""

    config: Config
    origins: dict[str, str]


def profile_names() -> list[str]:
    """Names of the built-in profiles."""
    return sorted(path.stem for path in PROFILES_DIR.glob("*.yaml"))


def resolve(
    dataset: str,
    profile: str,
    *,
    gpus: int = 0,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
) -> Resolved:
    """Resolve the configuration of one run.

    Args:
        dataset: dataset name, for example `ADA-EUR_1H`.
        profile: name of a built-in profile.
        gpus: how many were found on this machine; they decide device and workers where no layer sets these.
        file: YAML file of the user (`--config`).
        environment: variables `SEQUENCE_<SECTION>__<KEY>=<yaml>`; others are ignored.
        settings: `section.key=<yaml>` strings (`--set`), later ones win.

    Raises:
        ConfigError: anything is wrong; the message lists every fault.
    """
    name = DatasetName.parse(dataset)
    upper = [
        _profile_layer(profile),
        *([_file_layer(file)] if file else []),
        _environment_layer(environment or {}),
        _settings_layer(settings),
    ]
    asset_class = _declared_asset_class(upper) or asset_class_of(name.base, name.quote)
    base = {
        "profile": profile,
        "dataset": {"name": dataset, "asset_class": asset_class, "synthetic": name.base == "DEMO"},
        "compute": {"device": "cuda" if gpus else "cpu"},
        "runtime": {"workers": gpus} if gpus else {},
    }
    layers = [
        Layer("chosen", base),
        Layer(f"assets.yaml ({asset_class})", class_layer(asset_class, name.timeframe)),
        *upper,
    ]
    return _laid_on({}, layers)


def lay_over(config: Config, environment: Mapping[str, str], settings: Sequence[str]) -> Config:
    """A run's configuration with the operational settings of one command on top; all others stay the run's.

    Raises:
        ConfigError: a setting is wrong.
    """
    return _laid_on(config.model_dump(mode="json"), _operational_layers(environment, settings)).config


def operational_values(
    environment: Mapping[str, str], settings: Sequence[str], file: Path | None = None
) -> dict[str, dict]:
    """The operational settings in a file, among the variables and `--set` values: section -> its keys.

    Raises:
        ConfigError: a setting is malformed.
    """
    values: dict = {}
    for layer in _operational_layers(environment, settings, file):
        _merge(values, layer.values, layer.origin, {})
    return values


def is_operational(path: str) -> bool:
    """Whether `section.key` or `section.key=value` says how a run is carried out, not what it computes."""
    return path.strip().partition(".")[0] in OPERATIONAL_SECTIONS


def flatten(values: dict, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def differing_keys(one: dict, other: dict) -> list[str]:
    """`path: old -> new` of every value that differs between two configurations."""
    left, right = flatten(one), flatten(other)
    return [
        f"{path}: {left.get(path, '(absent)')} -> {right.get(path, '(absent)')}"
        for path in sorted(left.keys() | right.keys())
        if left.get(path) != right.get(path)
    ]


def _laid_on(values: dict, layers: Sequence[Layer]) -> Resolved:
    origins: dict[str, str] = {}
    for layer in layers:
        _merge(values, layer.values, layer.origin, origins)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_all_faults(error, origins)) from error
    return Resolved(config, {path: origins.get(path, "default") for path in flatten(config.model_dump(mode="json"))})


def _operational_layers(
    environment: Mapping[str, str], settings: Sequence[str], file: Path | None = None
) -> list[Layer]:
    layers = [
        *([_file_layer(file)] if file else []),
        _environment_layer(environment),
        _settings_layer([item for item in settings if is_operational(item)]),
    ]
    return [
        Layer(layer.origin, {name: value for name, value in layer.values.items() if name in OPERATIONAL_SECTIONS})
        for layer in layers
    ]


def _profile_layer(profile: str) -> Layer:
    if profile not in profile_names():
        known = ", ".join(profile_names())
        raise ConfigError(f"unknown profile {profile!r}; expected one of {known}")
    return Layer(f"profile {profile}", _read_yaml(PROFILES_DIR / f"{profile}.yaml"))


def _file_layer(path: Path) -> Layer:
    return Layer(str(path), _read_yaml(path))


def _read_yaml(path: Path) -> dict:
    try:
        values = parse_yaml(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read configuration file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected sections such as 'ppo:' with keys below")
    return values


def _environment_layer(environment: Mapping[str, str]) -> Layer:
    values: dict = {}
    for variable, text in sorted(environment.items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in NOT_SETTINGS:
            path = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            origin = f"environment variable {variable}"
            _put(values, path, _yaml_value(text, origin), origin)
    return Layer("environment", values)


def _settings_layer(settings: Sequence[str]) -> Layer:
    values: dict = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {setting!r} is not section.key=value, for example --set ppo.timesteps=50000")
        origin = f"--set {setting}"
        _put(values, path.strip().split("."), _yaml_value(text, origin), origin)
    return Layer("--set", values)


def _yaml_value(text: str, origin: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: {text!r} is not a YAML value: {' '.join(str(error).split())}") from error


def _put(values: dict, path: Sequence[str], value: Any, origin: str) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{origin} sets a key below one that already has a value")
    values[path[-1]] = value


def _declared_asset_class(layers: Sequence[Layer]) -> str | None:
    declared = None
    for layer in layers:
        section = layer.values.get("dataset")
        if isinstance(section, dict):
            declared = section.get("asset_class", declared)
    return declared


def _merge(values: dict, layer: dict, origin: str, origins: dict[str, str], prefix: str = "") -> None:
    for key, value in layer.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(values.get(key, {}), dict):
            _merge(values.setdefault(key, {}), value, origin, origins, f"{path}.")
        else:
            values[key] = value
            origins[path] = origin


def _all_faults(error: ValidationError, origins: dict[str, str]) -> str:
    faults = list(dict.fromkeys(redact(_fault(item, origins)) for item in error.errors()))
    return f"{len(faults)} invalid setting{'s' * (len(faults) > 1)}\n" + "\n".join(f"  {fault}" for fault in faults)


def _fault(item: Any, origins: dict[str, str]) -> str:
    location = [str(part) for part in item["loc"] if not str(part).startswith(UNION_BRANCHES)]
    path = ".".join(location)
    related = (name for key, name in origins.items() if path.startswith(key) or key.startswith(path))
    origin = origins.get(path) or next(related, "")
    if item["type"] == "extra_forbidden":
        known = _keys_of(location[:-1])
        return f"{path}: unknown key, got {item['input']!r}{_nearest(location[-1], known)}{_from(origin)}"
    if item["type"] == "model_type":
        example = f"{path}.{_keys_of(location)[0]}"
        return f"{path}: a section, expected keys below it ({example}), got {_short(item['input'])}{_from(origin)}"
    if not location:  # a rule between sections names what it compares
        return str(item["msg"].removeprefix("Value error, "))
    if item["type"] == "missing":
        return f"{path}: required, not given"
    return f"{path}: {item['msg'].removeprefix('Value error, ')}, got {_short(item['input'])}{_from(origin)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else "(a section)" if isinstance(value, dict) else f"{text[:77]}..."


def _from(origin: str) -> str:
    return f" (from {origin})" if origin else ""


def _keys_of(path: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Config
    for key in path:
        field = model.model_fields.get(key)
        candidates = [field.annotation, *get_args(field.annotation)] if field else []
        model = next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), model)
    return list(model.model_fields)


def _nearest(word: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else f"; known keys are {', '.join(known)}"
