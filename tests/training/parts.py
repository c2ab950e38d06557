"""Synthetic worlds with parts of them switched off."""

from dataclasses import replace

from training.synthetic import REGIMES, Parameters
from training.synthetic.parameters import RANGE


def without(world: Parameters, *, jumps: bool = False, regimes: bool = False, garch: bool = False) -> Parameters:
    """The same world with less in it; no regimes means range throughout, without drift."""
    if garch:
        world = replace(world, alpha=0.0, beta=0.0)
    if regimes:
        calm = replace(world.regimes[RANGE], drift=0.0, volatility=1.0)
        stay = tuple(tuple(float(column == RANGE) for column in range(len(REGIMES))) for _ in REGIMES)
        world = replace(world, regimes=(calm,) * len(REGIMES), transitions=stay)
    if jumps:
        world = replace(world, regimes=tuple(replace(regime, jump_intensity=0.0) for regime in world.regimes))
    return world
