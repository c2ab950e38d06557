"""Everything the learner remembers, in one object that can be saved and restored between two rollouts.

The learning-rate schedule and the clock of evaluations are functions of `steps`, so they need no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.schema import PPOConfig
from ppo.learner.policy import Policy, PolicySizes
from ppo.learner.rollout import Carry, Environments, first_carry
from ppo.learner.update import make_optimizer
from training.checkpoint import Arrays, below, load_optimizer, optimizer_tensors, to_arrays, to_tensors
from training.streams import integer


def better(score: float, best: float) -> bool:
    """Whether a validation score beats the best so far; what is no number beats nothing and is beaten by any."""
    return score > best or (math.isnan(best) and not math.isnan(score))


@dataclass
class Best:
    """The best policy so far, judged on validation; equal scores keep the earliest."""

    score: float
    steps: int
    weights: dict[str, Tensor]


@dataclass
class LearnerState:
    """One learner at work: policy, optimizer, environments, random stream, counters, best policy, history."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    envs: Environments
    carry: Carry
    steps: int = 0
    rollouts: int = 0
    best: Best | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row per rollout, plain JSON values."""

    @classmethod
    def create(
        cls,
        envs: Environments,
        sizes: PolicySizes,
        config: PPOConfig,
        *,
        seed: int,
        device: str = "cpu",
        weights: dict[str, Tensor] | None = None,
    ) -> LearnerState:
        """A learner before its first step; chance comes from streams of `seed`. `weights` replace drawn ones."""
        # drawn on the CPU: the same weights on every device
        policy = Policy(sizes, torch.Generator().manual_seed(integer(seed, "weights")))
        if weights is not None:
            policy.load_state_dict(policy.state_dict() | weights)
        policy.to(device)
        optimizer = make_optimizer(policy, config)
        generator = torch.Generator(device).manual_seed(integer(seed, "actions"))
        return cls(policy, optimizer, generator, envs, first_carry(policy, envs, torch.device(device)))

    def to_arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Named arrays and plain JSON values that together restore this state bit for bit."""
        tensors = {f"policy/{name}": value for name, value in self.policy.state_dict().items()}
        slots = optimizer_tensors(self.policy, self.optimizer)
        tensors |= {f"optimizer/{name}": value for name, value in slots.items()}
        tensors |= {f"carry/{name}": value for name, value in vars(self.carry).items()}
        tensors["generator"] = self.generator.get_state()
        scalars: dict[str, Any] = {"steps": self.steps, "rollouts": self.rollouts, "history": list(self.history)}
        if self.best is not None:
            scalars["best"] = {"score": self.best.score, "steps": self.best.steps}
            tensors |= {f"best/{name}": value for name, value in self.best.weights.items()}
        envs = {f"envs/{name}": np.array(value) for name, value in self.envs.state().items()}
        return to_arrays(tensors) | envs, scalars

    def load_arrays(self, arrays: Arrays, scalars: dict[str, Any]) -> None:
        """Continue from what `to_arrays` gave; sizes and settings must be those of the saved learner."""
        device = self.carry.obs_ED.device
        tensors = to_tensors({name: array for name, array in arrays.items() if not name.startswith("envs/")})
        self.policy.load_state_dict(below("policy/", tensors))
        load_optimizer(self.policy, self.optimizer, below("optimizer/", tensors))
        self.carry = Carry(**{name: value.to(device) for name, value in below("carry/", tensors).items()})
        self.generator.set_state(tensors["generator"])
        self.envs.load_state(below("envs/", arrays))
        self.steps, self.rollouts, self.history = scalars["steps"], scalars["rollouts"], list(scalars["history"])
        best = scalars.get("best")
        weights = {name: value.to(device) for name, value in below("best/", tensors).items()}
        self.best = None if best is None else Best(best["score"], best["steps"], weights)

    def consider(self, score: float) -> bool:
        """Keep the current weights as the best if `score` beats every earlier one."""
        if self.best is not None and not better(score, self.best.score):
            return False
        weights = {name: value.detach().clone() for name, value in self.policy.state_dict().items()}
        self.best = Best(score, self.steps, weights)
        return True
