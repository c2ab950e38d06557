"""The policy: separate nets for action logits and value, and its two files.

A core turns observations into the hidden units of both nets and carries a state
from step to step. The MLP core is memoryless: its state has size 0 and it takes
samples in any leading shape. A core with memory takes (T, B) sequences, the
state before the first step and the flags where an episode starts, and it
forgets there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.utils import skip_init

from configs.errors import BadDataError
from configs.files import read_json, write_atomic, write_json
from ppo.learner.loss import ILLEGAL_LOGIT

WEIGHTS = "policy.safetensors"
SIZES = "policy.json"

Decide = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A decision-maker: (obs (n, D) float32, mask (n, A) bool) -> actions (n,) int64."""


class PolicySizes(BaseModel):
    """What a policy is made of (`policy.json`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    observation: PositiveInt
    actions: PositiveInt
    hidden: tuple[PositiveInt, ...]


class MlpCore(nn.Module):
    """Two memoryless stacks of tanh layers, one for the actor and one for the critic."""

    state_size = 0

    def __init__(self, sizes: PolicySizes) -> None:
        super().__init__()
        self.actor = _tanh_layers(sizes)
        self.critic = _tanh_layers(sizes)

    def forward(self, obs: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden units of the actor and of the critic, and the state unchanged."""
        return self.actor(obs), self.critic(obs), state


class Policy(nn.Module):
    """Action logits and value from two separate nets of equal size."""

    def __init__(self, sizes: PolicySizes, generator: torch.Generator | None = None) -> None:
        """Draw orthogonal weights as Stable-Baselines3 does: gain sqrt(2) inside, 0.01 for logits, 1 for the value."""
        super().__init__()
        self.sizes = sizes
        width = (sizes.observation, *sizes.hidden)[-1]
        self.core = MlpCore(sizes)
        self.logits_head = skip_init(nn.Linear, width, sizes.actions)
        self.value_head = skip_init(nn.Linear, width, 1)
        for part, gain in ((self.core, math.sqrt(2)), (self.logits_head, 0.01), (self.value_head, 1.0)):
            for layer in (module for module in part.modules() if isinstance(module, nn.Linear)):
                nn.init.orthogonal_(layer.weight, gain, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, obs: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (..., A), value (...) and the state after the last step.

        Args:
            obs: (..., D) observations; (T, B, D) for a core with memory.
            state: (B, state_size) state before the first step.
            start: bool, true where the observation is the first of an episode.
        """
        actor, critic, state = self.core(obs, state, start)
        return self.logits_head(actor), self.value_head(critic).squeeze(-1), state

    def initial_state(self, count: int) -> Tensor:
        """State of `count` environments before their first step."""
        return self.value_head.weight.new_zeros(count, self.core.state_size)

    @torch.no_grad()
    def decide(self, obs: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The likeliest legal action of each row: (n, D) float32, (n, A) bool -> (n,) int64."""
        device = self.value_head.weight.device
        rows = torch.as_tensor(obs, device=device)
        start = torch.zeros(len(rows), dtype=torch.bool, device=device)
        logits, _, _ = self(rows, self.initial_state(len(rows)), start)
        illegal = ~torch.as_tensor(mask, device=device)
        return logits.masked_fill(illegal, ILLEGAL_LOGIT).argmax(-1).cpu().numpy()


def save_policy(directory: Path, policy: Policy) -> None:
    """Write `policy.safetensors` and `policy.json`."""
    weights = {name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()}
    write_atomic(directory / WEIGHTS, save(weights))
    write_json(directory / SIZES, policy.sizes.model_dump(mode="json"))


def load_policy(directory: Path, device: str = "cpu") -> Decide:
    """The decision-maker that `save_policy` wrote.

    Raises:
        BadDataError: a file is missing, damaged or does not fit the other.
    """
    return read_policy(directory).to(device).decide


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


def _tanh_layers(sizes: PolicySizes) -> nn.Sequential:
    widths = pairwise((sizes.observation, *sizes.hidden))
    return nn.Sequential(*(layer for pair in widths for layer in (skip_init(nn.Linear, *pair), nn.Tanh())))
