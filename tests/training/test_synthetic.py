"""Synthetic worlds: a function of the index alone, valid bars, crash scripts that do what their name says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from configs.needs import warmup_bars
from tests.training.feature_samples import config_of
from tests.training.parts import without
from training.features import FEATURE_NAMES, MARKET_OBSERVATION, compute
from training.synthetic import PRESET, REGIMES, SCRIPTS, Parameters, generate, preset_parameters, worlds_tape_inputs
from training.synthetic.parameters import stationary_shares
from training.synthetic.scripts import NONE, script_of, stages_of

BARS = 600
FIELDS = ("open", "high", "low", "close", "volume", "regime")


def settings_of(**changes):
    return config_of().synthetic.model_copy(update={"bars": BARS} | changes)


def make(first=0, count=4, split="train", parameters=PRESET, seed=7, **changes):
    return generate(parameters, settings_of(**changes), seed, split, first, count)


def test_a_scenario_is_the_same_whichever_others_are_made_with_it():
    together, alone = make(0, 12), [make(index, 1) for index in (11, 3, 7)]
    for index, world in zip((11, 3, 7), alone, strict=True):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(together, name)[index], getattr(world, name)[0])
        assert world.script == [together.script[index]]
        assert world.tags.iloc[0].to_dict() == together.tags.iloc[index].to_dict()


def test_seeds_splits_and_indices_have_streams_of_their_own():
    closes = [make(scripted_frac=0).close[0], make(scripted_frac=0).close[1], make(seed=8, scripted_frac=0).close[0]]
    closes.append(make(split="validation", scripted_frac=0).close[0])
    returns = [np.diff(np.log(close)) for close in closes]
    correlation = np.corrcoef(returns) - np.eye(len(returns))
    assert np.abs(correlation).max() < 4 / np.sqrt(BARS)


@settings(max_examples=25)
@example(volatility=0.09765625, alpha=0.0, beta=0.0, multiple=6.0, steps=2)
@given(
    volatility=st.floats(1e-6, 0.1),
    alpha=st.floats(0, 0.5),
    beta=st.floats(0, 0.49),
    multiple=st.floats(0.2, 6),
    steps=st.integers(2, 9),
)
def test_bars_keep_the_market_rules_under_any_parameters(volatility, alpha, beta, multiple, steps):
    wild = tuple(replace(regime, volatility=multiple, jump_intensity=0.05) for regime in PRESET.regimes)
    parameters = replace(PRESET, volatility=volatility, alpha=alpha, beta=beta, regimes=wild)
    worlds = make(0, 5, parameters=parameters, scripted_frac=1.0, path_steps=steps)
    for name in FIELDS:
        assert np.isfinite(getattr(worlds, name)).all()
    assert (worlds.low > 0).all() and (worlds.volume >= 0).all()
    assert (worlds.high >= np.maximum(worlds.open, worlds.close)).all()
    assert (worlds.low <= np.minimum(worlds.open, worlds.close)).all()


def test_a_bar_opens_where_the_last_one_closed_but_for_the_gap_of_a_script():
    worlds = make(0, 5, scripted_frac=1.0)
    for name, opened, close in zip(worlds.script, worlds.open, worlds.close, strict=True):
        gaps = np.flatnonzero(opened[1:] != close[:-1])
        assert len(gaps) == (name == "gap_open")


def test_scripts_take_their_share_of_any_run_of_scenarios_and_come_round_in_order():
    names = [script_of(index, 0.2) for index in range(50)]
    assert [name for name in names if name != NONE] == list(SCRIPTS) * 2
    assert all(sum(name != NONE for name in names[first : first + 5]) == 1 for first in range(46))
    assert {script_of(index, 0.0) for index in range(20)} == {NONE}


def test_every_held_out_scenario_carries_a_script():
    assert make(split="held_out", count=7, scripted_frac=0.0).script == [*SCRIPTS, *list(SCRIPTS)[:2]]


def scripted(name, bars=3_000, count=6):
    """Scenarios of one script without any other drama."""
    calm = without(PRESET, jumps=True, regimes=True, garch=True)
    place = list(SCRIPTS).index(name)
    return [generate(calm, settings_of(bars=bars), 3, "held_out", place + 5 * i, 1) for i in range(count)]


def test_a_drawdown_of_80_percent_is_at_least_that_deep():
    assert all(world.tags["largest_drawdown"].item() >= 0.8 for world in scripted("drawdown_80"))


def test_a_flash_crash_falls_within_six_bars_and_wins_most_of_it_back_within_two_days():
    for world in scripted("flash_crash"):
        fall = world.close[0][6:] / world.close[0][:-6] - 1
        bottom = fall.argmin() + 6
        assert fall.min() < -0.2
        assert world.close[0][bottom : bottom + 54].max() > world.close[0][bottom] * (1 - fall.min() * 0.6)


def test_a_slow_bleed_loses_40_percent_without_one_large_bar():
    for world in scripted("slow_bleed"):
        assert world.tags["largest_drawdown"].item() > 0.35
        assert np.abs(np.diff(np.log(world.close[0]))).max() < 6 * PRESET.volatility


def test_a_gap_open_leaves_no_price_between_the_close_and_the_open():
    for world in scripted("gap_open"):
        gap = (world.open[0][1:] / world.close[0][:-1] - 1).min()
        assert -0.25 <= gap <= -0.1


def test_a_volatility_spike_multiplies_volatility_without_a_direction():
    for world in scripted("volatility_spike"):
        returns = np.diff(np.log(world.close[0]))
        rolling = np.lib.stride_tricks.sliding_window_view(returns, 12).std(axis=1)
        assert rolling.max() > 4 * np.median(rolling)


def test_a_script_lies_inside_its_scenario_however_short():
    for name in SCRIPTS:
        stages = stages_of(name, 500, np.random.default_rng(1))
        assert stages[0, 0] >= 100 and stages[-1, 1] <= 500 and (np.diff(stages[:, :2], axis=1) >= 1).all()
        np.testing.assert_array_equal(stages[1:, 0], stages[:-1, 1])


def test_volume_grows_with_the_range_and_is_none_where_the_market_reports_none():
    worlds = make(scripted_frac=0)
    width, volume = np.log(worlds.high / worlds.low).ravel(), np.log(worlds.volume).ravel()
    slope, _ = np.polyfit(np.log(width), volume, 1)
    assert slope == pytest.approx(PRESET.volume_elasticity, abs=0.05)
    assert not make(parameters=replace(PRESET, volume=0.0)).volume.any()


def test_tags_are_what_a_loop_over_the_bars_counts():
    world = make(5, 1, scripted_frac=0)
    peak, deepest = world.open[0, 0], 0.0
    for price in world.close[0].tolist():
        peak = max(peak, price)
        deepest = max(deepest, 1 - price / peak)
    tags = world.tags.iloc[0]
    assert tags["largest_drawdown"] == pytest.approx(deepest, rel=1e-12)
    assert tags["log_return"] == pytest.approx(np.log(world.close[0, -1] / world.open[0, 0]))
    for place, name in enumerate(REGIMES):
        assert tags[f"{name}_share"] == sum(state == place for state in world.regime[0].tolist()) / BARS


def test_the_tape_inputs_are_the_features_of_each_scenario_alone():
    config = config_of()
    worlds = make(0, 3)
    bars, market = worlds_tape_inputs(worlds, config)
    columns = [FEATURE_NAMES.index(name) for name in MARKET_OBSERVATION]
    warmup = warmup_bars(config.features)
    assert (np.diff(bars.t) == 3_600).all() and bars.segment.tolist() == sorted([0, 1, 2] * BARS)
    for place in range(3):
        rows = slice(place * BARS, (place + 1) * BARS)
        alone = compute(bars.slice(rows.start, rows.stop), config.features)[:, columns]
        np.testing.assert_array_equal(market[rows], alone.astype(np.float32))
        assert np.isnan(market[rows][:warmup]).all() and np.isfinite(market[rows][warmup:]).all()


def test_parameters_survive_json_exactly():
    assert Parameters.from_json(PRESET.to_json()) == PRESET


def test_preset_volatility_follows_the_market_and_the_root_of_the_timeframe():
    hourly, minutes, fx = (preset_parameters(config_of(name)) for name in ("BTC-USDT_1H", "BTC-USDT_1m", "EUR-USD_1H"))
    assert hourly.volatility == pytest.approx(np.sqrt(60) * minutes.volatility) == pytest.approx(10 * fx.volatility)


def test_stationary_shares_are_those_of_a_long_power_of_the_transitions():
    rows = np.array(PRESET.transitions)
    np.testing.assert_allclose(rows.sum(axis=1), 1.0)
    np.testing.assert_allclose(stationary_shares(rows), np.linalg.matrix_power(rows, 100_000)[0], rtol=1e-9)
