"""Markets with a planted law, and what the best possible player of that law does.

The law. A sign s_t in {-1, +1} is drawn anew (each with probability 1/2) on a
bar with probability 1 / regime_bars; regime_bars = 1 is the iid market. A bar
opens at the close before it, and the log return of bar t + 1 is
s_t x drift + N(0, volatility). Column 0 of what is seen at the close of bar t is
s_t + N(0, noise); the other 17 columns are N(0, 1) and mean nothing.

The optimum. P(s_t = +1) given column 0 up to t follows Bayes' rule; the best
action follows by dynamic programming (relative value iteration, average log
return per bar) over (that belief, weight of the position), with the game's nine
actions, their masks and their costs. Its player remembers the past of column 0,
which a memoryless agent cannot; what it gets is measured by letting it play the
real game on the same bars.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ppo.evaluate import Player
from ppo.rules import ACTIONS, CLOSE_POSITION, HOLD, REVERSE
from ppo.tape import Tape
from tests.ppo.worlds import make_tape

BUY_ALL = 3
COLUMNS = 18
LOG_ODDS = np.linspace(-12, 12, 121)
WEIGHTS = np.linspace(-1.6, 1.0, 53)
MIN_CASH = 0.001
TOLERANCE = 1e-8


@dataclass(frozen=True)
class Law:
    """One planted market."""

    regime_bars: int
    drift: float
    volatility: float
    noise: float
    fee_frac: float = 0.0005

    @property
    def flip(self) -> float:
        """Probability that the sign changes from one bar to the next."""
        return 0.5 / self.regime_bars

    def tape(self, count: int, seed: int) -> Tape:
        """`count` bars of this market."""
        rng = np.random.default_rng(seed)
        drawn = rng.random(count) < 1 / self.regime_bars
        drawn[0] = True
        sign = rng.choice([-1.0, 1.0], count)[np.maximum.accumulate(np.where(drawn, np.arange(count), 0))]
        moves = np.r_[0.0, sign[:-1] * self.drift] + rng.normal(0, self.volatility, count)
        closes = 100 * np.exp(np.cumsum(moves))
        opens = np.r_[100.0, closes[:-1]]
        seen = rng.normal(0, 1, (count, COLUMNS))
        seen[:, 0] = sign + rng.normal(0, self.noise, count)
        return make_tape(opens, np.maximum(opens, closes), closes, observation=np.clip(seen, -10, 10))

    def log_odds(self, seen: np.ndarray) -> np.ndarray:
        """Log odds of s_t = +1 given column 0 up to t."""
        odds, out = 0.0, np.empty(len(seen))
        for bar, x in enumerate(seen):
            odds = float(np.clip(self._prior(expit(odds)) + 2 * x / self.noise**2, LOG_ODDS[0], LOG_ODDS[-1]))
            out[bar] = odds
        return out

    def best_actions(self) -> np.ndarray:
        """(beliefs, weights) best action on the grids `LOG_ODDS` and `WEIGHTS`."""
        belief = expit(LOG_ODDS)[:, None]
        growth_up, weight_up = held_bar(self.drift, self.volatility)
        growth_down, weight_down = held_bar(-self.drift, self.volatility)
        growth = belief * growth_up + (1 - belief) * growth_down
        belief_up, belief_down = self._next_beliefs(1 - self.flip), self._next_beliefs(self.flip)
        fills = [fill(action, self.fee_frac) for action in range(ACTIONS)]
        value = np.zeros((len(LOG_ODDS), len(WEIGHTS)))
        while True:
            held = (
                growth
                + belief * (belief_up @ value @ weight_up.T)
                + (1 - belief) * (belief_down @ value @ weight_down.T)
            )
            worth = np.stack([cost + held @ after.T for cost, after in fills])
            change = worth.max(axis=0) - value
            if np.ptp(change) < TOLERANCE:
                return worth.argmax(axis=0)
            value += change - change.min()

    def _prior(self, belief):
        """Log odds of the next sign before anything new is seen."""
        up = belief * (1 - self.flip) + (1 - belief) * self.flip
        return np.log(up) - np.log1p(-up)

    def _next_beliefs(self, up: float) -> np.ndarray:
        """Table of the next log odds, where the next sign is +1 with probability `up`."""
        nodes, mass = np.polynomial.hermite_e.hermegauss(31)
        mass = mass / mass.sum()
        seen = np.r_[1 + self.noise * nodes, -1 + self.noise * nodes]
        after = self._prior(expit(LOG_ODDS))[:, None] + 2 * seen / self.noise**2
        return _table(LOG_ODDS, after, np.r_[up * mass, (1 - up) * mass])


def held_bar(drift: float, volatility: float, borrow_frac: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Expected log growth by weight held over one bar, and the table of the weight after it; shorts pay to borrow."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(15)
    move = np.expm1(drift + volatility * nodes)
    growth = 1 + WEIGHTS[:, None] * move - borrow_frac * np.maximum(-WEIGHTS[:, None], 0)
    after = WEIGHTS[:, None] * (1 + move) / growth
    return np.log(growth) @ mass / mass.sum(), _table(WEIGHTS, after, mass / mass.sum())


def fill(action: int, fee: float) -> tuple[np.ndarray, np.ndarray]:
    """Log cost by weight (-inf where illegal) and the table of the weight after the fill, for equity 1 at price 1."""
    weight, cash = WEIGHTS, 1 - WEIGHTS
    if action == HOLD:
        legal, equity, after = np.ones(len(weight), bool), np.ones(len(weight)), weight
    elif action <= BUY_ALL:
        bought = (0.25, 0.5, 1.0)[action - 1] * cash / (1 + fee)
        equity = 1 - fee * bought
        legal, after = (weight > -1e-9) & (cash >= MIN_CASH), (weight + bought) / equity
    elif action < CLOSE_POSITION:
        sold = (0.25, 0.5, 1.0)[action - 1 - BUY_ALL] * weight
        sold = np.where(weight - sold < MIN_CASH, weight, sold)
        equity = 1 - fee * sold
        legal, after = weight > 1e-9, (weight - sold) / equity
    else:
        opened = np.minimum(np.abs(weight), 1) * (action == REVERSE)
        equity = (1 - fee * np.abs(weight)) / (1 + fee * opened)
        legal, after = np.abs(weight) > 1e-9, -np.sign(weight) * opened
    return np.where(legal, np.log(equity), -np.inf), _table(WEIGHTS, after[:, None], np.ones(1))


def _table(grid: np.ndarray, points: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """(rows, grid) weights that interpolate linearly at `points` (rows, nodes), averaged with `mass` (nodes,)."""
    place = (np.clip(points, grid[0], grid[-1]) - grid[0]) / (grid[1] - grid[0])
    low = np.minimum(place.astype(int), len(grid) - 2)
    table = np.zeros((len(points), len(grid)))
    row = np.arange(len(points))[:, None]
    np.add.at(table, (row, low), mass * (1 - (place - low)))
    np.add.at(table, (row, low + 1), mass * (place - low))
    return table


class Optimal:
    """The optimum as an agent that plays from bar `first` on."""

    def __init__(self, law: Law, tape: Tape, first: int) -> None:
        self._actions = law.best_actions()
        self._belief = nearest(LOG_ODDS, law.log_odds(tape.observation[:, 0].astype(float)))
        self._first = first

    def player(self, count: int) -> Player:
        """It counts the bars itself."""
        bars = itertools.count(self._first)

        def play(obs: np.ndarray, mask: np.ndarray, start: np.ndarray) -> np.ndarray:
            actions = self._actions[self._belief[next(bars)], nearest(WEIGHTS, obs[:, COLUMNS])]
            return np.where(mask[np.arange(len(obs)), actions], actions, HOLD)

        return play


def nearest(grid: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.clip(np.rint((points - grid[0]) / (grid[1] - grid[0])), 0, len(grid) - 1).astype(int)


def follow(obs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Blindly be on the side that column 0 names, with all there is."""
    weight, up = obs[:, COLUMNS], obs[:, 0] > 0
    wanted = np.where(up, np.where(weight < 0, REVERSE, BUY_ALL), np.where(weight > 0, REVERSE, HOLD))
    return np.where(mask[np.arange(len(obs)), wanted], wanted, HOLD)
