"""The verdicts on agents, and the families of agents that are judged: what every package says alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EDGE, NO_EVIDENCE, COLLAPSED = "edge", "no evidence of an edge", "collapsed"
ORDER = (EDGE, NO_EVIDENCE, COLLAPSED)
FAMILIES = ("ppo", "lstm_ppo", "multi_asset", "walk_forward")
"""Stages that train agents for the test part, in the order they are shown; the first there is, is the primary one."""


def leading(verdicts: Mapping[str, Any]) -> str:
    """The family whose verdict is the run's: one with an edge before one without, collapsed ones last.

    Equal ones go by their order; empty where there is no family.
    """
    ranks = {name: ORDER.index(verdict) if verdict in ORDER else len(ORDER) for name, verdict in verdicts.items()}
    return min(ranks, key=lambda name: ranks[name], default="")
