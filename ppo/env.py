"""The market as a single Gymnasium environment; `import ppo.env` registers "SequenceRunner/Trading-v0".

Its reward is the plain log return of equity, so an episode's rewards sum to log(E_T / E_0); what the
project's learner sees of it (scaled, shaped, clipped) stands in the infos.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from configs.errors import ProjectError
from configs.schema import CostsConfig, EnvConfig
from ppo import rules
from ppo.tape import Tape, market_table, price_table, start_table

ENV_ID = "SequenceRunner/Trading-v0"
SEED_MASK = 2**63 - 1


class EpisodeStartError(ProjectError):
    """An episode was asked to start on a bar that no decision can be made on."""


def spaces(env: EnvConfig, columns: int) -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Discrete]:
    """Observation and action space over a tape of `columns` columns."""
    limit = max(env.observation_clip, env.weight_clip, env.cash_clip)
    size = rules.observation_size(env, columns)
    return gymnasium.spaces.Box(-limit, limit, (size,), np.float32), gymnasium.spaces.Discrete(rules.ACTIONS)


class TradingEnv(gymnasium.Env):
    """One trading account on one tape.

    Episodes start on a bar drawn from (seed, environment 0, episode number), as those of the first
    environment of a `TradingVecEnv` with the same seed, or where `reset(options={"start": bar})` says.
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        tape: Tape,
        spans: Sequence[tuple[int, int]],
        env: EnvConfig,
        costs: CostsConfig,
        bars_per_year: float,
        seed: int = 0,
    ) -> None:
        stop = spans[-1][1] if len(spans) else 0
        self._starts = start_table(tape, spans)
        self._bars = price_table(tape, stop)
        self._market = market_table(tape, stop, env.observation_clip)
        self._terms = rules.terms_of(env, costs, bars_per_year)
        self._shaping_name = env.shaping
        self.observation_space, self.action_space = spaces(env, self._market.shape[1])
        self._account = np.zeros(rules.ACCOUNT_FIELDS)
        self._clock = np.zeros(rules.CLOCK_FIELDS, np.int64)
        self._obs = np.zeros(self.observation_space.shape, np.float32)
        self._mask = np.zeros(rules.ACTIONS, bool)
        self._fills = np.zeros(rules.FILL_SHAPE)
        self._playing = False
        self._restart(seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start the next episode; a `seed` starts the series of episodes anew.

        Raises:
            EpisodeStartError: `options["start"]` is not a bar with a later bar in the same span.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._restart(seed)
        if options and "start" in options:
            start = self._decision_at(options["start"])
            rules.begin_episode(self._account, self._clock, self._starts, start, self._terms)
        else:
            rules.begin_next(self._account, self._clock, self._starts, self._seed, 0, self._terms)
        rules.look(self._account, self._clock, self._bars, self._market, self._terms, self._obs, self._mask)
        self._playing = True
        return self._obs.copy(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play one bar; an illegal action is a hold and `infos["illegal"]` says so.

        Raises:
            gymnasium.error.ResetNeeded: the episode is over, or none has begun.
        """
        if not self._playing:
            raise gymnasium.error.ResetNeeded("the episode is over or has not begun; call reset() before step()")
        action = int(action)
        illegal = not (0 <= action < rules.ACTIONS and self._mask[action])
        log_return, reward, shaping, terminated, truncated, _ = rules.play_one(
            self._account, self._clock, action, self._bars, self._market, self._terms, self._fills,
            self._obs, self._mask,
        )  # fmt: skip
        self._playing = not (terminated or truncated)
        info = {"learner_reward": reward, "illegal": illegal}
        if self._shaping_name != "none":
            info[self._shaping_name] = shaping
        return self._obs.copy(), log_return, terminated, truncated, info

    def action_masks(self) -> np.ndarray:
        """(9,) bool copy of the legal actions."""
        return self._mask.copy()

    @property
    def equity(self) -> float:
        """Of the account at its last mark."""
        return float(self._account[rules.EQUITY])

    @property
    def bar(self) -> int:
        """Bar of the tape at whose close the agent decides."""
        return int(self._clock[rules.BAR])

    def _restart(self, seed: int) -> None:
        self._seed = seed & SEED_MASK
        self._clock[rules.EPISODE] = -1

    def _decision_at(self, bar: int) -> int:
        for draws, first, starts, *_ in self._starts.tolist():
            if first <= bar < first + starts:
                return draws - starts + bar - first
        raise EpisodeStartError(
            f"episode start {bar!r} is not a bar with a later bar in its span; "
            f"spans begin and end at {self._starts[:, [rules.FIRST, rules.LAST]].tolist()}"
        )


gymnasium.register(ENV_ID, entry_point="ppo.env:TradingEnv")
