"""Predictions of calendar months: month m by a model fitted on the months before it.

A chain of `training.chain` whose models forget: the one that predicts month m is
fitted on the `train_months` months before it and on nothing older (rows, scaler,
threshold, class weights), save for the weights that it starts from. It begins
`train_months` before the first test month of the walk-forward, so that an agent
that trains on that many months sees out-of-sample predictions only.
N = bars, k = label horizon.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from safetensors.torch import save

from configs.calendar import shifted
from configs.errors import BadDataError
from configs.needs import first_rows
from configs.schema import MIN_WINDOW_EPOCHS, Config
from training.artifacts import FittedModel
from training.chain import Chain, Inputs, Link, Plan, fit_chain, predict_with
from training.checkpoint import Arrays, Checkpoints
from training.crossfit import join_predictions
from training.market import Bars
from training.meter import Report
from training.splits import Fold, month_rows

STREAMS = "walk_forward"


def predicted_months(config: Config) -> list[str]:
    """The months that are predicted: `train_months` before the first test month, then every test month."""
    settings = config.walk_forward
    first = shifted(settings.first_test_month, -settings.train_months)
    return [shifted(first, number) for number in range(settings.train_months + settings.windows)]


def month_epochs(config: Config) -> list[int]:
    """Most epochs of each predicted month's model: the first begins with fresh weights, and gets those of a first fit.

    Patience applies from `MIN_WINDOW_EPOCHS` on: no month is fitted for fewer, where it may have as many.
    """
    later = config.walk_forward.epochs
    return [max(config.classifiers.epochs, later), *[later] * (len(predicted_months(config)) - 1)]


def monthly_chain(member: str, inputs: Inputs) -> Chain:
    """The chain of one member over all predicted months; its models are named by month.

    Raises:
        BadDataError: a month's model has too few training rows.
    """
    config, t = inputs.config, inputs.bars.t
    months, before = predicted_months(config), config.walk_forward.train_months
    parts = []
    for month in months:
        fit_start, _ = month_rows(t, shifted(month, -before), month)
        predict_start, predict_stop = month_rows(t, month, month)
        parts.append(Fold(fit_start, predict_start - config.labels.horizon_bars, predict_start, predict_stop))
    epochs = month_epochs(config)
    plans = [
        replace(Plan.of(inputs, parts, number, month, epochs[number]), patient_from=MIN_WINDOW_EPOCHS)
        for number, month in enumerate(months)
    ]
    for plan in plans:
        if plan.own_rows.size < first_rows(config):
            raise BadDataError(
                f"the {before} months before {plan.name} hold {plan.own_rows.size:,} training rows, at least "
                f"{first_rows(config):,} are needed: gaps or a long feature warm-up leave too few; use a series with "
                "fewer gaps, more walk_forward.train_months or fewer walk_forward.windows"
            )
    return Chain(member, inputs, STREAMS, plans)


def fit_months(
    chain: Chain,
    report: Report | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    batch_halvings: int = 0,
) -> Iterator[Link]:
    """Fit a member's months in order and predict each; errors are those of `fit_chain`.

    Of each model its predictions and the digest of its weights are kept, for `month_predictions` and
    `weights_digest`; weights of fifty months would be large, and nobody reads them again.
    """
    inputs = chain.inputs

    def keep(fitted: FittedModel) -> Arrays:
        rows = fitted.predicted_rows(inputs.ready)
        digest = hashlib.sha256(save(fitted.weights())).digest()
        return {
            "rows": rows,
            "probability": predict_with(fitted, inputs.features, rows, inputs.config.compute.device),
            "weights_sha256": np.frombuffer(digest, np.uint8).copy(),
        }

    yield from fit_chain(chain, keep, report, checkpoints=checkpoints, batch_halvings=batch_halvings)


def month_predictions(links: list[Link], bars: Bars) -> pd.DataFrame:
    """Predictions of all months, one row per bar, as `training.crossfit.join_predictions` gives them."""
    return join_predictions(bars, ((link.kept["rows"], link.kept["probability"], link.facts) for link in links))


def weights_digest(link: Link) -> str:
    """Hex sha256 of a month's weights as safetensors."""
    return link.kept["weights_sha256"].tobytes().hex()
