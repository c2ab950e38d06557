"""A run directory as the stages leave it, with made-up numbers of the documented form; for the report's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs.events import EventLog
from configs.files import write_json
from configs.load import resolve
from configs.run_dir import RunDir
from tests.runner import plan_sample

FIRST_T = 1_750_000_400 // 3_600 * 3_600
SEEDS = 3
ACTIONS = ("hold", "buy_25", "buy_50", "buy_100", "sell_25", "sell_50", "sell_100", "close", "reverse")
UNITS = (
    "prepare",
    "classifiers/lstm",
    "classifiers/gru",
    "classifiers/bilstm",
    "classifiers/dlstm",
    "classifiers/ensemble",
    *(f"ppo/seed-{seed}" for seed in range(SEEDS)),
    "evaluate",
)


def make_run(
    root: Path,
    *,
    dataset: str = "ADA-EUR_1H",
    bars: int = 1_200,
    verdict: str = "no evidence of an edge",
    synthetic: bool = False,
) -> RunDir:
    """Write a finished run under `root`."""
    run = RunDir(root / f"{dataset}-quick-1a2b3c4d")
    rng = np.random.default_rng(7)
    config = resolve(dataset, "quick").config
    run.save_config(config)
    facts = dataset_facts(dataset, synthetic)
    write_json(run.run_json, identity(run, facts))
    write_json(run.unit_dir("prepare") / "dataset.json", facts)
    write_json(
        run.unit_dir("prepare") / "splits.json", {"train": [0, 3600], "validation": [3600, 4800], "test": [4800, 6000]}
    )
    frame = equity_frame(rng, bars)
    judged = evaluation(rng, frame, facts, verdict)
    plan_sample.write_family(run, "ppo", judged, frame)
    frame = equity_frame(rng, bars)
    plan_sample.write_family(run, "lstm_ppo", evaluation(rng, frame, facts, verdict), frame)
    frame = equity_frame(rng, bars)
    held = plan_sample.multi_asset(evaluation(rng, frame, facts, verdict))
    plan_sample.write_family(run, "multi_asset", held, plan_sample.portfolio_equity(rng, frame))
    frame = equity_frame(rng, bars)
    joined = evaluation(rng, frame, facts, verdict) | plan_sample.walk_forward(rng, SEEDS)
    plan_sample.write_family(run, "walk_forward", joined, frame)
    plan_sample.write_targets(run)
    plan_sample.write_stress(run, rng)
    plan_sample.write_ablation(run)
    plan_sample.write_plan(run, dict.fromkeys(UNITS, 24.0))
    scored = {name: scores(rng) for name in ("lstm", "gru", "bilstm", "dlstm", "ensemble")}
    write_json(run.unit_dir("evaluate") / "classifiers.json", scored)
    histories(rng, run)
    for unit in UNITS:
        result = {"unit": unit, "cache_key": "0" * 64, "outputs": {}, "metrics": {}}
        write_json(run.unit_dir(unit) / "result.json", result)
    events(rng, run)
    return run


def dataset_facts(name: str, synthetic: bool) -> dict[str, Any]:
    return {
        "name": name,
        "path": f"data/{name}.csv.gz",
        "source_format": "CSV, comma, header, gzip",
        "timezone": "UTC (stated in the stamps)",
        "digest": "9f" * 32,
        "rows": 17_491,
        "first_t": FIRST_T - 40_000_000,
        "last_t": FIRST_T + 4_000_000,
        "timeframe_s": 3_600,
        "asset_class": "crypto",
        "segments": [{"first_t": FIRST_T - 40_000_000, "last_t": FIRST_T + 4_000_000, "rows": 17_491}],
        "gaps": {
            "count": 16,
            "missing_bars": 52,
            "longest_bars": 5,
            "first": [{"t": FIRST_T - 9_000_000, "missing_bars": 1}],
            "longest": [{"t": FIRST_T, "missing_bars": 5}, {"t": FIRST_T - 9_000_000, "missing_bars": 1}],
        },
        "file_rows": 17_491,
        "order": "oldest first",
        "duplicates": 0,
        "out_of_order": 3,
        "zero_volume": 2,
        "outlier_moves": [{"t": FIRST_T, "move_frac": 0.336, "sigmas": 31.2}],
        "outlier_count": 1,
        "notes": [],
        "synthetic": synthetic,
        "dropped": [],
    }


def identity(run: RunDir, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "created_t": FIRST_T + 5_000_000,
        "config_digest": "ab" * 32,
        "dataset_digest": facts["digest"],
        "code_digest": "cd" * 32,
        "lock_digest": "ef" * 32,
        "machine": {"cpu_model": "A processor", "cpu_cores": 2, "memory_bytes": 25_300_000_000, "gpus": []},
        "command": [
            "sequence-runner",
            "run",
            "--dataset",
            facts["name"],
            "--profile",
            "quick",
            "--data-dir",
            "my data",
        ],
    }


def equity_frame(rng: np.random.Generator, bars: int) -> pd.DataFrame:
    close = 0.7 * np.exp(np.cumsum(rng.normal(0, 0.008, bars)))
    market = np.diff(np.log(close), prepend=np.log(close[0]))
    columns: dict[str, np.ndarray] = {
        "t": FIRST_T + 3_600 * np.arange(bars),
        "close": close,
        "span": np.zeros(bars, np.int32),
    }
    equities = []
    for seed in range(SEEDS):
        blocks = rng.choice([0, 0.25, 0.5, 1, 1, -0.5], size=bars // 12 + 1)
        weight = np.repeat(blocks, 12)[:bars]
        turnover = np.abs(np.diff(weight, prepend=0))
        equity = 10_000 * np.exp(np.cumsum(np.roll(weight, 1) * market - 0.001 * turnover))
        equity[0] = 10_000
        equities.append(equity)
        columns |= {
            f"equity_seed_{seed}": equity,
            f"weight_seed_{seed}": weight,
            f"action_seed_{seed}": rng.integers(-1, 9, bars).astype(np.int8),
        }
    ma = 10_000 * np.exp(np.cumsum((rng.random(bars) < 0.5) * market))
    columns |= {
        "equity_mean": np.mean(equities, axis=0),
        "equity_flat": np.full(bars, 10_000.0),
        "equity_buy_and_hold": 10_000 * close / close[0],
        "equity_moving_average": ma * 10_000 / ma[0],
        "equity_follow_classifier": 10_000 * np.exp(np.cumsum(rng.normal(-1e-4, 0.004, bars)) - 0.0),
    }
    return pd.DataFrame(columns)


def metrics(rng: np.random.Generator, sharpe: float, total_return: float) -> dict[str, Any]:
    return {
        "returns": 1_199,
        "years": 0.137,
        "total_return": total_return,
        "annual_return": total_return * 4,
        "annual_volatility": 0.61,
        "sharpe": sharpe,
        "sharpe_standard_error": 2.6,
        "sharpe_interval": [sharpe - 4.1, sharpe + 4.6],
        "sharpe_lower_bound": sharpe - 3.5,
        "mean_block_bars": 4.2,
        "psr": 0.61,
        "skew": -0.3,
        "kurtosis": 9.1,
        "sortino": sharpe * 1.4,
        "calmar": sharpe * 1.1,
        "max_drawdown": 0.187,
        "turnover": 41.3,
        "turnover_per_year": 301.0,
        "exposure": 0.64,
        "mean_weight": 0.4,
        "hit_rate": 0.47,
        "profit_factor": None if sharpe == 0 else 1.08,
        "trades": 57,
        "position_changes": 113,
        "fees_paid": 812.4,
        "slippage_paid": 160.2,
        "borrow_paid": 3.1,
        "actions": dict(zip(ACTIONS, rng.dirichlet(np.r_[12, np.ones(8)]).tolist(), strict=True)),
        "illegal_actions": 0,
        "liquidated": False,
        "top_weight_share": 0.36,
        "collapsed": False,
    }


def evaluation(rng: np.random.Generator, frame: pd.DataFrame, facts: dict[str, Any], verdict: str) -> dict[str, Any]:
    def total(column: str) -> float:
        return float(frame[column].iloc[-1] / frame[column].iloc[0] - 1)

    agents = [
        {"seed": seed, "metrics": metrics(rng, 0.4 + 0.5 * seed, total(f"equity_seed_{seed}"))} for seed in range(SEEDS)
    ]
    mean = metrics(rng, 0.93, total("equity_mean")) | {"dsr": 0.61, "seeds": SEEDS}
    baselines: dict[str, Any] = {
        name: metrics(rng, sharpe, total(f"equity_{name}"))
        for name, sharpe in (
            ("flat", 0.0),
            ("buy_and_hold", 1.21),
            ("moving_average", -0.42),
            ("follow_classifier", 0.33),
        )
    }
    shifts = np.sort(rng.normal(0.2, 2.1, 1_000))
    baselines["random"] = {
        "shifts": 1_000,
        "sharpe_p05": float(shifts[50]),
        "sharpe_median": float(shifts[500]),
        "sharpe_p95": float(shifts[950]),
        "total_return_p05": -0.2,
        "total_return_median": 0.0,
        "total_return_p95": 0.3,
        "share_at_least_agents": 0.36,
        "sharpes": shifts.tolist(),
    }
    return {
        "schema": 1,
        "verdict": verdict,
        "reasons": [
            {"rule": "not_collapsed", "holds": True, "value": 0, "threshold": 0, "text": "0 of 3 agents collapsed"},
            {
                "rule": "sharpe_above_baselines",
                "holds": False,
                "value": -2.57,
                "threshold": float(shifts[950]),
                "text": "lower bound of the mean's Sharpe -2.57 against 3.61 of the best baseline, random",
            },
            {
                "rule": "deflated_sharpe",
                "holds": False,
                "value": 0.61,
                "threshold": 0.95,
                "text": "DSR 0.61, 0.95 needed",
            },
        ],
        "best_baseline": {"name": "random", "sharpe": float(shifts[950])},
        "dataset": {key: facts[key] for key in ("name", "digest", "asset_class", "synthetic", "timeframe_s")},
        "test_range": {
            "start": 4_800,
            "stop": 6_000,
            "first_t": int(frame["t"].iloc[0]),
            "last_t": int(frame["t"].iloc[-1]),
            "bars": len(frame),
            "returns": len(frame) - 1,
            "spans": 1,
            "years": 0.137,
        },
        "bars_per_year": 8_760.0,
        "confidence": 0.95,
        "costs": {"fee_frac": 0.0025, "slippage_frac": 0.0005, "borrow_frac_per_year": 0.1},
        "initial_equity": 10_000.0,
        "agents": agents,
        "mean": mean,
        "spread": {"sharpe": {"min": 0.4, "max": 1.4, "sd": 0.5}},
        "baselines": baselines,
        "cost_sweep": [cost_row(bps) for bps in (0, 5, 10, 25)],
        "trials": {"count": 1, "index": 0, "sharpes": [0.01], "variance": 0.0, "expected_max_sharpe": 0.0},
        "detectable_sharpe": {"sharpe": 6.71, "power": 0.8, "confidence": 0.95, "returns": 1_199},
    }


def cost_row(bps: float) -> dict[str, Any]:
    def pair(sharpe: float) -> dict[str, float]:
        return {"total_return": 0.02 * sharpe - 0.004 * bps, "sharpe": sharpe - 0.09 * bps}

    return {
        "cost_bps": bps,
        "fee_frac": bps / 10_000,
        "slippage_frac": 0,
        "agents": [{"seed": seed} | pair(1.5 + 0.5 * seed) for seed in range(SEEDS)],
        "mean": pair(2.0),
        "baselines": {"buy_and_hold": pair(1.2), "moving_average": pair(0.4), "flat": {"total_return": 0, "sharpe": 0}},
    }


def scores(rng: np.random.Generator) -> dict[str, Any]:
    confusion = (rng.dirichlet(np.ones(9)) * 1_200).astype(int).reshape(3, 3).tolist()
    skill = {
        "bars": 1_180,
        "accuracy": 0.38,
        "best_rule": "volatility",
        "best_rule_accuracy": 0.402,
        "difference": -0.022,
        "lower": -0.041,
        "skilled": False,
    }
    classes = {
        name: {"precision": 0.3, "recall": 0.4, "f1": 0.35, "auc": 0.52, "bars": 400}
        for name in ("fall", "stationary", "rise")
    }
    return {
        "bars": 1_180,
        "accuracy": 0.38,
        "macro_f1": 0.351,
        "mcc": 0.06,
        "log_loss": 1.11,
        "calibration_error": 0.04,
        "classes": classes,
        "confusion": confusion,
        "no_skill": {"majority": 0.34, "known_part": 0.36, "volatility": 0.402},
        "skill": skill,
        "directional": skill
        | {"bars": 800, "best_rule": "majority", "difference": 0.03, "lower": 0.002, "skilled": True},
    }


def histories(rng: np.random.Generator, run: RunDir) -> None:
    for member in ("lstm", "gru", "bilstm", "dlstm"):
        folds = {}
        for name in ("fold-0", "fold-1", "fold-2", "fold-3", "final"):
            rows = [
                {
                    "epoch": epoch,
                    "train_loss": None if epoch == 0 else 1.1 - 0.02 * epoch + float(rng.normal(0, 0.004)),
                    "stop_loss": 1.1 - 0.005 * epoch + float(rng.normal(0, 0.004)),
                    "stop_accuracy": 0.36,
                }
                for epoch in range(5)
            ]
            folds[name] = rows
        write_json(run.unit_dir(f"classifiers/{member}") / "history.json", folds)
    for stage in ("pretrain", "lstm_ppo"):
        rows = [agent_row(rng, step) for step in range(8_192, 102_401, 8_192)]
        write_json(run.unit_dir(f"{stage}/seed-0") / "history.json", rows)
    for seed in range(SEEDS):
        rows = [agent_row(rng, step) for step in range(8_192, 204_801, 8_192)]
        write_json(run.unit_dir(f"ppo/seed-{seed}") / "history.json", rows)


def agent_row(rng: np.random.Generator, step: int) -> dict[str, Any]:
    done = step / 204_800
    row: dict[str, Any] = {
        "step": step,
        "learning_rate": 1e-3,
        "policy_loss": float(rng.normal(0, 0.01)),
        "value_loss": 0.2,
        "entropy": 1.9 - 1.2 * done + float(rng.normal(0, 0.02)),
        "approx_kl": 0.01 + float(rng.random()) * 0.01,
        "clip_frac": 0.1 + 0.05 * float(rng.random()),
        "grad_norm": 0.4 + float(rng.random()) * 0.2,
        "gradient_steps": 64,
        "explained_variance": 0.8 * done,
        "reward_mean": 0.01 * done + float(rng.normal(0, 0.003)),
        "action_shares": [0.2] + [0.1] * 8,
        "position_change_frac": 0.8 - 0.3 * done,
    }
    if step % 24_576 == 0:
        row["validation"] = {"score": 1e-5 * done + float(rng.normal(0, 2e-5)), "slice_scores": [0.0] * 5}
        row["collapse"] = []
    return row


def events(rng: np.random.Generator, run: RunDir) -> None:
    """A run that was stopped once and went on an hour later; times are the run's own, not the clock's."""
    log = _Log(EventLog(run.events, "supervisor"))
    log.at(0, "run_started", "run", command="sequence-runner run")
    for name, verdict in (("disk", "ok"), ("memory", "ok"), ("gpu", "warn"), ("network", "skipped")):
        log.at(0, "check", "run", name=name, found="x", needed="y", verdict=verdict, remedy="", exit_code=0)
    log.at(1, "plan", "run", says="about 4:00")
    t = 1.0
    for number, unit in enumerate(UNITS):
        log.at(t, "unit_started", unit, attempt=1)
        if number == 4:
            log.at(t + 9, "retry", unit, reason="killed", attempt=1, says="killed by the kernel: out of memory")
            log.at(t + 30, "run_finished", "run", exit_code=75)
            t += 3_600
            log.at(t, "run_started", "run", command="sequence-runner run")
            log.at(t + 1, "unit_started", unit, attempt=2)
        for second in range(0, 24, 2):
            log.at(t + second, "resources", "run", **sample(rng, unit))
        t += 25
        log.at(t, "unit_finished", unit, state="done", reason="finished", says="")
    for gate in plan_sample.GATES:
        log.at(t, "gate", "run", **gate)
    log.at(t + 1, "run_finished", "run", exit_code=0)
    log.write()


def sample(rng: np.random.Generator, unit: str) -> dict[str, Any]:
    return {
        "cpu_percent": round(float(60 + 30 * rng.random()), 1),
        "ram_used_bytes": int(2.2e9 + 4e8 * rng.random()),
        "ram_total_bytes": 25_300_000_000,
        "disk_free_bytes": 80_000_000_000,
        "gpus": [],
        "units": {unit: {"cpu_percent": 99.0, "rss_bytes": int(6e8 + 1e8 * rng.random())}},
    }


class _Log:
    """Events with given times, through the real writer's format."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._lines: list[str] = []

    def at(self, t: float, kind: str, unit: str, **fields: Any) -> None:
        import json

        event = {"t": FIRST_T + 5_000_000 + t, "unit": unit, "kind": kind} | fields
        self._lines.append(json.dumps(event, separators=(",", ":")))

    def write(self) -> None:
        self._log.path.write_text("\n".join(self._lines) + "\n")
        self._log.close()
