"""Measure tracks and judge an agent by its seeds: metrics, cost sweep, verdict.

`score` plays everything once and `judgement` turns it into the plain values of
`evaluation.json` (its keys are described in `ppo.stages.evaluate`). Between the
two the scoring is entered into the ledger (`ppo.trials`), which says how many
times these bars were looked at. Nothing here reads or writes a file.

Several seeds are judged as one: by the equally weighted mean of their returns
per bar. The verdict is "collapsed" when more than half of the seeds collapsed,
even if their mean earned more than the baselines: such agents took a bet, they
do not trade.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd

from configs.schema import Config
from configs.verdicts import COLLAPSED, EDGE, NO_EVIDENCE, baseline_name
from ppo.baselines import Shifts, rule_tracks, shifted
from ppo.evaluate import Agent, Spans, Track, rollouts
from ppo.metrics import Returns, finite, mean_over_seeds, mean_track, return_metrics, track_metrics
from ppo.statistics import deflated_sharpe, detectable_sharpe, moments, trial_variance
from ppo.tape import Tape
from training.streams import stream

SUMMARY = ("sharpe", "total_return", "max_drawdown", "trades")
SPREAD = ("sharpe", "total_return", "max_drawdown")
BASIS_POINT = 1e-4
FOLLOW_CLASSIFIER = "follow_classifier"
"""Shows what the predictions alone are worth; no bar for an agent."""
AnyTrack = TypeVar("AnyTrack", bound=Returns)


@dataclass(frozen=True)
class Scored(Generic[AnyTrack]):
    """Everything played on the scored bars, before it is judged."""

    agents: list[AnyTrack]
    baselines: dict[str, AnyTrack]
    shifts: Shifts
    sweep: list[tuple[float, list[AnyTrack], dict[str, AnyTrack]]]
    """(basis points, agents, baselines) of each cost level."""


def score(
    tape: Tape,
    config: Config,
    spans: Spans,
    agents: Sequence[Agent],
    predictions: pd.DataFrame | None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Scored[Track]:
    """Play agents, baselines and cost levels on the spans; `report(done, total)` follows, and may raise to stop.

    The sweep plays the same greedy agents again with fee x basis points and no slippage, borrow as configured.

    Raises:
        BadDataError: there is nothing to play on.
    """
    configs = [config, *(level for _, level in cost_levels(config))]
    played = []
    for number, agent in enumerate(agents, start=1):
        played.append(rollouts(tape, configs, spans, agent))
        report(number, len(agents))
    tracks, *sweep = map(list, zip(*played, strict=True))
    return compare(tape, config, spans, tracks, sweep, predictions)


def compare(
    tape: Tape,
    config: Config,
    spans: Spans,
    agents: list[Track],
    sweep: Sequence[list[Track]],
    predictions: pd.DataFrame | None,
) -> Scored[Track]:
    """Put what agents did on the spans, also at each of the `cost_levels`, beside baselines on the same bars.

    A track of accounts that were joined may begin anew inside a span (`Track.first`): shifts keep these seams, and
    returns count them as the account had them, in cash. Baselines hold on to their position.
    """
    rng = stream(config.seed, "judge", "shifts")
    bars = rng.integers(1, max(2, len(agents[0].returns)), config.judging.random_shifts)
    return Scored(
        agents=_through(spans, agents),
        baselines=rule_tracks(tape, config, spans, predictions),
        shifts=shifted(tape, config, spans, agents, bars),
        sweep=[
            (bps, _through(spans, tracks), rule_tracks(tape, level, spans, predictions))
            for (bps, level), tracks in zip(cost_levels(config), sweep, strict=True)
        ],
    )


def _through(spans: Spans, tracks: Sequence[Track]) -> list[Track]:
    """The tracks with a return on each bar but the first of each span."""
    first = np.isin(tracks[0].row, [start for start, _ in spans])
    return [replace(track, first=first) for track in tracks]


def cost_levels(config: Config) -> list[tuple[float, Config]]:
    """(basis points, configuration with that fee and no slippage) of each level of the cost sweep."""
    levels = []
    for bps in config.judging.cost_sweep_bps:
        costs = config.costs.model_copy(update={"fee_frac": bps * BASIS_POINT, "slippage_frac": 0.0})
        levels.append((bps, config.model_copy(update={"costs": costs})))
    return levels


def judgement(
    scored: Scored[AnyTrack],
    config: Config,
    trial_sharpes: list[float],
    metrics_of: Callable[[Any, Config, str], dict[str, Any]] = track_metrics,
) -> dict[str, Any]:
    """Verdict, reasons and all numbers as finite plain values.

    Args:
        scored: what was played.
        config: decides annualisation, costs and thresholds.
        trial_sharpes: `ppo.trials.sharpes` of all trials that touch these bars, this one among them.
        metrics_of: METRICS of one of its tracks; the name names the bootstrap stream.
    """
    year = math.sqrt(config.market.bars_per_year)
    returns, equity = mean_track(scored.agents)
    agents = [metrics_of(track, config, f"seed-{i}") for i, track in enumerate(scored.agents)]
    baselines: dict[str, Any] = {name: metrics_of(track, config, name) for name, track in scored.baselines.items()} | {
        "random": _random(scored, config)
    }
    mean = mean_over_seeds(agents) | return_metrics(returns, equity, config, "mean")
    mean["dsr"], threshold = deflated_sharpe(moments(returns), trial_sharpes)
    best = best_baseline(baselines)
    verdict, reasons = decide(agents, mean, best, config)
    power, confidence = config.judging.detection_power, config.judging.confidence
    return {
        "verdict": verdict,
        "reasons": reasons,
        "best_baseline": best,
        "bars_per_year": config.market.bars_per_year,
        "confidence": confidence,
        "costs": config.costs.model_dump(),
        "initial_equity": config.env.initial_equity,
        "agents": [{"seed": i, "metrics": metrics} for i, metrics in enumerate(agents)],
        "mean": mean | {"seeds": len(agents)},
        "spread": {name: spread([agent[name] for agent in agents]) for name in SPREAD},
        "baselines": baselines,
        "cost_sweep": [_sweep_row(bps, tracks, rules, config) for bps, tracks, rules in scored.sweep],
        "trials": {
            "count": len(trial_sharpes),
            "sharpes": trial_sharpes,
            "variance": trial_variance(len(returns), trial_sharpes),
            "expected_max_sharpe": threshold * year,
        },
        "detectable_sharpe": {
            "sharpe": finite(detectable_sharpe(len(returns), confidence, power) * year),
            "power": power,
            "confidence": confidence,
            "returns": len(returns),
        },
    }


def decide(agents: list[dict], mean: dict, best: dict[str, Any], config: Config) -> tuple[str, list[dict[str, Any]]]:
    """The verdict by market rules, and every rule it rests on."""
    judging = config.judging
    collapsed = sum(agent["collapsed"] for agent in agents)
    low, dsr = mean["sharpe_lower_bound"], mean["dsr"]
    share = f"{judging.confidence:.0%}"
    reasons = [
        {
            "rule": "not_collapsed",
            "holds": 2 * collapsed <= len(agents),
            "value": collapsed,
            "threshold": len(agents) / 2,
            "text": f"{collapsed} of {len(agents)} seeds collapsed (fewer than {judging.collapse_position_changes} "
            f"position changes, or one weight on {judging.collapse_weight_frac:.0%} of the bars)",
        },
        {
            "rule": "sharpe_above_baselines",
            "holds": low > best["sharpe"],
            "value": low,
            "threshold": best["sharpe"],
            "text": f"the lower {share} bound of the Sharpe ratio of the seeds' mean return is {low:.2f}; "
            f"the best baseline ({baseline_name(best['name'])}) has {best['sharpe']:.2f}",
        },
        {
            "rule": "deflated_sharpe",
            "holds": dsr > judging.deflated_sharpe_threshold,
            "value": dsr,
            "threshold": judging.deflated_sharpe_threshold,
            "text": f"the deflated Sharpe ratio is {dsr:.3f}; an edge needs more than "
            f"{judging.deflated_sharpe_threshold:g}",
        },
        {
            "rule": "enough_seeds",
            "holds": len(agents) >= judging.min_seeds,
            "value": len(agents),
            "threshold": judging.min_seeds,
            "text": f"{len(agents)} seeds; an edge needs {judging.min_seeds} or more",
        },
    ]
    if not reasons[0]["holds"]:
        return COLLAPSED, reasons
    return EDGE if all(reason["holds"] for reason in reasons) else NO_EVIDENCE, reasons


def best_baseline(baselines: dict[str, dict]) -> dict[str, Any]:
    """The highest Sharpe ratio among the rules, without the classifier's, and the random shifts' 95th percentile."""
    rules = (name for name in baselines if name not in (FOLLOW_CLASSIFIER, "random"))
    ratios = {name: baselines[name]["sharpe"] for name in rules}
    ratios["random"] = baselines["random"]["sharpe_p95"]
    name = max(ratios, key=lambda key: ratios[key])
    return {"name": name, "sharpe": ratios[name]}


def summary(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The unit's own metrics: what a one-screen answer shows; of the random shifts the 95th percentiles."""
    mean, random = evaluation["mean"], evaluation["baselines"]["random"]
    baselines = {name: _some(metrics) for name, metrics in evaluation["baselines"].items() if name != "random"}
    return {
        "verdict": evaluation["verdict"],
        "bars_per_year": evaluation["bars_per_year"],
        "trials": evaluation["trials"]["count"],
        "detectable_sharpe": evaluation["detectable_sharpe"],
        "agents": [{"seed": agent["seed"]} | _some(agent["metrics"]) for agent in evaluation["agents"]],
        "mean": _some(mean) | {"dsr": mean["dsr"], "sharpe_lower_bound": mean["sharpe_lower_bound"]},
        "baselines": baselines | {"random": {name: random[f"{name}_p95"] for name in ("sharpe", "total_return")}},
    }


