"""Many environments stepped by one compiled kernel, behind Stable-Baselines3's VecEnv interface.

Two ways in: `reset_arrays` / `step_arrays` for learners that want arrays (no copies, no dicts), and
VecEnv's own methods for SB3 and sb3-contrib. Episodes are drawn from (seed, environment, episode number)
by a hash, so what an environment does never depends on how many others there are.
Shapes: E = environments, D = observation, 9 actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from configs.errors import ProjectError
from configs.schema import CostsConfig, EnvConfig
from ppo import rules
from ppo.env import SEED_MASK, spaces
from ppo.tape import Tape, market_table, price_table, start_table


class EnvStateError(ProjectError):
    """A saved state does not fit this environment."""


@dataclass(frozen=True)
class StepArrays:
    """What one step gave; the arrays are the environment's own and are overwritten by the next step."""

    obs: np.ndarray
    """(E, D) float32; of the next episode where one ended."""
    reward: np.ndarray
    """(E,) float32, for the learner: clip(reward_scale x log_return + shaping, +-reward_clip)."""
    log_return: np.ndarray
    """(E,) float64, of equity."""
    shaping: np.ndarray
    """(E,) float64, the named shaping's term inside `reward`."""
    terminated: np.ndarray
    truncated: np.ndarray
    final_obs: np.ndarray
    """(E, D) float32, the ended episode's last observation; valid only where one ended."""
    mask: np.ndarray
    """(E, 9) bool, legal actions on `obs`."""


def put_back(own: dict[str, np.ndarray], state: dict[str, np.ndarray]) -> None:
    """Overwrite an environment's own arrays with a saved state, all of them or none.

    Raises:
        EnvStateError: a part is missing or has another shape.
    """
    for name, array in own.items():
        found = np.shape(state[name]) if name in state else "nothing"
        if found != array.shape:
            raise EnvStateError(f"environment state {name!r} has shape {found}, expected {array.shape}")
    for name, array in own.items():
        array[...] = state[name]


