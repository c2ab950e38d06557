"""The trade ledger: every fill of one account, written so that the account can be rebuilt from the file alone.

`trades.csv` has one row per fill, in order, and a last row `mark`:

    t               open time of the bar, ISO 8601 UTC (a fill at the bar's close carries the bar's stamp too)
    bar             index of the bar in the dataset
    reason          order | reverse-close | reverse-open | liquidation | segment-end | mark
    side            buy | sell; empty in the mark
    quantity        units traded, positive; 0 in the mark
    price           fill price, slippage in it; in the mark the last close
    notional, fee   quantity x price; fee_frac x notional
    borrow          borrow paid since the row before
    cash_after      = cash before - borrow -+ notional - fee, or the equity floor where a closed position left less
    quantity_after  signed
    equity_after    cash_after + quantity_after x price

Floats are written as the shortest text that reads back as the same number.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from configs.files import atomic_path
from ppo import rules
from ppo.tape import Tape

MARK = "mark"
COLUMNS = (
    "t", "bar", "reason", "side", "quantity", "price", "notional", "fee", "borrow", "cash_after", "quantity_after",
    "equity_after",
)  # fmt: skip


def trades(tape: Tape, fill_bar: np.ndarray, fills: np.ndarray, last_bar: int, account: np.ndarray) -> pd.DataFrame:
    """The ledger of one account as a frame with `COLUMNS`.

    Args:
        tape: the series that was traded.
        fill_bar: (F,) bar of each fill.
        fills: (F, 8) as `ppo.rules` wrote them.
        last_bar: bar at whose close the account is marked.
        account: (8,) account row after that mark.
    """
    rows = [_fill_row(tape, int(bar), fill) for bar, fill in zip(fill_bar, fills, strict=True)]
    close, cash, quantity = (float(x) for x in (tape.close[last_bar], account[rules.CASH], account[rules.QUANTITY]))
    borrow = float(account[rules.BORROW])
    equity = cash + quantity * close
    rows.append((iso(int(tape.t[last_bar])), last_bar, MARK, "", 0.0, close, 0.0, 0.0, borrow, cash, quantity, equity))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_trades(path: Path, frame: pd.DataFrame) -> None:
    """Write a ledger as CSV, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(frame.columns)
        writer.writerows(frame.itertuples(index=False, name=None))


def _fill_row(tape: Tape, bar: int, fill: np.ndarray) -> tuple:
    value = fill.tolist()
    quantity, price = value[rules.F_QUANTITY], value[rules.F_PRICE]
    cash, position = value[rules.F_CASH], value[rules.F_POSITION]
    return (
        iso(int(tape.t[bar])), bar, rules.REASONS[int(value[rules.F_REASON])], "buy" if quantity > 0 else "sell",
        abs(quantity), price, value[rules.F_NOTIONAL], value[rules.F_FEE], value[rules.F_BORROW],
        cash, position, cash + position * price,
    )  # fmt: skip


def iso(t: int) -> str:
    """A Unix second as ISO 8601 UTC."""
    return datetime.fromtimestamp(t, UTC).isoformat().replace("+00:00", "Z")
