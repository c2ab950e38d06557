"""Units that are wanted: used where they are there, gone without where they are left out."""

import pytest

from configs.errors import ExitCode
from runner.graph import without
from runner.reuse import standing
from tests.runner.fixture_stages.world import World

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path) -> World:
    world = World(tmp_path / "runs" / "one")
    world.plans(extra={"seconds": 0.3})
    world.needs = {"base": (), "extra": ("base",), "user": ("base",)}
    world.wants = {"user": ("extra",)}
    return world


def leave_out(world: World) -> None:
    """As where the stage `extra` was not chosen and has no result here."""
    del world.needs["extra"]
    world.wants = {}


def test_a_wanted_unit_of_this_start_is_waited_for_and_enters_the_key(world):
    assert world.supervise().exit_code == ExitCode.DONE
    assert set(world.run.request("user").inputs) == {"base", "extra"}


def test_a_unit_goes_without_what_is_left_out(world):
    leave_out(world)
    assert world.supervise().exit_code == ExitCode.DONE
    assert set(world.run.request("user").inputs) == {"base"}


def test_a_unit_is_made_anew_once_what_it_wants_is_there(world):
    full_needs, full_wants = dict(world.needs), dict(world.wants)
    leave_out(world)
    world.supervise()
    world.needs, world.wants = full_needs, full_wants
    assert standing(world.run, world.units(), world.keys()) == {"base": "done", "extra": "to run", "user": "to run"}
    world.supervise()
    assert world.starts("user") == 2 and world.starts("base") == 1


def test_what_was_not_chosen_is_used_where_it_is_done_and_left_out_where_it_is_not(world):
    units, keys = world.units(), world.keys()
    states = standing(world.run, units, keys, optional={"extra"})
    assert states == {"base": "to run", "extra": "left out", "user": "to run"}
    world.supervise()
    assert standing(world.run, units, keys, optional={"extra"}) == dict.fromkeys(("base", "extra", "user"), "done")
    (world.run.unit_dir("extra") / "made.txt").write_text("damaged")
    states = standing(world.run, units, keys, optional={"extra"})
    assert states == {"base": "done", "extra": "left out", "user": "to run"}


def test_how_a_run_stands_is_what_the_start_then_does(world):
    """The request of `standing` and that of the supervisor are one: nothing is done twice."""
    units = without(world.units(), {"extra"})
    leave_out(world)
    world.supervise()
    assert standing(world.run, units, world.keys()) == {"base": "done", "user": "done"}


def test_what_was_not_chosen_is_never_taken_from_another_run(world, tmp_path):
    world.supervise()
    other = World(tmp_path / "runs" / "two")
    other.needs, other.wants = world.needs, world.wants
    states = standing(other.run, other.units(), other.keys(), optional={"extra"})
    assert states == {"base": "reusable from one", "extra": "left out", "user": "to run"}
    assert standing(other.run, other.units(), other.keys())["extra"] == "reusable from one"


def test_what_needs_a_unit_that_is_left_out_is_left_out_too(world):
    world.needs = {"base": (), "extra": ("base",), "more": ("extra",), "user": ("base",)}
    world.wants = {"user": ("more",)}
    states = standing(world.run, world.units(), world.keys(), optional={"extra", "more"})
    assert states == {"base": "to run", "extra": "left out", "more": "left out", "user": "to run"}
    world_units = without(world.units(), {"extra", "more"})
    assert [unit.wants for unit in world_units] == [(), ()]
