"""Greedy play on disjoint slices of the validation part: how the best policy is chosen and collapse is seen.

The slices are played side by side, so a batch of observations is decided at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from configs.errors import BadDataError
from configs.schema import Config, JudgingConfig
from ppo.evaluate import Agent, Spans
from ppo.metrics import finite
from ppo.rules import HOLD
from ppo.statistics import max_drawdown, moments, sharpe_standard_error
from ppo.tape import Tape
from ppo.vec_env import TradingVecEnv

WEIGHT_STEP = 0.01
"""Weights are one weight when they round to the same multiple of this."""
TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class Validation:
    """Greedy play of one policy on the validation slices."""

    score: float
    """Mean over the slices of the log return per bar: what selects."""
    slice_scores: tuple[float, ...]
    position_changes: int
    """Orders filled, in all slices."""
    commonest_weight_frac: float
    """Share of bars that end with the commonest weight."""
    performance: dict[str, float | None] = field(default_factory=dict)
    """What `performance` gives."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        own = {name: value for name, value in vars(self).items() if name != "performance"}
        return own | {"slice_scores": list(self.slice_scores)} | self.performance


@dataclass(frozen=True)
class Played:
    """What greedy play brought, piece by piece; E = pieces, in the order of their bars."""

    log_returns: list[np.ndarray]
    """Of each piece, of every bar but its first; 0 after a liquidation."""
    changes: np.ndarray
    """(E,) orders filled."""
    weights: np.ndarray
    """At the close of every bar of all pieces that was played."""
    hit_rate: float | None
    """Share of all positions that gained."""

    def piece(self, number: int) -> Played:
        """One of them alone, without what is not kept apart."""
        return Played([self.log_returns[number]], self.changes[[number]], np.empty(0), None)


class Validator:
    """Plays policies on fixed slices; each starts flat."""

    def __init__(self, tape: Tape, spans: Spans, config: Config, slices: int) -> None:
        """Cut `spans` in `slices` slices; raises as `slice_spans`."""
        pieces = slice_spans(spans, slices)
        self._slice = np.array([number for number, _ in pieces])
        self._length = np.array([stop - 1 - first for _, (first, stop) in pieces])
        self._weight_column = tape.observation.shape[1]
        env = config.env.model_copy(update={"episode_bars": int(self._length.max())})
        self._bars_per_year = config.market.bars_per_year
        parts = [piece for _, piece in pieces]
        self._envs = TradingVecEnv(tape, parts, env, config.costs, self._bars_per_year, len(pieces))

    def __call__(self, agent: Agent) -> Validation:
        """Let `agent` play every slice once."""
        played = self.play(agent)
        totals = [piece.sum() for piece in played.log_returns]
        per_bar = scores_of(self._slice, totals, self._length)
        _, counts = np.unique(np.round(played.weights / WEIGHT_STEP), return_counts=True)
        returns = np.expm1(np.concatenate(played.log_returns))
        return Validation(
            score=float(per_bar.mean()),
            slice_scores=tuple(per_bar.tolist()),
            position_changes=int(played.changes.sum()),
            commonest_weight_frac=float(counts.max() / counts.sum()),
            performance=performance(returns, played.hit_rate, self._bars_per_year),
        )

    def play(self, agent: Agent) -> Played:
        """Let `agent` play every slice once; what each piece of a slice brought."""
        count = len(self._length)
        obs, mask = self._envs.start_arrays(np.r_[0, np.cumsum(self._length)[:-1]])
        player, start, playing = agent.player(count), np.ones(count, bool), np.ones(count, bool)
        log_return_TE = np.zeros((self._length.max(), count))
        positions, changes, weights = _Positions(count), np.zeros(count, np.int64), []
        for row in log_return_TE:
            actions = player(obs, mask, start)
            step = self._envs.step_arrays(actions)
            start = step.terminated | step.truncated
            row[:] = np.where(playing, step.log_return, 0)
            changes += playing & (actions != HOLD)
            closing = np.where(start, step.final_obs[:, self._weight_column], step.obs[:, self._weight_column])
            positions.book(row, np.where(playing, closing, 0), playing & start)
            weights.append(closing[playing])
            playing &= ~start
            obs, mask = step.obs, step.mask
            if not playing.any():
                break
        log_returns = [log_return_TE[:bars, env] for env, bars in enumerate(self._length)]
        return Played(log_returns, changes, np.concatenate(weights), positions.hit_rate())


