"""The units of each stage, and which others each of them reads."""

from __future__ import annotations

from dataclasses import dataclass

from configs.calendar import shifted
from configs.schema import Config


@dataclass(frozen=True)
class Inputs:
    """The units whose files a unit reads."""

    needs: tuple[str, ...] = ()
    """It cannot do without these."""
    wants: tuple[str, ...] = ()
    """It waits for these where they are part of the start, and goes without those that are left out."""


Units = dict[str, Inputs]
"""Unit id -> what it reads."""


def prepare_units(_config: Config) -> Units:
    """The one that reads the dataset."""
    return {"prepare": Inputs()}


def synthetic_units(_config: Config) -> Units:
    """The one that fits the stress worlds."""
    return {"synthetic": Inputs(("prepare",))}


def pretrain_units(config: Config) -> Units:
    """One agent per seed, on the stress worlds."""
    return {f"pretrain/seed-{seed}": Inputs(("prepare", "synthetic")) for seed in range(config.agent.seeds)}


def member_units(config: Config) -> Units:
    """One classifier per member."""
    return {f"classifiers/{name}": Inputs(("prepare",)) for name in config.classifiers.members}


def ensemble_units(config: Config) -> Units:
    """The soft vote."""
    return {"classifiers/ensemble": Inputs(("prepare", *member_units(config)))}


def ppo_units(config: Config) -> Units:
    """One base agent per seed, which begins with the weights of its pre-trained one."""
    needs = ("prepare", "classifiers/ensemble")
    return {f"ppo/seed-{seed}": Inputs(needs, (f"pretrain/seed-{seed}",)) for seed in range(config.agent.seeds)}


def lstm_ppo_units(config: Config) -> Units:
    """One agent with memory per seed."""
    return {f"lstm_ppo/seed-{seed}": Inputs(("prepare", "classifiers/ensemble")) for seed in range(config.agent.seeds)}


def portfolio_data_units(config: Config) -> Units:
    """The assets of the portfolio, joined."""
    return {"multi_asset/data": Inputs(("prepare", *(f"classifiers/{name}" for name in config.ensemble.members)))}


def portfolio_agent_units(config: Config) -> Units:
    """One portfolio agent per seed."""
    return {f"multi_asset/seed-{seed}": Inputs(("multi_asset/data",)) for seed in range(config.agent.seeds)}


def window_months(config: Config) -> list[str]:
    """The test months of the walk-forward; none before they were fitted to the data."""
    walk_forward = config.walk_forward
    count = walk_forward.windows if walk_forward.first_test_month else 0
    return [shifted(walk_forward.first_test_month, number) for number in range(count)]


def monthly_member_units(config: Config) -> Units:
    """The monthly classifiers of one member each."""
    members = config.ensemble.members if window_months(config) else ()
    return {f"walk_forward/classifier-{name}": Inputs(("prepare",)) for name in members}


def window_units(config: Config) -> Units:
    """The agents of one test month each, which may begin with the weights of the month before."""
    start, needs = config.walk_forward.start, ("prepare", *monthly_member_units(config))
    wants = tuple(pretrain_units(config)) if start == "pretrained" else ()
    units: Units = {}
    for month in window_months(config):
        before = tuple(units)[-1:] if start == "chain" else ()
        units[f"walk_forward/{month}"] = Inputs((*needs, *before), wants)
    return units


def agent_units(config: Config) -> dict[str, tuple[str, ...]]:
    """Family of agents -> the units that train them; it is judged as a whole or not at all."""
    return {
        "ppo": tuple(ppo_units(config)),
        "lstm_ppo": tuple(lstm_ppo_units(config)),
        "multi_asset": tuple(portfolio_agent_units(config)),
        "walk_forward": tuple(window_units(config)),
    }


def evaluate_units(config: Config) -> Units:
    """The one that scores the test part, of all agents that there are."""
    agents = [unit for family in agent_units(config).values() for unit in family]
    wants = (*pretrain_units(config), *portfolio_data_units(config), *monthly_member_units(config), *agents)
    return {"evaluate": Inputs(("prepare", *member_units(config), *ensemble_units(config)), wants)}


def ablation_units(config: Config) -> Units:
    """Agents with and without pre-training, of one seed each, on windows of the walk-forward."""
    needs = ("prepare", "synthetic", *monthly_member_units(config))
    seeds = config.ablation.seeds if window_months(config) else 0
    return {f"ablation/seed-{seed}": Inputs(needs) for seed in range(seeds)}


def ablation_summary_units(config: Config) -> Units:
    """The one that plays real bars with them, and compares them."""
    compared = tuple(ablation_units(config))
    return {"ablation/summary": Inputs(("prepare", *monthly_member_units(config), *compared))} if compared else {}
