"""The fault matrix: each test makes one fault happen and says what came of it; a table of all ends the session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.case import Case, differences, lay_beside, make_reference

ROW = "fault"
CLASSIFIED = ("prepare", "classifiers/dlstm", "classifiers/ensemble")


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Case:
    """The undisturbed run that every other must equal in the end."""
    base: Path = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return make_reference(shared / "fault-reference")


@pytest.fixture
def case(tmp_path) -> Case:
    """A run that begins at its beginning."""
    return Case(tmp_path / "runs")


@pytest.fixture
def agent_case(tmp_path, reference) -> Case:
    """A run that takes its classifiers from the reference and begins with the agent."""
    case = Case(tmp_path / "runs")
    lay_beside(reference, case.runs_dir, CLASSIFIED)
    return case


@pytest.fixture
def finished_case(tmp_path, reference) -> Case:
    """A finished run, to be damaged."""
    import shutil

    case = Case(tmp_path / "runs")
    shutil.copytree(reference.run.root, case.runs_dir / reference.run.run_id)
    return case


Settle = Callable[..., None]


@pytest.fixture
def settle(reference, record_property) -> Settle:
    """Prove that nothing was lost, and enter the table."""

    def settled(case: Case, fault: str, ended: str, exit_code: int, again: int | None = 0) -> None:
        """The same command again ends well, with the bytes of the undisturbed run.

        Args:
            case: the run after its fault.
            fault, ended, exit_code: the row of the table.
            again: exit code of the same command; None when it needs not be given again.
        """
        if again is not None:
            assert case.finish() == again, case.said[-3_000:]
        assert not differences(reference, case)
        record_property(ROW, (fault, ended, exit_code, "the same bytes in the end"))

    return settled


@pytest.fixture
def row(record_property) -> Callable[[str, str, int, str], None]:
    """Enter a row whose run cannot be compared with the reference."""

    def entered(fault: str, ended: str, exit_code: int, lost: str) -> None:
        record_property(ROW, (fault, ended, exit_code, lost))

    return entered


@pytest.fixture
def long_one() -> None:
    """A test that `make faults` runs and the ordinary gate leaves out."""
    if os.environ.get("FAULTS") != "all":
        pytest.skip("takes long; FAULTS=all (make faults) runs it")


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the table of what was measured."""
    reports = terminalreporter.stats.get("passed", [])
    rows = [value for report in reports for name, value in report.user_properties if name == ROW]
    if not rows:
        return
    heads = ("fault", "ended as", "exit code", "nothing lost")
    cells = [heads, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    terminalreporter.section("fault matrix")
    for line in cells:
        terminalreporter.write_line(" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
