"""What `--help` says fits a terminal of 80 columns and leaves nothing out."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from runner.cli import cli
from training.stages.data import main

LONGEST_SUMMARY = 60


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group, with the words that call it."""
    for name, command in group.commands.items():
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


COMMANDS = dict(commands(cli))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_summary_is_cut_off_and_every_option_says_what_it_does(words):
    summary = COMMANDS[words].get_short_help_str(LONGEST_SUMMARY)
    assert summary and not summary.endswith("...")
    options = [one for one in COMMANDS[words].params if isinstance(one, click.Option)]
    assert [one.name for one in options if not one.help] == []


def test_the_first_help_says_where_the_options_of_a_run_are():
    assert "sequence-runner run --help" in CliRunner().invoke(cli, ["--help"]).output


@pytest.mark.parametrize("command", ["check", "list", "import", "fetch", "locate"])
def test_help_on_data_describes_the_command_and_each_of_its_options(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    _usage, description, *tables = capsys.readouterr().out.split("\n\n")
    assert description.endswith(".")
    entries = re.split(r"\n  (?=\S)", "\n".join(tables))[1:]
    assert all(re.search(r"\s{2,}\w", entry) for entry in entries), "a name, and behind it what it is"
    assert not re.search("--(train-frac|folds|fetch-dir)", "".join(tables))
