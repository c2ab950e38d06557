"""Stage `pretrain`: one agent per unit `pretrain/seed-<i>`, trained on the synthetic scenarios.

Writes the files of an agent (`ppo.stages.agent.write_agent`), its scaler that of the five market columns over the
training scenarios. The scenarios are made again from `parameters.json` of the unit `synthetic`; those that select
the policy are others than those it trains on. The builtin learner trains it whatever `agent.backend` says.
"""

from __future__ import annotations

import time
from typing import Any

from configs.schema import Config
from configs.unit import Unit, run_stage
from ppo.learner.train import advance, start
from ppo.pretrain import VALIDATION_SCENARIOS, pretraining_job
from ppo.stages import ppo
from ppo.stages.agent import seed_index, train_agent, write_agent
from training.determinism import set_up_torch
from training.stages.synthetic import load_parameters
from training.synthetic import preset_parameters

BARS, STEPS = "scenario bars made ready", "pre-training steps"
BARS_PER_S = 500_000.0
"""Generated, their features computed, scaled; measured."""
BYTES_PER_BAR = 350
"""Of the scenarios: prices, the tape, the environments' own copies; measured."""


def main(argv: list[str] | None = None) -> int:
    """Run one unit of the stage as a process."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Train the unit's agent and write it; returns its metrics."""
    set_up_torch(unit.config.compute.threads_per_unit)
    job, scaler = pretraining_job(load_parameters(unit.run), unit.config, seed_index(unit))
    return write_agent(unit, train_agent(unit, job), scaler, "scratch")


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`: of one unit; steps are as dear as those of stage `ppo` with the builtin learner."""
    facts = ppo.describe(config.model_copy(update={"agent": config.agent.model_copy(update={"backend": "builtin"})}))
    scenarios = config.synthetic.scenarios + VALIDATION_SCENARIOS
    rate = facts["work"][0]["rate_per_s"]
    return facts | {
        "memory_bytes": facts["memory_bytes"] + BYTES_PER_BAR * scenarios * config.synthetic.bars,
        "work": [
            {"name": BARS, "amount": scenarios * config.synthetic.bars, "rate_per_s": BARS_PER_S},
            {"name": STEPS, "amount": config.pretrain.timesteps, "rate_per_s": rate},
        ],
    }


def calibrate(config: Config, budget_s: float) -> dict[str, float]:
    """Rates of the stage's own work on this machine, measured on a few generated scenarios in about `budget_s`."""
    set_up_torch(config.compute.threads_per_unit)
    few = config.model_copy(update={"synthetic": config.synthetic.model_copy(update={"scenarios": 1})})
    job, _ = pretraining_job(preset_parameters(config), few, 0)  # compiles
    began_s = time.monotonic()
    job, _ = pretraining_job(preset_parameters(config), few, 0)
    bars_per_s = (1 + VALIDATION_SCENARIOS) * config.synthetic.bars / (time.monotonic() - began_s)
    state = start(job)
    advance(state, job.ppo)  # compiles
    before, began_s = state.steps, time.monotonic()
    while state.steps == before or time.monotonic() - began_s < budget_s / 2:
        advance(state, job.ppo)
    return {BARS: bars_per_s, STEPS: (state.steps - before) / (time.monotonic() - began_s)}


if __name__ == "__main__":
    raise SystemExit(main())
