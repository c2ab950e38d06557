"""The plan's reference targets beside what was measured: met, missed, or not to be decided by so few bars.

They decide nothing: the verdict rests on the rules of `ppo.judge` alone. A target is met or missed where the measured
value and its whole two-sided interval lie on one side of it, else undecided.

`targets.json` -- {"targets": [...]}, one entry per target:

    name, stage         "base_sharpe", ...; the stage whose agents it is about
    text                what is measured, in words
    wanted, below       the target; whether less than it is wanted, not more
    share               whether the values are shares
    measured            null where the run has no such agents
    standard_error      null where the value has none
    interval            [low, high], two-sided at `judging.confidence`; null where nothing was measured
    state               "met" | "missed" | "undecided" | "not measured"
    of                  what it was measured on, for example "8,759 bars"; empty where nothing was measured
    says                why
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.special import stdtrit

from configs.schema import Config
from ppo.statistics import bootstrap_drawdowns, bootstrap_sharpe_differences
from training.streams import stream

BASE, LSTM, WALK_FORWARD = "ppo", "lstm_ppo", "walk_forward"


@dataclass(frozen=True)
class Target:
    """One figure that the plan hoped for."""

    name: str
    stage: str
    text: str
    wanted: float
    below: bool = False
    share: bool = False


@dataclass(frozen=True)
class Measured:
    """One figure and how sure it is."""

    value: float
    standard_error: float | None
    interval: tuple[float, float]
    of: str
    """What it was measured on, for example `8,759 bars`."""


TARGETS = (
    Target("pretrain_sharpe", "pretrain", "Pre-training: Sharpe ratio", 0.5),
    Target("base_sharpe", BASE, "Base PPO: Sharpe ratio", 1.0),
    Target("base_drawdown", BASE, "Base PPO: largest drawdown", 0.25, below=True, share=True),
    Target("base_win_rate", BASE, "Base PPO: round trips that won", 0.5, share=True),
    Target("lstm_sharpe", LSTM, "LSTM-PPO: Sharpe ratio", 1.2),
    Target("lstm_less_base", LSTM, "LSTM-PPO less base PPO: Sharpe", 0.0),
    Target("multi_asset_sharpe", "multi_asset", "Multi-asset PPO: Sharpe ratio", 1.4),
    Target("walk_forward_sharpe", WALK_FORWARD, "Walk-forward PPO: mean of the months' Sharpe", 0.8),
)
"""Reference figures of issue 4, part 6."""


IDLE = "nothing to measure: it did not trade"


def targets(
    evaluations: Mapping[str, dict[str, Any]],
    returns: Mapping[str, np.ndarray],
    pretraining: Sequence[dict[str, Any]],
    config: Config,
) -> list[dict[str, Any]]:
    """Every target with its state.

    Args:
        evaluations: family -> `evaluation.json`.
        returns: family -> (T,) mean return of the seeds per bar; of the base and the LSTM agents are read.
        pretraining: `test` of each pre-trained agent's metrics.
        config: sections judging and seed are read.
    """
    idle = {name for name, evaluation in evaluations.items() if not evaluation["mean"]["turnover"]}
    traded = evaluations.keys() - idle
    measured: dict[str, Measured | str] = {target.name: IDLE for target in TARGETS if target.stage in idle}
    measured |= _of_pretraining(pretraining, config)
    for target in TARGETS:
        if target.name.endswith("_sharpe") and target.stage in traded:
            measured[target.name] = _sharpe(evaluations[target.stage])
    if WALK_FORWARD in traded:
        measured["walk_forward_sharpe"] = _months(evaluations[WALK_FORWARD], config)
    if BASE in traded:
        measured["base_win_rate"] = _win_rate(evaluations[BASE], config)
        measured["base_drawdown"] = _drawdown(evaluations[BASE], returns[BASE], config)
    if {BASE, LSTM} <= traded and len(returns[BASE]) == len(returns[LSTM]):
        measured["lstm_less_base"] = _difference(evaluations, returns, config)
    elif LSTM in traded and BASE in idle:
        measured["lstm_less_base"] = "nothing to measure: base PPO did not trade"
    return [decided(target, measured.get(target.name)) for target in TARGETS]


def decided(target: Target, found: Measured | str | None) -> dict[str, Any]:
    """The entry of one target: of a figure, or of why there is none."""
    if not isinstance(found, Measured):
        says = found or f"nothing to measure: this run has no such result of stage {target.stage}"
        return asdict(target) | _values(None) | {"state": "not measured", "says": says}
    low, high = found.interval
    if low <= target.wanted <= high:
        state, says = "undecided", f"cannot be decided: {found.of} are too few, the interval holds the target"
    elif min(low, found.value) <= target.wanted <= max(high, found.value):
        # resampled drawdowns, for one, need not reach the one there was
        state, says = "undecided", f"cannot be decided on {found.of}: the target lies between value and interval"
    else:
        is_below = high < target.wanted
        state = "met" if is_below == target.below else "missed"
        says = f"on {found.of}, value and whole interval are {'below' if is_below else 'above'} the target"
    return asdict(target) | _values(found) | {"state": state, "says": says}


def _values(found: Measured | None) -> dict[str, Any]:
    if found is None:
        return {"measured": None, "standard_error": None, "interval": None, "of": ""}
    error = found.standard_error
    return {"measured": found.value, "standard_error": error, "interval": list(found.interval), "of": found.of}


def _sharpe(evaluation: dict[str, Any]) -> Measured:
    mean = evaluation["mean"]
    low, high = mean["sharpe_interval"]
    return Measured(mean["sharpe"], mean["sharpe_standard_error"], (low, high), f"{mean['returns']:,} bars")


def _of_pretraining(pretraining: Sequence[dict[str, Any]], config: Config) -> dict[str, Measured | str]:
    """Mean over the seeds; all played the same worlds, so the standard error is the mean of theirs."""
    if not pretraining:
        return {}
    if all(part["hit_rate"] is None for part in pretraining):
        return {"pretrain_sharpe": IDLE}
    value, error = (float(np.mean([part[key] for part in pretraining])) for key in ("sharpe", "standard_error"))
    half = _quantile(config) * error
    return {"pretrain_sharpe": Measured(value, error, (value - half, value + half), "worlds that selected nothing")}


def _months(evaluation: dict[str, Any], config: Config) -> Measured | str:
    """Mean of the test months' Sharpe ratios; a t interval, with the months as samples."""
    ratios = np.array([month["sharpe"] for month in evaluation["windows"]])
    if len(ratios) < 2:
        return "nothing to measure: one test month has no spread"
    value, error = float(ratios.mean()), float(ratios.std(ddof=1)) / math.sqrt(len(ratios))
    half = float(stdtrit(len(ratios) - 1, (1 + config.judging.confidence) / 2)) * error
    return Measured(value, error, (value - half, value + half), f"{len(ratios)} test months")


