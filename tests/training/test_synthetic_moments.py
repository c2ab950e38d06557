"""Moments of synthetic worlds against theory, and fits that find what was put in."""

from dataclasses import replace

import numpy as np
import pytest
from arch import arch_model

from tests.training.feature_samples import config_of, flat, random_walk
from tests.training.parts import without
from training.synthetic import PRESET, REGIMES, fit_parameters, fit_stop_row, generate, worlds_tape_inputs
from training.synthetic.kernel import filtered_regimes, local_deviation
from training.synthetic.moments import JUMPS, expected, measured, of_worlds
from training.synthetic.parameters import CRASH, RANGE

MILD = replace(PRESET, alpha=0.06, beta=0.85)
"""A GARCH whose eighth moment exists, so that kurtosis and autocorrelations of a sample settle."""
LONG = config_of("BTC-USDT_1H", "synthetic.scripted_frac=0", "synthetic.bars=10000")


def worlds_of(parameters, count=60):
    return generate(parameters, LONG.synthetic, 1, "train", 0, count)


def bars_of_worlds(parameters, count, config=LONG):
    worlds = generate(parameters, config.synthetic, 1, "train", 0, count)
    return worlds_tape_inputs(worlds, config)[0]


@pytest.fixture(scope="module")
def whole():
    """Everything on: measured and expected."""
    return of_worlds(worlds_of(MILD, 100)), expected(MILD)


def test_volatility_and_kurtosis_are_those_of_the_mixture(whole):
    found, theory = whole
    assert found["volatility"] == pytest.approx(theory["volatility"], rel=0.01)
    assert found["kurtosis"] == pytest.approx(theory["kurtosis"], rel=0.06)


def test_squared_returns_are_autocorrelated_as_garch_and_regimes_say(whole):
    found, theory = whole
    np.testing.assert_allclose(found["acf_squared"], theory["acf_squared"], atol=0.015)
    assert theory["acf_squared"][0] > 0.1 and theory["acf_squared"][-1] > 0.02


def test_jumps_come_as_often_as_their_intensity(whole):
    found, theory = whole
    assert found[JUMPS] == pytest.approx(theory[JUMPS], rel=0.1)  # 2,280 jumps in a million bars: 2 % deviation


def test_regimes_last_as_long_as_their_probability_to_stay_says(whole):
    found, theory = whole
    for place, name in enumerate(REGIMES):
        assert theory["dwell_bars"][name] == pytest.approx(1 / (1 - PRESET.transitions[place][place]))
        assert found["dwell_bars"][name] == pytest.approx(theory["dwell_bars"][name], rel=0.15)


def test_garch_alone_has_bollerslevs_kurtosis_and_autocorrelation():
    alone = without(MILD, jumps=True, regimes=True)
    a, b = MILD.alpha, MILD.beta
    theory = expected(alone)
    assert theory["kurtosis"] == pytest.approx(3 * (1 - (a + b) ** 2) / (1 - (a + b) ** 2 - 2 * a * a))
    first = a * (1 - a * b - b * b) / (1 - 2 * a * b - b * b)
    np.testing.assert_allclose(theory["acf_squared"], first * (a + b) ** np.arange(50), rtol=1e-4)


def test_jumps_alone_have_mertons_kurtosis():
    regime, sigma = replace(MILD.regimes[RANGE], jump_mean=-1.0, jump_intensity=0.1), MILD.volatility
    alone = without(replace(MILD, regimes=(regime,) * len(REGIMES)), garch=True, regimes=True)
    rate, m, s = regime.jump_intensity, regime.jump_mean * sigma, regime.jump_deviation * sigma
    excess = rate * (m**4 + 6 * m**2 * s**2 + 3 * s**4) / (sigma**2 + rate * (m**2 + s**2)) ** 2
    assert expected(alone)["kurtosis"] == pytest.approx(3 + excess)
    assert of_worlds(worlds_of(alone))["kurtosis"] == pytest.approx(3 + excess, rel=0.04)  # 60,000 jumps: 1 %


