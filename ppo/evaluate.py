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


def stateless(decide: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Agent:
    """A function (obs, mask) -> actions as an agent without memory."""
    return _Stateless(decide)


def rollout(tape: Tape, config: Config, spans: Spans, agent: Agent) -> Track:
    """Let an agent trade the spans, each of which begins an episode; `config` gives account and costs.

    Raises:
        BadDataError: there is no span.
    """
    terms = terms_of(config.env, config.costs, config.market.bars_per_year)
    observation = np.zeros((1, observation_size(config.env, tape.observation.shape[1])), np.float32)
    mask, play, firsts = np.zeros((1, ACTIONS), bool), agent.player(1), {first for first, _ in spans}

    def choose(row: int, account: np.ndarray) -> int:
        observe(account, tape.close[row], tape.observation[row], terms, observation[0])
        write_mask(account, terms, mask[0])
        return int(play(observation, mask, np.array([row in firsts]))[0])

    return _walk(tape, terms, spans, choose)


def follow(tape: Tape, config: Config, spans: Spans, long: np.ndarray) -> Track:
    """Be fully long where `long` (N,) is true at the close before, else in cash."""
    terms = terms_of(config.env, config.costs, config.market.bars_per_year)

    def choose(row: int, account: np.ndarray) -> int:
        if long[row] == (account[QUANTITY] > 0):
            return HOLD
        return BUY_ALL if long[row] else CLOSE_POSITION

    return _walk(tape, terms, spans, choose)


@dataclass(frozen=True)
class _Stateless:
    decide: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def player(self, count: int) -> Player:
        return lambda obs, mask, start: self.decide(obs, mask)


def _walk(tape: Tape, terms: np.ndarray, spans: Spans, choose: Callable[[int, np.ndarray], int]) -> Track:
    if not spans:
        raise BadDataError("the scored part has no run of two bars that an agent may trade on; give more data")
    rows = np.concatenate([np.arange(start, stop) for start, stop in spans])
    bars = price_table(tape, spans[-1][1])
    equity, weight, held = np.zeros((3, len(rows)))
    first, ordered, illegal = np.zeros((3, len(rows)), bool)
    action = np.full(len(rows), NO_ACTION, np.int8)
    fill_row, booked = [], []
    account, clock, fills = np.zeros(ACCOUNT_FIELDS), np.zeros(CLOCK_FIELDS, np.int64), np.zeros(FILL_SHAPE)
    account[EQUITY] = terms[INITIAL_EQUITY]
    alive, i = True, -1
    for start, stop in spans:
        i += 1
        open_account(account, account[EQUITY])
        clock[:] = (start, stop - 1, 1, 0)
        first[i], equity[i] = True, account[EQUITY]
        for row in range(start, stop - 1):
            choice = HOLD
            if alive:
                choice = action[i] = choose(row, account)
                illegal[i] = not is_legal(account, choice, terms)
            cash, quantity, price = account[CASH], account[QUANTITY], tape.open[row + 1]
            terminated, count = play(account, clock, choice, bars, terms, fills)[3::2]
            i += 1
            for fill in fills[:count].copy():
                fill_row.append(row + 1)
                booked.append(fill)
                if fill[F_REASON] in ORDERED:
                    cash, quantity, ordered[i] = fill[F_CASH], fill[F_POSITION], True
            at_open = cash + quantity * price
            # an open that gaps through a short's whole equity closes it there: the bar is spent flat
            held[i] = quantity * price / at_open if at_open > 0 else 0.0
            equity[i], weight[i] = account[EQUITY], account[QUANTITY] * tape.close[row + 1] / account[EQUITY]
            alive = alive and not terminated
    return Track(
        row=rows, first=first, equity=equity, weight=weight, held=held, ordered=ordered, action=action, illegal=illegal,
        liquidated=not alive, fill_row=np.array(fill_row, np.int64), fills=np.reshape(booked, (-1, FILL_SHAPE[1])),
        account=account, initial_equity=float(terms[INITIAL_EQUITY]),
    )  # fmt: skip
