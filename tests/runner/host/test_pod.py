"""Runners in a pod that was rented for them, as processes against a server that plays RunPod."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.events import read_events
from tests.runner.host.pod import KEY, POD, Api, end_of, pod, serving
from tests.test_end_to_end import NAME, market, write_csv

pytestmark = pytest.mark.slow
RESTARTS = 100 if os.environ.get("LAUNCH") == "all" else 3
RUN = "rented"


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as server:
        yield server.accepts("rest")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_csv(folder, market())
    return folder


def job(folder: Path, data: Path, *more: str) -> list[str | Path]:
    """What a launcher would have the container do; the disk is `folder / runs`."""
    return [
        *("--dataset", NAME, "--data-dir", data, "--run-id", RUN, "--until", "prepare", "--offline"),
        *("--skip-preflight", "--runs-dir", folder / "runs", "--store", f"file://{folder / 'store'}", *more),
    ]


def units_started(folder: Path) -> int:
    return sum(event["kind"] == "unit_started" for event in read_events(folder / "runs" / RUN / "events"))


def test_a_finished_run_that_is_restarted_works_never_and_asks_for_the_end_each_time(api, data, tmp_path):
    for number in range(1 + RESTARTS):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        with pod(tmp_path, *job(tmp_path, data), **api.environment()) as runner:
            said = runner.held()
        print(f"start {number}: exit code {runner.code}, {api.ends} requests for the end")
        assert (runner.code, api.ends) == (0, number + 1), said
        assert units_started(tmp_path) == 1, "the restored events have the first start's"
        assert KEY not in said and f"runpod machine {POD}, launched for this run" in said
    end = end_of(tmp_path / "store", RUN)
    assert end and (end.exit_code, end.machine) == (0, POD)
    assert "finished; nothing to do" in end.console_tail
    assert api.keys == {f"Bearer {KEY}"}
