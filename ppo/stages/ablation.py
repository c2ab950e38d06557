"""Stage `ablation`, on demand: units `ablation/seed-<i>` train with against without pre-training, `ablation/summary`
plays real bars with the agents of all seeds and compares them.

A seed is pre-trained as `pretrain/seed-<i>` is, bit for bit; then on each window two agents are trained from
equal seeds, one from those weights and one from fresh ones. The first half of the window's tail selects their
checkpoints, the second measures them: bars that selected flatter. A seed writes `<month>.<arm>/policy.*` of each
agent and `ablation.parquet` (`ppo.ablation.COLUMNS`) of the crash scenarios; the summary that of real bars, and
`ablation.json` (`ppo.ablation.compare`). Real bars are played by the summary alone, and are trials (`ppo.trials`): one
for each arm on each window, the mean of the seeds, entered before anything is written.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from configs.files import read_json, write_json
from configs.run_dir import RunDir
from configs.schema import Config
from configs.unit import Unit, run_stage
from ppo.ablation import ARMS, COLUMNS, CRASH, PRETRAINED, REAL, ablation_windows, compare, outcome
from ppo.learner.policy import handed_over, read_policy, save_policy
from ppo.learner.train import Job, TrainResult
from ppo.learner.validate import Validator
from ppo.pretrain import market_scaler, pretraining_job, pretraining_ppo, scenario_tape, scenarios, whole
from ppo.scoring import trial_of
from ppo.stages import pretrain
from ppo.stages.agent import seed_index
from ppo.stages.in_turn import Done, train_in_turn
from ppo.trials import LEDGER_NAME, Trial, record
from ppo.walk_forward import WindowData, load_window, whole_steps, window_job, window_ppo, within_tail
from training.determinism import set_up_torch
from training.stages.prepare import write_table
from training.stages.synthetic import load_parameters

PRETRAINING = "pretraining"
SUMMARY = "summary"


def main(argv: list[str] | None = None) -> int:
    """Run one unit of the stage as a process."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Train the agents of one seed, or play and compare those of all seeds."""
    set_up_torch(unit.config.compute.threads_per_unit)
    return summarise(unit) if unit.name == SUMMARY else train_arms(unit)


def train_arms(unit: Unit) -> dict[str, Any]:
    """Pre-train one seed, train both arms on every window, play them on crash scenarios."""
    config, arms = unit.config, Arms(unit)
    names = [PRETRAINING, *(f"{month}.{arm}" for month in ablation_windows(config) for arm in ARMS)]
    done = train_in_turn(unit, names, arms.job, arms.rows, total_steps(config))
    for name in names[1:]:
        save_policy(unit.dir / name, done.policy(name))
    rows = [row for name in names[1:] for row in done.facts[name]]
    write_table(unit.dir / "ablation.parquet", pd.DataFrame(rows, columns=list(COLUMNS)))
    return {"windows": ablation_windows(config), "rows": len(rows), "steps": done.steps}


def summarise(unit: Unit) -> dict[str, Any]:
    """Play real bars with the agents of all seeds, enter them as trials, compare all rows."""
    seeds = [f"ablation/seed-{seed}" for seed in range(unit.config.ablation.seeds)]
    crashes = [pd.read_parquet(unit.run.require_output(seed, "ablation.parquet")) for seed in seeds]
    windows = (halved(unit.run, month, unit.config) for month in ablation_windows(unit.config))
    measured = [measure(unit, data, arm) for data in windows for arm in ARMS]
    record(unit.run.root.parent / LEDGER_NAME, [trial for _, trial in measured])
    real = pd.DataFrame([row for rows, _ in measured for row in rows], columns=list(COLUMNS))
    write_table(unit.dir / "ablation.parquet", real)
    found = compare(pd.concat([real, *crashes], ignore_index=True), unit.config)
    write_json(unit.dir / "ablation.json", found)
    return {"differences": [row for row in found["differences"] if row["where"] in (REAL, CRASH)]}


