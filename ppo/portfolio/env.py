"""Many portfolio accounts on one tape, stepped by one compiled kernel: the learner's fast path.

Episodes are drawn from (seed, environment, episode number) by a hash, as those of `ppo.vec_env`.
Shapes: E = environments, D = observation, K = assets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from configs.schema import Config
from ppo.env import SEED_MASK
from ppo.portfolio import rules
from ppo.portfolio.align import PortfolioTape, closing_flags, span_rows
from ppo.vec_env import StepArrays, put_back


class PortfolioEnvs:
    """E portfolio accounts; actions are raw (E, K) numbers, see `ppo.portfolio.rules`."""

    def __init__(
        self,
        tape: PortfolioTape,
        spans: Sequence[tuple[int, int]],
        config: Config,
        num_envs: int,
        seed: int = 0,
        episode_bars: int | None = None,
    ) -> None:
        """Read `tape` up to the end of `spans`; `episode_bars` replaces the configured length of an episode."""
        self._spans = span_rows(spans)
        stop, assets = spans[-1][1], len(tape.assets)
        self._prices = np.ascontiguousarray(tape.prices[:stop])
        self._flags = closing_flags(tape, stop)
        clip = config.env.observation_clip
        self._market = np.clip(tape.market[:stop], -clip, clip).astype(np.float32, order="C")
        env = config.env if episode_bars is None else config.env.model_copy(update={"episode_bars": episode_bars})
        self._terms = rules.terms_of(env, config.costs, config.market.bars_per_year, config.multi_asset)
        size = rules.observation_size(config.env, assets, tape.columns)
        self.num_envs, self.assets, self.observation = num_envs, assets, size
        self._account = np.zeros((num_envs, rules.ACCOUNT_FIELDS))
        self._legs = np.zeros((num_envs, assets, rules.LEG_FIELDS))
        self._clock = np.zeros((num_envs, rules.CLOCK_FIELDS), np.int64)
        self._clock[:, rules.EPISODE] = -1
        self._seed = np.array([seed & SEED_MASK], np.int64)
        self._order = np.zeros((rules.ORDER_FIELDS, assets))
        self._fills = np.zeros((rules.FILLS_PER_ASSET * assets, rules.FILL_FIELDS))
        self._actions = np.zeros((num_envs, assets), np.float32)
        self.orders = np.zeros(num_envs, np.int64)
        """(E,) legs that the last step wanted to trade."""
        self._arrays = StepArrays(
            obs=np.zeros((num_envs, size), np.float32),
            reward=np.zeros(num_envs, np.float32),
            log_return=np.zeros(num_envs),
            shaping=np.zeros(num_envs),
            terminated=np.zeros(num_envs, bool),
            truncated=np.zeros(num_envs, bool),
            final_obs=np.zeros((num_envs, size), np.float32),
            mask=np.zeros((num_envs, assets), bool),
        )

    def reset_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Start the next episode of every environment; the environments' own (E, D) obs and (E, K) mask."""
        own = self._arrays
        rules.reset_all(
            self._account, self._legs, self._clock, self._prices, self._flags, self._market, self._spans, self._seed,
            self._terms, own.obs, own.mask,
        )  # fmt: skip
        return own.obs, own.mask

    def start_arrays(self, decisions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Like `reset_arrays`, but environment e starts on `decisions[e]`, counted through all spans."""
        own = self._arrays
        for env, decision in enumerate(decisions):
            account, legs, clock = self._account[env], self._legs[env], self._clock[env]
            clock[rules.EPISODE] += 1
            rules.begin_episode(account, legs, clock, self._spans, decision, self._terms)
            rules.look(
                account, legs, clock[rules.BAR], self._prices, self._flags, self._market, self._terms,
                own.obs[env], own.mask[env],
            )  # fmt: skip
        return own.obs, own.mask

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """Step every environment by its raw action (E, K); ended episodes restart on their own."""
        self._actions[:] = actions
        own = self._arrays
        rules.play_all(
            self._account, self._legs, self._clock, self._actions, self._prices, self._flags, self._market,
            self._spans, self._seed, self._terms, self._order, self._fills, own.obs, own.mask, own.log_return,
            own.reward, own.shaping, own.terminated, own.truncated, own.final_obs, self.orders,
        )  # fmt: skip
        return own

    @property
    def equity(self) -> np.ndarray:
        """(E,) of the accounts at their last mark."""
        return self._account[:, rules.EQUITY].copy()

    def state(self) -> dict[str, np.ndarray]:
        """Everything that decides what comes next, copied."""
        return {name: array.copy() for name, array in self._state_arrays().items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a `state()` of as many environments of as many assets.

        Raises:
            EnvStateError: a part is missing or has another shape.
        """
        put_back(self._state_arrays(), state)

    def _state_arrays(self) -> dict[str, np.ndarray]:
        return {
            "account": self._account,
            "legs": self._legs,
            "clock": self._clock,
            "obs": self._arrays.obs,
            "mask": self._arrays.mask,
            "seed": self._seed,
        }
