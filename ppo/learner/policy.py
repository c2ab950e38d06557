"""The policy: separate nets for actions and value, and its two files.

A core turns observations into the hidden units of both nets and carries a state
from step to step. The MLP core is memoryless: its state has size 0 and it takes
samples in any leading shape. A core with memory takes (T, B) sequences, or one
step (B), the state before the first step and the flags where an episode starts,
and it forgets there.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.utils import skip_init

from configs.errors import BadDataError
from configs.files import read_json, write_atomic, write_json
from ppo.evaluate import Player
from ppo.learner.actions import ActionHead, DiagonalGaussian, MaskedCategorical
from ppo.learner.cores import LstmCore, MlpCore

ACTION_HEAD = ("logits_head.", "log_deviation")
"""How the names of its weights begin."""
WEIGHTS = "policy.safetensors"
SIZES = "policy.json"


class PolicySizes(BaseModel):
    """What a policy is made of (`policy.json`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    observation: PositiveInt
    actions: PositiveInt
    """Numbered actions, or legs of a continuous one."""
    hidden: tuple[PositiveInt, ...]
    memory: NonNegativeInt = 0
    """Units of each of the two LSTMs; 0 has none."""
    continuous: bool = False
    """Real numbers by a Gaussian instead of one numbered action."""
    initial_deviation: PositiveFloat = 1.0
    """Of a continuous action before training."""

    @property
    def head(self) -> ActionHead:
        """The distribution over actions."""
        return DiagonalGaussian(self.actions) if self.continuous else MaskedCategorical(self.actions)


class Policy(nn.Module):
    """Parameters of the action head and value from two separate nets of equal size."""

    def __init__(self, sizes: PolicySizes, generator: torch.Generator | None = None) -> None:
        """Draw orthogonal weights as Stable-Baselines3 does: gain sqrt(2) inside, 0.01 for actions, 1 for the value."""
        super().__init__()
        self.sizes = sizes
        self.head = sizes.head
        width = (sizes.observation + sizes.memory, *sizes.hidden)[-1]
        self.core: MlpCore | LstmCore = MlpCore(sizes.observation, sizes.hidden)
        if sizes.memory:
            self.core = LstmCore(sizes.observation, sizes.memory, sizes.hidden)
        # of the logits, or of the means: the name is that of every checkpoint and policy file
        self.logits_head = skip_init(nn.Linear, width, sizes.actions)
        self.value_head = skip_init(nn.Linear, width, 1)
        if sizes.continuous:
            self.log_deviation = nn.Parameter(torch.full((sizes.actions,), math.log(sizes.initial_deviation)))
        for part, gain in ((self.core, math.sqrt(2)), (self.logits_head, 0.01), (self.value_head, 1.0)):
            for layer in (module for module in part.modules() if isinstance(module, nn.Linear)):
                nn.init.orthogonal_(layer.weight, gain, generator=generator)
                nn.init.zeros_(layer.bias)
        if isinstance(self.core, LstmCore):
            self.core.draw_memory(generator)

    def forward(self, obs: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters of the action head (..., P), value (...) and the state after the last step.

        Args:
            obs: (..., D) observations; for a core with memory (T, B, D), or (B, D) of one step.
            state: (B, state_size) state before the first step.
            start: bool, true where the observation is the first of an episode.
        """
        actor, critic, state = self.core(obs, state, start)
        params = self.logits_head(actor)
        if self.sizes.continuous:
            params = torch.cat([params, self.log_deviation.expand_as(params)], -1)
        return params, self.value_head(critic).squeeze(-1), state

    def initial_state(self, count: int) -> Tensor:
        """State of `count` environments before their first step."""
        return self.value_head.weight.new_zeros(count, self.core.state_size)

    def player(self, count: int) -> Player:
        """Greedy play of `count` environments, with a memory of its own for each."""
        device, state = self.value_head.weight.device, self.initial_state(count)

        @torch.no_grad()
        def play(obs: np.ndarray, mask: np.ndarray, start: np.ndarray) -> np.ndarray:
            nonlocal state
            rows, legal, begins = (torch.as_tensor(array, device=device) for array in (obs, mask, start))
            params, _, state = self(rows, state, begins)
            return self.head.greedy(params, legal).cpu().numpy()

        return play


def save_policy(directory: Path, policy: Policy) -> None:
    """Write `policy.safetensors` and `policy.json`."""
    weights = {name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()}
    write_atomic(directory / WEIGHTS, save(weights))
    write_json(directory / SIZES, policy.sizes.model_dump(mode="json"))


def read_policy(directory: Path) -> Policy:
    """The policy that `save_policy` wrote.

    Raises:
        BadDataError: a file is missing, damaged or does not fit the other.
    """
    try:
        policy = Policy(PolicySizes.model_validate(read_json(directory / SIZES)))
        policy.load_state_dict(load_file(directory / WEIGHTS))
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise BadDataError(f"{directory} holds no readable policy ({error}); train it again") from error
    return policy.eval()


def handed_over(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a pre-trained policy to start from: all but those of its action head, which is drawn anew.

    A policy that has learned to hold explores no more; one whose head is new chooses evenly, with all features
    that it has learned.
    """
    return {name: value for name, value in weights.items() if not name.startswith(ACTION_HEAD)}
