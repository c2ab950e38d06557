"""Save between two rollouts, restore in a new process, go on: the same bits."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.load import resolve
from ppo.learner.train import Job, advance, single_asset_job, start, train
from tests.ppo.worlds import COSTS, planted_tape
from training.checkpoint import newest, save

pytestmark = pytest.mark.usefixtures("torch_of_a_unit")
ROOT = Path(__file__).parents[2]
SETTINGS = [
    "ppo.num_envs=16", "ppo.rollout_steps=16", "ppo.minibatch_size=64", "ppo.epochs=2", "ppo.timesteps=2048",
    "ppo.eval_every_steps=512", "ppo.eval_slices=2", "ppo.hidden=[16,8]", "ppo.learning_rate_final=0",
    "env.episode_bars=25",
]  # fmt: skip


def make_job() -> Job:
    config = resolve("ADA-EUR_1H", "quick", settings=SETTINGS).config.model_copy(update={"costs": COSTS})
    return single_asset_job(planted_tape(700, 2), [(0, 500)], [(500, 700)], config, seed=5)


def continue_from(directory: str) -> dict[str, str]:
    """Restore the newest checkpoint and finish; what a new process runs."""
    job = make_job()
    state = start(job)
    saved = newest(Path(directory), "key")
    state.load_arrays(saved.arrays, saved.scalars)
    train(job, state)
    return fingerprint(state)


def fingerprint(state) -> dict[str, str]:
    arrays, scalars = state.to_arrays()
    return {name: array.tobytes().hex() for name, array in arrays.items()} | {
        "scalars": json.dumps(scalars, sort_keys=True)
    }


@pytest.mark.slow
def test_a_learner_restored_in_a_new_process_ends_with_the_same_bits(tmp_path):
    job = make_job()
    state = start(job)

    def checkpoint(state, row):
        if state.rollouts == 3:
            save(tmp_path, state.steps, *state.to_arrays(), "key")

    train(job, state, checkpoint)
    program = (
        "import json, sys; from tests.ppo import test_learner_state as t; "
        "from training.determinism import set_up_torch; "
        f"set_up_torch(1); json.dump(t.continue_from({str(tmp_path)!r}), sys.stdout)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    )
    resumed = json.loads(answer.stdout)
    expected = fingerprint(state)
    assert resumed.keys() == expected.keys()
    assert [name for name in expected if resumed[name] != expected[name]] == []


def test_every_part_of_the_state_matters():
    """Leaving any array out of the restored state changes what follows, so none is saved for nothing."""
    job = make_job()
    state = start(job)
    for _ in range(3):
        advance(state, job.config.ppo)
    arrays, scalars = state.to_arrays()
    advance(state, job.config.ppo)
    expected = state.to_arrays()[0]
    for part in ("policy/", "optimizer/", "generator", "envs/clock", "envs/account", "carry/obs_ED", "carry/mask_EA"):
        fresh = start(job)
        blank, _ = fresh.to_arrays()
        blank = {
            name: np.zeros_like(array) if "optimizer" in name else blank.get(name, array)
            for name, array in arrays.items()
        }
        damaged = {name: blank[name] if name.startswith(part) else array for name, array in arrays.items()}
        fresh.load_arrays(damaged, scalars)
        advance(fresh, job.config.ppo)
        got = fresh.to_arrays()[0]
        assert any(not np.array_equal(got[name], expected[name]) for name in expected if name.startswith("policy/")), (
            part
        )


def test_the_same_job_twice_gives_the_same_bits():
    first, second = (start(make_job()) for _ in range(2))
    for state in (first, second):
        train(make_job(), state)
    assert fingerprint(first) == fingerprint(second)


def test_global_random_state_has_no_say():
    job = make_job()
    states = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        np.random.seed(noise)
        state = start(job)
        before = torch.random.get_rng_state()
        advance(state, job.config.ppo)
        assert torch.equal(before, torch.random.get_rng_state())
        states.append(fingerprint(state))
    assert states[0] == states[1]
