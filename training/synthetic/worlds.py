"""Scenarios from parameters: each is a function of (parameters, settings, seed, split, its index) alone.

Shapes: S = scenarios, T = bars of each, N = S x T.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from configs.assets import DatasetName
from configs.schema import Config, SyntheticConfig
from training.features import FEATURE_NAMES, MARKET_OBSERVATION, compute
from training.market import VALUE_COLUMNS, Bars
from training.streams import stream
from training.synthetic.kernel import EXTRA_NORMALS, UNIFORMS, play, world_tables
from training.synthetic.parameters import REGIMES, Parameters
from training.synthetic.scripts import script_of, stages_of

ScenarioSplit = Literal["train", "validation", "test", "held_out"]
"""Agents learn on `train`, `validation` selects among them, `test` and `held_out` judge them: all of the latter carries
crash scripts."""
CHUNK_BARS = 200_000
"""Bars whose 26 features are in memory at once: 42 MB."""


@dataclass(frozen=True)
class Worlds:
    """S scenarios of T bars; prices and volume are (S, T) float64."""

    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    regime: np.ndarray
    """(S, T) int8, index into `REGIMES`."""
    script: list[str]
    """Name of each scenario's crash script, or `none`."""
    tags: pd.DataFrame
    """S rows: scenario, script, log_return, largest_drawdown, jumps, share of each regime, volatility (standard
    deviation of a bar's log return)."""

    def __len__(self) -> int:
        """S."""
        return len(self.script)


def generate(
    parameters: Parameters, config: SyntheticConfig, seed: int, split: ScenarioSplit, first: int, count: int
) -> Worlds:
    """Scenarios `first` .. `first + count` - 1 of a split; any of them is the same whichever others are made.

    Args:
        parameters: of the process.
        config: bars per scenario, moves per bar, share of crash scripts.
        seed: the run's root seed.
        split: names the stream; scenarios of `held_out` all carry a script.
        first: index of the first scenario.
        count: S.
    """
    bars, scripted_frac = config.bars, 1.0 if split == "held_out" else config.scripted_frac
    world = world_tables(parameters)
    values, regimes = np.empty((len(VALUE_COLUMNS), count, bars)), np.empty((count, bars), np.int8)
    scripts, jumps = [], np.empty(count, np.int64)
    normals, uniforms = np.empty((bars, config.path_steps + EXTRA_NORMALS)), np.empty((bars, UNIFORMS))
    for place in range(count):
        scripts.append(script_of(first + place, scripted_frac))
        rng = stream(seed, "synthetic", split, first + place)
        stages = stages_of(scripts[-1], bars, rng)
        rng.standard_normal(out=normals)
        rng.random(out=uniforms)
        jumps[place] = play(world, stages, normals, uniforms, values[:, place], regimes[place])
    columns = dict(zip(VALUE_COLUMNS, values, strict=True))
    tags = _tags(columns["open"][:, 0], columns["close"], regimes)
    tags.insert(0, "scenario", np.arange(first, first + count))
    tags.insert(1, "script", scripts)
    return Worlds(**columns, regime=regimes, script=scripts, tags=tags.assign(jumps=jumps))


def worlds_tape_inputs(worlds: Worlds, config: Config) -> tuple[Bars, np.ndarray]:
    """The scenarios one after another as one series, each a segment, and the market block of their features.

    The arrays of `Bars` share the memory of `worlds`.

    Returns:
        Bars of N rows on consecutive stamps from 0 on, and (N, 5) float32 unscaled columns
        `training.features.MARKET_OBSERVATION`, NaN in the warm-up of each scenario.
    """
    count, bars = worlds.close.shape
    timeframe_s = DatasetName.parse(config.dataset.name).timeframe_s
    series = Bars(
        t=np.arange(count * bars, dtype=np.int64) * timeframe_s,
        segment=np.repeat(np.arange(count, dtype=np.int32), bars),
        timeframe_s=timeframe_s,
        **{name: getattr(worlds, name).reshape(-1) for name in VALUE_COLUMNS},
    )
    columns = [FEATURE_NAMES.index(name) for name in MARKET_OBSERVATION]
    market = np.empty((len(series), len(columns)), np.float32)
    for start, stop in _chunks(count, bars):
        market[start:stop] = compute(series.slice(start, stop), config.features)[:, columns]
    return series, market


def _tags(first: np.ndarray, close: np.ndarray, regimes: np.ndarray) -> pd.DataFrame:
    rows = []
    for start, prices, states in zip(first, close, regimes, strict=True):
        path = np.append(start, prices)
        shares = np.bincount(states, minlength=len(REGIMES)) / states.size
        rows.append(
            {
                "log_return": float(np.log(path[-1] / path[0])),
                "largest_drawdown": float(1 - (path / np.maximum.accumulate(path)).min()),
                "volatility": float(np.diff(np.log(path)).std()),
                **{f"{name}_share": float(share) for name, share in zip(REGIMES, shares, strict=True)},
            }
        )
    return pd.DataFrame(rows)


def _chunks(count: int, bars: int) -> Iterator[tuple[int, int]]:
    """[start, stop) rows of whole scenarios."""
    step = max(1, CHUNK_BARS // bars)
    for first in range(0, count, step):
        yield first * bars, min(first + step, count) * bars
