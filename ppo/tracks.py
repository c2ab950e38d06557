"""Several tracks of one account after another joined into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ppo.evaluate import Track
from ppo.rules import BORROW, CASH, EQUITY, F_BORROW, F_CASH, F_FEE, F_NOTIONAL, F_POSITION, F_QUANTITY, QUANTITY

OF_BARS = ("row", "first", "equity", "weight", "held", "ordered", "action", "illegal")
MONEY_OF_FILLS = [F_QUANTITY, F_NOTIONAL, F_FEE, F_BORROW, F_CASH, F_POSITION]
MONEY_OF_ACCOUNT = [CASH, QUANTITY, EQUITY, BORROW]


def join_tracks(tracks: Sequence[Track]) -> Track:
    """One track of accounts that each began with what the one before ended with.

    Each ends flat, so all amounts of a track scale with what it began with. An account that was liquidated stays in
    cash to the end of its own track, and begins the next one with what is left.
    """
    scaled, equity = [], tracks[0].initial_equity
    for track in tracks:
        scaled.append(_scaled(track, equity / track.initial_equity))
        equity = float(scaled[-1].equity[-1])
    joined = {
        name: np.concatenate([getattr(track, name) for track in scaled]) for name in (*OF_BARS, "fill_row", "fills")
    }
    liquidated = any(track.liquidated for track in tracks)
    return replace(scaled[-1], **joined, liquidated=liquidated, initial_equity=tracks[0].initial_equity)


def _scaled(track: Track, factor: float) -> Track:
    fills, account = track.fills.copy(), track.account.copy()
    fills[:, MONEY_OF_FILLS] *= factor
    account[MONEY_OF_ACCOUNT] *= factor
    return replace(track, equity=track.equity * factor, fills=fills, account=account)
