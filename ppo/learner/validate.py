"""Greedy play on disjoint slices of the validation part: how the best policy is chosen and collapse is seen.

The slices are played side by side, so a batch of observations is decided at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from configs.schema import Config, JudgingConfig
from ppo.learner.policy import Decide
from ppo.rules import HOLD
from ppo.tape import Tape
from ppo.vec_env import TradingVecEnv

Spans = Sequence[tuple[int, int]]
MIN_ENTROPY = 0.01
"""Mean policy entropy (nats) below which exploration has ended."""
WEIGHT_STEP = 0.01
"""Weights are one weight when they round to the same multiple of this."""


@dataclass(frozen=True)
class Validation:
    """Greedy play of one policy on the validation slices."""

    score: float
    """Mean over the slices of the log return per bar."""
    slice_scores: tuple[float, ...]
    position_changes: int
    """Orders filled, in all slices."""
    commonest_weight_frac: float
    """Share of bars that end with the commonest weight."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"slice_scores": list(self.slice_scores)}


class Validator:
    """Plays policies on fixed slices; each starts flat."""

    def __init__(self, tape: Tape, spans: Spans, config: Config) -> None:
        """Cut `spans` in `config.ppo.eval_slices` slices."""
        pieces = slice_spans(spans, config.ppo.eval_slices)
        self._slice = np.array([number for number, _ in pieces])
        self._length = np.array([stop - 1 - first for _, (first, stop) in pieces])
        self._weight_column = tape.observation.shape[1]
        env = config.env.model_copy(update={"episode_bars": int(self._length.max())})
        bars_per_year = config.market.bars_per_year
        self._envs = TradingVecEnv(tape, [piece for _, piece in pieces], env, config.costs, bars_per_year, len(pieces))

    def __call__(self, decide: Decide) -> Validation:
        """Let `decide` play every slice once."""
        starts = np.r_[0, np.cumsum(self._length)[:-1]]
        obs, mask = self._envs.start_arrays(starts)
        playing = np.ones(len(starts), bool)
        log_return, changes, weights = np.zeros(len(starts)), 0, []
        while playing.any():
            actions = decide(obs, mask)
            step = self._envs.step_arrays(actions)
            ended = step.terminated | step.truncated
            log_return += np.where(playing, step.log_return, 0)
            changes += int((playing & (actions != HOLD)).sum())
            closing = np.where(ended, step.final_obs[:, self._weight_column], step.obs[:, self._weight_column])
            weights.append(closing[playing])
            playing &= ~ended
            obs, mask = step.obs, step.mask
        per_bar = np.bincount(self._slice, log_return) / np.bincount(self._slice, self._length)
        _, counts = np.unique(np.round(np.concatenate(weights) / WEIGHT_STEP), return_counts=True)
        slice_scores = tuple(per_bar.tolist())
        return Validation(float(per_bar.mean()), slice_scores, changes, float(counts.max() / counts.sum()))


def slice_spans(spans: Spans, count: int) -> list[tuple[int, tuple[int, int]]]:
    """Cut spans into `count` disjoint slices of equal numbers of bars: (slice, [first, stop)) in order of time.

    A slice that reaches over a gap has several pieces; a piece of a single bar is left out.
    """
    ends = np.cumsum([stop - first for first, stop in spans]).tolist()
    cuts = [ends[-1] * number // count for number in range(count + 1)]
    pieces = []
    for number, (low, high) in enumerate(pairwise(cuts)):
        for (first, stop), end in zip(spans, ends, strict=True):
            piece = (max(first, low + stop - end), min(stop, high + stop - end))
            if piece[1] - piece[0] >= 2:
                pieces.append((number, piece))
    return pieces


def collapse_reasons(validation: Validation, entropy: float, judging: JudgingConfig) -> list[str]:
    """Why the policy counts as collapsed; empty when it does not."""
    reasons = []
    if validation.position_changes < judging.collapse_position_changes:
        reasons.append(f"{validation.position_changes} position changes on the validation part")
    if validation.commonest_weight_frac >= judging.collapse_weight_frac:
        reasons.append(f"one weight on {validation.commonest_weight_frac:.1%} of bars")
    if entropy < MIN_ENTROPY:
        reasons.append(f"policy entropy {entropy:.4f} nats")
    return reasons
