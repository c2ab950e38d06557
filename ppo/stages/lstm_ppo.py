"""Stage `lstm_ppo`: one agent with memory per unit `lstm_ppo/seed-<i>`, otherwise trained and selected as in `ppo`.

Writes policy.safetensors, policy.json, scaler.json, history.json and
training.json. Nothing is exported: Stable-Baselines3 has no policy with both
memory and masks. Stopped or killed, it goes on from its newest checkpoint to the
same bytes.
"""

from __future__ import annotations

from typing import Any

from configs.schema import Config
from configs.unit import Unit, run_stage
from ppo.learner.train import single_asset_job
from ppo.stages.agent import calibrate_agent, describe_agent, load_market, seed_index, train_agent, write_agent
from training.determinism import set_up_torch
from training.streams import integer


def main(argv: list[str] | None = None) -> int:
    """Run one unit of the stage as a process."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Train the unit's agent and write it; returns its metrics."""
    config, seed = unit.config, integer(unit.config.seed, "lstm_ppo", seed_index(unit))
    set_up_torch(config.compute.threads_per_unit)
    market = load_market(unit.run, config)
    job = single_asset_job(market.tape, market.train, market.validation, config, seed, config.lstm_ppo)
    return write_agent(unit, train_agent(unit, job), market.scaler, "scratch")


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`: the bars needed, memory and time of one unit."""
    return describe_agent(config, config.lstm_ppo)


def calibrate(config: Config, budget_s: float) -> dict[str, float]:
    """Rates of the stage's work on this machine, measured on generated bars in about `budget_s`."""
    return calibrate_agent(config, config.lstm_ppo, budget_s)


if __name__ == "__main__":
    raise SystemExit(main())
