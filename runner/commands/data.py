"""`data`: handed to the process that knows datasets, `python -m training.stages.data`."""

from __future__ import annotations

import click

from configs.errors import ExitCode
from runner.data import hand_over


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def data(arguments: tuple[str, ...]) -> ExitCode:
    """List, check, import and fetch datasets."""
    return hand_over(arguments)
