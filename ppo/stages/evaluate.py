"""Unit `evaluate`: the only place that scores the test part, once per agent.

It reads `prepare`, `classifiers/*` and the agents of every family that this run has (its request names them), and
writes, under `stages/evaluate/<family>/`, with family `ppo`, `lstm_ppo`, `multi_asset` or `walk_forward`:

`evaluation.json` -- everything a report needs. Ratios are annualised with
`bars_per_year`; fractions are fractions (0.02 is 2 %); an undefined number
(profit factor without a losing trade) is null.

    schema              1
    verdict             "edge" | "collapsed" | "no evidence of an edge"
    reasons             [{"rule", "holds": bool, "value", "threshold", "text"}]: every rule the verdict rests on;
                        rules: "not_collapsed" (value = collapsed seeds), "sharpe_above_baselines" (value = lower
                        bound of the mean's Sharpe, threshold = best baseline's Sharpe), "deflated_sharpe"
    best_baseline       {"name", "sharpe"}: the highest of flat, buy_and_hold, moving_average, random (95th percentile)
    dataset             {"name", "digest", "asset_class", "synthetic": bool, "timeframe_s"}
    test_range          {"start", "stop": half-open bar indexes, "first_t", "last_t": Unix s of the first and last
                        scored bar, "bars": scored bars, "returns": bars with a return, "spans", "years"}
    bars_per_year       float, the annualisation of every ratio here
    confidence          0.95
    costs               {"fee_frac", "slippage_frac", "borrow_frac_per_year"}
    initial_equity      float
    agents              [{"seed": i, "metrics": METRICS}], one per seed
    mean                METRICS of the equally weighted mean of the seeds' bar returns; trading counts are means over
                        the seeds; plus "dsr" (deflated Sharpe ratio, N of `trials`) and "seeds"
    spread              {"sharpe": {"min", "max", "sd"}, "total_return": {...}, "max_drawdown": {...}} over the seeds
    baselines           {"flat", "buy_and_hold", "moving_average", "follow_classifier": METRICS, "random": RANDOM}
    cost_sweep          [{"cost_bps", "fee_frac", "slippage_frac": 0, "agents": [{"seed", "total_return", "sharpe"}],
                        "mean": {"total_return", "sharpe"}, "baselines": {name: {"total_return", "sharpe"}}}]
    trials              {"count": N, this scoring and its siblings included, "sharpes": of each, oldest first, as
                        `ppo.trials.sharpes` gives them, "variance": of those, "expected_max_sharpe": SR0, annualised}
    detectable_sharpe   {"sharpe": annualised, against 0, "power": 0.8, "confidence": 0.95, "returns"}

METRICS = {"returns": bars counted, "years", "total_return", "annual_return", "annual_volatility", "sharpe",
"sharpe_standard_error", "sharpe_interval": [low, high] two-sided bootstrap, "sharpe_lower_bound": one-sided bootstrap,
"mean_block_bars", "psr": P(true Sharpe > 0), "skew", "kurtosis" (3 for a normal), "sortino", "calmar", "max_drawdown"
(positive), "turnover": traded notional over equity, summed, "turnover_per_year", "exposure": share of bars with a
position (`ppo.metrics.exposed`), "mean_weight", "hit_rate", "profit_factor" (both over closed round trips, costs
included), "trades": round trips, "position_changes": bars with fills the agent asked for, but those that take up a side
again after a forced close (`ppo.metrics.resumed`), "fees_paid", "slippage_paid", "borrow_paid" (account currency),
"actions": {name: share of decisions}, "illegal_actions", "liquidated": bool, "top_weight_share": share of bars at the
commonest weight, "collapsed": bool}

RANDOM = {"shifts", "sharpe_p05", "sharpe_median", "sharpe_p95", "total_return_p05", "total_return_median",
"total_return_p95", "share_at_least_agents": share of the shifts with a Sharpe at least the seeds' mean's, "sharpes":
[...] sorted}

`equity.parquet` -- one row per scored bar: t (int64, Unix s, open time), close, span (int32, 0..), then per seed i
`equity_seed_<i>`, `weight_seed_<i>` (at the close; 0 on the last bar of a span, where positions are closed),
`action_seed_<i>` (int8, decided at this close, -1 where none), then `equity_mean`, `equity_flat`,
`equity_buy_and_hold`, `equity_moving_average`, `equity_follow_classifier`. All start at the initial equity.

`trades-seed-<i>.csv` -- every fill of that seed, as `ppo.ledger` defines it.

Beside the families, for the run as a whole:

`classifiers.json` -- {member or "ensemble": test scores as `training.crossfit.score_predictions` gives them}.

`targets.json` -- what the plan hoped for beside what was measured, as `ppo.targets` describes it.

`trials.json` -- {"trials": [...]}: every entry of the ledger (`ppo.trials`) that touches bars scored here.

The unit's metrics (in `result.json`) are those of the primary family, the first there is, as `ppo.judge.summary` gives
them, plus "families": {name: the same}, with "verdict" that of the run: "edge" where any family has one, else "no
evidence of an edge" where any has that, else "collapsed".
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from configs.errors import BadDataError
from configs.files import read_json, write_json
from configs.run_dir import RunDir
from configs.schema import Config
from configs.unit import Unit, run_stage
from configs.verdicts import FAMILIES, leading
from ppo.evaluate import Agent
from ppo.joining import joined
from ppo.judge import judgement, score, summary
from ppo.learner.policy import Policy, read_policy
from ppo.learner.train import single_asset_sizes
from ppo.portfolio.evaluate import score_portfolio
from ppo.scoring import Played, SingleAsset, dataset_facts, enter, judge, write_evaluation
from ppo.stages.agent import generated_tape, observed_columns
from ppo.tape import build_tape, spans
from ppo.targets import targets
from ppo.walk_forward import window_months
from training.crossfit import score_predictions
from training.determinism import set_up_torch
from training.scaling import Scaler
from training.speed import WindowSpeed
from training.splits import bars_needed
from training.stages.prepare import Prepared, load_predictions, load_prepared

BASE_BYTES = 700_000_000
"""A process with torch, arch and the compiled rules."""
BYTES_PER_BAR = 2_000
"""Tape, tracks of all agents, baselines and cost levels; rounded up."""
NOMINAL_TEST_BARS = 3_500
"""A fifth of two years of hourly bars."""
AGENT_UNIT = re.compile(r"\w+/(seed-\d+|\d{4}-\d\d)")
"""Units that trained agents: a seed, or all seeds of a test month."""
JUDGED, SCORED = "bars played and judged", "bars of classifiers scored"
JUDGED_PER_S, SCORED_PER_S = 1_000.0, 6_000.0
CALIBRATION_BARS = 1_000
ARTIFACT_BYTES = 10_000_000
"""Equity, tables and trades of all families."""


def main(argv: list[str] | None = None) -> int:
    """Run the unit as a process."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Play every family, enter all in the ledger of scorings, then judge and write; returns the summary."""
    run, config = unit.run, unit.config
    set_up_torch(config.compute.threads_per_unit)
    names = families_of(run, unit.id, config)
    prepared = load_prepared(run)
    played = {name: PLAYERS[name](name, unit, prepared) for name in names}
    trials = enter(played.values(), run.root.parent)
    evaluations = {name: judge(family, trials) for name, family in played.items()}
    for name, family in played.items():
        write_evaluation(unit.dir / name, family, evaluations[name])
    found = targets(evaluations, {name: family.returns for name, family in played.items()}, _pretraining(unit), config)
    write_json(unit.dir / "targets.json", {"targets": found})
    write_json(unit.dir / "trials.json", {"trials": [asdict(trial) for trial in trials]})
    write_json(unit.dir / "classifiers.json", _classifier_scores(run, prepared, config))
    return summary_of(evaluations)


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`, of a run with every family."""
    settings = config.walk_forward
    month_bars = config.market.bars_per_year / 12
    test_frac = 1 - config.splits.train_frac - config.splits.validation_frac
    scored = (len(config.classifiers.members) + 1) * test_frac
    return {
        "bars_needed": bars_needed(config),
        "memory_bytes": BASE_BYTES + BYTES_PER_BAR * max(NOMINAL_TEST_BARS, bars_needed(config)),
        "artifact_bytes": ARTIFACT_BYTES,
        "work": [
            {"name": JUDGED, "amount": 3 * test_frac, "per": "bar", "rate_per_s": JUDGED_PER_S},
            {"name": JUDGED, "amount": settings.windows * month_bars, "rate_per_s": JUDGED_PER_S},
            {"name": SCORED, "amount": scored, "per": "bar", "rate_per_s": SCORED_PER_S},
        ],
    }


def calibrate(config: Config, budget_s: float) -> dict[str, float]:
    """Rates of the stage's work on this machine, of untrained agents on generated bars."""
    set_up_torch(config.compute.threads_per_unit)
    tape, sizes = (
        generated_tape(config, CALIBRATION_BARS),
        single_asset_sizes(config, observed_columns(config), config.ppo),
    )
    agents = [Policy(sizes).eval() for _ in range(config.agent.seeds)]

    def judge_one(bars: int) -> None:
        scored = score(tape, config, [(0, bars)], agents, None)
        judgement(scored, config, [0.0])

    judge_one(CALIBRATION_BARS // 10)  # compiles
    done, begun_s = 0, time.perf_counter()
    while not done or time.perf_counter() - begun_s < budget_s / 2:
        judge_one(CALIBRATION_BARS)
        done += CALIBRATION_BARS
    judged_per_s = done / (time.perf_counter() - begun_s)
    return {JUDGED: judged_per_s, SCORED: WindowSpeed(config).scored_per_s()}


def families_of(run: RunDir, unit_id: str, config: Config) -> list[str]:
    """The families with agents among the inputs of this unit's request, in their order.

    Raises:
        BadDataError: there is none, or one is only partly there: a verdict on some of its seeds or months would be on
            another family.
    """
    agents = {name for name in run.request(unit_id).inputs if AGENT_UNIT.fullmatch(name)}
    found = [name for name in FAMILIES if any(agent.startswith(f"{name}/") for agent in agents)]
    if not found:
        raise BadDataError(
            f"run {run.run_id!r} has no agents to score: it needs units of {', '.join(FAMILIES[:-1])} or "
            f"{FAMILIES[-1]}; run one of these stages first"
        )
    missing = [agent for name in found for agent in agents_of(name, config) if agent not in agents]
    if missing:
        stages = ", ".join(dict.fromkeys(agent.partition("/")[0] for agent in missing))
        raise BadDataError(
            f"of run {run.run_id!r} only a part of {stages} is done; missing: {', '.join(missing)}; run {stages} to "
            "its end first"
        )
    return found


def agents_of(name: str, config: Config) -> list[str]:
    """Units of a family's agents: its seeds, or its test months in the order of time."""
    if name == "walk_forward":
        return [f"{name}/{month}" for month in window_months(config)]
    return [f"{name}/seed-{seed}" for seed in range(config.agent.seeds)]


def summary_of(evaluations: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The unit's metrics, as described above."""
    families = {name: summary(evaluation) for name, evaluation in evaluations.items()}
    primary = next(iter(families.values()))
    verdict = families[leading({name: family["verdict"] for name, family in families.items()})]["verdict"]
    return primary | {"verdict": verdict, "families": families}


def load_agents(run: RunDir, unit_ids: Sequence[str]) -> list[Agent]:
    """The greedy agents that these units trained.

    Raises:
        BadDataError: a unit has no readable policy.
    """
    return [read_policy(run.unit_dir(unit_id)) for unit_id in unit_ids]


def load_scaler(run: RunDir, unit_id: str) -> Scaler:
    """The market scaler of an agent; every seed of a run has the same."""
    return Scaler.from_json(read_json(run.require_output(unit_id, "scaler.json")))


def _play_single_asset(name: str, unit: Unit, prepared: Prepared) -> Played:
    run, config = unit.run, unit.config
    agents, predictions = agents_of(name, config), load_predictions(run, "ensemble")
    tape = build_tape(prepared.bars, prepared.features, predictions, load_scaler(run, agents[0]), config)
    played = spans(tape, *prepared.split.test)
    scored = score(tape, config, played, load_agents(run, agents), predictions, unit.progress)
    dataset, cache_key = dataset_facts(prepared.dataset), _cache_key(name, unit)
    return SingleAsset(tape, config, scored, prepared.split.test, dataset, cache_key)


def _play_portfolio(name: str, unit: Unit, prepared: Prepared) -> Played:
    return score_portfolio(unit, prepared, agents_of(name, unit.config), _cache_key(name, unit))


def _cache_key(name: str, unit: Unit) -> str:
    return f"{unit.run.request(unit.id).cache_key}/{name}"


PLAYERS: dict[str, Callable[[str, Unit, Prepared], Played]] = {
    "ppo": _play_single_asset,
    "lstm_ppo": _play_single_asset,
    "multi_asset": _play_portfolio,
    "walk_forward": joined,
}
"""How each family's agents are played."""


def _pretraining(unit: Unit) -> list[dict[str, Any]]:
    """`test` of the pre-trained agents among the unit's inputs."""
    units = [name for name in unit.run.request(unit.id).inputs if name.startswith("pretrain/")]
    results = [unit.run.result(name) for name in units]
    return [result.metrics["test"] for result in results if result and "test" in result.metrics]


def _classifier_scores(run: RunDir, prepared: Prepared, config: Config) -> dict[str, Any]:
    test_rows = np.arange(*prepared.split.test)
    return {
        member: score_predictions(prepared.bars, load_predictions(run, member), prepared.split, config, test_rows)
        for member in (*config.classifiers.members, "ensemble")
    }


if __name__ == "__main__":
    raise SystemExit(main())
