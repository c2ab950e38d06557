"""Play portfolio accounts through a tape, row by row, and keep their tracks.

Several accounts (cost levels, slices) are played side by side, so that a policy decides for all at once. Every
span starts flat and ends flat: on its last row open positions are closed at their last closes, with costs. Equity
is carried from span to span; after a liquidation the account stays in cash to the end.
Shapes: T = rows of all spans, K = assets, F = fills.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from configs.errors import BadDataError
from ppo.evaluate import Agent, Spans
from ppo.portfolio import rules
from ppo.portfolio.align import PortfolioTape, closing_flags
from ppo.portfolio.rules import (
    CLOSE,
    EQUITY,
    F_ASSET,
    F_CASH,
    F_FLOW,
    F_POSITION,
    F_REASON,
    FLOW,
    OPEN,
    ORDERED,
    QUANTITY,
    TRIMMED,
)
from ppo.rules import SHAPING_STATE

Rule = Callable[["Account"], None]
"""Fills `account.order` for the row after `account.row`."""


@dataclass(frozen=True)
class PortfolioTrack:
    """What one account went through."""

    row: np.ndarray
    """(T,) int64 rows of the tape."""
    first: np.ndarray
    """(T,) bool: first row of a span, which has no return."""
    equity: np.ndarray
    """(T,) at the closes, after forced closes."""
    weight: np.ndarray
    """(T, K) positions over equity at the closes, after forced closes."""
    held: np.ndarray
    """(T, K) the weights at the opens after the order was filled: what the row was spent with."""
    ordered: np.ndarray
    """(T, K) bool: an order for the leg was filled at the open; what the limits trimmed is not ordered."""
    profit: np.ndarray
    """(T, K) what each leg has earned so far, costs and borrow in it; the sum is the equity's growth."""
    liquidated: bool
    fill_row: np.ndarray
    """(F,) int64 row of each fill."""
    fills: np.ndarray
    """(F, FILL_FIELDS) as `ppo.portfolio.rules` lays them out."""
    account: np.ndarray
    """The account row after the last row."""
    legs: np.ndarray
    """(K, LEG_FIELDS) after the last row."""
    initial_equity: float

    @property
    def returns(self) -> np.ndarray:
        """Simple return of each row but the first of each span."""
        return (self.equity[1:] / self.equity[:-1] - 1)[~self.first[1:]]

    def trips(self, asset: int | None = None) -> np.ndarray:
        """Profit of each round trip of a leg, from flat to flat, costs and borrow in it; of all legs by default."""
        if asset is None:
            return np.concatenate([self.trips(k) for k in range(self.weight.shape[1])])
        ended = (self.fills[:, F_ASSET] == asset) & (self.fills[:, F_POSITION] == 0)
        return np.diff(self.fills[ended, F_FLOW], prepend=0.0)


@dataclass(frozen=True)
class Lane:
    """One account to be played: where, and by which numbers of the rules."""

    spans: Spans
    terms: np.ndarray


