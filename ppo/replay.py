"""Prioritised level replay over start windows: episodes begin where the critic was wrong most.

Source: Jiang, Grefenstette & Rocktaschel 2021, "Prioritized Level Replay", arXiv:2010.03934, algorithm 1. A
level is a window of bars; its score is the mean |advantage| of its steps in the last rollout that visited it.
Of all draws, `replay_frac` go back to a visited window and the others to one that was never visited, as long
as there are any. Only starts are prioritised: every step that PPO learns from is on-policy.
Shapes: W = windows, T = steps, E = environments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from configs.schema import Config, PretrainConfig
from ppo import rules
from ppo.tape import Tape
from ppo.vec_env import StepArrays, TradingVecEnv

DRAW_UNITS = 2**40
"""Draws that all windows share: shares are exact to 1e-9, and the modulo of a 64-bit hash is uniform to 1e-7."""


class ReplayVecEnv(TradingVecEnv):
    """E trading accounts whose episodes start in drawn windows and last as long as one.

    `learned` moves the scores on after each rollout; until then all draws have the same chances, so that
    what an environment does depends on (seed, environment, episode) and the scores alone.
    """

    def __init__(self, tape: Tape, spans: Sequence[tuple[int, int]], config: Config, num_envs: int, seed: int) -> None:
        self._replay = replay = config.pretrain
        episode_bars = min(config.env.episode_bars, replay.window_bars)
        env = config.env.model_copy(update={"episode_bars": episode_bars})
        super().__init__(tape, spans, env, config.costs, config.market.bars_per_year, num_envs, seed)
        self._starts = cut_windows(self._starts, replay.window_bars)
        count = len(self._starts)
        self._score = np.zeros(count)
        self._visited = np.full(count, -1, np.int64)
        self._rollouts = np.zeros(1, np.int64)
        self._played: list[np.ndarray] = []
        self._reweigh()

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """As the base; the bars that are decided on are kept for `learned`."""
        self._played.append(self._clock[:, rules.BAR].copy())
        return super().step_arrays(actions)

    def learned(self, advantage_TE: np.ndarray) -> None:
        """Score the windows of the steps since the last call by the advantages that they turned out to have."""
        window = np.searchsorted(self._starts[:, rules.FIRST], np.concatenate(self._played), side="right") - 1
        self._played.clear()
        steps = np.bincount(window, minlength=len(self._score))
        total = np.bincount(window, np.abs(advantage_TE).ravel(), minlength=len(self._score))
        seen = steps > 0
        self._score[seen] = total[seen] / steps[seen]
        self._rollouts += 1
        self._visited[seen] = self._rollouts
        self._reweigh()

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """As the base."""
        super().load_state(state)
        self._played.clear()
        self._reweigh()

    def _state_arrays(self) -> dict[str, np.ndarray]:
        own = {"score": self._score, "visited": self._visited, "rollouts": self._rollouts}
        return super()._state_arrays() | own

    def _reweigh(self) -> None:
        age = np.where(self._visited < 0, -1, self._rollouts - self._visited)
        chance = draw_chances(self._score, age, self._replay)
        # as many draws for each start of a window: which start is uniform inside it
        times = np.floor(chance * DRAW_UNITS / self._starts[:, rules.STARTS]).astype(np.int64)
        self._starts[:, rules.DRAWS] = np.cumsum(times * self._starts[:, rules.STARTS])


def cut_windows(starts: np.ndarray, window_bars: int) -> np.ndarray:
    """(W, 5) start rows: each of `starts` cut into windows of about `window_bars` bars, none shorter than half."""
    windows = []
    for _, first, count, last, ends_segment in starts.tolist():
        pieces = max(1, round(count / window_bars))
        edges = [first + count * piece // pieces for piece in range(pieces + 1)]
        windows += [(0, a, b - a, last, ends_segment) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    table = np.array(windows, np.int64)
    table[:, rules.DRAWS] = np.cumsum(table[:, rules.STARTS])
    return table


def draw_chances(score: np.ndarray, age: np.ndarray, replay: PretrainConfig) -> np.ndarray:
    """(W,) chance of each window to be the next one drawn.

    Args:
        score: (W,) mean |advantage|; read for visited windows only.
        age: (W,) rollouts since the last visit; negative where there was none.
        replay: temperature, staleness and the share of replays.
    """
    visited = age >= 0
    fresh = ~visited
    chance = np.zeros(len(score))
    replay_frac = replay.replay_frac if fresh.any() else 1.0
    if not visited.any():
        replay_frac = 0.0
    else:
        chance[visited] = replay_frac * replay_chances(score[visited], age[visited], replay)
    if fresh.any():
        chance[fresh] = (1 - replay_frac) / np.count_nonzero(fresh)
    return chance


def replay_chances(score: np.ndarray, age: np.ndarray, replay: PretrainConfig) -> np.ndarray:
    """Chance of each visited window among replays: (1 - rho) by rank of score + rho by staleness (eqs. 2 to 4).

    Rank 1 has the highest score, of equal ones the first window; a window of rank r weighs (1 / r)^(1 / beta).
    Staleness weighs by age; windows that are all of age 0 are equally stale.
    """
    rank = np.empty(len(score))
    rank[np.argsort(-score, kind="stable")] = np.arange(1, len(score) + 1)
    by_score = rank ** (-1 / replay.score_temperature)
    by_age = age if age.any() else np.ones(len(age))
    rho = replay.staleness_coef
    return (1 - rho) * by_score / by_score.sum() + rho * by_age / by_age.sum()