def test_with_everything_off_it_is_a_brownian_walk():
    found = of_worlds(worlds_of(without(MILD, jumps=True, regimes=True, garch=True)))
    assert found["volatility"] == pytest.approx(MILD.volatility, rel=0.005)
    assert found["kurtosis"] == pytest.approx(3, abs=0.03)
    assert np.abs(found["acf_squared"]).max() < 4.5 / np.sqrt(600_000)


def test_drift_is_compensated_so_that_only_the_regimes_drift_is_left_in_the_expected_price():
    wild = replace(MILD.regimes[CRASH], drift=0.1, volatility=1.0)
    parameters = replace(without(MILD, garch=True), regimes=(wild,) * len(REGIMES))
    growth = np.exp(np.diff(np.log(worlds_of(parameters).close))).ravel()
    error = growth.std() / np.sqrt(growth.size)
    assert growth.mean() == pytest.approx(np.exp(0.1 * MILD.volatility), abs=4 * error)


def test_more_moves_inside_a_bar_widen_its_range_towards_the_brownian_one():
    """Mean range of a Brownian bar is sqrt(8 / pi) sigma (Feller 1951); discrete paths see less of it."""
    walk = without(MILD, jumps=True, regimes=True, garch=True)
    widths = []
    for steps in (4, 64):
        few = LONG.synthetic.model_copy(update={"path_steps": steps, "bars": 2_000})
        worlds = generate(walk, few, 1, "train", 0, 10)
        widths.append(np.log(worlds.high / worlds.low).mean() / (np.sqrt(8 / np.pi) * walk.volatility))
    assert widths[0] < widths[1] < 1 and widths[1] > 0.88


def test_arch_recovers_the_persistence_with_jumps_and_regimes_off():
    returns = np.diff(np.log(worlds_of(without(PRESET, jumps=True, regimes=True), 4).close)).ravel()
    result = arch_model(returns / returns.std(), mean="Zero", rescale=False).fit(disp="off")
    assert result.params["alpha[1]"] == pytest.approx(PRESET.alpha, abs=0.015)
    assert result.params["alpha[1]"] + result.params["beta[1]"] == pytest.approx(PRESET.persistence, abs=0.01)


def test_measured_products_do_not_cross_from_one_scenario_to_the_next():
    one, other = np.random.default_rng(0).normal(size=(2, 200))
    apart, swapped = measured([one, other]), measured([other, one])
    np.testing.assert_allclose(apart["acf_squared"], swapped["acf_squared"])


def test_a_fit_finds_the_parameters_that_made_the_bars():
    made = without(PRESET, regimes=True)
    bars = bars_of_worlds(made, 5)
    found = fit_parameters(bars, 50_000, LONG)
    assert found.volatility == pytest.approx(made.volatility, rel=0.05)
    assert found.persistence == pytest.approx(made.persistence, abs=0.02)
    assert found.regimes[RANGE].jump_intensity == pytest.approx(made.regimes[RANGE].jump_intensity, abs=0.001)
    assert found.volume_elasticity == pytest.approx(made.volume_elasticity, abs=0.02)
    assert found.volume_noise == pytest.approx(made.volume_noise, rel=0.05)
    assert found.typical_range == pytest.approx(np.quantile(np.log(bars.high / bars.low), 0.5))


def test_a_fit_finds_that_crashes_are_more_volatile():
    found = fit_parameters(bars_of_worlds(PRESET, 5), 50_000, LONG)
    assert found.regimes[CRASH].volatility > 1.5 > 1.1 > found.regimes[RANGE].volatility


def test_no_bar_from_the_stop_row_on_changes_the_fit():
    bars = bars_of_worlds(PRESET, 1)
    other = replace(bars, **{name: getattr(bars, name).copy() for name in ("open", "high", "low", "close", "volume")})
    for name in ("open", "high", "low", "close", "volume"):
        getattr(other, name)[6_000:] *= np.linspace(2, 9, 4_000)
    assert fit_parameters(bars, 6_000, LONG).to_json() == fit_parameters(other, 6_000, LONG).to_json()
    assert fit_parameters(bars, 6_001, LONG).to_json() != fit_parameters(other, 6_001, LONG).to_json()


