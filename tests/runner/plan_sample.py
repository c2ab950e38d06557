"""What the stages beyond the base agents leave in a run directory, with made-up numbers of the documented form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from configs.files import write_json
from configs.run_dir import RunDir

MONTHS = [f"2024-{month:02d}" for month in range(1, 13)]
REGIMES = ("bull", "bear", "range", "crash")
SCRIPTS = ("none", "none", "none", "flash_crash", "slow_bleed", "gap_open", "volatility_spike", "crash_80")


def write_family(run: RunDir, name: str, evaluation: dict[str, Any], equity: pd.DataFrame) -> None:
    directory = run.unit_dir("evaluate") / name
    directory.mkdir(parents=True)
    equity.to_parquet(directory / "equity.parquet", index=False)
    write_json(directory / "evaluation.json", evaluation)


def walk_forward(rng: np.random.Generator, seeds: int) -> dict[str, Any]:
    """The keys of this family beside those of all."""

    def window(month: str) -> dict[str, Any]:
        own = rng.normal(0.005, 0.05, seeds)
        agents = [
            {"seed": seed, "start": "pretrained", "total_return": float(own[seed]), "sharpe": float(20 * own[seed])}
            | {"validation_sharpe": 1.2}
            for seed in range(seeds)
        ]
        return {
            "month": month,
            "bars": 744,
            "total_return": float(own.mean()),
            "sharpe": float(20 * own.mean()),
            "max_drawdown": 0.06,
            "trades": 11.5,
            "agents": agents,
            "spread": {"min": float(own.min()), "max": float(own.max()), "sd": float(own.std())},
            "baselines": {"flat": 0.0, "buy_and_hold": float(rng.normal(0, 0.1)), "moving_average": 0.01},
        }

    chosen = {"seed_0": 0.2, "seed_1": 0.5, "seed_2": 0.3}
    pbo = {"probability": 0.44, "loss_probability": 0.5, "median_logit": 0.1, "blocks": 16, "combinations": 12_870}
    return {
        "windows": [window(month) for month in MONTHS],
        "pbo_of_configurations": None,
        "pbo_of_seeds": pbo | {"chosen_frac": chosen},
    }


ASSETS = ("BTC-USDT", "ETH-USDT", "SOL-USDT")


def multi_asset(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The evaluation of the base agents as one of portfolio agents."""
    whole = evaluation["mean"]
    added = {
        asset: {
            "mean_weight": 0.3, "mean_abs_weight": 0.35, "exposure": 0.9, "turnover": 12.5, "fees_paid": 210.0,
            "slippage_paid": 40.0, "trades": 9, "hit_rate": 0.55, "return_contribution": share * whole["total_return"],
            "risk_contribution": share * whole["annual_volatility"],
        }
        for asset, share in zip(ASSETS, (-0.2, 0.5, 0.7), strict=True)
    }  # fmt: skip
    listing = [
        {"symbol": asset, "name": f"{asset}_1H", "digest": "9f" * 32, "bars": 17_491, "first_t": 1_704_067_200}
        | {"last_t": 1_767_222_000, "listed_t": 1_704_240_000, "ended": False, "on_clock_frac": 0.998}
        | {"ready": {"train": 10_000, "validation": 3_000, "test": 3_000}}
        for asset in ASSETS
    ]
    correlation = [[1.0, 0.8, None], [0.8, 1.0, 0.6], [None, 0.6, 1.0]]
    about = {"assets": list(ASSETS), "gross_limit": 1.0, "asset_cap": 1.0, "allow_short": True}
    about |= {"rebalance_threshold": 0.05, "correlation": correlation, "listing": listing}
    own = {key: value for key, value in evaluation.items() if key != "baselines"}
    baselines = {
        key: value for key, value in evaluation["baselines"].items() if key in ("flat", "moving_average", "random")
    }
    baselines |= {f"buy_and_hold_{asset}": evaluation["baselines"]["buy_and_hold"] for asset in ASSETS}
    mean = whole | {"assets": added, "mean_gross": 0.83}
    agents = [
        agent | {"metrics": {key: value for key, value in agent["metrics"].items() if "action" not in key}}
        for agent in evaluation["agents"]
    ]
    return own | {"mean": mean, "agents": agents, "baselines": baselines, "portfolio": about}


