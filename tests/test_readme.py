"""Every command of the README runs, and what the README shows is what they print."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli import ONE_CLASSIFIER, TINY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"(?:<!-- ([^>]*) -->\n)?```sh\n(.*?)```", README, flags=re.S)
ELSEWHERE = ("docker", "compose", "providers")
"""Notes of blocks that tests beside the image and the fake providers run."""
HERE = [(note, block) for note, block in BLOCKS if note not in ELSEWHERE]
COMMANDS = [(line, 69 if "69" in note else 0) for note, block in HERE for line in block.splitlines()]
GATE = {"make check", "make test"}
"""The gate itself runs these; a test that ran them would run itself."""
WHOLE = os.environ.get("README") == "all"
"""Every command as it stands (`make readme`); else the same commands at the size of a test."""
RUN_ID = re.search(r"runs/(DEMO-USD_1H-quick-[0-9a-f]{8})", README)[1]


def lines_of(note: str) -> list[str]:
    """The commands of all blocks below this note."""
    lines = [line for found, block in BLOCKS for line in block.splitlines() if found == note]
    assert lines, f"the README has no block with the note {note!r}"
    return lines


def size_of_a_test() -> dict[str, str]:
    """`TINY` as the environment variables that set the same."""
    pairs = (setting.split("=", 1) for setting in (*TINY, *ONE_CLASSIFIER, "agent.seeds=3"))
    return {f"SEQUENCE_{path.upper().replace('.', '__')}": value for path, value in pairs}


def shell(command: str) -> subprocess.CompletedProcess[str]:
    # what a user has: no variable of the test's own make
    ours = ("MAKE", "MFLAGS", *(["SEQUENCE_"] if WHOLE else []))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {} if WHOLE else size_of_a_test()
    return subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=900, env=environment
    )


def labels(block: str) -> list[str]:
    """What each line of a run's final block begins with; figures depend on the size of the run."""
    lines = block[block.index("verdict  ") :].splitlines()
    return [re.split(r"\s{2,}|\d", line.strip())[0] for line in lines]


@pytest.mark.slow
def test_every_command_runs_and_the_first_prints_what_is_shown():
    shown, run_id = re.search(r"```text\n(.*?)```", README, flags=re.S)[1], RUN_ID
    for number, (command, expected) in enumerate(item for item in COMMANDS if item[0] not in GATE):
        done = shell(command.replace(RUN_ID, run_id))
        assert done.returncode == expected, f"{command}: {done.returncode}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr
        if number == 0:
            assert command == "make run"
            run_id = re.search(r"runs/(DEMO-USD_1H-quick-[0-9a-f]{8})/report/index\.html", done.stdout)[1]
            # what was not measured has no time that was predicted
            assert labels(done.stdout) == [label for label in labels(shown) if WHOLE or label != "time"]
            assert not WHOLE or run_id == RUN_ID


def test_the_readme_names_every_exit_code():
    from configs.errors import ExitCode

    table = README[README.index("| exit code |") : README.index("## Measured")]
    assert {int(number) for number in re.findall(r"\b\d{1,3}\b(?! h\b)", table)} == {int(code) for code in ExitCode}


def test_every_command_word_of_the_readme_exists():
    from runner.cli import cli

    words = re.search(r"The commands: (.*?)\. `--json`", README, flags=re.S)[1]
    named = {item.split()[0] for item in re.findall(r"`([a-z][^`]*)`", words)}
    assert named == set(cli.commands)


def test_every_local_link_of_the_documents_leads_somewhere():
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
