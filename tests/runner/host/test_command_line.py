"""What is understood of a command line that click refuses, and what is kept of what was said."""

import pytest

from configs.secrets import redact
from runner.cli import _is_job, _understood
from runner.host.ending import Command
from runner.say import TAIL_CHARACTERS, TAIL_LINES, Tail

KNOWN = ["--run-id", "r", "--store", "file:///s", "--keep-alive"]


@pytest.mark.parametrize(
    "arguments",
    [
        KNOWN,
        ["run", *KNOWN],
        ["ablate", "--seeds", "many", *KNOWN],
        ["runn", *KNOWN],
        ["--no-such", "3", *KNOWN],
        ["--max-cost", "nan", "--timeframe", "9x", *KNOWN, "stray"],
        ["--run-id=r", "--store=file:///s", "--keep-alive", "--dataset"],
        ["--help", *KNOWN],
        ["--resume", "r", "--set", "nonsense", "--set", "store.url=file:///s", "--keep-alive"],
    ],
)
def test_run_and_store_are_found_in_a_line_that_is_refused(arguments):
    command = Command(arguments, _is_job(arguments), _understood(arguments))
    assert command.is_job
    assert (command.run_id, command.store_url, command.keep_alive) == ("r", "file:///s", True)


def test_the_store_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SEQUENCE_STORE__URL", "file:///e")
    monkeypatch.setenv("SEQUENCE_KEEP_ALIVE", "1")
    command = Command([], True, _understood([]))
    assert (command.store_url, command.keep_alive, command.run_id) == ("file:///e", True, "")


@pytest.mark.parametrize("name", ["status", "store", "plan", "config"])
def test_a_look_is_no_job(name):
    assert not _is_job([name, "--store", "file:///s"])


def test_the_tail_has_the_last_lines_whole():
    tail = Tail()
    for number in range(500):
        tail.add(f"line {number}")
        tail.add("\n")
    assert tail.text().splitlines() == [f"line {number}" for number in range(500 - TAIL_LINES, 500)]


def test_half_a_secret_is_not_kept(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "x" * 40)
    tail = Tail()
    tail.add(f"{'x' * 40} was used\nand\n{'y' * (TAIL_CHARACTERS - 30)}")
    assert redact(tail.text()) == "and\n" + "y" * (TAIL_CHARACTERS - 30)
