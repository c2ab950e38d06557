"""What the classifiers claim: nothing on driftless martingales, skill where a signal is planted. Minutes of CPU."""

from functools import cache

import numpy as np
import pytest

from tests.training.feature_samples import bars_of, config_of
from training.chain import Inputs
from training.crossfit import crossfit, predictions_frame, score_predictions
from training.features import compute
from training.predictors import PREDICTORS
from training.splits import split

N, SEEDS, STEPS = 6_000, 20, 8
ALLOWED = 3
"""P(X > 3) = 1.6 % and P(X > 2) = 7.5 % for X ~ binomial(20, 0.05): three is the 95 % bound."""
SETTINGS = (
    "classifiers.lookback_bars=20",
    "classifiers.units=12",
    "classifiers.folds=2",
    "classifiers.batch_size=128",
    "classifiers.window_stride=1",
    "classifiers.learning_rate=0.003",
    "classifiers.epochs=6",
)
CONFIG = config_of("ADA-EUR_1H", *SETTINGS)


def market(drift, volume, seed):
    """Bars of GARCH(1,1) noise (0.08, 0.9; 0.8 % a bar) around a drift per bar, with their path inside the bar."""
    rng = np.random.default_rng([seed, 77])
    noise = rng.standard_normal((N, STEPS)) / np.sqrt(STEPS)
    variance = long_run = 0.008**2
    moves = np.empty((N, STEPS))
    for bar in range(N):
        moves[bar] = np.sqrt(variance) * noise[bar]
        variance = 0.02 * long_run + 0.08 * moves[bar].sum() ** 2 + 0.9 * variance
    path = np.exp(np.concatenate([[0], np.cumsum(moves + drift[:, None] / STEPS)]))
    inside = np.stack([path[bar * STEPS : (bar + 1) * STEPS + 1] for bar in range(N)])
    return bars_of(inside[:, 0], inside.max(axis=1), inside.min(axis=1), inside[:, -1], volume)


@cache
def martingale(seed):
    """Each bar's return has mean 0 given everything before it; so has each step inside a bar."""
    bars = market(np.zeros(N), np.random.default_rng(seed).lognormal(3, 1, N), seed)
    return bars, compute(bars, CONFIG.features)


@cache
def planted():
    """Each bar's drift is 0.4 standard deviations times a signal with a memory of six bars, which volume shows."""
    rng = np.random.default_rng(1)
    signal, shocks = np.zeros(N), rng.standard_normal(N) * np.sqrt(1 - 0.85**2)
    for bar in range(1, N):
        signal[bar] = 0.85 * signal[bar - 1] + shocks[bar]
    bars = market(np.concatenate([[0], 0.4 * 0.008 * signal[:-1]]), np.exp(3 + signal), seed=1)
    return bars, compute(bars, CONFIG.features)


def scores_on_test(member, bars, features, config=CONFIG):
    parts = split(N, config.splits)
    models = list(crossfit(member, Inputs.of(bars, features, config), parts))
    predictions = predictions_frame(models, features, bars, config)
    return score_predictions(bars, predictions, parts, config, np.arange(*parts.test))


@pytest.mark.slow
@pytest.mark.parametrize("member", sorted(PREDICTORS))
def test_on_driftless_martingales_skill_is_no_more_frequent_than_chance(member):
    scores = [scores_on_test(member, *martingale(seed)) for seed in range(SEEDS)]
    print(member, "differences", [round(score["skill"]["difference"], 3) for score in scores])
    assert sum(score["skill"]["skilled"] for score in scores) <= ALLOWED
    assert sum(score["directional"]["skilled"] for score in scores) <= ALLOWED


@pytest.mark.slow
@pytest.mark.parametrize("member", sorted(PREDICTORS))
def test_where_volume_shows_the_trend_there_is_skill(member):
    score = scores_on_test(member, *planted(), config_of("ADA-EUR_1H", *SETTINGS, "labels.horizon_bars=5"))
    print(member, score["skill"], score["directional"])
    assert score["skill"]["skilled"], score["skill"]
    assert score["directional"]["skilled"], score["directional"]
