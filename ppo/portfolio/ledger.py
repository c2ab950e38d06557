"""The trade ledger of a portfolio: every fill of all legs, so that the account can be rebuilt from the file alone.

One row per fill, in order, and a last row `mark` for each asset:

    t, bar          open time of the row (ISO 8601 UTC) and its index on the union clock
    asset           symbol
    reason          order | limit (trimmed into it) | liquidation | segment-end | mark; a change of side is two orders,
                    through 0
    side            buy | sell; empty in a mark
    quantity        units traded, positive; 0 in a mark
    price           fill price, slippage in it; in a mark the asset's last close
    notional, fee   quantity x price; fee_frac x notional
    borrow          borrow that the account paid since the row before
    cash_after      = cash before - borrow -+ notional - fee, or the equity floor where a ruined account kept less
    quantity_after  of this asset, signed

Equity at the end is cash + the marks' quantity_after x price.
"""

from __future__ import annotations

import pandas as pd

from ppo.ledger import MARK, iso
from ppo.portfolio import rules
from ppo.portfolio.align import PortfolioTape
from ppo.portfolio.play import PortfolioTrack

COLUMNS = (
    "t", "bar", "asset", "reason", "side", "quantity", "price", "notional", "fee", "borrow", "cash_after",
    "quantity_after",
)  # fmt: skip


def portfolio_trades(tape: PortfolioTape, track: PortfolioTrack) -> pd.DataFrame:
    """The ledger of one account as a frame with `COLUMNS`."""
    rows = [_fill_row(tape, int(row), fill.tolist()) for row, fill in zip(track.fill_row, track.fills, strict=True)]
    last, borrow = int(track.row[-1]), float(track.account[rules.BORROW])
    stamp, cash = iso(int(tape.t[last])), float(track.account[rules.CASH])
    for symbol, leg, price in zip(tape.assets, track.legs, tape.prices[last, :, rules.CLOSE].tolist(), strict=True):
        quantity = float(leg[rules.QUANTITY])
        rows.append((stamp, last, symbol, MARK, "", 0.0, price, 0.0, 0.0, borrow, cash, quantity))
        borrow = 0.0
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _fill_row(tape: PortfolioTape, row: int, fill: list[float]) -> tuple:
    quantity = fill[rules.F_QUANTITY]
    return (
        iso(int(tape.t[row])), row, tape.assets[int(fill[rules.F_ASSET])], rules.REASONS[int(fill[rules.F_REASON])],
        "buy" if quantity > 0 else "sell", abs(quantity), fill[rules.F_PRICE], fill[rules.F_NOTIONAL],
        fill[rules.F_FEE], fill[rules.F_BORROW], fill[rules.F_CASH], fill[rules.F_POSITION],
    )  # fmt: skip
