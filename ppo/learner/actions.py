"""The two kinds of actions a policy takes: what its parameters, its noise and its mask mean.

Shapes: A = actions (numbered ones, or legs of a continuous one), P = parameters
of the distribution. "..." is any leading shape, of samples or of steps and
environments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

ILLEGAL_LOGIT = -1e8
"""Logit of an illegal action: its probability is exactly 0 in float32 (the value of sb3-contrib)."""
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class ActionHead(Protocol):
    """A distribution over actions, as pure functions of its parameters (..., P) and of a mask (..., A)."""

    @property
    def parameters(self) -> int:
        """P."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action."""

    @property
    def dtype(self) -> torch.dtype:
        """Of actions."""

    @property
    def least_entropy(self) -> float:
        """Mean entropy (nats) below which exploration has ended."""

    def noise(self, leading: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """What chance has a say in `sample` by, for actions of this leading shape."""

    def sample(self, params: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """Actions drawn by `noise`."""

    def greedy(self, params: Tensor, mask: Tensor) -> Tensor:
        """The likeliest actions."""

    def log_prob(self, params: Tensor, mask: Tensor, action: Tensor) -> Tensor:
        """Log-probability (...) of the actions."""

    def log_prob_and_entropy(self, params: Tensor, mask: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The same with the entropy (...) of the distributions, nats."""

    def figures(self, actions: Tensor) -> Tensor:
        """(A,) what to watch of many actions."""

    def row(self, figures: list[float]) -> dict[str, Any]:
        """Those figures by name, for the history."""


@dataclass(frozen=True)
class MaskedCategorical:
    """One of A numbered actions; the parameters are logits, and an illegal action is never taken.

    Source: Huang & Ontanon 2020, arXiv:2006.14171.
    """

    actions: int
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.int64
    least_entropy: float = 0.01

    @property
    def parameters(self) -> int:
        """One logit each."""
        return self.actions

    def noise(self, leading: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """log e, e ~ Exp(1)."""
        empty = torch.empty(*leading, self.actions, device=generator.device)
        return empty.exponential_(generator=generator).log_()

    def sample(self, params: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """argmax(logits - log e) draws from softmax(logits): one kernel per step instead of a distribution."""
        return (params - noise).masked_fill_(~mask, -torch.inf).argmax(-1)

    def greedy(self, params: Tensor, mask: Tensor) -> Tensor:
        """The likeliest legal actions."""
        return params.masked_fill(~mask, ILLEGAL_LOGIT).argmax(-1)

    def log_prob(self, params: Tensor, mask: Tensor, action: Tensor) -> Tensor:
        """Log-probability (...) of the actions."""
        return _picked(masked_log_probs(params, mask), action)

    def log_prob_and_entropy(self, params: Tensor, mask: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """An illegal action has probability 0 and so adds exactly 0 to the entropy."""
        log_probs = masked_log_probs(params, mask)
        return _picked(log_probs, action), -(log_probs.exp() * log_probs).sum(-1)

    def figures(self, actions: Tensor) -> Tensor:
        """(A,) shares of the actions."""
        flat = actions.flatten()
        return torch.bincount(flat, minlength=self.actions) / len(flat)

    def row(self, figures: list[float]) -> dict[str, Any]:
        """Shares by action, and the share of those that change the position: all but action 0, hold."""
        return {"action_shares": figures, "position_change_frac": 1 - figures[0]}


@dataclass(frozen=True)
class DiagonalGaussian:
    """K real numbers, independent normals; the parameters are K means, then K log deviations.

    A leg that the mask leaves out is 0 and adds nothing to log-probability and entropy.
    As Stable-Baselines3's `DiagGaussianDistribution`: nothing is squashed, the environment clips.
    """

    actions: int
    dtype: torch.dtype = torch.float32
    least_entropy: float = -math.inf

    @property
    def parameters(self) -> int:
        """Mean and log deviation each."""
        return 2 * self.actions

    @property
    def shape(self) -> tuple[int, ...]:
        """A number for each leg."""
        return (self.actions,)

    def noise(self, leading: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normals."""
        return torch.empty(*leading, self.actions, device=generator.device).normal_(generator=generator)

    def sample(self, params: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """mean + deviation x noise."""
        mean, log_deviation = params.chunk(2, -1)
        return torch.addcmul(mean, log_deviation.exp(), noise).masked_fill_(~mask, 0)

    def greedy(self, params: Tensor, mask: Tensor) -> Tensor:
        """The means."""
        return params[..., : self.actions].masked_fill(~mask, 0)

    def log_prob(self, params: Tensor, mask: Tensor, action: Tensor) -> Tensor:
        """Log-density (...) of the legs that can be traded."""
        mean, log_deviation = params.chunk(2, -1)
        standard = (action - mean) * (-log_deviation).exp()
        return self._traded(-0.5 * standard.square() - log_deviation - HALF_LOG_TAU, mask)

    def log_prob_and_entropy(self, params: Tensor, mask: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Differential entropy, which may be negative."""
        log_deviation = params[..., self.actions :]
        return self.log_prob(params, mask, action), self._traded(log_deviation + HALF_LOG_TAU + 0.5, mask)

    def figures(self, actions: Tensor) -> Tensor:
        """(K,) means of the actions."""
        return actions.flatten(0, -2).mean(0)

    def row(self, figures: list[float]) -> dict[str, Any]:
        """Means by leg."""
        return {"action_means": figures}

    @staticmethod
    def _traded(terms: Tensor, mask: Tensor) -> Tensor:
        return terms.masked_fill(~mask, 0).sum(-1)


def masked_log_probs(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities (..., A) over the legal actions; an illegal action's is about -1e8."""
    masked = logits.masked_fill(~mask, ILLEGAL_LOGIT)
    # over the first axis the kernel is vectorised across samples: 2x faster than along rows of 9
    return functional.log_softmax(masked.movedim(-1, 0).contiguous(), dim=0).movedim(0, -1)


def _picked(log_probs: Tensor, action: Tensor) -> Tensor:
    return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)
