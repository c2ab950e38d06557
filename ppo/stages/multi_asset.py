"""Stage `multi_asset`: one agent that holds K assets and cash, by continuous target weights.

Unit `multi_asset/data` joins the assets (`ppo.portfolio.data` says which files it writes); each
`multi_asset/seed-<i>` trains an agent on them and writes policy.safetensors, policy.json, scaler.json, history.json
and training.json, as the stage `ppo` does. With one asset it is the single-asset market under target weights.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from configs.errors import StopRequested
from configs.schema import Config
from configs.unit import Unit, run_stage
from ppo.evaluate import Spans
from ppo.learner.policy import PolicySizes
from ppo.learner.train import Job
from ppo.portfolio.align import PortfolioTape, portfolio_spans
from ppo.portfolio.data import load_portfolio, write_assets
from ppo.portfolio.env import PortfolioEnvs
from ppo.portfolio.rules import PRESENT, READY, observation_size
from ppo.portfolio.validate import PortfolioValidator
from ppo.stages.agent import (
    SETTING_UP,
    SETTING_UP_S,
    STATE_COPIES,
    WEIGHT_BYTES,
    evaluations,
    nominal_steps_per_s,
    observed_columns,
    seed_index,
    set_up,
    steps_per_s,
    train_agent,
    write_agent,
)
from training.checkpoint import Arrays, Checkpoints
from training.determinism import set_up_torch
from training.features import FEATURE_NAMES
from training.fit import Windows, predict
from training.predictors import Architecture, Predictor, build_predictor
from training.splits import bars_needed
from training.streams import integer, stream

BASE_BYTES = 900_000_000
"""A process with torch, the tape and its environments."""
BYTES_PER_BAR = 1_500
"""Bars, features, predictions and tape of one asset, with their tables on the way to and from the disk."""
NOMINAL_BARS = 50_000
PREDICT_FLOP_PER_S = {"cpu": 30e9, "cuda": 4e12}
VALIDATED_PER_S = 15_000.0
"""Greedy decisions on the validation slices, side by side, with a small policy on one core."""
CALIBRATION_BARS = 2_000


def main(argv: list[str] | None = None) -> int:
    """Run one unit of the stage as a process."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Join the assets, or train an agent on them."""
    set_up_torch(unit.config.compute.threads_per_unit)
    return _join(unit) if unit.name == "data" else _train(unit)


