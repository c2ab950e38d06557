"""Stage `walk_forward`: monthly predictions, then one unit per test month with the agents of all seeds.

`walk_forward/classifier-<member>` fits the member's models month by month and writes predictions.parquet (one row
per bar, as `classifiers/<member>`) and models.json: per month what the model was fitted with, its history and the
sha256 of its weights, which are not kept.

`walk_forward/<YYYY-MM>` trains the agents of all seeds one after the other and writes seed-<i>/{policy.safetensors,
policy.json, history.json}, scaler.json and agents.json (facts of each agent, as `training.json` of stage `ppo`). The
test month is played and scored by `evaluate` alone. The builtin learner trains, whatever `agent.backend` says.

Stopped or killed, both go on from their newest checkpoint to the same bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from configs.calendar import shifted
from configs.files import write_json
from configs.unit import Unit, run_stage
from ppo.learner.policy import PolicySizes, handed_over, save_policy
from ppo.learner.train import Job, TrainResult
from ppo.stages.agent import agent_facts, pretrained_weights
from ppo.stages.in_turn import Done, train_in_turn
from ppo.stages.walk_forward_cost import calibrate, describe  # noqa: F401 -- `plan` asks the stage
from ppo.walk_forward import (
    AGENTS,
    CLASSIFIER,
    load_window,
    whole_steps,
    window_job,
    window_ppo,
)
from training.chain import Inputs, Link
from training.checkpoint import Checkpoints
from training.determinism import set_up_torch
from training.rolling import fit_months, month_predictions, monthly_chain, weights_digest
from training.stages.prepare import load_prepared, write_table


def main(argv: list[str] | None = None) -> int:
    """Run one unit of the stage."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Fit the months of a member, or train the agents of a month."""
    set_up_torch(unit.config.compute.threads_per_unit)
    if unit.name.startswith(CLASSIFIER):
        return fit_member(unit, unit.name.removeprefix(CLASSIFIER))
    return train_window(unit)


def fit_member(unit: Unit, member: str) -> dict[str, Any]:
    """Fit one member month by month and write its predictions."""
    prepared = load_prepared(unit.run)
    chain = monthly_chain(member, Inputs.of(prepared.bars, prepared.features, unit.config))
    saved = Checkpoints.of(unit)
    links = list(fit_months(chain, unit, checkpoints=saved, batch_halvings=unit.batch_halvings))
    write_table(unit.dir / "predictions.parquet", month_predictions(links, prepared.bars))
    for link in links:
        link.facts["weights_sha256"], link.facts["history"] = weights_digest(link), link.history
    write_json(unit.dir / "models.json", {link.name: link.facts for link in links})
    return {"months": {link.name: _summary(link) for link in links}}


def train_window(unit: Unit) -> dict[str, Any]:
    """Train the agents of one month and write them."""
    config, data = unit.config, load_window(unit.run, unit.name, unit.config)
    data.spans("test")  # a month with nothing to play on is told before its training, not after all others'
    names = [f"seed-{seed}" for seed in range(config.agent.seeds)]

    def job_of(name: str, _done: Done) -> Job:
        job = window_job(data, config, names.index(name))
        return replace(job, start=first_weights(unit, name, job.sizes))

    def kept(_name: str, job: Job, trained: TrainResult) -> dict[str, Any]:
        began = "scratch" if job.start is None else config.walk_forward.start
        return {"facts": agent_facts(trained, began), "history": trained.history}

    done = train_in_turn(unit, names, job_of, kept, len(names) * whole_steps(window_ppo(config)))
    for name in names:
        save_policy(unit.dir / name, done.policy(name))
        write_json(unit.dir / name / "history.json", done.facts[name]["history"])
    write_json(unit.dir / "scaler.json", data.scaler.to_json())
    facts = [done.facts[name]["facts"] for name in names]
    write_json(unit.dir / AGENTS, facts)
    return {"month": unit.name, "agents": [{"seed": seed} | agent for seed, agent in enumerate(facts)]}


def first_weights(unit: Unit, name: str, sizes: PolicySizes) -> dict[str, Tensor] | None:
    """Weights that agent `seed-<i>` of a month starts from, as configured and as far as there are any."""
    asked = unit.config.walk_forward.start
    if asked == "scratch":
        return None
    before = f"walk_forward/{shifted(unit.name, -1)}"
    source, folder = (f"pretrain/{name}", "") if asked == "pretrained" else (before, name)
    weights = pretrained_weights(unit, source, sizes, folder)
    if weights is None:
        unit.log(f"{name} starts from scratch: {source} is not among the inputs")
        return None
    return weights if asked == "chain" else handed_over(weights)


def _summary(link: Link) -> dict[str, Any]:
    kept = ("best_epoch", "delta", "micro_batch", "train_windows", "stop_windows")
    return {key: link.facts[key] for key in kept} | {"stop_loss": link.history[link.facts["best_epoch"]]["stop_loss"]}


if __name__ == "__main__":
    raise SystemExit(main())
