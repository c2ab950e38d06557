"""A market that pays for memory: its signal is seen `delay` - 1 bars before the move it announces.

The law. Every bar falls by `fall`, except that `delay` bars after a pulse one
rises by `rise`. A pulse comes with probability `pulse_frac` on a bar without a
cycle under way: column 0 is 1 on that bar and 0 on all others, and nothing else is
seen. Every bar adds N(0, volatility). A short pays more to borrow than falling prices
give it. So a long position that is held from the pulse on, or all the time, loses
more than it earns: it pays to be in cash until the last bar, which only who
remembers the pulse can know.

The bound. A memoryless player that holds a position may read from its account
(holding time, unrealised return) how far a cycle is, so let it know that for
free; in cash its account always looks the same, so there it has one action for "a
pulse now" and one for "no pulse now". For each of the 4 x 4 choices of these two the best
average log return per bar follows by dynamic programming (relative value
iteration) over (phase of the cycle, weight of the position); the best of the 16 is
above every deterministic memoryless policy, and greedy play is deterministic.
With the choice free in each phase the same program gives the optimum with memory.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ppo.evaluate import Player
from ppo.rules import ACTIONS, HOLD
from ppo.tape import Tape
from tests.ppo.planted import WEIGHTS, fill, held_bar, nearest
from tests.ppo.worlds import make_tape

IDLE, PULSE = 0, 1
FLAT = int(np.argmin(abs(WEIGHTS)))
FROM_CASH = (0, 1, 2, 3)
"""Actions that are legal in cash: hold and the three purchases."""
SWEEPS = 400
SIGNAL = 3.0


@dataclass(frozen=True)
class Delayed:
    """One such market."""

    delay: int
    rise: float
    fall: float
    pulse_frac: float = 0.2
    volatility: float = 0.001
    fee_frac: float = 0.002

    @property
    def borrow_frac(self) -> float:
        """Of a short's notional, per bar."""
        return 1.2 * self.fall

    @property
    def drifts(self) -> np.ndarray:
        """(phases,) drift of the bar after each phase: idle, pulse, then the bars of waiting."""
        return np.array([-self.fall] * self.delay + [self.rise])

    def phases(self, count: int, seed: int) -> np.ndarray:
        """(count,) phase of each bar."""
        rng, phase, out = np.random.default_rng(seed), IDLE, np.zeros(count, np.int64)
        for bar, drawn in enumerate(rng.random(count) < self.pulse_frac):
            phase = phase + 1 if 0 < phase < self.delay else (PULSE if drawn else IDLE)
            out[bar] = phase
        return out

    def tape(self, count: int, seed: int) -> Tape:
        """`count` bars of this market."""
        phases, noise = self.phases(count, seed), np.random.default_rng(seed + 1).normal(0, self.volatility, count)
        closes = 100 * np.exp(np.cumsum(np.r_[0.0, self.drifts[phases[:-1]]] + noise))
        opens = np.r_[100.0, closes[:-1]]
        return make_tape(opens, np.maximum(opens, closes), closes, observation=SIGNAL * (phases == PULSE)[:, None])

    def best(self, *, memory: bool) -> tuple[float, np.ndarray]:
        """Best average log return per bar, and the action by (phase, weight); without memory it is the bound."""
        if memory:
            return self._solve(None)
        return max(
            (self._solve(choice) for choice in itertools.product(FROM_CASH, repeat=2)), key=lambda found: found[0]
        )

    def _solve(self, in_cash: tuple[int, int] | None) -> tuple[float, np.ndarray]:
        """With these actions in cash where there is no pulse and where there is one; None leaves them free."""
        bars = [held_bar(drift, self.volatility, self.borrow_frac) for drift in self.drifts]
        growth, after_bar = np.stack([each[0] for each in bars]), np.stack([each[1] for each in bars])
        follows = np.eye(self.delay + 1, k=1)
        follows[[IDLE, self.delay]] = 0
        follows[np.ix_([IDLE, self.delay], [IDLE, PULSE])] = 1 - self.pulse_frac, self.pulse_frac
        costs, after_fill = zip(*(fill(action, self.fee_frac) for action in range(ACTIONS)), strict=True)
        allowed = np.tile(np.stack(costs)[:, None], (1, self.delay + 1, 1))
        if in_cash is not None:
            for phase in range(self.delay + 1):
                keep = np.arange(ACTIONS) == in_cash[phase == PULSE]
                allowed[~keep, phase, FLAT] = -np.inf
        value, rate = np.zeros((self.delay + 1, len(WEIGHTS))), 0.0
        for _ in range(SWEEPS):
            held = growth + np.einsum("pwv,pv->pw", after_bar, follows @ value)
            worth = allowed + np.stack([held @ table.T for table in after_fill])
            new = 0.5 * value + 0.5 * worth.max(axis=0)  # half a step: cycles of fixed length would oscillate
            rate = 2 * float((new - value)[IDLE, FLAT])
            value = new - new[IDLE, FLAT]
        return rate, worth.argmax(axis=0)


class Knowing:
    """Plays a table of actions by (phase, weight), from bar `first` of a tape of these phases on."""

    def __init__(self, table: np.ndarray, phases: np.ndarray, first: int) -> None:
        self._table, self._phases, self._first = table, phases, first

    def player(self, count: int) -> Player:
        """It counts the bars itself."""
        bars = itertools.count(self._first)

        def play(obs: np.ndarray, mask: np.ndarray, start: np.ndarray) -> np.ndarray:
            actions = self._table[self._phases[next(bars)], nearest(WEIGHTS, obs[:, 1])]
            return np.where(mask[np.arange(len(obs)), actions], actions, HOLD)

        return play