def measure(unit: Unit, data: WindowData, arm: str) -> tuple[list[dict[str, Any]], Trial]:
    """How one arm's agents of all seeds do on the bars of a window that are to measure them, and that trial."""
    run, config, month = unit.run, unit.config, data.window.month
    validator = Validator(data.tape, data.spans("test"), config, 1)
    folders = [run.unit_dir(f"ablation/seed-{seed}") / f"{month}.{arm}" for seed in range(config.ablation.seeds)]
    played = [validator.play(read_policy(folder)) for folder in folders]
    rows = [
        {"seed": seed, "window": month, "arm": arm, "where": REAL, "scenario": -1, "script": ""} | outcome(own, config)
        for seed, own in enumerate(played)
    ]
    returns = np.mean([np.expm1(np.concatenate(own.log_returns)) for own in played], axis=0)
    key = f"{run.request(unit.id).cache_key}/{month}.{arm}"
    dataset = read_json(run.require_output("prepare", "dataset.json"))
    return rows, trial_of(dataset, data.tape.t, data.window.test, key, returns, data.first_row)


def halved(run: RunDir, month: str, config: Config) -> WindowData:
    """A window that ends with its tail, whose first half selects and whose second measures."""
    data = load_window(run, month, config)
    return replace(data, window=within_tail(data.window, config))


class Arms:
    """The trainings of one seed; a window's data is loaded once for both of its arms."""

    def __init__(self, unit: Unit) -> None:
        self._run, self._config, self._seed = unit.run, unit.config, seed_index(unit)
        self._parameters = load_parameters(unit.run)
        self._crashes = scenarios(self._parameters, unit.config, "held_out", unit.config.ablation.crash_scenarios)
        self._month = ""
        self._data: WindowData | None = None

    def job(self, name: str, done: Done) -> Job:
        """The job of one training."""
        config = self._config
        if name == PRETRAINING:
            return pretraining_job(self._parameters, config, self._seed)[0]
        month, _, arm = name.partition(".")
        job = window_job(self._window(month), config, self._seed)
        return replace(job, start=handed_over(done.weights[PRETRAINING])) if arm == PRETRAINED else job

    def rows(self, name: str, _job: Job, trained: TrainResult) -> list[dict[str, Any]]:
        """How the agent of one training did in the crash scenarios; nothing is played after the pre-training."""
        if name == PRETRAINING:
            return []
        month, _, arm = name.partition(".")
        data, config = self._window(month), self._config
        own = {"seed": self._seed, "window": month, "arm": arm}
        tape, _ = scenario_tape(self._crashes, config, market_scaler(data.scaler))
        crashes = Validator(tape, whole(tape), config, 1).play(trained.policy)
        return [
            own | {"where": CRASH, "scenario": place, "script": script} | outcome(crashes.piece(place), config)
            for place, script in enumerate(self._crashes.script)
        ]

    def _window(self, month: str) -> WindowData:
        if self._data is None or self._month != month:
            self._month, self._data = month, halved(self._run, month, self._config)
        return self._data


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`: of one seed's unit; validation on the windows' tails is not counted."""
    facts = pretrain.describe(config)
    amounts = {item["name"]: item["amount"] for item in facts["work"]}
    crashes = trainings(config) * config.ablation.crash_scenarios * config.synthetic.bars
    amounts |= {"steps": total_steps(config), "validation decisions": amounts["validation decisions"] + crashes}
    own = [item | {"amount": amounts[item["name"]], "units": "ablation/seed-*"} for item in facts["work"]]
    return facts | {"work": own, "artifact_bytes": trainings(config) * facts["artifact_bytes"]}


def calibrate(config: Config, budget_s: float) -> dict[str, float]:
    """Rates of the stage's work on this machine: those of pre-training."""
    return pretrain.calibrate(config, budget_s)


def trainings(config: Config) -> int:
    """Of one seed, after its pre-training."""
    return min(config.ablation.windows, config.walk_forward.windows) * len(ARMS)


def total_steps(config: Config) -> int:
    """Of all trainings of one seed."""
    return whole_steps(pretraining_ppo(config)) + trainings(config) * whole_steps(window_ppo(config))


if __name__ == "__main__":
    raise SystemExit(main())
