"""Tracks as files, and several tracks of one account after another joined into one.

`tracks.parquet` has a row per bar, `fills.parquet` one per fill, `ends.json` what remains of each account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from configs.errors import BadDataError
from configs.files import read_json, write_json
from ppo.evaluate import Track
from ppo.rules import BORROW, CASH, EQUITY, F_BORROW, F_CASH, F_FEE, F_NOTIONAL, F_POSITION, F_QUANTITY, QUANTITY
from training.stages.prepare import write_table

OF_BARS = ("row", "first", "equity", "weight", "held", "ordered", "action", "illegal")
OF_ENDS = ("liquidated", "initial_equity")
FILES = ("tracks.parquet", "fills.parquet", "ends.json")
FILLS = ("reason", "quantity", "price", "notional", "fee", "borrow", "cash", "position")
MONEY_OF_FILLS = [F_QUANTITY, F_NOTIONAL, F_FEE, F_BORROW, F_CASH, F_POSITION]
MONEY_OF_ACCOUNT = [CASH, QUANTITY, EQUITY, BORROW]


def write_tracks(directory: Path, groups: Mapping[str, Sequence[Track]]) -> None:
    """Write named groups of tracks, the tracks of a group in the order of their seeds."""
    bars, fills, ends = [], [], []
    for group, tracks in groups.items():
        for seed, track in enumerate(tracks):
            key = {"group": group, "seed": seed}
            bars.append(pd.DataFrame(key | {name: getattr(track, name) for name in OF_BARS}))
            booked = dict(zip(FILLS, track.fills.T, strict=True))
            fills.append(pd.DataFrame(key | {"row": track.fill_row} | booked))
            ends.append(key | {name: getattr(track, name) for name in OF_ENDS} | {"account": track.account.tolist()})
    write_table(directory / "tracks.parquet", pd.concat(bars, ignore_index=True))
    write_table(directory / "fills.parquet", pd.concat(fills, ignore_index=True))
    write_json(directory / "ends.json", ends)


def read_tracks(directory: Path) -> dict[str, list[Track]]:
    """The groups that `write_tracks` wrote, bit for bit.

    Raises:
        BadDataError: a file is missing.
    """
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise BadDataError(f"{directory} has no {', '.join(missing)}; run its unit again")
    bars, fills = pd.read_parquet(directory / "tracks.parquet"), pd.read_parquet(directory / "fills.parquet")
    groups: dict[str, list[Track]] = {}
    for end in read_json(directory / "ends.json"):
        own, booked = (
            frame[(frame["group"] == end["group"]) & (frame["seed"] == end["seed"])] for frame in (bars, fills)
        )
        track = Track(
            **{name: own[name].to_numpy() for name in OF_BARS},
            **{name: end[name] for name in OF_ENDS},
            fill_row=booked["row"].to_numpy(),
            fills=booked[list(FILLS)].to_numpy(),
            account=np.array(end["account"]),
        )
        groups.setdefault(end["group"], []).append(track)
    return groups


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
