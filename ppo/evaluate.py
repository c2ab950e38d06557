"""Play one account through a tape, bar by bar, and keep its track.

The arithmetic is `ppo.rules`, the same that agents train on. Every span starts
flat; on a span's last bar an open position is closed at the close with costs
(also on the last bar of the data), so a track ends flat and every trade in it is
paid in full. Equity is carried from span to span. After a liquidation the
account stays in cash to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from configs.errors import BadDataError
from configs.schema import Config
from ppo.rules import (
    ACCOUNT_FIELDS,
    ACTIONS,
    CASH,
    CLOCK_FIELDS,
    CLOSE_POSITION,
    EQUITY,
    F_CASH,
    F_POSITION,
    F_REASON,
    FILL_SHAPE,
    HOLD,
    INITIAL_EQUITY,
    ORDER,
    QUANTITY,
    REVERSE_CLOSE,
    REVERSE_OPEN,
    is_legal,
    observation_size,
    observe,
    open_account,
    play,
    terms_of,
    write_mask,
)
from ppo.tape import Tape, price_table

Player = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Plays n environments side by side, one step at a call, and may remember: (obs (n, D) float32, mask (n, A) bool,
start (n,) bool, true where an episode begins) -> actions (n,) numbers or (n, A) reals."""
Spans = Sequence[tuple[int, int]]
"""Half-open runs of bars, as `ppo.tape.spans` gives them."""
BUY_ALL = 3
NO_ACTION = -1
ORDERED = (ORDER, REVERSE_CLOSE, REVERSE_OPEN)
"""Reasons of fills that an agent asked for."""


class Agent(Protocol):
    """Who decides."""

    def player(self, count: int) -> Player:
        """A fresh player of `count` environments."""


@dataclass(frozen=True)
class Track:
    """What one account went through; T = bars of all spans, F = fills."""

    row: np.ndarray
    """(T,) int64 bars of the tape."""
    first: np.ndarray
    """(T,) bool: first bar of a span, which has no return."""
    equity: np.ndarray
    """(T,) at the close, after a forced close."""
    weight: np.ndarray
    """(T,) position over equity at the close, after a forced close."""
    held: np.ndarray
    """(T,) the weight at the open after the order was filled: what the bar was spent with."""
    ordered: np.ndarray
    """(T,) bool: an order of the agent was filled at the open."""
    action: np.ndarray
    """(T,) int8 decided at the close, -1 where none was (last bar of a span, after a liquidation)."""
    illegal: np.ndarray
    """(T,) bool: the decision was illegal and so a hold."""
    liquidated: bool
    fill_row: np.ndarray
    """(F,) int64 bar of each fill."""
    fills: np.ndarray
    """(F, 8) as `ppo.rules` lays them out."""
    account: np.ndarray
    """(8,) the account row after the last bar."""
    initial_equity: float

    @property
    def returns(self) -> np.ndarray:
        """Simple return of each bar but the first of each span."""
        return (self.equity[1:] / self.equity[:-1] - 1)[~self.first[1:]]


def rollout(tape: Tape, config: Config, spans: Spans, agent: Agent) -> Track:
    """Let an agent trade the spans, each of which begins an episode; `config` gives account and costs.

    Raises:
        BadDataError: there is no span.
    """
    return rollouts(tape, [config], spans, agent)[0]


def rollouts(tape: Tape, configs: Sequence[Config], spans: Spans, agent: Agent) -> list[Track]:
    """`rollout` under each of several configurations, which may differ in costs: all accounts side by side.

    The agent decides for all of them in one call, and one decision at a time is what takes the time.

    Raises:
        BadDataError: there is no span.
    """
    count, env_terms = len(configs), _terms(configs[0])
    observation = np.zeros((count, observation_size(configs[0].env, tape.observation.shape[1])), np.float32)
    mask, play, firsts = np.zeros((count, ACTIONS), bool), agent.player(count), {first for first, _ in spans}

    def choose(row: int, accounts: Sequence[np.ndarray]) -> Sequence[int]:
        for account, own_observation, own_mask in zip(accounts, observation, mask, strict=True):
            observe(account, tape.close[row], tape.observation[row], env_terms, own_observation)
            write_mask(account, env_terms, own_mask)
        return play(observation, mask, np.full(count, row in firsts)).tolist()

    return _walk(tape, [_terms(config) for config in configs], spans, choose)


