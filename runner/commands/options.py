"""Options that several commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from configs.assets import TIMEFRAME_S
from runner.session import DEFAULT_PROFILE, DEFAULT_RUNS_DIR, Ask

Command = Callable[..., Any]


def runs_dir_option(command: Command) -> Command:
    """`--runs-dir`."""
    return click.option(
        "--runs-dir",
        type=click.Path(path_type=Path, file_okay=True),
        default=DEFAULT_RUNS_DIR,
        show_default=True,
        help="Directory of all runs.",
    )(command)


def json_option(command: Command) -> Command:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")(command)


def data_dir_option(command: Command) -> Command:
    """`--data-dir`."""
    return click.option(
        "--data-dir",
        "data_dirs",
        type=click.Path(path_type=Path),
        multiple=True,
        help="Directory to look the dataset up in; repeatable.  [default: ./data, then /data]",
    )(command)


OPERATIONAL = {
    "store": "store.url",
    "max_cost": "budget.max_cost_usd",
    "max_hours": "budget.max_hours",
    "price": "budget.price_usd_per_hour",
    "git": "publish.git_url",
    "branch": "publish.branch",
    "workers": "runtime.workers",
}
"""Option -> the operational setting it is short for."""


def store_option(command: Command) -> Command:
    """`--store`, for commands that look at a run whose machine is gone."""
    return click.option("--store", default="", metavar="URL", help="Look at the run kept there; needs nothing here.")(
        command
    )


def _amount_option(name: str, metavar: str, remedy: str, help: str) -> Callable[[Command], Command]:
    """An option that refuses what is no finite number above 0: in the configuration 0 means that there is none."""

    def check(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
        if value is not None and not 0 < value < math.inf:
            raise click.BadParameter(f"{value:g} is {remedy}")
        return value

    return click.option(name, type=float, callback=check, metavar=metavar, help=help)


PRICED = "Needs --price, unless a provider tells it (launch runpod, launch lambda)."
NO_PRICE = "no price; give what an hour costs in USD, or leave the option out"
NO_LIMIT = (
    "not a finite number of {unit} above 0; leave the option out to have no limit "
    "(--set {path}=0 lifts the one that a run has)"
)
NO_COST_LIMIT = NO_LIMIT.format(unit="USD", path=OPERATIONAL["max_cost"])
NO_TIME_LIMIT = NO_LIMIT.format(unit="hours", path=OPERATIONAL["max_hours"])


def ask_options(command: Command) -> Command:
    """Everything that decides a run's configuration and data."""
    for option in reversed(
        (
            click.option(
                "--dataset",
                default="",
                help="Dataset name, for example ADA-EUR_1H or DEMO-USD_1H, or a file, or the URL of one in a store.",
            ),
            click.option("--symbol", default="", help="BASE-QUOTE of a file whose name does not say it."),
            click.option(
                "--timeframe",
                type=click.Choice(list(TIMEFRAME_S)),
                help="Timeframe of a file whose name does not say it.",
            ),
            data_dir_option,
            click.option("--profile", default=DEFAULT_PROFILE, show_default=True, help="quick, standard or full."),
            click.option("--assets", metavar="A-Q,B-Q", help="Symbols of the portfolio.  [default: the dataset's own]"),
            click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML file of settings."),
            click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting; repeatable."),
            click.option(
                "--store", metavar="URL", help="Keep the run at s3://bucket/prefix, gs://... or file:///path."
            ),
            _amount_option("--max-cost", "USD", NO_COST_LIMIT, f"Stop before the run has cost this much. {PRICED}"),
            _amount_option("--max-hours", "H", NO_TIME_LIMIT, "Stop before it has run this long, in all."),
            _amount_option("--price", "USD_PER_HOUR", NO_PRICE, "What this machine costs."),
            click.option(
                "--workers",
                type=int,
                metavar="N",
                help="Units side by side.  [default: quick 2; others one per GPU, without one 2]",
            ),
            click.option(
                "--parallel-models",
                is_flag=True,
                default=None,
                help="Train base, LSTM and multi-asset agents side by side; gates are shown, and hold nothing back.",
            ),
            click.option("--git", metavar="URL", help="Publish the results to this git repository."),
            click.option("--branch", metavar="NAME", help="Branch they are published to.  [default: runs]"),
            click.option("--offline", is_flag=True, help="Never fetch a dataset from the network."),
            runs_dir_option,
        )
    ):
        command = option(command)
    return command


def start_options(command: Command) -> Command:
    """How a run is started or gone on with, whatever part of it."""
    for option in reversed(
        (
            click.option("--run-id", default="", help="Name of the run instead of <dataset>-<profile>-<8 hex>."),
            click.option("--fresh", is_flag=True, help="Start another run beside the existing one, reusing nothing."),
            click.option("--resume", default="", metavar="RUN_ID", help="Take configuration and state from that run."),
            click.option(
                "--skip-preflight",
                "--skip-validation",
                "skip_preflight",
                is_flag=True,
                help="Do not check the machine.",
            ),
            click.option("--require-gpu", is_flag=True, help="Fail pre-flight where no GPU is found."),
            click.option(
                "--take-over", is_flag=True, help="Take the run from its owner at once; that one can commit no more."
            ),
            click.option(
                "--yes", is_flag=True, help="Start although more is expected to be needed than the limits leave."
            ),
            click.option("--no-push", is_flag=True, help="Do not publish the results, even where a repository is set."),
            click.option(
                "--keep-alive",
                is_flag=True,
                help="At the end hold until a stop signal, and end no machine that was rented for the run.",
            ),
            click.option("--verbose", is_flag=True, help="Show more: every check, progress more often."),
            click.option("--dry-run", is_flag=True, help="Print what would be run and skipped; do nothing."),
            json_option,
        )
    ):
        command = option(command)
    return command


def ask_of(options: dict[str, Any]) -> Ask:
    """The shared options as one value.

    Raises:
        click.UsageError: neither a dataset nor a run to resume was given.
    """
    asked = {name: options[name] for name in Ask.__dataclass_fields__ if options.get(name) is not None}
    given = {path: options[name] for name, path in OPERATIONAL.items() if options.get(name) is not None}
    # a JSON value is a YAML value: a branch named 2026 stays a text
    settings = [f"{path}={json.dumps(value)}" for path, value in given.items()]
    if options.get("parallel_models"):
        settings.append("parallel_models=true")
    if options.get("assets") is not None:
        symbols = [symbol.strip() for symbol in options["assets"].split(",") if symbol.strip()]
        settings.append(f"multi_asset.assets={json.dumps(symbols)}")
    ask = Ask(**asked | {"settings": (*asked.get("settings", ()), *settings)})
    if not ask.dataset and not ask.resume:
        raise click.UsageError("missing option '--dataset', for example --dataset DEMO-USD_1H")
    return ask
