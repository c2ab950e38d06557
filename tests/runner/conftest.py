"""What the tests of the supervisor share."""

import pytest

from tests.runner.fixture_stages.world import World


@pytest.fixture
def world(tmp_path) -> World:
    """Four units that work at once."""
    world = World(tmp_path / "runs" / "one")
    world.plans()
    return world
