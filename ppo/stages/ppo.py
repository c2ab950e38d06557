"""Stage `ppo`: one agent per unit `ppo/seed-<i>`, trained on the training part and selected on validation.

Writes policy.safetensors, policy.json, scaler.json (the market scaler that the
policy's observations need), history.json, training.json, and the policy for
Stable-Baselines3: export.zip for `PPO.load`, export_maskable.zip for
`MaskablePPO.load`. Its weights begin as those of `pretrain/seed-<i>`, all but
the action head's, where that unit is among its inputs. Checkpoints and TensorBoard logs lie beside and are no results.

Stopped or killed, the builtin learner goes on from its newest checkpoint to the same bytes. MaskablePPO
cannot: it starts anew, and ends with the same bytes too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from configs.errors import MachineUnfitError, OutOfMemoryError
from configs.schema import Config
from configs.unit import Unit, run_stage
from ppo.export import write_export
from ppo.learner.policy import handed_over
from ppo.learner.train import Job, TrainResult, single_asset_job
from ppo.stages.agent import (
    Reporter,
    calibrate_agent,
    describe_agent,
    load_market,
    pretrained_weights,
    seed_index,
    train_agent,
    write_agent,
)
from training.determinism import set_up_torch
from training.memory import naming_out_of_memory
from training.scaling import Scaler
from training.streams import integer

SB3_SLOWDOWN = 2.0
"""MaskablePPO against the builtin learner; measured."""


def main(argv: list[str] | None = None) -> int:
    """Run one unit of the stage as a process."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Train the unit's agent and write it; returns its metrics."""
    set_up_torch(unit.config.compute.threads_per_unit)
    config, backend = unit.config, unit.config.agent.backend
    job, scaler = load_job(unit)
    trained = _train_sb3(unit, job) if backend == "sb3" else train_agent(unit, job)
    write_export(unit.dir / "export.zip", trained.policy, config.ppo, config.env, "ppo")
    write_export(unit.dir / "export_maskable.zip", trained.policy, config.ppo, config.env, "maskable")
    return write_agent(unit, trained, scaler, "scratch" if job.start is None else "pretrained", backend)


def load_job(unit: Unit) -> tuple[Job, Scaler]:
    """The training job of one seed and the market scaler, fitted on the training rows alone."""
    config, number = unit.config, seed_index(unit)
    market, seed = load_market(unit.run, config), integer(config.seed, "ppo", number)
    job = single_asset_job(market.tape, market.train, market.validation, config, seed)
    weights = pretrained_weights(unit, f"pretrain/seed-{number}", job.sizes)
    return replace(job, start=weights and handed_over(weights)), market.scaler


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`: the bars needed, memory and time of one unit."""
    return describe_agent(config, config.ppo, SB3_SLOWDOWN if config.agent.backend == "sb3" else 1.0)


def calibrate(config: Config, budget_s: float) -> dict[str, float]:
    """Rates of the stage's work on this machine, measured on generated bars in about `budget_s`."""
    rates = calibrate_agent(config, config.ppo, budget_s)
    return rates | {"steps": rates["steps"] / (SB3_SLOWDOWN if config.agent.backend == "sb3" else 1.0)}


def _train_sb3(unit: Unit, job: Job) -> TrainResult:
    from ppo import backend_sb3  # inner: 2 s of imports that the builtin learner never needs

    unit.log("MaskablePPO cannot be resumed: training starts from the first step")
    try:
        with Reporter(unit, 0, job.ppo.timesteps) as reporter, naming_out_of_memory("MaskablePPO"):
            return backend_sb3.train(job, reporter.report)
    except OutOfMemoryError as error:
        raise MachineUnfitError(
            f"{error}; MaskablePPO's batch cannot be halved: set a smaller ppo.minibatch_size or agent.backend=builtin"
        ) from error


if __name__ == "__main__":
    raise SystemExit(main())