class TradingVecEnv(VecEnv):
    """E trading accounts on one tape."""

    def __init__(
        self,
        tape: Tape,
        spans: Sequence[tuple[int, int]],
        env: EnvConfig,
        costs: CostsConfig,
        bars_per_year: float,
        num_envs: int,
        seed: int = 0,
    ) -> None:
        stop = spans[-1][1] if len(spans) else 0
        self._starts = start_table(tape, spans)
        self._bars = price_table(tape, stop)
        self._market = market_table(tape, stop, env.observation_clip)
        self._terms = rules.terms_of(env, costs, bars_per_year)
        self._shaping_name = env.shaping
        observation_space, action_space = spaces(env, self._market.shape[1])
        size = observation_space.shape[0]
        self.render_mode = None
        super().__init__(num_envs, observation_space, action_space)
        self._account = np.zeros((num_envs, rules.ACCOUNT_FIELDS))
        self._clock = np.zeros((num_envs, rules.CLOCK_FIELDS), np.int64)
        self._counters = np.zeros(rules.COUNTERS, np.int64)
        self._fills = np.zeros(rules.FILL_SHAPE)
        self._actions = np.zeros(num_envs, np.int64)
        self._arrays = StepArrays(
            obs=np.zeros((num_envs, size), np.float32),
            reward=np.zeros(num_envs, np.float32),
            log_return=np.zeros(num_envs),
            shaping=np.zeros(num_envs),
            terminated=np.zeros(num_envs, bool),
            truncated=np.zeros(num_envs, bool),
            final_obs=np.zeros((num_envs, size), np.float32),
            mask=np.zeros((num_envs, rules.ACTIONS), bool),
        )
        self._restart(seed)

    def reset_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Start the next episode of every environment; the environment's own (E, D) obs and (E, 9) mask."""
        own = self._arrays
        rules.reset_all(
            self._account, self._clock, self._bars, self._market, self._starts, self._seed, self._terms,
            own.obs, own.mask,
        )  # fmt: skip
        return own.obs, own.mask

    def start_arrays(self, decisions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Like `reset_arrays`, but environment e starts on `decisions[e]`, counted through all spans."""
        own = self._arrays
        for env, decision in enumerate(decisions):
            account, clock = self._account[env], self._clock[env]
            clock[rules.EPISODE] += 1
            rules.begin_episode(account, clock, self._starts, decision, self._terms)
            rules.look(account, clock, self._bars, self._market, self._terms, own.obs[env], own.mask[env])
        return own.obs, own.mask

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """Step every environment by its action (E,); ended episodes restart on their own."""
        self._actions[:] = actions
        own = self._arrays
        rules.play_all(
            self._account, self._clock, self._actions, self._bars, self._market, self._starts, self._seed, self._terms,
            own.obs, own.mask, own.log_return, own.reward, own.shaping, own.terminated, own.truncated, own.final_obs,
            self._counters, self._fills,
        )  # fmt: skip
        return own

    def statistics(self) -> dict[str, Any]:
        """Counts since the last call: legal actions by number (9,), illegal ones (played as holds),
        steps that changed a position, episodes ended, liquidations."""
        counts = self._counters.copy()
        self._counters[:] = 0
        return {
            "actions": counts[: rules.ACTIONS],
            "illegal": int(counts[rules.ILLEGAL]),
            "position_changes": int(counts[rules.POSITION_CHANGES]),
            "episodes": int(counts[rules.EPISODES]),
            "liquidations": int(counts[rules.LIQUIDATIONS]),
        }

    def state(self) -> dict[str, np.ndarray]:
        """Everything that decides what comes next, copied."""
        return {name: array.copy() for name, array in self._state_arrays().items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a `state()` of an environment with the same number of accounts and columns.

        Raises:
            EnvStateError: a part is missing or has another shape.
        """
        put_back(self._state_arrays(), state)

    def _state_arrays(self) -> dict[str, np.ndarray]:
        return {
            "account": self._account,
            "clock": self._clock,
            "counters": self._counters,
            "obs": self._arrays.obs,
            "mask": self._arrays.mask,
            "seed": self._seed,
        }

    def _restart(self, seed: int) -> None:
        self._seed = np.array([seed & SEED_MASK], np.int64)
        self._clock[:, rules.EPISODE] = -1

    # Stable-Baselines3's interface

    def reset(self) -> np.ndarray:
        """Start the next episode of every environment; a copy of the observations."""
        if self._seeds[0] is not None:
            self._restart(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self.reset_arrays()[0].copy()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Use `seed` as the root of all episodes from the next reset on, counted from episode 0."""
        self._seeds = [seed] * self.num_envs
        return self._seeds

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of the next `step_wait`."""
        self._actions[:] = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step; copies of observations, rewards and dones, and fresh infos as SB3 expects them."""
        step = self.step_arrays(self._actions)
        dones = step.terminated | step.truncated
        if self._shaping_name == "none":
            infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        else:
            infos = [{self._shaping_name: term} for term in step.shaping.tolist()]
        for env in np.flatnonzero(dones).tolist():
            infos[env]["terminal_observation"] = step.final_obs[env].copy()
            infos[env]["TimeLimit.truncated"] = bool(step.truncated[env])
        return step.obs.copy(), step.reward.copy(), dones, infos

    def action_masks(self) -> np.ndarray:
        """(E, 9) bool copy of the legal actions."""
        return self._arrays.mask.copy()

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method that answers for all environments at once; one entry per asked environment."""
        answer = getattr(self, method_name)(*method_args, **method_kwargs)
        return [answer[env] for env in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """The attribute, which all environments share, once per asked environment."""
        value = getattr(self, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Refused: the environments share one configuration, fixed at construction."""
        raise AttributeError(f"cannot set {attr_name!r} to {value!r}: a TradingVecEnv is fixed when it is built")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: int | Iterable[int] | None = None
    ) -> list[bool]:
        """No environment is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """No environment draws itself."""
        return [None] * self.num_envs

    def close(self) -> None:
        """Nothing to release."""
