"""Chaos finds what it must find, and a killed run ends with the bytes of one that was left alone."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
from pathlib import Path

import pytest

from configs.events import EventLog
from configs.run_dir import Request, RunDir
from runner.chaos import DRAWN_AIMS, TARGETS, Outcome, Reference, Span, plan_trials
from runner.strikes import LAUNCH, REPORT, Point, Striker
from tests.cli import cli
from tests.runner.fixture_stages.world import ONE, World, lives, wait_for

UNITS = ("prepare", "classifiers/gru", "ppo/seed-0", "evaluate")
WALL_S = 60.0
TIMELINE = (
    Span(LAUNCH, 0, 10),
    *(Span(unit, 10 * place, 10 * place + 10) for place, unit in enumerate(UNITS, start=1)),
    Span(REPORT, 50, WALL_S),
)
KNOWN = Reference("run", Outcome({}, {}), TIMELINE, WALL_S)


@pytest.fixture
def run(tmp_path) -> RunDir:
    """A finished run of one unit with one output and three metric events."""
    run = RunDir(tmp_path / "run")
    run.save_request(Request(unit="ppo/seed-0", cache_key="key", inputs={}))
    (run.unit_dir("ppo/seed-0") / "policy").write_text("weights")
    run.save_result("ppo/seed-0", {"score": 1.5})
    log = EventLog(run.events, "ppo/seed-0")
    for step in (1, 2, 3):
        log.emit("metric", "ppo/seed-0", name="train", step=step, loss=step / 3)
    log.close()
    return run


def tell(run: RunDir, **fields) -> None:
    log = EventLog(run.events, "ppo/seed-0")
    log.emit("metric", "ppo/seed-0", name="train", **fields)
    log.close()


def test_a_step_that_was_done_twice_with_the_same_figures_is_no_difference(run):
    before = Outcome.of(run)
    tell(run, step=3, loss=1.0)
    assert before.metrics and not before.differences(Outcome.of(run))


@pytest.mark.parametrize("fields", [{"step": 3, "loss": 1.0000000000000002}, {"step": 4, "loss": 1.0}])
def test_a_metric_that_differs_in_its_last_bit_or_is_one_too_many_is_a_difference(run, fields):
    before = Outcome.of(run)
    tell(run, **fields)
    assert before.differences(Outcome.of(run)) == ["ppo/seed-0: 0 metric events missing, 1 others instead"]


def test_an_output_that_is_not_what_its_result_says_is_a_difference(run):
    before = Outcome.of(run)
    (run.unit_dir("ppo/seed-0") / "policy").write_text("weighty")
    assert before.differences(Outcome.of(run)) == ["ppo/seed-0/policy is damaged"]


def test_another_result_or_none_is_a_difference(run):
    before = Outcome.of(run)
    (run.unit_dir("ppo/seed-0") / "policy").write_text("others")
    run.save_result("ppo/seed-0", {"score": 1.5})
    assert before.differences(Outcome.of(run)) == ["ppo/seed-0/result.json differs or is missing"]
    (run.unit_dir("ppo/seed-0") / "result.json").unlink()
    assert before.differences(Outcome.of(run)) == ["ppo/seed-0/result.json differs or is missing"]


def test_equal_seeds_draw_equal_trials():
    first, again, other = (list(plan_trials(20, seed, KNOWN, store=True)) for seed in (1, 1, 2))
    assert first == again != other


def test_half_of_the_trials_lose_the_machine_and_go_on_from_the_store():
    trials = list(plan_trials(50, 0, KNOWN, store=True))
    assert sum(trial.from_store for trial in trials) == 25
    assert all(trial.points[-1].target != "stage" for trial in trials if trial.from_store)
    assert not any(trial.from_store for trial in plan_trials(50, 0, KNOWN, store=False))


def test_the_trials_cover_every_kind_of_kill_and_the_whole_timeline():
    trials = list(plan_trials(50, 0, KNOWN, store=True))
    points = [point for trial in trials for point in trial.points]
    kinds = {(point.aim, point.target) for point in points}
    assert {kind for kind in kinds if kind[0] != "restore"} == set(itertools.product(DRAWN_AIMS, TARGETS))
    assert {target for aim, target in kinds if aim == "restore"} == {"supervisor", "everything"}
    assert {point.unit for point in points} == {LAUNCH, *UNITS, REPORT}
    begins = {span.unit: span.begin_s for span in TIMELINE}
    firsts = sorted(begins[trial.points[0].unit] + trial.points[0].after_s for trial in trials)
    assert all(abs(moment - WALL_S * (place + 0.5) / 50) < WALL_S / 50 for place, moment in enumerate(firsts))


@pytest.fixture
def struck(tmp_path) -> World:
    """A supervised unit that works for as long as it is left alone."""
    world = World(tmp_path / "runs" / "one")
    world.needs = ONE
    world.plans(first={"seconds": 60})
    return world


def supervise(world: World) -> tuple[subprocess.Popen, Striker]:
    process = world.in_own_process("sh", "-c", 'read go && exec "$@"', "sh", stdin=subprocess.PIPE)
    striker = Striker(process, world.run, None)  # before anything happens: it looks at nothing older
    with process.stdin as line:
        line.write(b"go\n")
    return process, striker


@pytest.mark.slow
@pytest.mark.parametrize("target", ["supervisor", "everything"])
def test_a_struck_supervisor_is_dead_and_so_are_its_stages(struck, target):
    process, striker = supervise(struck)
    wait_for(lambda: struck.starts("first"))
    hit = striker.strike(Point("first", 0.1, "time", target))
    assert hit and hit.units == ("first",) and not hit.inside
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: not lives(struck.pid("first-1")))


@pytest.mark.slow
def test_a_struck_stage_is_tried_again_by_its_supervisor(struck):
    process, striker = supervise(struck)
    try:
        wait_for(lambda: struck.starts("first"))
        assert striker.strike(Point("first", 0.1, "time", "stage"))
        wait_for(lambda: struck.starts("first") == 2)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_kill_inside_a_save_is_known_by_what_is_left_behind(struck):
    process, striker = supervise(struck)
    wait_for(lambda: struck.starts("first"))
    half_saved = struck.run.unit_dir("first") / "checkpoints" / ".17"
    half_saved.mkdir(parents=True)
    hit = striker.strike(Point("first", 0.0, "time", "supervisor"))
    assert hit and hit.inside == ("save",) and str(hit) == "first, inside save"
    process.wait()


@pytest.mark.slow
def test_one_worker_two_workers_and_a_run_that_lost_its_machine_end_with_the_same_bytes(tmp_path):
    """Over every stage: the undisturbed run is done twice, by one worker without a store and by two with one."""
    done = cli("chaos", "-n", "1", "--seed", "7", "--json", "--keep-going", "--dir", tmp_path / "chaos")
    assert done.stdout, done.stderr[-3_000:]
    said = json.loads(done.stdout)
    assert (said["equal"], said["of"], done.returncode) == (1, 1, 0), done.stderr[-3_000:]
    assert said["trials"][0]["resumed"] == "from store" and said["trials"][0]["killed"]
    assert not list(Path(tmp_path / "chaos").glob("trial-*")), "what went well is cleared away"
