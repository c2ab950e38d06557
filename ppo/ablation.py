"""Does pre-training help? Agents with against without it, on the same windows, from the same seeds.

One row tells how one agent did on one market: on each held-out crash scenario, and on the second half of the last
share of its own window's training months; the first half selected the agent, with and without pre-training alike.
A window's own test month is never played here. But its tail lies inside the test months of windows before it, where
there are such, and may lie in the test part: whoever changes settings by these figures has looked at those bars, and so
each arm on each window is a trial in the ledger. Shapes: S = seeds, W = windows, C = scenarios (one on real bars),
B = bootstrap samples.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from configs.errors import ConfigError
from configs.schema import Config
from ppo.learner.validate import Played
from ppo.statistics import max_drawdown, moments
from ppo.walk_forward import window_months
from training.streams import stream

PRETRAINED, SCRATCH = ARMS = ("pretrained", "scratch")
REAL, CRASH = PLACES = ("real", "crash")
METRICS = ("log_return", "sharpe", "max_drawdown")
"""Of one agent on one market: in all, annualised, positive share of the peak."""
COLUMNS = ("seed", "window", "arm", "where", "scenario", "script", *METRICS, "position_changes")
"""Of the rows; `scenario` is -1 and `script` empty on real bars."""


def ablation_windows(config: Config) -> list[str]:
    """Test months of the windows that agents are trained on, spread evenly over those of the run.

    Raises:
        ConfigError: the run has no window.
    """
    months = window_months(config)
    if not months:
        raise ConfigError("the ablation trains on walk-forward windows and walk_forward.windows=0 leaves none; set it")
    places = np.linspace(0, len(months) - 1, min(config.ablation.windows, len(months)))
    return [months[place] for place in np.rint(places).astype(int)]


def compare(rows: pd.DataFrame, config: Config) -> dict[str, Any]:
    """What the rows of all seeds say, as plain values (`ablation.json`).

    Returns:
        `seeds`, `windows`, `confidence`, and `differences`: for real bars, for all crash scenarios and for each
        script, and for each metric `pretrained` and `scratch` (means), `difference` (pretrained less scratch, paired
        by seed, window and scenario), `lower`, `upper` (`interval`) and `says`. The lines of single scripts are
        detail: of many intervals some miss by chance.
    """
    groups = {place: rows[rows["where"] == place] for place in PLACES}
    groups |= {str(script): own for script, own in groups[CRASH].groupby("script", sort=True)}
    return {
        "seeds": sorted(int(seed) for seed in rows["seed"].unique()),
        "windows": sorted(rows["window"].unique()),
        "confidence": config.judging.confidence,
        "differences": [
            {"where": name, "metric": metric} | _difference(own, metric, config, name)
            for name, own in groups.items()
            for metric in METRICS
        ],
    }


def outcome(played: Played, config: Config) -> dict[str, Any]:
    """`METRICS` and position_changes of an agent over all pieces in a row."""
    log_returns = np.concatenate(played.log_returns)
    return {
        "log_return": float(log_returns.sum()),
        "sharpe": moments(np.expm1(log_returns)).sharpe * math.sqrt(config.market.bars_per_year),
        "max_drawdown": max_drawdown(np.exp(np.cumsum(np.r_[0.0, log_returns]))),
        "position_changes": int(played.changes.sum()),
    }


def interval(difference: np.ndarray, confidence: float, samples: int, rng: np.random.Generator) -> tuple[float, float]:
    """Two-sided interval of the mean: a t interval with the deviation of the pigeonhole bootstrap.

    Its degrees of freedom are those of the scarcest factor of which there are several. Measured on normal effects of
    5 seeds and 4 windows: it covers 97 to 100 % at 95 % asked, the percentiles of the same bootstrap 86 to 98 %. With
    effects of 20 scenarios it covers 98 to 100 %; of means over the scenarios 39 to 97 %.

    Args:
        difference: (S, W) or (S, W, C).
        confidence: share of intervals that are to hold the truth.
        samples: B.
        rng: draws the resamples.
    """
    scarcest = min(count for count in difference.shape if count > 1)
    deviation = float(pigeonhole_means(difference, samples, rng).std())
    half, mean = float(stdtrit(scarcest - 1, (1 + confidence) / 2)) * deviation, float(difference.mean())
    return mean - half, mean + half


def pigeonhole_means(difference: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(B,) means of resamples in which the values of each factor (axis) are drawn with replacement, each for itself.

    Source: Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2). Results of one seed, those of one
    window and those on one scenario go together; resampling single cells, or averaging over a factor before, would
    make the interval too narrow.
    """
    means = np.broadcast_to(difference, (samples, *difference.shape))
    for count in difference.shape:
        share = rng.multinomial(count, np.full(count, 1 / count), samples) / count
        means = np.einsum("bi...,bi->b...", means, share)
    return means


def _difference(rows: pd.DataFrame, metric: str, config: Config, name: str) -> dict[str, Any]:
    factors = ["seed", "window", "scenario"]
    cells = rows.pivot_table(index=factors, columns="arm", values=metric)
    shape = [rows[name].nunique() for name in factors]
    with_SWC, without_SWC = (cells[arm].to_numpy().reshape(shape) for arm in ARMS)
    judging, difference_SWC = config.judging, with_SWC - without_SWC
    rng = stream(config.seed, "ablation", "bootstrap", name, metric)
    lower, upper = interval(difference_SWC, judging.confidence, judging.bootstrap_samples, rng)
    return {
        "pretrained": float(with_SWC.mean()),
        "scratch": float(without_SWC.mean()),
        "difference": float(difference_SWC.mean()),
        "lower": lower,
        "upper": upper,
        "says": _says(metric, lower, upper),
    }


def _says(metric: str, lower: float, upper: float) -> str:
    if lower <= 0 <= upper:
        return "no difference shown"
    better = lower > 0 if metric != "max_drawdown" else upper < 0
    return "pre-training helps" if better else "pre-training harms"
