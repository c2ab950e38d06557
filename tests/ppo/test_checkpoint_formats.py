"""A learner saved by any earlier version goes on: one committed checkpoint of each format, all of the same moment."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.files import read_json
from configs.load import resolve
from ppo.learner.train import Job, single_asset_job, start, train
from tests.ppo.worlds import COSTS, planted_tape
from training.checkpoint import FORMAT, MIGRATIONS, newest, save

pytestmark = pytest.mark.usefixtures("torch_of_a_unit")
FIXTURES = Path(__file__).parents[1] / "fixtures" / "checkpoints"
FORMATS = range(1, FORMAT + 1)
SETTINGS = (
    "ppo.num_envs=2", "ppo.rollout_steps=8", "ppo.minibatch_size=16", "ppo.epochs=1", "ppo.timesteps=96",
    "ppo.eval_every_steps=32", "ppo.eval_slices=1", "ppo.hidden=[2]", "env.episode_bars=25",
)  # fmt: skip


def make_job() -> Job:
    """The job of the fixtures: they were saved at step 48."""
    config = resolve("ADA-EUR_1H", "quick", settings=SETTINGS).config.model_copy(update={"costs": COSTS})
    return single_asset_job(planted_tape(120, 2, columns=2), [(0, 80)], [(80, 120)], config, seed=5)


def saved_by(version: int, directory: Path):
    shutil.copytree(FIXTURES / f"v{version}", directory)
    said = []
    saved = newest(directory, "key", said.append)
    assert said == []
    return saved


def continued(saved) -> tuple[dict[str, bytes], dict]:
    job = make_job()
    state = start(job)
    state.load_arrays(saved.arrays, saved.scalars)
    train(job, state)
    arrays, scalars = state.to_arrays()
    return {name: array.tobytes() for name, array in arrays.items()}, scalars


def test_every_format_has_a_fixture_and_every_older_one_a_way_to_the_next():
    assert sorted(path.name for path in FIXTURES.iterdir()) == [f"v{version}" for version in FORMATS]
    assert sorted(MIGRATIONS) == list(FORMATS)[:-1]
    assert [read_json(FIXTURES / f"v{v}" / "48" / "manifest.json").get("format", 1) for v in FORMATS] == list(FORMATS)


@pytest.mark.parametrize("version", FORMATS)
def test_a_learner_of_an_older_format_goes_on_to_the_same_bits(version, tmp_path):
    found = saved_by(version, tmp_path / "old")
    assert (found.step, found.scalars["steps"], len(found.scalars["history"])) == (48, 48, 3)
    arrays, scalars = continued(found)
    expected = continued(saved_by(FORMAT, tmp_path / "new"))
    assert scalars["steps"] == 96 and scalars["history"][:3] == found.scalars["history"]
    assert (arrays, scalars) == expected


def test_an_older_checkpoint_that_is_saved_again_has_the_current_format(tmp_path):
    old = saved_by(1, tmp_path / "old")
    again = newest(save(tmp_path, 64, old.arrays, old.scalars, "key").parent, "key")
    assert read_json(tmp_path / "64" / "manifest.json")["format"] == FORMAT
    assert again.scalars == old.scalars
    assert all(np.array_equal(again.arrays[name], array) for name, array in old.arrays.items())
