"""Whether the assets of a portfolio overlap enough to learn from: known from their ranges, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.calendar import day_of
from configs.errors import BadDataError
from configs.needs import bars_before_window, test_bars
from configs.schema import Config

Facts = Mapping[str, Any]


def require_overlap(datasets: Mapping[str, Facts], config: Config) -> None:
    """Refuse assets that cannot have enough bars to decide on in the training part of the run's own dataset.

    Args:
        datasets: name -> what `data check` says, the run's own first.
        config: as `most_decisions` reads it.

    Raises:
        BadDataError: the message names the asset, both ranges, what was found, what is needed and what to do.
    """
    (name, own), *others = datasets.items()
    for asset, facts in others:
        if facts["first_t"] > own["last_t"] or facts["last_t"] < own["first_t"]:
            raise BadDataError(
                f"{asset} ({_range(facts)}) and {name} ({_range(own)}) have no time in common; leave the asset "
                "out of --assets, or use data that overlap"
            )
        found, needed = most_decisions(own, facts, config), test_bars(config)
        if found < needed:
            raise BadDataError(
                f"{asset} ({_range(facts)}) has at most {found:,} bars to decide on in the training part of {name} "
                f"({_range(own)}), at least {needed:,} are needed: they lie from {day_of(own['predicted_t'])}, where "
                f"predictions begin, to {day_of(own['train_stop_t'] - 1)}, and an asset's first "
                f"{bars_before_window(config):,} bars are warm-up and the first window; leave the asset out of "
                "--assets, or use data that overlap more"
            )


def most_decisions(own: Facts, facts: Facts, config: Config) -> int:
    """How many bars of an asset may be decided on in the training part, if none is missing; fewer with gaps.

    Such a bar ends a window past the asset's warm-up, in a piece of the training part that has predictions.
    """
    timeframe_s = own["timeframe_s"]
    first_t = max(facts["first_t"] + bars_before_window(config) * timeframe_s, own["predicted_t"])
    last_t = min(facts["last_t"], own["train_stop_t"] - 1)
    return max(0, (last_t - first_t) // timeframe_s + 1)


def _range(facts: Facts) -> str:
    return f"{day_of(facts['first_t'])} to {day_of(facts['last_t'])}"