def test_what_the_bars_cannot_say_stays_preset_and_is_named():
    for bars, stop in ((random_walk(5_000), 900), (flat(5_000, 1.0, 1.0), 4_000), (random_walk(900), 0)):
        found = fit_parameters(bars, stop, LONG)
        assert all(source.startswith("preset") for source in found.source.values())
        assert replace(found, source=PRESET.source) == PRESET


def test_odd_bars_give_usable_parameters():
    broken = random_walk(6_000, sigma=1e-9, segments=range(30, 6_000, 30))
    jumpy = random_walk(6_000, sigma=0.3)
    silent = replace(random_walk(6_000), volume=np.zeros(6_000))
    stale = random_walk(6_000)
    stale = replace(stale, close=np.repeat(stale.close[::50], 50))
    false_ticks = random_walk(6_000)
    false_ticks.close[::100] *= 1e6
    rocket = random_walk(6_000, sigma=1e-4)
    rocket = replace(rocket, close=rocket.close * np.exp(0.1 * np.arange(6_000)))
    for bars in (broken, jumpy, silent, stale, false_ticks, rocket):
        found = fit_parameters(bars, 6_000, LONG)
        worlds = generate(found, LONG.synthetic, 0, "train", 0, 2)
        assert np.isfinite(worlds.close).all() and (worlds.low > 0).all() and np.isfinite(worlds.volume).all()
        assert np.isfinite(list(found.standard_errors.values())).all()
    assert fit_parameters(silent, 6_000, LONG).volume == 0


def test_the_fit_ends_before_the_test_part_of_every_stage_and_the_tail_of_the_first_window():
    bars = random_walk(6_000)
    config = config_of("BTC-USDT_1H")
    none = config.walk_forward.model_copy(update={"windows": 0, "first_test_month": "1970-03"})
    early = none.model_copy(update={"windows": 2})
    late = early.model_copy(update={"first_test_month": "1970-08"})
    stops = [fit_stop_row(bars, config.model_copy(update={"walk_forward": part})) for part in (none, early, late)]
    assert stops == [3_600, 59 * 24 - 213, 3_600], "15 % of the 1,416 bars before March, rounded up, are its tail"


def labels_of(returns, segment):
    labels = np.empty(returns.size, np.int8)
    filtered_regimes(returns, segment, 0.01, (40, 8), (1.0, 0.5, -3.0, -1.0), labels)
    return labels


def test_a_regime_is_known_before_its_bar():
    returns, segment = np.random.default_rng(2).normal(0, 0.015, 900), np.repeat(np.arange(3, dtype=np.int32), 300)
    labels = labels_of(returns, segment)
    assert set(labels.tolist()) == {-1, *range(len(REGIMES))}
    for row in (50, 299, 300, 555):
        changed = returns.copy()
        changed[row:] *= -3
        np.testing.assert_array_equal(labels_of(changed, segment)[: row + 1], labels[: row + 1])


def test_a_regime_follows_the_score_of_its_trailing_window_alone():
    returns = np.random.default_rng(2).normal(0, 0.01, 600)
    labels = labels_of(returns, np.zeros(600, np.int32))
    assert (labels[:40] == -1).all()
    for row in range(40, 600):
        score = returns[row - 40 : row].sum() / (0.01 * np.sqrt(40))
        fall = returns[row - 8 : row].sum() / (0.01 * np.sqrt(8))
        if fall < -3:
            assert labels[row] == CRASH
        elif fall > -1 and abs(score) > 1:
            assert REGIMES[labels[row]] == ("bull" if score > 1 else "bear")
        elif fall > -1 and abs(score) < 0.5:
            assert labels[row] == RANGE


def test_the_local_deviation_is_bipower_variation_of_the_returns_before_the_bar():
    returns, segment = np.random.default_rng(4).normal(0, 0.01, 300), np.repeat(np.arange(2, dtype=np.int32), 150)
    found = np.empty(300)
    local_deviation(returns, segment, 30, found)
    for row in (30, 149, 180, 299):
        before = np.abs(returns[row - 30 : row])
        assert found[row] == pytest.approx(np.sqrt(np.pi / 2 * np.sum(before[1:] * before[:-1]) / 29))
    assert np.isnan(found[:30]).all() and np.isnan(found[150:180]).all() and np.isfinite(found[30:150]).all()
