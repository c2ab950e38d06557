"""A command resolved to its graph: which units it means, how each stands, and what is refused before anything runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from configs.errors import ConfigError
from configs.run_dir import RunDir
from configs.schema import Config
from runner.expansion import agent_units
from runner.gates import JUDGE, gates_on
from runner.graph import Unit, chosen_stages, expand, with_inputs
from runner.identity import Keys
from runner.reuse import standing
from runner.say import say
from runner.session import Ask, Plan, resolve_ask


@dataclass(frozen=True)
class Choice:
    """How much of the job is to be done, and how it is shown."""

    stages: tuple[str, ...] = ()
    until: str = ""
    with_needs: bool = False
    """Choose what the stages need too; else it must be done already."""
    skip_preflight: bool = False
    require_gpu: bool = False
    verbose: bool = False
    take_over: bool = False
    """Take the run in the store from its owner, whoever that is."""
    push: bool = True
    """Publish the results where a repository is set."""
    yes: bool = False
    """Start although more is expected to be needed than the limits leave."""
    until_s: float = math.inf
    """When, by the monotonic clock, this machine leaves the run no more time to work."""


@dataclass(frozen=True)
class Job:
    """A resolved command with its graph."""

    plan: Plan
    stages: tuple[str, ...]
    """Those asked for."""
    units: tuple[Unit, ...]
    """The chosen units, all that they need or want, and all that is asked before they may start."""
    chosen: tuple[Unit, ...]
    optional: frozenset[str]
    """Units that are only wanted or asked, and were not chosen: used where they are done, else left out."""
    keys: Keys

    @classmethod
    def of(cls, ask: Ask, choice: Choice) -> Job:
        """Resolve a command; writes nothing.

        Raises:
            ProjectError: something about it is wrong.
        """
        return cls.from_plan(resolve_ask(ask), choice)

    @classmethod
    def from_plan(cls, plan: Plan, choice: Choice) -> Job:
        """The graph of a plan.

        Raises:
            ConfigError: a chosen stage does not exist, or has nothing to do.
            BadDataError: the data are too short for a chosen stage.
        """
        stages = chosen_stages(choice.stages, choice.until)
        plan.require_windows(stages)
        units = expand(plan.config, asked=stages)
        chosen = [unit for unit in units if unit.stage in stages]
        if not chosen:
            raise ConfigError(f"there is nothing to do in {', '.join(stages)} with walk_forward.windows=0")
        needed = with_inputs(units, chosen)
        reached = _with_asked(units, with_inputs(units, chosen, wanted=True), plan.config)
        optional = frozenset(unit.id for unit in reached) - {unit.id for unit in needed}
        return cls(
            plan, tuple(stages), tuple(reached), tuple(needed if choice.with_needs else chosen), optional, plan.keys()
        )

    def standing(self, run: RunDir | None = None) -> dict[str, str]:
        """How each unit stands before anything is started; `run` is another copy of the run directory."""
        return standing(run or self.plan.run, self.units, self.keys, self.optional, self.plan.reuse)

    def to_run(self, states: dict[str, str]) -> list[Unit]:
        """The units that have work to do."""
        return [unit for unit in self.units if states[unit.id] == "to run"]

    def is_finished(self, states: dict[str, str]) -> bool:
        """Every unit is done, or left out for a reason, and the report is there."""
        over = set(states.values()) <= {"done", "gated", "left out"}
        return over and self.plan.run.report.exists() and self.plan.run.run_json.exists()

    def refuse_missing(self, states: dict[str, str]) -> None:
        """Refuse to start when a stage that was not chosen has work to do.

        Raises:
            ConfigError: the message names the unit and its stage.
        """
        chosen = {unit.id for unit in self.chosen}
        for unit in self.units:
            if states[unit.id] == "to run" and unit.id not in chosen:
                raise ConfigError(
                    f"unit {unit.id!r} is not done and its stage {unit.stage!r} was not chosen; add it to --stages"
                )
        if states.get(JUDGE) == "to run":
            self._refuse_unjudgeable(states)

    def _refuse_unjudgeable(self, states: dict[str, str]) -> None:
        """Refuse an evaluation that would find no agents, or only some of a family."""
        families = agent_units(self.plan.config)
        there = {name: [unit for unit in units if states[unit] != "left out"] for name, units in families.items()}
        if not any(states[unit] != "gated" for units in there.values() for unit in units):
            raise ConfigError(
                f"{JUDGE} has no agents to score: nothing of {', '.join(families)} is chosen or done; add one of "
                f"them to --stages, or leave {JUDGE} out"
            )
        for name, units in families.items():
            missing = [unit for unit in units if unit not in there[name]]
            if there[name] and missing:
                raise ConfigError(
                    f"{JUDGE} scores all agents of a stage or none, and of {name} only a part is done; missing: "
                    f"{', '.join(missing)}; add {name} to --stages, or leave {JUDGE} out"
                )

    def tell_what_is_missed(self, states: dict[str, str]) -> None:
        """Say on stderr which results are there and yet left out, and which chosen stages have nothing to do."""
        stale = [
            unit for unit in self.units if states[unit.id] == "left out" and self.plan.run.result(unit.id) is not None
        ]
        for stage in dict.fromkeys(unit.stage for unit in stale):
            say(
                f"going without {stage}: its results are of another code or configuration, or damaged; add {stage} "
                "to --stages to make them anew"
            )
        gated = [unit.stage for unit in self.chosen if states[unit.id] == "gated"]
        if gated and self.is_finished(states):
            say(f"left out because a gate is closed: {', '.join(dict.fromkeys(gated))}")
        if "walk_forward" in self.stages and not self.plan.config.walk_forward.windows:
            say("nothing to do in walk_forward: this run has walk_forward.windows=0")

    def require_data(self, states: dict[str, str]) -> None:
        """Refuse to start where a dataset is gone and a unit that is to run reads it.

        Raises:
            DatasetNotFoundError: as the search for it said.
        """
        self.plan.require_data({name for unit in self.units if states[unit.id] == "to run" for name in unit.datasets})


def _with_asked(units: Sequence[Unit], reached: list[Unit], config: Config) -> list[Unit]:
    """`reached`, and all units of the stages that their gates ask, for a gate decides alike in every part of a run."""
    while True:
        asked = {gate.stage for _, gate in gates_on(config, reached)}
        more = with_inputs(units, [*reached, *(unit for unit in units if unit.stage in asked)], wanted=True)
        if len(more) == len(reached):
            return reached
        reached = more
