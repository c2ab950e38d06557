"""From a command line to an order: everything that can be wrong is found here, before anything is rented."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

from configs.assets import can_be_fetched, is_path
from configs.errors import ConfigError, DatasetNotFoundError
from configs.files import digest
from configs.load import Resolved, flatten, resolve
from configs.run_dir import check_run_id
from configs.schema import Config
from configs.secrets import redact
from runner import data
from runner.data_dirs import searched
from runner.dataset_url import is_url, url_of
from runner.host.addresses import is_loopback
from runner.host.deadman import HOUR_S, IMAGE_S
from runner.host.ending import KEEP_ALIVE
from runner.host.where import LAUNCHED_BY, MACHINE
from runner.identity import IDENTITY_CHARACTERS
from runner.launch.provider import Order
from runner.launch.secrets import GOOGLE_JSON, is_known
from runner.say import say
from runner.session import Ask, dataset_name
from runner.store.open import parse_url

PRICE_PATH = "budget.price_usd_per_hour"
PRICE_VARIABLE = "SEQUENCE_BUDGET__PRICE_USD_PER_HOUR"
DEFAULT_MAX_HOURS = 12.0
SLACK_HOURS = 0.5
"""A machine is ended so long after the run's own ceiling: to bring the image before it, to publish after it."""
FLAG_PATHS = {"store.url", "budget.max_cost_usd", "budget.max_hours"}
"""Settings that are handed over as the flags everybody knows."""
CREDENTIALS = {"s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "gs": (GOOGLE_JSON,)}
"""Scheme of a store -> the secrets without which a rented machine cannot use it."""
EXTRA = {"s3": ("AWS_SESSION_TOKEN",), "gs": ()}
PLAIN = {
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
    "gs": ("STORAGE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT"),
}
"""Scheme of a store -> variables that say where it is."""


@dataclass(frozen=True)
class Wish:
    """What the command line asks for."""

    provider: str
    ask: Ask
    gpus: tuple[str, ...]
    """The first is preferred."""
    image: str = ""
    secrets: tuple[str, ...] = ()
    """`NAME`, or `NAME=text` of a provider's own secret, which is no secret itself."""
    flags: tuple[str, ...] = ()
    """Further arguments of the runner."""
    keep_alive: bool = False
    machine: Mapping[str, Any] = field(default_factory=dict)
    """`gpu_count`, `disk_gb`, `spot`, `regions` and `options` of the order."""
    needs_store: bool = True
    needs_name: bool = False
    """The run inside is told nothing by which its machine is another than that of an earlier launch."""


@dataclass(frozen=True)
class Prepared:
    """An order with what is needed around it."""

    order: Order
    """For the first GPU."""
    gpus: tuple[str, ...]
    store: str
    max_cost_usd: float
    """0 for no limit."""
    max_hours: float
    """Of the run; 0 for no limit."""
    price_usd_per_hour: float
    """As the user gave it; 0 where it is the provider's."""
    files: Mapping[str, Path]
    """Datasets to send to the store: name -> file."""

    @property
    def inside(self) -> str:
        """Name of this launch, where the run inside gets one."""
        return self.order.environment.get(MACHINE, "")

    @property
    def keep_alive(self) -> bool:
        """The machine is left on when the run ends."""
        return KEEP_ALIVE in self.order.environment

    @property
    def ends_itself(self) -> bool:
        """The machine has what it takes to end with its run."""
        return bool(self.order.options.get("self_terminate", True))

    def for_price(self, price_usd_per_hour: float, gpu: str = "") -> Order:
        """The order at a price: the run knows it, and the machine is ended when the ceiling must be reached."""
        price = self.price_usd_per_hour or price_usd_per_hour
        known = {PRICE_VARIABLE: f"{price:.6g}"} if price and not self.price_usd_per_hour else {}
        return replace(
            self.order,
            gpu=gpu or self.order.gpu,
            environment={**self.order.environment, **known},
            max_hours=self.hours_at(price) + SLACK_HOURS,
        )

    def hours_at(self, price_usd_per_hour: float) -> float:
        """How long the ceiling lets the run go on at a price."""
        hours = [self.max_hours] if self.max_hours else []
        hours += [self.max_cost_usd / price_usd_per_hour] if self.max_cost_usd and price_usd_per_hour else []
        return min(hours, default=DEFAULT_MAX_HOURS)

    def longest_hours_at(self, price_usd_per_hour: float) -> float:
        """After so long the machine is gone at a price, whatever happens on it, counted from when it is asked for."""
        return self.hours_at(price_usd_per_hour) + SLACK_HOURS + IMAGE_S / HOUR_S

    def require_price(self, price_usd_per_hour: float) -> None:
        """Refuse a ceiling that the run could not keep.

        Raises:
            ConfigError: it is an amount, and the price is not known.
        """
        if self.max_cost_usd and not (self.price_usd_per_hour or price_usd_per_hour):
            raise ConfigError(
                "--max-cost needs a price, and the provider tells none: give --price USD_PER_HOUR, or only --max-hours"
            )


def prepare(wish: Wish, environment: Mapping[str, str] = os.environ) -> Prepared:
    """The order that a command line means; reads datasets, sends nothing.

    Raises:
        ProjectError: the configuration, the dataset, the image or a secret is wrong or missing.
    """
    ask = wish.ask
    resolved, price = _resolved(ask, int(wish.machine.get("gpu_count", 1)), environment)
    config = _with_ceiling(resolved.config)
    if config.compute.device == "cpu" and resolved.origins["compute.device"] not in _chosen(ask):
        say(f"profile {config.profile} works on the CPU: --set compute.device=cuda, or another --profile, uses the GPU")
    scheme = _check_store(config.store.url, wish.needs_store)
    dataset, files = _dataset(ask, config)
    identity = digest({"config": config.identity(), "dataset": dataset.partition("/datasets/")[2] or dataset})
    name = f"{config.dataset.name}-{config.profile}-{identity[:IDENTITY_CHARACTERS]}"
    run_id = check_run_id(ask.run_id or name)
    plain = {name: value for name, _, value in (item.partition("=") for item in wish.secrets) if value}
    order = Order(
        run_id=run_id,
        image=_image(wish.image, environment),
        arguments=(*_arguments(ask, dataset, run_id, replace(resolved, config=config), price), *wish.flags),
        gpu=wish.gpus[0],
        environment=_environment(wish, scheme, run_id, environment) | plain,
        secrets=_secrets(wish, scheme, config, plain),
        **wish.machine,
    )
    budget = config.budget
    return Prepared(order, wish.gpus, config.store.url, budget.max_cost_usd, budget.max_hours, price, files)


def _resolved(ask: Ask, gpus: int, environment: Mapping[str, str]) -> tuple[Resolved, float]:
    """The configuration as it will be there, and the price where the user gave one."""
    name = ask.dataset.rpartition("/")[2].partition(".")[0] if is_url(ask.dataset) else ""
    name = name or dataset_name(ask.dataset, ask.symbol, ask.timeframe)

    def attempt(variables: Mapping[str, str]) -> Resolved:
        return resolve(name, ask.profile, gpus=gpus, file=ask.config_file, environment=variables, settings=ask.settings)

    try:
        resolved = attempt(environment)
        return resolved, resolved.config.budget.price_usd_per_hour
    except ConfigError:
        # an amount without a price is no fault here: the provider knows the price
        return attempt({**environment, PRICE_VARIABLE: "1"}), 0.0


def _with_ceiling(config: Config) -> Config:
    if config.budget.is_limited:
        return config
    say(f"no ceiling was given: the run stops after {DEFAULT_MAX_HOURS:g} h (--max-hours, --max-cost)")
    budget = config.budget.model_copy(update={"max_hours": DEFAULT_MAX_HOURS})
    return config.model_copy(update={"budget": budget})


def _check_store(url: str, needed: bool) -> str:
    """The scheme of the store; empty where there is none and none is needed.

    Raises:
        ConfigError: it cannot be used from there, or its URL is no store's.
    """
    if url:
        scheme = parse_url(url).scheme
        if scheme in CREDENTIALS:
            return scheme
        raise ConfigError(
            f"--store {url} would be on the rented machine and end with it; expected s3://bucket/prefix or gs://bucket/prefix"
        )
    if needed:
        raise ConfigError(
            "results would end with the rented machine: name a store with --store s3://bucket/prefix or gs://bucket/prefix"
        )
    say("no --store: checkpoints, logs and results end with the machine")
    return ""


def _dataset(ask: Ask, config: Config) -> tuple[str, dict[str, Path]]:
    """What `--dataset` is there, and the files that must be in the store for it."""
    if is_url(ask.dataset):
        parse_url(ask.dataset)  # credentials in it would be sent, and shown
        return ask.dataset, {}
    names = config.asset_datasets()
    place = str(Path(ask.dataset).resolve()) if is_path(ask.dataset) else ""
    dirs = searched(ask.data_dirs, ask.runs_dir, *([Path(place).parent] if place else []))
    files = {}
    for name in names:
        try:
            facts = data.check(config, dirs, name=name, place=place if name == names[0] else "", offline=True)
        except DatasetNotFoundError as missing:
            if ask.offline:
                raise
            if not can_be_fetched(name):
                raise DatasetNotFoundError(
                    f"{missing}, and no service is known to have it; put its file there"
                ) from missing
            say(f"{name} is not here; it is fetched on the machine")
            continue
        if facts["path"]:
            files[name] = Path(facts["path"])
    if names[0] not in files or not config.store.url:
        return names[0], {}
    return url_of(config.store.url, files), files


def _arguments(ask: Ask, dataset: str, run_id: str, resolved: Resolved, price: float) -> list[str]:
    """Of the runner: what was chosen here, by file, environment or option, is written out."""
    budget, store, compute = resolved.config.budget, resolved.config.store, resolved.config.compute
    arguments = ["--dataset", dataset, "--profile", ask.profile, "--run-id", run_id]
    arguments += ["--store", store.url] if store.url else []
    arguments += ["--max-cost", f"{budget.max_cost_usd:g}"] if budget.max_cost_usd else []
    arguments += ["--max-hours", f"{budget.max_hours:g}"] if budget.max_hours else []
    arguments += ["--require-gpu"] if compute.device != "cpu" else []  # it is paid for
    not_settings = FLAG_PATHS if price else FLAG_PATHS | {PRICE_PATH}
    for path, value in flatten(resolved.config.model_dump(mode="json")).items():
        if resolved.origins[path] in _chosen(ask) and path not in not_settings:
            arguments += ["--set", f"{path}={json.dumps(value)}"]
    return arguments


def _chosen(ask: Ask) -> set[str]:
    """Origins of what the user set here."""
    return {"environment", "--set", str(ask.config_file)}


def _image(image: str, environment: Mapping[str, str]) -> str:
    found = image or environment.get("SEQUENCE_IMAGE", "")
    if not found:
        raise ConfigError(
            "no image is named: push one that the provider can pull (docker build, docker push), then give --image "
            "REFERENCE or export SEQUENCE_IMAGE"
        )
    return found


def _environment(wish: Wish, scheme: str, run_id: str, environment: Mapping[str, str]) -> dict[str, str]:
    plain = {name: environment[name] for name in PLAIN.get(scheme, ()) if environment.get(name)}
    for name, value in plain.items():
        if "://" in value and is_loopback(value):
            say(f"{name}={redact(value)} is this computer; a rented machine finds no store there")
    plain |= {name: environment[name] for name in ("SEQUENCE_GIT_USER",) if environment.get(name)}
    plain |= {LAUNCHED_BY: wish.provider}
    plain |= {MACHINE: f"{run_id}-{token_hex(4)}"} if wish.needs_name else {}
    return plain | ({KEEP_ALIVE: "1"} if wish.keep_alive else {})


def _secrets(wish: Wish, scheme: str, config: Config, elsewhere: Mapping[str, str]) -> tuple[str, ...]:
    """Names of what the run needs and this computer has, and of what was asked for."""
    asked = [name for name in wish.secrets if "=" not in name]
    needed = [name for name in CREDENTIALS.get(scheme, ()) if name not in elsewhere]
    if missing := [name for name in needed if not is_known(name)]:
        raise ConfigError(f"not set: {', '.join(missing)}; the rented machine has no other way to the store; export it")
    if missing := [name for name in asked if not is_known(name)]:
        raise ConfigError(f"not set: {', '.join(missing)}; export it, or leave --secret out")
    useful = [*EXTRA.get(scheme, ()), "SEQUENCE_WEBHOOK_URL"]
    useful += ["SEQUENCE_GIT_TOKEN"] if config.publish.git_url else []
    found = [name for name in useful if is_known(name) and name not in elsewhere]
    if "AWS_SESSION_TOKEN" in found:
        say("AWS_SESSION_TOKEN is set: temporary credentials expire, and the run loses its store then")
    return tuple(dict.fromkeys([*needed, *found, *asked]))
