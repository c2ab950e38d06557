"""Stage `pretrain`: one agent per unit `pretrain/seed-<i>`, trained on the synthetic scenarios.

Writes the files of an agent (`ppo.stages.agent.write_agent`), its scaler that of the five market columns over the
training scenarios. The scenarios are made again from `parameters.json` of the unit `synthetic`; those that select
the policy are others than those it trains on. The unit's metrics are those of an agent with "test": as "validation", on
as many scenarios that selected nothing. The builtin learner trains it whatever `agent.backend` says.
"""

from __future__ import annotations

import time
from typing import Any

from configs.schema import Config
from configs.unit import Unit, run_stage
from ppo.pretrain import VALIDATION_SCENARIOS, pretraining_job, pretraining_ppo, tester
from ppo.stages.agent import (
    SETTING_UP,
    describe_agent,
    evaluations,
    seed_index,
    set_up,
    steps_per_s,
    train_agent,
    write_agent,
)
from training.determinism import set_up_torch
from training.stages.synthetic import load_parameters
from training.synthetic import preset_parameters

BARS_PER_S = 300_000.0
"""Generated, their features computed, scaled."""
VALIDATED_PER_S = 100_000.0
"""Decisions of one policy, some 30 to 50 accounts side by side."""
CALIBRATION_BARS = 2_000
BYTES_PER_BAR = 350
"""Of the scenarios: prices, the tape, the environments' own copies; measured."""


def main(argv: list[str] | None = None) -> int:
    """Run one unit of the stage as a process."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Train the unit's agent and write it; returns its metrics."""
    set_up_torch(unit.config.compute.threads_per_unit)
    parameters = load_parameters(unit.run)
    job, scaler = pretraining_job(parameters, unit.config, seed_index(unit))
    trained = train_agent(unit, job)
    tested = tester(parameters, unit.config, scaler)(trained.policy)
    return write_agent(unit, trained, scaler, "scratch", tested=tested)


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`: of one unit."""
    agent = describe_agent(config, pretraining_ppo(config))
    bars, (steps, validation, setting_up) = config.synthetic.bars, agent["work"]
    total_bars = (config.synthetic.scenarios + 2 * VALIDATION_SCENARIOS) * bars
    decisions = (evaluations(pretraining_ppo(config)) + 1) * VALIDATION_SCENARIOS * bars
    return {
        "bars_needed": 0,
        "memory_bytes": agent["memory_bytes"] + BYTES_PER_BAR * total_bars,
        "artifact_bytes": agent["artifact_bytes"],
        "checkpoint_bytes": agent["checkpoint_bytes"],
        "work": [
            {"name": "scenario bars", "amount": total_bars, "rate_per_s": BARS_PER_S},
            steps,
            {"name": validation["name"], "amount": decisions, "rate_per_s": VALIDATED_PER_S},
            setting_up,
        ],
    }


def calibrate(config: Config, budget_s: float) -> dict[str, float]:
    """Rates of the stage's own work on this machine, measured on a few short scenarios in about `budget_s`."""
    set_up_torch(config.compute.threads_per_unit)
    bars = min(config.synthetic.bars, CALIBRATION_BARS)
    short = config.synthetic.model_copy(update={"scenarios": 1, "bars": bars})
    few = config.model_copy(update={"synthetic": short})
    pretraining_job(preset_parameters(config), few, 0)  # compiles
    began_s = time.perf_counter()
    job, _ = pretraining_job(preset_parameters(config), few, 0)
    bars_per_s = (1 + VALIDATION_SCENARIOS) * bars / (time.perf_counter() - began_s)
    state, setting_up_s = set_up(job)
    validate = job.validator()
    began_s = time.perf_counter()
    validate(state.policy)
    validated_per_s = VALIDATION_SCENARIOS * bars / (time.perf_counter() - began_s)
    return {
        "scenario bars": bars_per_s,
        "steps": steps_per_s(state, job.ppo, budget_s / 2),
        "validation decisions": validated_per_s,
        SETTING_UP: 1 / setting_up_s,
    }


if __name__ == "__main__":
    raise SystemExit(main())
