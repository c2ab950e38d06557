"""What a portfolio's agent must beat: simple holdings on the same rows and costs, and its own weights at random times.

Each rule buys an asset when it may first be traded in a span, and again after its segment ended; the moving-average
rule while the asset's own averages say so. Purchases are paid from cash and know no limits. The random baseline keeps
the agents' target weights and their order and moves them in time by a circular shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import numpy as np

from configs.schema import Config
from ppo.baselines import Shifts, moving_average_long
from ppo.evaluate import Spans
from ppo.portfolio import rules
from ppo.portfolio.align import PortfolioTape, closing_flags
from ppo.portfolio.play import Account, Lane, PortfolioTrack, Rule, follow
from ppo.portfolio.rules import CASH, CLOSE, EQUITY, PRESENT, QUANTITY, READY, TARGET, TRADABLE, WANTED


def rule_tracks(tape: PortfolioTape, config: Config, spans: Spans) -> dict[str, PortfolioTrack]:
    """Tracks of the rule baselines by name."""
    count = len(tape.assets)
    equal, alone = np.full(count, 1 / count), np.eye(count)
    long = moving_averages_long(tape, *config.judging.moving_average_bars)
    chosen: dict[str, Rule] = {
        "flat": lambda account: None,
        "buy_and_hold": partial(_hold, share=equal),
        "moving_average": lambda account: _hold(account, equal * long[account.row]),
        "rebalanced_monthly": partial(_rebalance, share=equal),
    }
    if count > 1:
        chosen |= {f"buy_and_hold_{symbol}": partial(_hold, share=alone[k]) for k, symbol in enumerate(tape.assets)}
    lane = Lane(spans, rules.terms_of(config.env, config.costs, config.market.bars_per_year, config.multi_asset))
    return {name: follow(tape, lane, rule) for name, rule in chosen.items()}


def moving_averages_long(tape: PortfolioTape, fast: int, slow: int) -> np.ndarray:
    """(U, K) bool: `ppo.baselines.moving_average_long` of each asset's own bars; false where it has none."""
    long = np.zeros(tape.segment.shape, bool)
    for k in range(len(tape.assets)):
        rows = np.flatnonzero(tape.flags[:, k] & PRESENT)
        long[rows, k] = moving_average_long(tape.prices[rows, k, CLOSE], tape.segment[rows, k], fast, slow)
    return long


def shifted(
    tape: PortfolioTape, config: Config, spans: Spans, tracks: Sequence[PortfolioTrack], shifts: np.ndarray
) -> Shifts:
    """Replay the tracks' target weights moved by `shifts` (S,) rows: all tracks by the same, then their mean return.

    Rows with a return form a ring over all spans, as in `ppo.baselines.shifted`; a leg that has no bar where the
    shift puts its order is left alone. A shift by 0 gives the tracks' own returns.
    """
    counted = ~tracks[0].first
    row, last = tracks[0].row[counted], np.r_[tracks[0].first[1:], True][counted]
    starts = tracks[0].first[:-1][counted[1:]]
    flags = closing_flags(tape, spans[-1][1])
    tradable = (flags[row - 1] & READY != 0) & (flags[row] & PRESENT != 0)
    prices, flags = tape.prices[row], flags[row]
    terms = rules.terms_of(config.env, config.costs, config.market.bars_per_year, config.multi_asset)
    played = [(np.ascontiguousarray(track.held[counted]), track.ordered[counted]) for track in tracks]
    account, legs, order, fills = rules.workspace(len(tape.assets))
    sharpe, total_return = np.zeros(len(shifts)), np.zeros(len(shifts))
    for number, shift in enumerate(shifts):
        growth = np.zeros(len(row))
        for held, ordered in played:
            rules.replay(
                prices, flags, tradable, starts, last, held, ordered, int(shift), terms,
                account, legs, order, fills, growth,
            )  # fmt: skip
        mean = growth / len(tracks)
        deviation = mean.std(ddof=1)
        sharpe[number] = mean.mean() / deviation if deviation > 0 else 0.0
        total_return[number] = np.prod(1 + mean) - 1
    return Shifts(np.asarray(shifts), sharpe, total_return)


def _hold(account: Account, share: np.ndarray) -> None:
    """Want what is not held yet, from the cash there is, and nothing of what has no share."""
    quantity = account.legs[:, QUANTITY]
    fresh, stale = (quantity == 0) & (share > 0), (quantity != 0) & (share == 0)
    if not (fresh | stale).any():
        return
    tradable = _tradable(account)
    fresh, stale = fresh & tradable, stale & tradable
    account.order[WANTED] = fresh | stale
    freed = account.account[CASH] + quantity[stale] @ account.tape.prices[account.row, stale, CLOSE]
    cash_frac = max(freed / account.account[EQUITY], 0.0)
    wanted = float(share[fresh].sum())
    account.order[TARGET] = share * min(1.0, cash_frac / wanted) if wanted else 0.0


def _rebalance(account: Account, share: np.ndarray) -> None:
    """Want everything at its share on the first row of a month, else what is not held yet."""
    row = account.row
    if row == 0 or _month(account.tape.t[row]) != _month(account.tape.t[row - 1]):
        account.order[WANTED] = _tradable(account)
        account.order[TARGET] = share
    else:
        _hold(account, share)


def _tradable(account: Account) -> np.ndarray:
    flags, row = account.flags, account.row
    account.order[TRADABLE] = (flags[row] & READY != 0) & (flags[row + 1] & PRESENT != 0)
    return account.order[TRADABLE] != 0


def _month(t: int) -> tuple[int, int]:
    stamp = datetime.fromtimestamp(int(t), UTC)
    return stamp.year, stamp.month
