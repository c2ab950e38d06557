"""What walk-forward units cost: their work, and this machine's rates of it, for `plan`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from configs.schema import MIN_WINDOW_EPOCHS, Config
from ppo.stages.agent import SETTING_UP, calibrate_agent, describe_agent, evaluations, set_up
from ppo.walk_forward import CLASSIFIER, WindowData, whole_steps, window_data, window_job, window_ppo
from training.crossfit import soft_vote
from training.determinism import set_up_torch
from training.features import compute
from training.market import Bars
from training.metrics import CLASS_NAMES
from training.predictors.base import CLASSES
from training.rolling import month_epochs
from training.speed import WindowSpeed
from training.streams import stream

MONTHS = 12
MONTH_UNITS = "walk_forward/????-??"
DEMO_MONTH = "2024-06"


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`; `least_frac` is left where every fit stops as early as its patience lets it."""
    from training.stages import classifiers  # inner: its plots load a second of modules that no unit here needs

    ppo, month_bars = window_ppo(config), config.market.bars_per_year / MONTHS
    agent, fitted = describe_agent(config, ppo), classifiers.describe(config)
    selecting_bars = month_bars * config.walk_forward.train_months * config.walk_forward.early_stop_frac
    amounts = {
        "steps": whole_steps(ppo),
        "validation decisions": evaluations(ppo) * selecting_bars,
    }
    rates = {item["name"]: item["rate_per_s"] for item in agent["work"]}
    work = [
        {"name": name, "amount": config.agent.seeds * amount, "rate_per_s": rates[name], "units": MONTH_UNITS}
        for name, amount in amounts.items()
    ]
    work.append({"name": SETTING_UP, "amount": 1, "rate_per_s": rates[SETTING_UP], "units": MONTH_UNITS})
    for member in config.ensemble.members:
        per_window = classifiers.flops_per_window(member, config)
        work += _fits(config, member, classifiers.FLOPS_PER_S[config.compute.device] / per_window)
    return {
        "bars_needed": agent["bars_needed"],
        "memory_bytes": max(agent["memory_bytes"], fitted["memory_bytes"]),
        "artifact_bytes": agent["artifact_bytes"] * config.agent.seeds,
        "checkpoint_bytes": agent["checkpoint_bytes"],
        "work": work,
    }


def calibrate(config: Config, budget_s: float) -> dict[str, float]:
    """Rates of this machine, measured in about `budget_s` seconds on DEMO-USD_1H."""
    set_up_torch(config.compute.threads_per_unit)
    members, speed, settings = config.ensemble.members, WindowSpeed(config), config.walk_forward
    shown = {"first_test_month": DEMO_MONTH, "windows": 1, "train_months": min(settings.train_months, 6)}
    config = config.model_copy(update={"walk_forward": settings.model_copy(update=shown)})
    share_s = budget_s / (2 * len(members) + 1)
    data = _demo_window(speed.bars, config)
    job = window_job(data, config, 0)
    _, setting_up_s = set_up(job)
    rates = calibrate_agent(config, job.ppo, share_s) | {SETTING_UP: 1 / setting_up_s}
    for member in members:
        rates[f"{member} windows trained"] = speed.trained_per_s(member, share_s)
        rates[f"{member} windows predicted"] = speed.predicted_per_s(member, share_s)
    return rates


def _fits(config: Config, member: str, rate_per_s: float) -> list[dict[str, Any]]:
    """Work of one member's months; a window that is only asked costs a third of one that is trained on."""
    settings, most = config.classifiers, month_epochs(config)
    month_bars = config.market.bars_per_year / MONTHS
    fitted_bars = month_bars * config.walk_forward.train_months

    def windows(epochs: list[int]) -> tuple[float, float]:
        """Trained on and asked, where the months' fits take so many epochs."""
        trained = fitted_bars * (1 - settings.early_stop_frac) / settings.window_stride * sum(epochs)
        judged = fitted_bars * settings.early_stop_frac * (sum(epochs) + len(epochs))
        return trained, judged + len(epochs) * month_bars

    # the first fit cannot be best before its first epoch; a warm start can
    patience = [settings.patience_epochs + (number == 0) for number in range(len(most))]
    least = [min(epochs, max(MIN_WINDOW_EPOCHS, own)) for epochs, own in zip(most, patience, strict=True)]
    names = {f"{member} windows trained": rate_per_s, f"{member} windows predicted": 3 * rate_per_s}
    return [
        {
            "name": name,
            "amount": amount,
            "rate_per_s": rate,
            "units": f"walk_forward/{CLASSIFIER}{member}",
            "least_frac": fewest / amount,
        }
        for (name, rate), amount, fewest in zip(names.items(), windows(most), windows(least), strict=True)
    ]


def _demo_window(bars: Bars, config: Config) -> WindowData:
    """A window of the demo with predictions that know nothing."""
    rng = stream(config.seed, "calibration", "walk_forward")
    frame = pd.DataFrame(rng.dirichlet(np.ones(CLASSES), len(bars)), columns=list(CLASS_NAMES))
    vote = soft_vote({name: frame.assign(t=bars.t, fitted_until=0) for name in config.ensemble.members})
    return window_data(bars, compute(bars, config.features), vote, DEMO_MONTH, config)
