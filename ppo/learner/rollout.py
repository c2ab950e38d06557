"""One rollout: the policy plays T steps in E environments and keeps what the update needs.

Shapes: T = steps, E = environments, D = observation, A = actions, P = parameters
of the action head, S = state of the core, N = episodes that were cut. The buffers live on the policy's device;
the environments give numpy arrays, copied in once and out once per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ppo.learner.policy import Policy

if TYPE_CHECKING:
    from ppo.vec_env import StepArrays


class Environments(Protocol):
    """The fast path of batched environments, as `TradingVecEnv` has it; actions are (E,) numbers or (E, A) reals."""

    num_envs: int

    def reset_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Start all episodes: obs (E, D) float32, mask (E, A) bool."""

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """Step all environments; ended ones start anew; the arrays are overwritten by the next step."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything the environments remember."""

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from `state()`."""


@runtime_checkable
class LevelEnvironments(Environments, Protocol):
    """Environments that choose where episodes start by what was learned; for memoryless policies."""

    def learned(self, advantage_TE: np.ndarray) -> None:
        """The advantages of the last rollout's steps."""


@dataclass
class Carry:
    """What goes from one rollout to the next: where every environment stands."""

    obs_ED: Tensor
    mask_EA: Tensor
    start_E: Tensor
    """bool, true where the observation is the first of an episode."""
    state_ES: Tensor


@dataclass(frozen=True)
class Rollout:
    """T steps in E environments, as played."""

    obs_TED: Tensor
    mask_TEA: Tensor
    start_TE: Tensor
    state_ES: Tensor
    """State of the core before step 0."""
    action_TE: Tensor
    """(T, E, A) where actions are continuous."""
    params_TEP: Tensor
    value_TE: Tensor
    bootstrap_value_TE: Tensor
    """Value of the observation after the step: 0 where terminated, the last observation's where truncated."""
    reward_TE: Tensor
    ended_TE: Tensor


@dataclass(frozen=True)
class _Cut:
    """A step in which episodes were truncated: the observations they ended with."""

    step: int
    envs_N: Tensor
    obs_ND: Tensor
    state_NS: Tensor


@torch.no_grad()
def collect(
    policy: Policy, envs: Environments, carry: Carry, steps: int, generator: torch.Generator
) -> tuple[Rollout, Carry]:
    """Play `steps` steps with sampled actions and return them with the new carry."""
    device = carry.obs_ED.device
    played = _buffers(policy, carry, steps)
    noise = policy.head.noise((steps, envs.num_envs), generator)
    reward_TE = np.empty(played.reward_TE.shape, np.float32)
    ended_TE = np.empty(played.ended_TE.shape, np.bool_)
    terminated_TE = np.empty(played.ended_TE.shape, np.bool_)
    cuts: list[_Cut] = []
    for step in range(steps):
        played.obs_TED[step], played.mask_TEA[step], played.start_TE[step] = carry.obs_ED, carry.mask_EA, carry.start_E
        params_EP, value_E, state_ES = policy(carry.obs_ED, carry.state_ES, carry.start_E)
        action_E = policy.head.sample(params_EP, carry.mask_EA, noise[step])
        played.action_TE[step], played.params_TEP[step], played.value_TE[step] = action_E, params_EP, value_E
        after = envs.step_arrays(action_E.cpu().numpy())
        reward_TE[step], terminated_TE[step] = after.reward, after.terminated
        np.logical_or(after.terminated, after.truncated, out=ended_TE[step])
        cut = np.flatnonzero(after.truncated)
        if len(cut):
            final_ND = torch.tensor(after.final_obs[cut], device=device)
            cut_N = torch.from_numpy(cut).to(device)
            cuts.append(_Cut(step, cut_N, final_ND, state_ES[cut_N]))
        carry = Carry(_copy(after.obs, device), _copy(after.mask, device), _copy(ended_TE[step], device), state_ES)
    played.reward_TE.copy_(torch.from_numpy(reward_TE))
    played.ended_TE.copy_(torch.from_numpy(ended_TE))
    _bootstrap(policy, played, carry, torch.from_numpy(terminated_TE).to(device), cuts)
    return played, carry


def first_carry(policy: Policy, envs: Environments, device: torch.device) -> Carry:
    """Reset the environments."""
    obs, mask = envs.reset_arrays()
    start_E = torch.ones(envs.num_envs, dtype=torch.bool, device=device)
    return Carry(_copy(obs, device), _copy(mask, device), start_E, policy.initial_state(envs.num_envs))


def _bootstrap(policy: Policy, played: Rollout, carry: Carry, terminated_TE: Tensor, cuts: list[_Cut]) -> None:
    _, last_value_E, _ = policy(carry.obs_ED, carry.state_ES, carry.start_E)
    played.bootstrap_value_TE[:-1] = played.value_TE[1:]
    played.bootstrap_value_TE[-1] = last_value_E
    for cut in cuts:
        _, value_N, _ = policy(cut.obs_ND, cut.state_NS, torch.zeros_like(cut.envs_N, dtype=torch.bool))
        played.bootstrap_value_TE[cut.step].index_copy_(0, cut.envs_N, value_N)
    played.bootstrap_value_TE.masked_fill_(terminated_TE, 0)


def _buffers(policy: Policy, carry: Carry, steps: int) -> Rollout:
    def empty(like: Tensor) -> Tensor:
        return like.new_empty(steps, *like.shape)

    number_E, flag_E = carry.obs_ED[:, 0], carry.start_E
    return Rollout(
        obs_TED=empty(carry.obs_ED),
        mask_TEA=empty(carry.mask_EA),
        start_TE=empty(flag_E),
        state_ES=carry.state_ES,
        action_TE=flag_E.new_empty(steps, *flag_E.shape, *policy.head.shape, dtype=policy.head.dtype),
        params_TEP=number_E.new_empty(steps, *number_E.shape, policy.head.parameters),
        value_TE=empty(number_E),
        bootstrap_value_TE=empty(number_E),
        reward_TE=empty(number_E),
        ended_TE=empty(flag_E),
    )


def _copy(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.tensor(array, device=device)
