"""Stage `walk_forward`: monthly predictions, then one unit per test month with the agents of all seeds.

`walk_forward/classifier-<member>` fits the member's models month by month and writes predictions.parquet (one row
per bar, as `classifiers/<member>`) and models.json: per month what the model was fitted with, its history and the
sha256 of its weights, which are not kept.

`walk_forward/<YYYY-MM>` trains the agents of all seeds one after the other, plays the test month once with each, and
writes seed-<i>/{policy.safetensors, policy.json, history.json}, scaler.json, agents.json (facts of each agent, as
`training.json` of stage `ppo`) and the tracks of the month (`ppo.tracks`; groups: run, and one per cost level). The
month is played here and scored by `evaluate` alone: no metric of this unit says how it went. The builtin learner
trains, whatever `agent.backend` says.

Stopped or killed, both go on from their newest checkpoint to the same bytes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from configs.calendar import shifted
from configs.errors import StopRequested
from configs.files import write_json
from configs.unit import Unit, run_stage
from ppo.learner.policy import Policy, handed_over, save_policy
from ppo.learner.state import LearnerState
from ppo.learner.train import Job, Row, TrainResult, start, train
from ppo.stages.agent import pretrained_weights
from ppo.stages.walk_forward_cost import calibrate, describe  # noqa: F401 -- `plan` asks the stage
from ppo.tracks import write_tracks
from ppo.walk_forward import (
    AGENTS,
    CLASSIFIER,
    WindowData,
    load_window,
    play_month,
    whole_steps,
    window_job,
)
from training.chain import Inputs, Link
from training.checkpoint import Arrays, Checkpoints, Saved, to_arrays, to_tensors
from training.determinism import set_up_torch
from training.rolling import fit_months, month_predictions, monthly_chain, weights_digest
from training.stages.prepare import load_prepared, write_table


def main(argv: list[str] | None = None) -> int:
    """Run one unit of the stage."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Fit the months of a member, or train and play the agents of a month."""
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
    """Train the agents of one month, let each play it, and write both."""
    data = load_window(unit.run, unit.name, unit.config)
    trained = Season(unit, data).train()
    for seed, agent in enumerate(trained):
        save_policy(unit.dir / f"seed-{seed}", agent.policy)
        write_json(unit.dir / f"seed-{seed}" / "history.json", agent.history)
    write_json(unit.dir / "scaler.json", data.scaler.to_json())
    facts = [agent.facts for agent in trained]
    write_json(unit.dir / AGENTS, facts)
    write_tracks(unit.dir, play_month(data, unit.config, [agent.policy for agent in trained]))
    return {"month": unit.name, "agents": [{"seed": seed} | agent for seed, agent in enumerate(facts)]}


@dataclass(frozen=True)
class Trained:
    """One seed's finished agent."""

    policy: Policy
    facts: dict[str, Any]
    history: list[Row]

    @classmethod
    def of(cls, result: TrainResult, began: str) -> Trained:
        """The agent with its facts."""
        facts = {
            "start": began,
            "best_steps": result.best_steps,
            "best_score": result.best_score,
            "steps": result.history[-1]["step"],
            "collapse": result.collapse,
            "validation": result.validation.performance,
        }
        return cls(result.policy, facts, result.history)


@dataclass
class Season:
    """The agents of all seeds of one window, trained in turn; saves finished ones as parts that never change."""

    unit: Unit
    data: WindowData
    finished: list[Trained] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Know the checkpoints; nothing is read."""
        self._checkpoints = Checkpoints.of(self.unit)
        self._began_s, self._worked = time.monotonic(), 0

    def train(self) -> list[Trained]:
        """Go on from the newest checkpoint, if there is one, to the last seed's end."""
        saved = self._checkpoints.resume()
        for seed in range(self.unit.config.agent.seeds):
            job, began = self._job(seed)
            if saved is not None and seed < len(saved.scalars["finished"]):
                self.finished.append(_restored(job, saved, seed))
                continue
            state = start(job)
            if saved is not None:
                state.load_arrays(saved.arrays, saved.scalars["learner"])
                saved = None
            self.finished.append(Trained.of(self._train_one(job, state), began))
        return self.finished

    def _job(self, seed: int) -> tuple[Job, str]:
        job = window_job(self.data, self.unit.config, seed)
        weights, began = self._weights(job, seed)
        return replace(job, start=weights), began

    def _weights(self, job: Job, seed: int) -> tuple[dict[str, Tensor] | None, str]:
        """Weights to start from, as configured and as far as there are any, and what they are called."""
        asked, unit = self.unit.config.walk_forward.start, self.unit
        sources = {
            "pretrained": (f"pretrain/seed-{seed}", ""),
            "chain": (f"walk_forward/{shifted(unit.name, -1)}", f"seed-{seed}"),
        }
        if asked == "scratch":
            return None, asked
        source, folder = sources[asked]
        weights = pretrained_weights(unit, source, job.sizes, folder)
        if weights is None:
            unit.log(f"seed {seed} starts from scratch: {source} is not among the inputs")
            return None, "scratch"
        return handed_over(weights), asked

    def _train_one(self, job: Job, state: LearnerState) -> TrainResult:
        def on_rollout(state: LearnerState, row: Row) -> None:
            try:
                self._report(job, row)
            except StopRequested:
                self._save(job, state)
                raise
            if self._checkpoints.due():
                self._save(job, state)

        return train(job, state, on_rollout, self.unit.batch_halvings)

    def _report(self, job: Job, row: Row) -> None:
        per_agent, per_rollout = whole_steps(job.ppo), job.ppo.num_envs * job.ppo.rollout_steps
        seed = len(self.finished)
        self._worked += per_rollout
        rate = self._worked / max(time.monotonic() - self._began_s, 1e-9)
        if "validation" in row:
            self.unit.metric("validation", step=row["step"], seed=seed, **row["validation"])
        total = per_agent * self.unit.config.agent.seeds
        self.unit.progress(seed * per_agent + row["step"], total, rate, seed=seed, entropy=row["entropy"])

    def _save(self, job: Job, state: LearnerState) -> None:
        arrays, scalars = state.to_arrays()
        parts = {f"seed-{seed}": _weights_of(agent) for seed, agent in enumerate(self.finished)}
        finished = [{"facts": agent.facts, "history": agent.history} for agent in self.finished]
        step = len(self.finished) * whole_steps(job.ppo) + state.steps
        self._checkpoints.save(step, arrays, {"learner": scalars, "finished": finished}, parts)


def _restored(job: Job, saved: Saved, seed: int) -> Trained:
    policy = Policy(job.sizes)
    policy.load_state_dict(to_tensors(saved.parts[f"seed-{seed}"]))
    value = saved.scalars["finished"][seed]
    return Trained(policy.eval(), value["facts"], value["history"])


def _weights_of(agent: Trained) -> Arrays:
    return to_arrays(agent.policy.state_dict())


def _summary(link: Link) -> dict[str, Any]:
    kept = ("best_epoch", "delta", "micro_batch", "train_windows", "stop_windows")
    return {key: link.facts[key] for key in kept} | {"stop_loss": link.history[link.facts["best_epoch"]]["stop_loss"]}


if __name__ == "__main__":
    raise SystemExit(main())