def follow(tape: Tape, config: Config, spans: Spans, long: np.ndarray) -> Track:
    """Be fully long where `long` (N,) is true at the close before, else in cash."""

    def choose(row: int, accounts: Sequence[np.ndarray]) -> Sequence[int]:
        if long[row] == (accounts[0][QUANTITY] > 0):
            return [HOLD]
        return [BUY_ALL if long[row] else CLOSE_POSITION]

    return _walk(tape, [_terms(config)], spans, choose)[0]


def _terms(config: Config) -> np.ndarray:
    return terms_of(config.env, config.costs, config.market.bars_per_year)


Choose = Callable[[int, Sequence[np.ndarray]], Sequence[int]]
"""Bar decided on, account rows -> an action for each."""


def _walk(tape: Tape, terms: Sequence[np.ndarray], spans: Spans, choose: Choose) -> list[Track]:
    """Tracks of accounts that go through the spans side by side, each under its own terms."""
    if not spans:
        raise BadDataError("the scored part has no run of two bars that an agent may trade on; give more data")
    rows = np.concatenate([np.arange(start, stop) for start, stop in spans])
    bars = price_table(tape, spans[-1][1])
    walks = [_Walk(tape, bars, rows, own_terms) for own_terms in terms]
    accounts = [walk.account for walk in walks]
    for start, stop in spans:
        for walk in walks:
            walk.begin(start, stop)
        for row in range(start, stop - 1):
            actions = choose(row, accounts) if any(walk.alive for walk in walks) else [HOLD] * len(walks)
            for walk, action in zip(walks, actions, strict=True):
                walk.advance(row, action)
    return [walk.track() for walk in walks]


class _Walk:
    """One account on its way through the bars, and the track it leaves."""

    def __init__(self, tape: Tape, bars: np.ndarray, rows: np.ndarray, terms: np.ndarray) -> None:
        self._tape, self._bars, self._rows, self._terms = tape, bars, rows, terms
        self._equity, self._weight, self._held = np.zeros((3, len(rows)))
        self._first, self._ordered, self._illegal = np.zeros((3, len(rows)), bool)
        self._action = np.full(len(rows), NO_ACTION, np.int8)
        self._fill_row: list[int] = []
        self._booked: list[np.ndarray] = []
        self._clock, self._fills = np.zeros(CLOCK_FIELDS, np.int64), np.zeros(FILL_SHAPE)
        self._place = -1
        self.account = np.zeros(ACCOUNT_FIELDS)
        self.account[EQUITY] = terms[INITIAL_EQUITY]
        self.alive = True

    def begin(self, start: int, stop: int) -> None:
        """Stand flat at the close of a span's first bar."""
        open_account(self.account, self.account[EQUITY])
        self._clock[:] = (start, stop - 1, 1, 0)
        self._place += 1
        self._first[self._place], self._equity[self._place] = True, self.account[EQUITY]

    def advance(self, row: int, action: int) -> None:
        """Decide at the close of `row` and go on to the next close; a liquidated account decides nothing."""
        account, tape, choice = self.account, self._tape, HOLD
        if self.alive:
            choice = self._action[self._place] = action
            self._illegal[self._place] = not is_legal(account, action, self._terms)
        cash, quantity, price = account[CASH], account[QUANTITY], tape.open[row + 1]
        terminated, count = play(account, self._clock, choice, self._bars, self._terms, self._fills)[3::2]
        self._place = i = self._place + 1
        for fill in self._fills[:count].copy():
            self._fill_row.append(row + 1)
            self._booked.append(fill)
            if fill[F_REASON] in ORDERED:
                cash, quantity, self._ordered[i] = fill[F_CASH], fill[F_POSITION], True
        at_open = cash + quantity * price
        # an open that gaps through a short's whole equity closes it there: the bar is spent flat
        self._held[i] = quantity * price / at_open if at_open > 0 else 0.0
        self._equity[i] = account[EQUITY]
        self._weight[i] = account[QUANTITY] * tape.close[row + 1] / account[EQUITY]
        self.alive = self.alive and not terminated

    def track(self) -> Track:
        """What the account went through."""
        return Track(
            row=self._rows, first=self._first, equity=self._equity, weight=self._weight, held=self._held,
            ordered=self._ordered, action=self._action, illegal=self._illegal, liquidated=not self.alive,
            fill_row=np.array(self._fill_row, np.int64), fills=np.reshape(self._booked, (-1, FILL_SHAPE[1])),
            account=self.account, initial_equity=float(self._terms[INITIAL_EQUITY]),
        )  # fmt: skip
