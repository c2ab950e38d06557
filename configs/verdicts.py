"""The verdicts on agents, and the families of agents that are judged: what every package says alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EDGE, NO_EVIDENCE, COLLAPSED = "edge", "no evidence of an edge", "collapsed"
ORDER = (EDGE, NO_EVIDENCE, COLLAPSED)
FAMILIES = ("ppo", "lstm_ppo", "multi_asset", "walk_forward")
"""Stages that train agents for the test part, in the order they are shown; the first there is, is the primary one."""

BASELINES = {
    "flat": "staying flat",
    "buy_and_hold": "buy & hold",
    "moving_average": "a moving-average rule",
    "rebalanced_monthly": "equal weights every month",
    "random": "random timing at its 95th percentile",
    "follow_classifier": "following the classifier",
}


def baseline_name(key: object) -> str:
    """A baseline's name in a sentence; `buy_and_hold_<symbol>` is that of one asset of a portfolio."""
    rule, _, symbol = str(key).partition("buy_and_hold_")
    if symbol and not rule:
        return f"{BASELINES['buy_and_hold']} of {symbol}"
    return BASELINES.get(str(key), str(key).replace("_", " "))


def leading(verdicts: Mapping[str, Any]) -> str:
    """The family whose verdict is the run's: one with an edge before one without, collapsed ones last.

    Equal ones go by their order; empty where there is no family.
    """
    ranks = {name: ORDER.index(verdict) if verdict in ORDER else len(ORDER) for name, verdict in verdicts.items()}
    return min(ranks, key=lambda name: ranks[name], default="")
