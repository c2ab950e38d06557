"""A damaged run directory, and two runners in one: each kind of damage has its documented end."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import pytest

from configs.run_dir import RunDir
from tests.faults.case import AGENT
from tests.stillness import standing_still

pytestmark = pytest.mark.slow

GARBAGE = b"\x00\xff garbage"


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_bytes(GARBAGE)


REPAIRED = {
    "an output is truncated": (lambda run: truncated(run.unit_dir(AGENT) / "policy.safetensors"), "unit done again"),
    "an output is missing": (lambda run: (run.unit_dir(AGENT) / "history.json").unlink(), "unit done again"),
    "a result is garbage": (lambda run: garbage(run.unit_dir(AGENT) / "result.json"), "unit done again"),
    "a request is garbage": (lambda run: garbage(run.unit_dir(AGENT) / "unit.json"), "seen as done"),
    "events end in a torn line": (lambda run: append(run, b'{"t": 1, "un'), "line ignored"),
    "events hold garbage": (lambda run: append(run, GARBAGE + b"\n{}\n[]\n"), "lines ignored"),
    "run.json is missing": (lambda run: run.run_json.unlink(), "written anew"),
    "the report is missing": (lambda run: run.report.unlink(), "written anew"),
}


def append(run: RunDir, data: bytes) -> None:
    run.report.unlink()  # else a finished run is not touched at all
    for path in run.events.glob("*.jsonl"):
        with path.open("ab") as file:
            file.write(data)


@pytest.mark.parametrize("damage", REPAIRED)
def test_damage_that_can_be_made_good_is_made_good(damage, finished_case, settle):
    inflict, ended = REPAIRED[damage]
    inflict(finished_case.run)
    code = finished_case.finish()
    assert code == 0, finished_case.said
    settle(finished_case, damage, ended, code)


@pytest.mark.parametrize("name", ["config.yaml", "run.json"])
def test_a_garbled_identity_is_named_with_the_remedy_and_nothing_is_touched(name, finished_case, settle):
    path = finished_case.run.root / name
    before = path.read_bytes()
    garbage(path)
    code = finished_case.finish()
    assert code == 78
    assert str(path) in finished_case.said and "Traceback" not in finished_case.said
    assert path.read_bytes() == GARBAGE
    path.write_bytes(before)
    settle(finished_case, f"{name} is garbage", "refused, remedy named", code)


@pytest.mark.parametrize("inflict", [truncated, garbage])
def test_a_damaged_checkpoint_is_not_used(inflict, agent_case, settle, request):
    if inflict is garbage:
        request.getfixturevalue("long_one")
    with agent_case.started() as running:
        running.wait_event("checkpoint", AGENT)
        running.process.send_signal(signal.SIGTERM)
        code = running.ended()
    assert code == 75
    saved = [path for path in (agent_case.run.unit_dir(AGENT) / "checkpoints").iterdir() if path.name.isdigit()]
    newest = max(saved, key=lambda path: int(path.name))
    for path in newest.rglob("*.safetensors"):
        inflict(path)
    settle(agent_case, f"newest checkpoint {inflict.__name__}", "older one used, or begun anew", 0)


def test_a_second_runner_in_the_same_directory_is_refused(agent_case, settle):
    with agent_case.started() as first:
        other = dataclasses.replace(agent_case, log_to=agent_case.log.with_name("other"))
        with standing_still(first.process, AGENT):
            second = other.finish()
        assert second == 76 and str(first.process.pid) in other.said
        assert first.ended() == 0, agent_case.said
    settle(agent_case, "two runners in one directory", "the second refused, the first done", second, again=None)
