"""Unit `evaluate`: the only place that scores the test part, once per agent.

It reads `prepare`, `classifiers/*` and `ppo/seed-*` and writes, under
`stages/evaluate/`:

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
    agents              [{"seed": i, "metrics": METRICS}], one per `ppo/seed-<i>`
    mean                METRICS of the equally weighted mean of the seeds' bar returns; trading counts are means over
                        the seeds; plus "dsr" (deflated Sharpe ratio, N of `trials`) and "seeds"
    spread              {"sharpe": {"min", "max", "sd"}, "total_return": {...}, "max_drawdown": {...}} over the seeds
    baselines           {"flat", "buy_and_hold", "moving_average", "follow_classifier": METRICS, "random": RANDOM}
    cost_sweep          [{"cost_bps", "fee_frac", "slippage_frac": 0, "agents": [{"seed", "total_return", "sharpe"}],
                        "mean": {"total_return", "sharpe"}, "baselines": {name: {"total_return", "sharpe"}}}]
    classifiers         {member or "ensemble": test scores as `training.crossfit.score_predictions` gives them}
    trials              {"count": N, this one included, "sharpes": per-bar Sharpe of each, this one last,
                        "variance": of those, "expected_max_sharpe": SR0, annualised}
    detectable_sharpe   {"sharpe": annualised, "power": 0.8, "confidence": 0.95, "returns"}

METRICS = {"returns": bars counted, "years", "total_return", "annual_return", "annual_volatility", "sharpe",
"sharpe_standard_error", "sharpe_interval": [low, high] two-sided bootstrap, "sharpe_lower_bound": one-sided bootstrap,
"mean_block_bars", "psr": P(true Sharpe > 0), "skew", "kurtosis" (3 for a normal), "sortino", "calmar", "max_drawdown"
(positive), "turnover": traded notional over equity, summed, "turnover_per_year", "exposure": share of bars with a
position, "mean_weight", "hit_rate", "profit_factor" (both over closed round trips, costs included), "trades": round
trips, "position_changes": fills the agent asked for, "fees_paid", "slippage_paid", "borrow_paid" (account currency),
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

The unit's metrics (in `result.json`) are {"verdict", "bars_per_year", "trials": N, "detectable_sharpe": as above,
"agents": [{"seed"} + SUMMARY], "mean": SUMMARY + "dsr" + "sharpe_lower_bound", "baselines": {name: SUMMARY, "random":
{"sharpe", "total_return"}: its 95th percentiles}} with SUMMARY = {"sharpe", "total_return", "max_drawdown", "trades"}.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs.files import read_json, write_json
from configs.run_dir import RunDir
from configs.schema import Config
from configs.unit import Unit, run_stage
from ppo.evaluate import Decide, Track
from ppo.judge import Scored, judgement, score, summary
from ppo.learner.policy import load_policy
from ppo.ledger import trades, write_trades
from ppo.metrics import mean_track
from ppo.statistics import moments
from ppo.tape import Tape, build_tape, spans
from ppo.trials import LEDGER_NAME, Trial, record
from training.crossfit import score_predictions
from training.determinism import set_up_torch
from training.scaling import Scaler
from training.splits import bars_needed
from training.stages.prepare import Prepared, load_predictions, load_prepared, write_table

SCHEMA = 1
BASE_BYTES = 700_000_000
"""A process with torch, arch and the compiled rules."""
BYTES_PER_BAR = 2_000
"""Tape, tracks of all agents, baselines and cost levels; rounded up."""
NOMINAL_TEST_BARS = 3_500
"""A fifth of two years of hourly bars."""
DECISIONS_PER_S = 5_000.0
"""Greedy decisions of a small policy, one at a time, on one core."""


def main(argv: list[str] | None = None) -> int:
    """Run the unit as a process."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Score the test part, enter that in the ledger of scorings, judge and write; returns the summary."""
    run, config = unit.run, unit.config
    set_up_torch(config.compute.threads_per_unit)
    prepared = load_prepared(run)
    predictions = load_predictions(run, "ensemble")
    tape = build_tape(prepared.bars, prepared.features, predictions, load_scaler(run), config)
    played = spans(tape, *prepared.split.test)
    scored = score(tape, config, played, load_agents(run, config), predictions, unit.progress)
    trials = enter_trial(run, scored, prepared.dataset["digest"], prepared.split.test, run.request(unit.id).cache_key)
    evaluation = {
        "dataset": dataset_facts(prepared.dataset),
        "test_range": range_facts(tape, scored, prepared.split.test, config),
        "classifiers": _classifier_scores(run, prepared, config),
    } | judgement(scored, config, trials)
    write_evaluation(unit.dir, tape, scored, evaluation)
    return summary(evaluation)


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`; the work is that of `NOMINAL_TEST_BARS` scored bars."""
    plays = config.agent.seeds * (1 + len(config.judging.cost_sweep_bps))
    return {
        "bars_needed": bars_needed(config),
        "memory_bytes": BASE_BYTES + BYTES_PER_BAR * max(NOMINAL_TEST_BARS, bars_needed(config)),
        "work": [{"name": "decisions", "amount": plays * NOMINAL_TEST_BARS, "rate_per_s": DECISIONS_PER_S}],
    }


def load_agents(run: RunDir, config: Config) -> list[Decide]:
    """The greedy agents of a run's seeds.

    Raises:
        BadDataError: a seed has no readable policy.
    """
    return [load_policy(run.unit_dir(f"ppo/seed-{seed}")) for seed in range(config.agent.seeds)]


def load_scaler(run: RunDir) -> Scaler:
    """The market scaler of a run's agents; every seed has the same."""
    return Scaler.from_json(read_json(run.require_output("ppo/seed-0", "scaler.json")))


def enter_trial(run: RunDir, scored: Scored, digest: str, scored_range: tuple[int, int], cache_key: str) -> list[float]:
    """Enter a scoring in the runs directory's ledger; per-bar Sharpe ratios of all that count, this one last."""
    sharpe = moments(mean_track(scored.agents)[0]).sharpe
    trial = Trial(digest, *scored_range, cache_key=cache_key, sharpe=sharpe)
    return [entry.sharpe for entry in record(run.root.parent / LEDGER_NAME, trial)]


def dataset_facts(dataset: dict[str, Any]) -> dict[str, Any]:
    """The dataset's part of an evaluation."""
    return {name: dataset[name] for name in ("name", "digest", "asset_class", "synthetic", "timeframe_s")}


def range_facts(tape: Tape, scored: Scored, bounds: tuple[int, int], config: Config) -> dict[str, Any]:
    """Which bars were scored."""
    track = scored.agents[0]
    returns = len(track.returns)
    return {
        "start": bounds[0],
        "stop": bounds[1],
        "first_t": int(tape.t[track.row[0]]),
        "last_t": int(tape.t[track.row[-1]]),
        "bars": len(track.row),
        "returns": returns,
        "spans": int(track.first.sum()),
        "years": returns / config.market.bars_per_year,
    }


def write_evaluation(directory: Path, tape: Tape, scored: Scored, evaluation: dict[str, Any]) -> None:
    """Write `evaluation.json`, `equity.parquet` and the seeds' trades."""
    write_table(directory / "equity.parquet", equity_table(tape, scored))
    for seed, track in enumerate(scored.agents):
        frame = trades(tape, track.fill_row, track.fills, int(track.row[-1]), track.account)
        write_trades(directory / f"trades-seed-{seed}.csv", frame)
    write_json(directory / "evaluation.json", {"schema": SCHEMA} | evaluation)


def equity_table(tape: Tape, scored: Scored) -> pd.DataFrame:
    """One row per scored bar, as described above."""
    track = scored.agents[0]
    columns = {
        "t": tape.t[track.row],
        "close": tape.close[track.row],
        "span": (np.cumsum(track.first) - 1).astype(np.int32),
    }
    for seed, agent in enumerate(scored.agents):
        columns |= _columns(agent, f"seed_{seed}")
    columns["equity_mean"] = mean_track(scored.agents)[1]
    columns |= {f"equity_{name}": baseline.equity for name, baseline in scored.baselines.items()}
    return pd.DataFrame(columns)


def _columns(track: Track, name: str) -> dict[str, np.ndarray]:
    return {f"equity_{name}": track.equity, f"weight_{name}": track.weight, f"action_{name}": track.action}


def _classifier_scores(run: RunDir, prepared: Prepared, config: Config) -> dict[str, Any]:
    test_rows = np.arange(*prepared.split.test)
    return {
        member: score_predictions(prepared.bars, load_predictions(run, member), prepared.split, config, test_rows)
        for member in (*config.classifiers.members, "ensemble")
    }


if __name__ == "__main__":
    raise SystemExit(main())