def portfolio_equity(rng: np.random.Generator, frame: pd.DataFrame) -> pd.DataFrame:
    """The equity of the base agents as that of portfolio agents."""
    kept = [name for name in frame.columns if not name.startswith(("close", "weight", "action"))]
    seeds = [name.rpartition("_")[2] for name in kept if name.startswith("equity_seed_")]
    columns = {f"close_{asset}": frame["close"] * (place + 1) for place, asset in enumerate(ASSETS)}
    for seed in seeds:
        for asset in ASSETS:
            held = np.repeat(rng.choice([0.0, 0.3, 0.5, -0.2], len(frame) // 12 + 1), 12)[: len(frame)]
            columns[f"weight_seed_{seed}_{asset}"] = held
    return pd.concat([frame[kept], pd.DataFrame(columns)], axis=1)


def write_targets(run: RunDir) -> None:
    def target(text: str, wanted: float, measured: float | None, half: float, state: str, share: bool = False) -> dict:
        found = None if measured is None else [measured - half, measured + half]
        error = None if measured is None else half / 2
        values = {"measured": measured, "standard_error": error, "interval": found}
        says = {"undecided": "cannot be decided: 1,199 bars are too few", "not measured": "nothing to measure"}
        said = says.get(state, "on 1,199 bars, value and whole interval are below the target")
        own = {"name": text, "stage": "ppo", "text": text, "wanted": wanted, "below": False, "share": share}
        return own | values | {"of": "1,199 bars" if measured else "", "state": state, "says": said}

    targets = [
        target("Pre-training: Sharpe ratio", 0.5, 1.1, 0.3, "met"),
        target("Base PPO: Sharpe ratio", 1.0, 0.93, 4.3, "undecided"),
        target("Base PPO: round trips that won", 0.5, 0.37, 0.05, "missed", share=True),
        target("Multi-asset PPO: Sharpe ratio", 1.4, None, 0, "not measured"),
    ]
    write_json(run.unit_dir("evaluate") / "targets.json", {"targets": targets})


def write_stress(run: RunDir, rng: np.random.Generator) -> None:
    directory, candles = run.unit_dir("synthetic"), 120
    directory.mkdir(parents=True)
    rows = []
    for index, script in enumerate(SCRIPTS):
        regime = np.repeat(rng.choice(REGIMES, candles // 20), 20)
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.03, candles) - 0.02 * (regime == "crash")))
        if script == "crash_80":
            close[60:] *= 0.2
        world = {"index": index, "script": script, "bar": 40 * np.arange(candles), "regime": regime, "close": close}
        rows.append(pd.DataFrame(world | {"open": close, "high": 1.01 * close, "low": 0.99 * close}))
    pd.concat(rows).to_parquet(directory / "gallery.parquet", index=False)
    scenarios = 64
    shares = rng.dirichlet([4, 4, 6, 1], scenarios)
    tags = {
        "scenario": np.arange(scenarios),
        "script": [SCRIPTS[index % len(SCRIPTS)] for index in range(scenarios)],
        "log_return": rng.normal(0, 0.8, scenarios),
        "largest_drawdown": rng.uniform(0.2, 0.9, scenarios),
        "jumps": rng.integers(0, 40, scenarios),
        "volatility": rng.uniform(0.01, 0.02, scenarios),
    } | {f"{name}_share": shares[:, place] for place, name in enumerate(REGIMES)}
    pd.DataFrame(tags).to_parquet(directory / "tags.parquet", index=False)
    lags = np.arange(1, 51)
    moments = {
        name: {
            "volatility": 0.0101,
            "kurtosis": kurtosis,
            "acf_squared": (scale * 0.95**lags).tolist(),
            "jumps_per_10000_bars": 23.5,
            "dwell_bars": {"bull": 210.0, "bear": 180.0, "range": 300.0, "crash": 24.0},
        }
        for name, kurtosis, scale in (("data", 14.2, 0.22), ("generated", 12.9, 0.2), ("expected", None, 0.19))
    }
    write_json(directory / "moments.json", moments | {"fit_rows": 3_600})


def write_ablation(run: RunDir) -> None:
    def row(where: str, metric: str, difference: float, says: str) -> dict[str, Any]:
        arms = {"pretrained": 0.5 + difference, "scratch": 0.5, "difference": difference}
        return (
            {"where": where, "metric": metric}
            | arms
            | {"lower": difference - 0.2, "upper": difference + 0.2}
            | {"says": says}
        )

    differences = [
        row(where, metric, difference, says)
        for where, difference, says in (
            ("real", 0.05, "no difference shown"),
            ("crash", 0.4, "pre-training helps"),
            ("flash_crash", 0.3, "pre-training helps"),
            ("slow_bleed", -0.3, "pre-training harms"),
        )
        for metric in ("log_return", "sharpe", "max_drawdown")
    ]
    write_json(
        run.unit_dir("ablation/summary") / "ablation.json",
        {"seeds": list(range(5)), "windows": MONTHS[::3], "confidence": 0.95, "differences": differences},
    )


def write_plan(run: RunDir, units: dict[str, float]) -> None:
    """`units`: id -> expected seconds."""

    def span(expected_s: float) -> dict[str, float]:
        return {"low": 0.6 * expected_s, "expected": expected_s, "high": 1.1 * expected_s}

    stages: dict[str, float] = {}
    for unit, expected_s in units.items():
        stage = unit.partition("/")[0]
        stages[stage] = stages.get(stage, 0.0) + expected_s
    start = {
        "t": 1.0,
        "stages": [{"name": name, "span_s": span(expected_s)} for name, expected_s in stages.items()],
        "units": [{"id": unit, "share_s": span(expected_s)} for unit, expected_s in units.items()],
        "price_usd_per_hour": 0.6,
    }
    write_json(run.root / "plan.json", {"format": 1, "starts": [start]})


GATES = (
    {
        "stage": "lstm_ppo", "asked": "ppo", "metric": "validation_sharpe", "value": 0.6, "interval": [-0.9, 2.1],
        "target": 1.0, "on_fail": "continue", "verdict": "open",
        "says": "validation Sharpe of ppo is 0.60 (95 %: -0.90 to 2.10); whether it is at least 1 cannot be decided "
        "with so little data: lstm_ppo may start",
    },
    {
        "stage": "multi_asset", "asked": "lstm_ppo", "metric": "done", "value": 0.0, "interval": None, "target": None,
        "on_fail": "skip", "verdict": "closed", "says": "lstm_ppo was left out: multi_asset is left out",
    },
)  # fmt: skip
