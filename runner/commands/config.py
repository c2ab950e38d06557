"""`config show` and `config schema`."""

from __future__ import annotations

import json
from typing import Any

import click

from configs.errors import ExitCode
from configs.load import flatten
from configs.schema import Config
from runner.commands.options import ask_of, ask_options, json_option
from runner.session import resolve_config


@click.group()
def config() -> None:
    """Show the resolved configuration, or its schema."""


@config.command()
@ask_options
@json_option
def show(**options: Any) -> ExitCode:
    """Print every setting of a run and where its value came from."""
    resolved = resolve_config(ask_of(options))
    values = flatten(resolved.config.model_dump(mode="json"))
    if options["as_json"]:
        click.echo(json.dumps({path: {"value": values[path], "origin": resolved.origins[path]} for path in values}))
        return ExitCode.DONE
    for path, value in values.items():
        setting = f"{path}: {json.dumps(value)}"
        click.echo(f"{setting:<56}  # {resolved.origins[path]}")
    return ExitCode.DONE


@config.command()
def schema() -> ExitCode:
    """Print the JSON schema of a configuration file."""
    click.echo(json.dumps(Config.model_json_schema(), indent=1))
    return ExitCode.DONE