def _win_rate(evaluation: dict[str, Any], config: Config) -> Measured | str:
    """Wilson's interval (1927), for the trades of one seed: seeds share their bars, so more seeds are no more proof."""
    share, trades = evaluation["mean"]["hit_rate"], evaluation["mean"]["trades"]
    if share is None or not trades:
        return "nothing to measure: no round trip was closed"
    z = _quantile(config)
    middle = (share + z**2 / (2 * trades)) / (1 + z**2 / trades)
    half = z / (1 + z**2 / trades) * math.sqrt(share * (1 - share) / trades + z**2 / (4 * trades**2))
    error = math.sqrt(share * (1 - share) / trades)
    return Measured(share, error, (middle - half, middle + half), f"{trades:,.1f} trades a seed")


def _drawdown(evaluation: dict[str, Any], returns: np.ndarray, config: Config) -> Measured:
    """Interval of the drawdowns of resampled series: what luck with the order of the bars alone could have made."""
    judging, block = config.judging, evaluation["mean"]["mean_block_bars"]
    drawn = bootstrap_drawdowns(returns, block, judging.bootstrap_samples, stream(config.seed, "judge", "drawdowns"))
    interval = _interval(drawn, config)
    return Measured(evaluation["mean"]["max_drawdown"], float(drawn.std()), interval, f"{len(returns):,} bars")


def _difference(
    evaluations: Mapping[str, dict[str, Any]], returns: Mapping[str, np.ndarray], config: Config
) -> Measured:
    """Difference of two Sharpe ratios on the same bars, resampled together."""
    year = math.sqrt(config.market.bars_per_year)
    block = max(evaluations[name]["mean"]["mean_block_bars"] for name in (BASE, LSTM))
    rng = stream(config.seed, "judge", "difference")
    drawn = bootstrap_sharpe_differences(returns[LSTM], returns[BASE], block, config.judging.bootstrap_samples, rng)
    value = evaluations[LSTM]["mean"]["sharpe"] - evaluations[BASE]["mean"]["sharpe"]
    of = f"{len(returns[BASE]):,} bars"
    return Measured(value, float(drawn.std()) * year, _interval(drawn * year, config), of)


def _interval(drawn: np.ndarray, config: Config) -> tuple[float, float]:
    tail = (1 - config.judging.confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _quantile(config: Config) -> float:
    return NormalDist().inv_cdf((1 + config.judging.confidence) / 2)