class Account:
    """One account at work; `row` is the row it decides on."""

    def __init__(self, tape: PortfolioTape, lane: Lane) -> None:
        """Start flat on the first row of the lane."""
        rows = np.concatenate([np.arange(start, stop) for start, stop in lane.spans])
        count, assets = len(rows), len(tape.assets)
        first = np.isin(rows, [start for start, _ in lane.spans])
        self.tape, self.flags, self.terms = tape, closing_flags(tape, lane.spans[-1][1]), lane.terms
        self.account, self.legs, self.order, self._fills = rules.workspace(assets)
        self.done = False
        self._alive, self._at = True, -1
        self._rows, self._first, self._equity = rows, first, np.zeros(count)
        self._weight, self._held, self._profit = np.zeros((3, count, assets))
        self._ordered = np.zeros((count, assets), bool)
        self._fill_row: list[int] = []
        self._booked: list[np.ndarray] = []
        self.account[EQUITY] = lane.terms[rules.INITIAL_EQUITY]
        self._begin_span()

    @property
    def row(self) -> int:
        """Row at whose close is decided."""
        return int(self._rows[self._at])

    @property
    def starts(self) -> bool:
        """Whether a span begins here."""
        return bool(self._first[self._at])

    def look(self, obs: np.ndarray, mask: np.ndarray) -> None:
        """Write what an agent sees here."""
        tape = self.tape
        rules.look(self.account, self.legs, self.row, tape.prices, self.flags, tape.market, self.terms, obs, mask)

    def decide(self, action: np.ndarray) -> None:
        """Fill the order from a raw action (K,)."""
        rules.write_order(
            self.account, self.legs, action, self.row, self.tape.prices, self.flags, self.terms, self.order
        )

    def step(self) -> None:
        """Play the next row with the order."""
        if not self._alive:
            self.order[:] = 0.0
        self._at = at = self._at + 1
        row, ends = self.row, at + 1 == len(self._rows) or bool(self._first[at + 1])
        bar, cash, quantity = self.tape.prices[row], self.account[rules.CASH], self.legs[:, QUANTITY].copy()
        _, over, count = rules.advance(
            self.account, self.legs, self.order, bar, self.flags[row], ends, self.terms, self._fills
        )
        if count:
            cash = self._book(row, self._fills[:count].copy(), cash, quantity)
        values = quantity * bar[:, OPEN]
        at_open = cash + values.sum()
        if at_open > 0:
            self._held[at] = values / at_open
        self._mark()
        self._alive = self._alive and not over
        self.done = at + 1 == len(self._rows)
        if ends and not self.done:
            self._begin_span()

    def track(self) -> PortfolioTrack:
        """What happened so far."""
        fills = np.reshape(self._booked, (-1, rules.FILL_FIELDS))
        return PortfolioTrack(
            row=self._rows, first=self._first, equity=self._equity, weight=self._weight, held=self._held,
            ordered=self._ordered, profit=self._profit, liquidated=not self._alive,
            fill_row=np.array(self._fill_row, np.int64), fills=fills, account=self.account, legs=self.legs,
            initial_equity=float(self.terms[rules.INITIAL_EQUITY]),
        )  # fmt: skip

    def _book(self, row: int, fills: np.ndarray, cash: float, quantity: np.ndarray) -> float:
        """Keep a row's fills; puts `quantity` where the order left it and returns its cash."""
        for fill in fills:
            self._fill_row.append(row)
            self._booked.append(fill)
            if fill[F_REASON] in (ORDERED, TRIMMED):
                leg = int(fill[F_ASSET])
                cash, quantity[leg] = fill[F_CASH], fill[F_POSITION]
                self._ordered[self._at, leg] = fill[F_REASON] == ORDERED
        return cash

    def _begin_span(self) -> None:
        flow = self.legs[:, FLOW].copy()
        rules.open_account(self.account, self.legs, self.account[EQUITY])
        self.legs[:, FLOW] = flow
        self._at += 1
        self._mark()

    def _mark(self) -> None:
        at, values = self._at, self.legs[:, QUANTITY] * self.tape.prices[self.row, :, CLOSE]
        self._equity[at] = self.account[EQUITY]
        self._weight[at] = values / self.account[EQUITY]
        self._profit[at] = self.legs[:, FLOW] + values


def rollouts(tape: PortfolioTape, lanes: Sequence[Lane], agent: Agent) -> list[PortfolioTrack]:
    """Let one agent trade all lanes side by side, greedily; each span begins an episode."""
    accounts = _accounts(tape, lanes)
    assets, size = len(tape.assets), _observation_size(tape, lanes[0].terms)
    obs, mask = np.zeros((len(lanes), size), np.float32), np.zeros((len(lanes), assets), bool)
    play = agent.player(len(lanes))
    while not all(account.done for account in accounts):
        for account, own_obs, own_mask in zip(accounts, obs, mask, strict=True):
            account.look(own_obs, own_mask)
        actions = play(obs, mask, np.array([account.starts for account in accounts]))
        for account, action in zip(accounts, actions, strict=True):
            if not account.done:
                account.decide(action)
                account.step()
    return [account.track() for account in accounts]


def follow(tape: PortfolioTape, lane: Lane, rule: Rule) -> PortfolioTrack:
    """Let a rule fill the orders of one account."""
    (account,) = _accounts(tape, [lane])
    while not account.done:
        account.order[:] = 0.0
        rule(account)
        account.step()
    return account.track()


def _accounts(tape: PortfolioTape, lanes: Sequence[Lane]) -> list[Account]:
    if not lanes or not all(len(lane.spans) for lane in lanes):
        raise BadDataError("the scored part has no run of two rows that an agent may trade on; give more data")
    return [Account(tape, lane) for lane in lanes]


def _observation_size(tape: PortfolioTape, terms: np.ndarray) -> int:
    shaping = SHAPING_STATE[int(terms[rules.SHAPING])]
    return tape.market.shape[1] + len(tape.assets) * rules.LEG_OBSERVATION + rules.ACCOUNT_OBSERVATION + shaping