class _Positions:
    """Gains of positions from cash to cash; a bar in which one is reversed counts to the one it ends."""

    def __init__(self, envs: int) -> None:
        self._gain, self._side = np.zeros(envs), np.zeros(envs)
        self._ended = self._won = 0

    def book(self, log_return: np.ndarray, weight: np.ndarray, last: np.ndarray) -> None:
        """One bar of every environment, the weight at its close, and whether nothing follows."""
        side = np.sign(weight)
        self._gain += log_return
        opened_before = self._side != 0
        # also a position that was opened and closed within its first bar
        ended = (opened_before & (side != self._side)) | (last & ((side != 0) | (log_return != 0)))
        self._ended += int(ended.sum())
        self._won += int((ended & (self._gain > 0)).sum())
        self._gain[ended | (side == 0)] = 0
        self._side = np.where(last, 0, side)

    def hit_rate(self) -> float | None:
        """Share of positions that gained, None where there was none."""
        return self._won / self._ended if self._ended else None


def performance(returns: np.ndarray, hit_rate: float | None, bars_per_year: float) -> dict[str, float | None]:
    """The metrics "validation" of an agent, finite or None.

    Args:
        returns: simple returns per bar, with costs, in order.
        hit_rate: share of positions that gained.
        bars_per_year: annualises.
    """
    year, series = math.sqrt(bars_per_year), moments(returns)
    sharpe, error = series.sharpe * year, finite(sharpe_standard_error(series) * year)
    return {
        "sharpe": sharpe,
        "standard_error": error,
        "lower": None if error is None else sharpe - TWO_SIDED_95 * error,
        "upper": None if error is None else sharpe + TWO_SIDED_95 * error,
        "max_drawdown": max_drawdown(np.cumprod(np.r_[1.0, 1.0 + returns])),
        "hit_rate": hit_rate,
    }


def slice_spans(spans: Spans, count: int) -> list[tuple[int, tuple[int, int]]]:
    """Cut spans into `count` disjoint slices of equal numbers of bars: (slice, [first, stop)) in order of time.

    A slice that reaches over a gap has several pieces; a piece of a single bar is left out, a slice of such alone too.

    Raises:
        BadDataError: there are fewer than two bars for each slice.
    """
    ends = np.cumsum([stop - first for first, stop in spans]).tolist()
    if not ends or ends[-1] < 2 * count:
        raise BadDataError(
            f"the validation part has {ends[-1] if ends else 0} bars to decide on, at least {2 * count} are needed for "
            f"{count} slices; use more data, a shorter timeframe or fewer eval_slices"
        )
    cuts = [ends[-1] * number // count for number in range(count + 1)]
    pieces = []
    for number, (low, high) in enumerate(pairwise(cuts)):
        for (first, stop), end in zip(spans, ends, strict=True):
            piece = (max(first, low + stop - end), min(stop, high + stop - end))
            if piece[1] - piece[0] >= 2:
                pieces.append((number, piece))
    return pieces


def scores_of(slices: np.ndarray, totals: ArrayLike, bars: ArrayLike) -> np.ndarray:
    """Log return per bar of each slice that has a piece, from the log returns and the bars of the pieces (E,)."""
    played = np.bincount(slices, bars)
    return np.bincount(slices, totals)[played > 0] / played[played > 0]


def collapse_reasons(validation: Validation, entropy: float, least_entropy: float, judging: JudgingConfig) -> list[str]:
    """Why the policy counts as collapsed; empty when it does not."""
    reasons = []
    if validation.position_changes < judging.collapse_position_changes:
        reasons.append(f"{validation.position_changes} position changes on the validation part")
    if validation.commonest_weight_frac >= judging.collapse_weight_frac:
        reasons.append(f"one weight on {validation.commonest_weight_frac:.1%} of bars")
    if entropy < least_entropy:
        reasons.append(f"policy entropy {entropy:.4f} nats")
    return reasons
