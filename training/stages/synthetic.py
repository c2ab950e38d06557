"""Unit `synthetic`: parameters of the stress worlds, and what the worlds look like.

Reads no bar from `fit_stop_row` on. The scenarios themselves are not stored: `training.synthetic.generate` makes
them again from parameters.json and an index, 2 million bars a second.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd

from configs.files import read_json, write_json
from configs.run_dir import RunDir
from configs.schema import Config
from configs.unit import Unit, run_stage
from training.stages.prepare import load_prepared, write_table
from training.synthetic import (
    REGIMES,
    SCRIPTS,
    Parameters,
    Worlds,
    fit_parameters,
    fit_stop_row,
    generate,
    preset_parameters,
    worlds_tape_inputs,
)
from training.synthetic.moments import expected, of_bars, of_worlds
from training.synthetic.scripts import NONE

BASE_MEMORY_BYTES = 450_000_000
"""A process with numba, pandas, pyarrow and arch loaded."""
BYTES_PER_BAR = 60
"""Prices, volume and regime of a scenario's bar, and what the moments make of it."""
GENERATED_PER_S = 1_500_000.0
FITTED_PER_S = 30_000.0
GALLERY_CANDLES = 250
"""Most candles of one picture."""


def main(argv: list[str] | None = None) -> int:
    """Run the unit."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Fit or take the preset parameters, generate every training scenario, write what is said of them."""
    config = unit.config
    bars = load_prepared(unit.run).bars
    stop = fit_stop_row(bars, config)
    fitted = config.synthetic.parameters == "fitted"
    parameters = fit_parameters(bars, stop, config) if fitted else preset_parameters(config)
    write_json(unit.dir / "parameters.json", parameters.to_json())
    unit.progress(1, 3)
    worlds = generate(parameters, config.synthetic, config.seed, "train", 0, config.synthetic.scenarios)
    unit.progress(2, 3)
    write_table(unit.dir / "tags.parquet", worlds.tags)
    write_table(unit.dir / "gallery.parquet", gallery(worlds))
    moments = {
        "data": of_bars(bars.slice(0, stop)),
        "generated": of_worlds(worlds),
        "expected": expected(parameters),
    }
    write_json(unit.dir / "moments.json", moments | {"fit_rows": stop})
    unit.progress(3, 3)
    return summary(worlds) | {
        "fit_rows": stop if fitted else 0,
        "preset": sorted(name for name, source in parameters.source.items() if source.startswith("preset")),
        "kurtosis": {name: values["kurtosis"] for name, values in moments.items()},
    }


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`; the stage itself needs no bars: what they cannot say is preset."""
    bars = config.synthetic.scenarios * config.synthetic.bars
    fit = [{"name": "bars fitted", "amount": 1, "per": "bar", "rate_per_s": FITTED_PER_S}]
    return {
        "bars_needed": 0,
        "memory_bytes": BASE_MEMORY_BYTES + BYTES_PER_BAR * bars,
        "work": [
            {"name": "synthetic bars generated", "amount": bars, "rate_per_s": GENERATED_PER_S},
            *(fit if config.synthetic.parameters == "fitted" else []),
        ],
    }


def calibrate(config: Config, budget_s: float) -> dict[str, float]:
    """Rates of the stage's own work, measured on generated bars within about `budget_s` seconds."""
    parameters, settings = preset_parameters(config), config.synthetic
    worlds = generate(parameters, settings, config.seed, "train", 0, 1)  # compiles
    count, made, began = 1, 0, time.perf_counter()
    while not made or time.perf_counter() - began < budget_s / 3:
        worlds = generate(parameters, settings, config.seed, "train", 0, count)
        made, count = made + count, min(2 * count, settings.scenarios)
    rates = {"synthetic bars generated": made * settings.bars / (time.perf_counter() - began)}
    bars, _ = worlds_tape_inputs(worlds, config)
    fit_parameters(bars, 2_000, config)  # compiles and imports
    stop, began = min(len(bars), 20_000), time.perf_counter()
    fit_parameters(bars, stop, config)
    return rates | {"bars fitted": stop / (time.perf_counter() - began)}


def load_parameters(run: RunDir) -> Parameters:
    """The parameters that the unit `synthetic` of a run wrote.

    Raises:
        BadDataError: the file is missing.
    """
    return Parameters.from_json(read_json(run.require_output("synthetic", "parameters.json")))


def summary(worlds: Worlds) -> dict[str, Any]:
    """Plain numbers over all scenarios."""
    tags = worlds.tags
    return {
        "scenarios": len(worlds),
        "bars": int(worlds.close.size),
        "scripts": {name: worlds.script.count(name) for name in SCRIPTS},
        "regime_shares": {name: float(tags[f"{name}_share"].mean()) for name in REGIMES},
        "largest_drawdown": {name: float(tags["largest_drawdown"].quantile(q)) for name, q in QUANTILES.items()},
        "volatility": {name: float(tags["volatility"].quantile(q)) for name, q in QUANTILES.items()},
        "jumps": int(tags["jumps"].sum()),
    }


QUANTILES = {"least": 0.0, "median": 0.5, "most": 1.0}


def gallery(worlds: Worlds) -> pd.DataFrame:
    """Candles of the first scenario of each script, and of the plain ones with the median return, the best return
    and the deepest drawdown; columns index, script, bar (the candle's first), open, high, low, close, regime (the most
    frequent)."""
    tags = worlds.tags
    chosen = [worlds.script.index(name) for name in SCRIPTS if name in worlds.script]
    plain = tags[tags["script"] == NONE]
    if len(plain):
        order = plain.index.to_numpy()[plain["log_return"].argsort(kind="stable")].tolist()
        deepest = plain.index.to_numpy()[plain["largest_drawdown"].argmax()]
        chosen += [order[len(order) // 2], order[-1], int(deepest)]
    return pd.concat([_candles(worlds, place) for place in dict.fromkeys(chosen)], ignore_index=True)


def _candles(worlds: Worlds, place: int) -> pd.DataFrame:
    bars = worlds.close.shape[1]
    step = -(-bars // GALLERY_CANDLES)
    first = np.arange(0, bars, step)
    last = np.minimum(first + step, bars) - 1
    shares = np.add.reduceat(worlds.regime[place][:, None] == np.arange(len(REGIMES)), first, axis=0, dtype=np.int64)
    return pd.DataFrame(
        {
            "index": int(worlds.tags["scenario"].iloc[place]),
            "script": worlds.script[place],
            "bar": first,
            "open": worlds.open[place, first],
            "high": np.maximum.reduceat(worlds.high[place], first),
            "low": np.minimum.reduceat(worlds.low[place], first),
            "close": worlds.close[place, last],
            "regime": np.array(REGIMES)[shares.argmax(axis=1)],
        }
    )


if __name__ == "__main__":
    raise SystemExit(main())
