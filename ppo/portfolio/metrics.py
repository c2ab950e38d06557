"""Numbers that describe one portfolio's track, and what each asset added, as finite plain values.

METRICS are those of `ppo.stages.evaluate` as far as they make sense for target weights (there are no numbered
actions and no illegal ones; a trade is a round trip of one leg), with "mean_gross" and "assets" beside:

    assets  {symbol: {"mean_weight", "mean_abs_weight", "exposure": share of rows held, "turnover", "fees_paid",
            "slippage_paid", "trades", "hit_rate", "return_contribution", "risk_contribution": annual}}

Return contributions add up to the total return, risk contributions to the annual volatility, those of the seeds' mean
to the mean's: with c_k the profit of leg k in a row over the equity before (mean over the seeds), r = sum c_k and E the
equity that compounds r, leg k returned sum E c_k / E_0 (E before the row) and risked cov(c_k, r) / sd(r) (Euler). The
floor of a ruined account belongs to no leg.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.schema import Config
from ppo.metrics import WEIGHT_DECIMALS, exposed, mean_track, return_metrics, top_share
from ppo.portfolio.align import PortfolioTape
from ppo.portfolio.play import PortfolioTrack
from ppo.portfolio.rules import F_ASSET, F_BORROW, F_FEE, F_NOTIONAL, F_POSITION, F_QUANTITY, PRESENT

MIN_COMMON_RETURNS = 3


def portfolio_metrics(track: PortfolioTrack, config: Config, name: str, assets: tuple[str, ...]) -> dict[str, Any]:
    """METRICS of one track; `name` names its bootstrap stream."""
    returns = return_metrics(track.returns, track.equity, config, name)
    return returns | trading_metrics(track, config) | {"assets": by_asset(track, config, assets)}


def trading_metrics(track: PortfolioTrack, config: Config) -> dict[str, Any]:
    """The part of METRICS that positions and fills decide."""
    held, trips, fills = track.held[~track.first], track.trips(), track.fills
    losses, turnover = -trips[trips < 0].sum(), float(_turnover(track).sum())
    changes = int(track.ordered.any(axis=1).sum())
    top, judging = top_share(np.round(held, WEIGHT_DECIMALS)), config.judging
    return {
        "turnover": turnover,
        "turnover_per_year": turnover * config.market.bars_per_year / max(len(held), 1),
        "exposure": _mean(np.any(exposed(held, config), axis=1)),
        "mean_weight": _mean(held.sum(axis=1)),
        "mean_gross": _mean(np.abs(held).sum(axis=1)),
        "hit_rate": float(np.mean(trips > 0)) if len(trips) else None,
        "profit_factor": float(trips[trips > 0].sum() / losses) if losses > 0 else None,
        "trades": len(trips),
        "position_changes": changes,
        "fees_paid": float(fills[:, F_FEE].sum()),
        "slippage_paid": float(_slippage(fills, config).sum()),
        "borrow_paid": float(fills[:, F_BORROW].sum()),
        "liquidated": track.liquidated,
        "top_weight_share": top,
        "collapsed": changes < judging.collapse_position_changes or top >= judging.collapse_weight_frac,
    }


def by_asset(track: PortfolioTrack, config: Config, assets: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What each asset did in a track."""
    held, turnover, fills = track.held[~track.first], _turnover(track), track.fills
    added = contributions([track], config, assets)
    found = {}
    for k, symbol in enumerate(assets):
        own = fills[fills[:, F_ASSET] == k]
        trips = track.trips(k)
        found[symbol] = {
            "mean_weight": _mean(held[:, k]),
            "mean_abs_weight": _mean(np.abs(held[:, k])),
            "exposure": _mean(exposed(held[:, k], config)),
            "turnover": float(turnover[fills[:, F_ASSET] == k].sum()),
            "fees_paid": float(own[:, F_FEE].sum()),
            "slippage_paid": float(_slippage(own, config).sum()),
            "trades": int((own[:, F_POSITION] == 0).sum()),
            "hit_rate": float(np.mean(trips > 0)) if len(trips) else None,
            **added[symbol],
        }
    return found


def contributions(
    tracks: Sequence[PortfolioTrack], config: Config, assets: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """What each asset added to total return and annual volatility of the tracks' mean; no risk where nothing moves."""
    returns, equity = mean_track(tracks)
    gains = np.mean([np.diff(track.profit, axis=0) / track.equity[:-1, None] for track in tracks], axis=0)
    earned = equity[:-1] @ gains / equity[0]
    gains, risk = gains[~tracks[0].first[1:]], np.zeros(len(assets))
    deviation = returns.std(ddof=1) if len(returns) > 1 else 0.0
    if deviation > 0.0:
        risk = (gains - gains.mean(axis=0)).T @ (returns - returns.mean()) / (len(returns) - 1) / deviation
    year = math.sqrt(config.market.bars_per_year)
    return {
        symbol: {"return_contribution": float(earned[k]), "risk_contribution": float(risk[k]) * year}
        for k, symbol in enumerate(assets)
    }


def correlations(tape: PortfolioTape, rows: np.ndarray) -> list[list[float | None]]:
    """(K, K) correlation of the assets' log returns from close to close, over pairs of `rows` on which both have bars.

    None where two assets have fewer than three returns in common or one of them never moves.
    """
    present = tape.flags[rows] & PRESENT != 0
    follows = np.diff(rows) == 1
    known = present[1:] & present[:-1] & follows[:, None]
    moves = np.diff(np.log(tape.prices[rows, :, 3]), axis=0)
    count = len(tape.assets)
    return [[_correlation(moves[:, [a, b]][known[:, a] & known[:, b]]) for b in range(count)] for a in range(count)]


def _correlation(pair: np.ndarray) -> float | None:
    if len(pair) < MIN_COMMON_RETURNS or (np.ptp(pair, axis=0) == 0).any():
        return None
    return float(np.corrcoef(pair.T)[0, 1])


def _turnover(track: PortfolioTrack) -> np.ndarray:
    """(F,) traded notional over the equity at the close before."""
    before = np.searchsorted(track.row, track.fill_row) - 1
    return track.fills[:, F_NOTIONAL] / track.equity[before]


def _slippage(fills: np.ndarray, config: Config) -> np.ndarray:
    side = np.sign(fills[:, F_QUANTITY])
    slip = config.costs.slippage_frac * side
    return fills[:, F_NOTIONAL] * slip / (1 + slip) * side


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
