"""The learner on a CUDA device: the same bytes twice, and the CPU's losses; skipped where there is none."""

import pytest
import torch

from configs.load import resolve
from ppo.learner.loss import Samples
from ppo.learner.policy import Policy, PolicySizes
from ppo.learner.train import single_asset_job, start, train
from ppo.learner.update import batch_loss
from tests.ppo.worlds import COSTS, planted_tape
from training.determinism import set_up_torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SETTINGS = ["ppo.num_envs=16", "ppo.rollout_steps=64", "ppo.timesteps=8192", "ppo.eval_every_steps=4096"]


def trained() -> dict[str, bytes]:
    config = resolve("ADA-EUR_1H", "quick", gpus=1, settings=[*SETTINGS, "compute.device=cuda"]).config
    config = config.model_copy(update={"costs": COSTS})
    job = single_asset_job(planted_tape(1_200, 2), [(0, 800)], [(800, 1_200)], config, seed=5)
    state = start(job)
    train(job, state)
    arrays, _ = state.to_arrays()
    return {name: array.tobytes() for name, array in arrays.items()}


def test_training_twice_on_a_gpu_gives_the_same_bytes():
    set_up_torch(1)
    assert trained() == trained()


def test_losses_on_a_gpu_are_those_of_the_cpu():
    generator = torch.Generator().manual_seed(0)
    config = resolve("ADA-EUR_1H", "quick").config.ppo
    policy = Policy(PolicySizes(observation=22, actions=9, hidden=(64, 64)), generator)
    samples = Samples(
        obs_BD=torch.randn(256, 22, generator=generator),
        state_BS=policy.initial_state(256),
        start_B=torch.zeros(256, dtype=torch.bool),
        mask_BA=torch.ones(256, 9, dtype=torch.bool),
        action_B=torch.randint(9, (256,), generator=generator),
        log_prob_B=torch.full((256,), -2.0),
        advantage_B=torch.randn(256, generator=generator),
        return_B=torch.randn(256, generator=generator),
    )
    losses = [
        batch_loss(policy.to(device), Samples(*(item.to(device) for item in samples)), config).total.item()
        for device in ("cpu", "cuda")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