def portfolio_job(tape: PortfolioTape, train: Spans, validation: Spans, config: Config, seed: int) -> Job:
    """The training of one agent on a portfolio's tape."""
    settings, assets = config.multi_asset, len(tape.assets)
    sizes = PolicySizes(
        observation=observation_size(config.env, assets, tape.columns),
        actions=assets,
        hidden=settings.hidden,
        continuous=True,
        initial_deviation=settings.initial_deviation,
    )

    def environments() -> PortfolioEnvs:
        return PortfolioEnvs(tape, train, config, settings.num_envs, integer(seed, "episodes"))

    def validator() -> PortfolioValidator:
        return PortfolioValidator(tape, validation, config)

    return Job(environments, validator, sizes, settings, config, seed)


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`: the bars needed, memory and time of the units."""
    settings, assets = config.multi_asset, len(config.asset_datasets())
    observation = observation_size(config.env, assets, observed_columns(config))
    weights = sum(a * b for a, b in pairwise((observation, *settings.hidden))) * 2 + settings.hidden[-1] * (assets + 1)
    device = config.compute.device
    cores = config.compute.threads_per_unit if device == "cpu" else 1
    sample_bytes = 4 * (2 * observation + 8 * assets + 10)
    bars = max(NOMINAL_BARS, bars_needed(config))
    return {
        "bars_needed": bars_needed(config),
        "memory_bytes": BASE_BYTES
        + 24 * weights
        + settings.num_envs * settings.rollout_steps * sample_bytes
        + assets * bars * BYTES_PER_BAR,
        "artifact_bytes": WEIGHT_BYTES * weights,
        "checkpoint_bytes": STATE_COPIES * WEIGHT_BYTES * weights,
        "work": [
            {
                "name": "portfolio prediction operations",
                "amount": (assets - 1) * prediction_flops_per_bar(config),
                "per": "bar",
                "rate_per_s": PREDICT_FLOP_PER_S[device] * cores,
                "units": "multi_asset/data",
            },
            {
                "name": "portfolio steps",
                "amount": settings.timesteps,
                "rate_per_s": nominal_steps_per_s(config, settings, weights),
                "units": "multi_asset/seed-*",
            },
            {
                "name": "portfolio validation decisions",
                "amount": evaluations(settings) * config.splits.validation_frac,
                "per": "bar",
                "rate_per_s": VALIDATED_PER_S,
                "units": "multi_asset/seed-*",
            },
            {"name": SETTING_UP, "amount": 1, "rate_per_s": 1 / SETTING_UP_S, "units": "multi_asset/seed-*"},
        ],
    }


def calibrate(config: Config, budget_s: float) -> dict[str, float]:
    """Rates of the stage's work on this machine, measured on generated bars in about `budget_s`."""
    set_up_torch(config.compute.threads_per_unit)
    job = _calibration_job(config)
    state, setting_up_s = set_up(job)
    validate = job.validator()
    validate(state.policy)
    began_s = time.perf_counter()
    validate(state.policy)
    return {
        SETTING_UP: 1 / setting_up_s,
        "portfolio validation decisions": CALIBRATION_BARS / (time.perf_counter() - began_s),
        "portfolio steps": steps_per_s(state, job.ppo, budget_s / 2),
        "portfolio prediction operations": _prediction_flop_per_s(config, budget_s / 3),
    }


def prediction_flops_per_bar(config: Config) -> float:
    """Floating-point operations of predicting one asset with all members, per bar of the run's own dataset."""
    first_predicted = config.splits.train_frac / (config.classifiers.folds + 1)
    return _window_flops(config) * (1 - first_predicted)


def _join(unit: Unit) -> dict[str, Any]:
    checkpoints = Checkpoints.of(unit)
    saved = checkpoints.resume()

    def save(done: int, total: int, predicted: Arrays) -> None:
        try:
            unit.progress(done, total)
        except StopRequested:
            checkpoints.save(done, predicted, {})
            raise
        if checkpoints.due():
            checkpoints.save(done, predicted, {})

    report = write_assets(unit.run, unit.config, saved.arrays if saved else {}, save)
    for asset in report["assets"]:
        unit.log(f"{asset['symbol']}: {asset['bars']:,} bars, on {asset['on_clock_frac']:.1%} of the clock's rows")
    return {"clock": report["clock"], "assets": report["assets"]}


def _train(unit: Unit) -> dict[str, Any]:
    config, number = unit.config, seed_index(unit)
    portfolio = load_portfolio(unit.run, config)
    seed = integer(config.seed, "multi_asset", number)
    job = portfolio_job(portfolio.tape, portfolio.spans("train"), portfolio.spans("validation"), config, seed)
    trained = train_agent(unit, job, portfolio.tape.assets)
    return write_agent(unit, trained, portfolio.scaler, "scratch") | {"assets": list(portfolio.tape.assets)}


def _prediction_flop_per_s(config: Config, budget_s: float) -> float:
    """Of predicting batches of windows with one net of each member."""
    settings, device = config.classifiers, config.compute.device
    rng = stream(config.seed, "calibration", "predictions")
    table = torch.as_tensor(rng.normal(size=(CALIBRATION_BARS, len(FEATURE_NAMES))), dtype=torch.float32, device=device)
    windows, rows = Windows(table, settings.lookback_bars), np.arange(settings.lookback_bars, CALIBRATION_BARS)
    models = [model.to(device) for model in _members(config)]
    for model in models:
        predict(model, windows, rows[:1])
    began_s, rounds = time.perf_counter(), 0
    while rounds == 0 or time.perf_counter() - began_s < budget_s:
        for model in models:
            predict(model, windows, rows)
        rounds += 1
    return rounds * len(rows) * _window_flops(config) / (time.perf_counter() - began_s)


def _members(config: Config) -> list[Predictor]:
    settings = config.classifiers
    architectures = (Architecture.of(member, len(FEATURE_NAMES), settings) for member in config.ensemble.members)
    return [build_predictor(architecture, seed=0) for architecture in architectures]


def _window_flops(config: Config) -> int:
    """Of one window through one net of each member: two operations per weight and bar."""
    weights = sum(parameter.numel() for model in _members(config) for parameter in model.parameters())
    return 2 * weights * config.classifiers.lookback_bars


def _calibration_job(config: Config) -> Job:
    """Training on random walks of as many assets as the run has."""
    assets = config.asset_datasets()
    rng = stream(config.seed, "calibration", "multi_asset")
    walk = np.exp(np.cumsum(rng.normal(0, 0.005, (CALIBRATION_BARS, len(assets))), axis=0))
    tape = PortfolioTape(
        assets=assets,
        t=np.arange(CALIBRATION_BARS, dtype=np.int64) * config.market.max_gap_s,
        prices=np.repeat(100 * walk[:, :, None], 4, axis=2),
        flags=np.full((CALIBRATION_BARS, len(assets)), PRESENT | READY, np.uint8),
        segment=np.zeros((CALIBRATION_BARS, len(assets)), np.int32),
        market=rng.normal(size=(CALIBRATION_BARS, len(assets) * observed_columns(config))).astype(np.float32),
        timeframe_s=config.market.max_gap_s,
        max_gap_s=config.market.max_gap_s,
    )
    spans = portfolio_spans(tape, 0, CALIBRATION_BARS)
    return portfolio_job(tape, spans, spans, config, seed=0)


if __name__ == "__main__":
    raise SystemExit(main())