def _some(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in SUMMARY}


def _random(scored: Scored[AnyTrack], config: Config) -> dict[str, Any]:
    year = math.sqrt(config.market.bars_per_year)
    ratios, shifts = scored.shifts.sharpe, scored.shifts
    quantiles = {"p05": 0.05, "median": 0.5, "p95": 0.95}
    return {
        "shifts": len(ratios),
        **{f"sharpe_{key}": float(np.quantile(ratios, q)) * year for key, q in quantiles.items()},
        **{f"total_return_{key}": float(np.quantile(shifts.total_return, q)) for key, q in quantiles.items()},
        "share_at_least_agents": float(np.mean(ratios >= moments(mean_track(scored.agents)[0]).sharpe)),
        "sharpes": np.sort(ratios * year).tolist(),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, largest and standard deviation (ddof 1) of what the seeds reached."""
    return {"min": min(values), "max": max(values), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def _sweep_row(bps: float, tracks: list[AnyTrack], rules: dict[str, AnyTrack], config: Config) -> dict[str, Any]:
    return {
        "cost_bps": bps,
        "fee_frac": bps * BASIS_POINT,
        "slippage_frac": 0.0,
        "agents": [{"seed": i} | _brief(track.returns, track.equity, config) for i, track in enumerate(tracks)],
        "mean": _brief(*mean_track(tracks), config),
        "baselines": {name: _brief(track.returns, track.equity, config) for name, track in rules.items()},
    }


def _brief(returns: np.ndarray, equity: np.ndarray, config: Config) -> dict[str, float]:
    ratio = moments(returns).sharpe * math.sqrt(config.market.bars_per_year)
    return {"total_return": float(equity[-1] / equity[0] - 1), "sharpe": ratio}
