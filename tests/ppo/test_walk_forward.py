"""Walk-forward windows: whose bars they are, by skfolio and by the calendar."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from skfolio.model_selection import WalkForward

from configs.calendar import full_months, month_of, shifted
from configs.errors import BadDataError
from ppo.ablation import ablation_windows
from ppo.tape import spans
from ppo.walk_forward import window_data, window_months, window_of, within_tail
from tests.training.feature_samples import HOUR, config_of, random_walk
from training.chain import Inputs
from training.crossfit import soft_vote
from training.features import compute
from training.rolling import fit_months, month_predictions, monthly_chain, predicted_months, weights_digest
from training.synthetic import fit_parameters, fit_stop_row

SMALL = (
    "classifiers.lookback_bars=8", "classifiers.units=3", "classifiers.batch_size=256", "classifiers.members=[lstm]",
    "classifiers.learning_rate=0.01", "ensemble.members=[lstm]", "labels.horizon_bars=5", "walk_forward.smoke=true",
    "walk_forward.epochs=1", "walk_forward.train_months=1", "classifiers.epochs=1",
)  # fmt: skip


def hours(first, last):
    """Opens of hourly bars, UTC, `last` left out."""
    return pd.date_range(first, last, freq="h", inclusive="left", tz="UTC").as_unit("s")


def unix(index):
    return index.astype(np.int64).to_numpy()


@pytest.mark.parametrize("scheme", ["rolling", "expanding"])
def test_windows_are_skfolio_s_walk_forward(scheme):
    index = hours("2023-01-01", "2024-08-02")  # skfolio counts a month when it sees a bar after it
    first = ["walk_forward.first_test_month=2023-07", "walk_forward.windows=13"]
    config = config_of("BTC-USDT_1H", *first, f"walk_forward.scheme={scheme}")
    months = window_months(config)
    oracle = WalkForward(1, 6, freq="MS", expand_train=scheme == "expanding")
    parts = list(oracle.split(pd.DataFrame(index=index.tz_localize(None), data={"close": 1.0})))
    assert len(parts) == len(months) == 13
    for month, (train, test) in zip(months, parts, strict=True):
        window = window_of(unix(index), month, config)
        assert window.fit == (train[0], train[-1] + 1)
        assert window.test == (test[0], test[-1] + 1)
        assert month_of(unix(index)[window.test[0]]) == month


def test_n_windows_need_n_and_twice_the_training_months():
    t = unix(hours("2020-01-01", "2025-01-01"))
    months = full_months(t[0], t[-1], HOUR)
    assert len(months) == 60
    config = config_of("BTC-USDT_1H", f"walk_forward.first_test_month={months[12]}", "walk_forward.windows=48")
    assert window_months(config)[0] == "2021-01" and window_months(config)[-1] == months[-1]
    assert shifted(predicted_months(config)[0], -6) == months[0]
    assert window_of(t, months[12], config).fit[0] == t.searchsorted(int(pd.Timestamp("2020-07-01").timestamp()))


def test_the_last_share_selects_and_no_label_of_the_first_reads_it():
    config = config_of("BTC-USDT_1H", "walk_forward.first_test_month=2024-03")
    t = unix(hours("2023-09-01", "2024-04-01"))
    window = window_of(t, "2024-03", config)
    bars = window.fit[1]
    assert window.test == (bars, len(t))
    assert window.validation == (bars - np.ceil(bars * 0.15), bars)
    assert window.train == (0, window.validation[0] - 20)


def test_within_the_tail_one_half_selects_the_other_measures_and_no_test_month_is_left():
    config = config_of("BTC-USDT_1H", "walk_forward.first_test_month=2024-03")
    window = window_of(unix(hours("2023-09-01", "2024-04-01")), "2024-03", config)
    halved, (first, stop) = within_tail(window, config), window.validation
    assert (halved.fit, halved.train) == (window.fit, window.train)
    assert halved.validation[0] == first and halved.test[1] == stop == window.test[0]
    assert halved.test[0] - halved.validation[1] == 20
    assert abs((halved.test[0] - first) - (stop - halved.test[0])) <= 1
    with pytest.raises(BadDataError, match="window 2024-03 has 0 bars in its validation part"):
        within_tail(replace(window, validation=(first, first + 30)), config)


@pytest.mark.parametrize("scheme", ["rolling", "expanding"])
def test_worlds_are_fitted_to_no_bar_that_selects_or_measures_an_agent_of_the_ablation(scheme):
    """Only one arm has seen the worlds: other prices in the tail of any window leave their parameters as they were."""
    months = ["walk_forward.first_test_month=1970-08", "walk_forward.windows=5", f"walk_forward.scheme={scheme}"]
    config, bars = config_of("BTC-USDT_1H", *months, "splits.train_frac=0.7"), random_walk(365 * 24, seed=2)
    fitted = fit_parameters(bars, fit_stop_row(bars, config), config)
    assert fitted.source["garch"] == "fitted"
    for month in ablation_windows(config):
        halved = within_tail(window_of(bars.t, month, config), config)
        used = np.zeros(len(bars), bool)
        used[halved.validation[0] : halved.test[1]] = True
        factor = np.where(used, np.linspace(1, 3, len(bars)), 1.0)
        prices = {name: getattr(bars, name) * factor for name in ("open", "high", "low", "close")}
        changed = replace(bars, **prices)
        assert fit_parameters(changed, fit_stop_row(changed, config), config) == fitted, month


def test_a_month_without_bars_is_named():
    config = config_of("BTC-USDT_1H", "walk_forward.first_test_month=2024-03")
    with pytest.raises(BadDataError, match="window 2024-03 has 0 bars in its test part"):
        window_of(unix(hours("2023-09-01", "2024-03-01")), "2024-03", config)


@pytest.fixture(scope="module")
def market():
    """Five months of hours from 1970 on: February is the first that is predicted, March the first test month."""
    config = config_of("ADA-EUR_1H", *SMALL, "walk_forward.first_test_month=1970-03", "walk_forward.windows=2")
    bars = random_walk(24 * 121, seed=5)
    return bars, config


def monthly(bars, config):
    inputs = Inputs.of(bars, compute(bars, config.features), config)
    links = list(fit_months(monthly_chain("lstm", inputs)))
    return links, soft_vote({"lstm": month_predictions(links, bars)})


@pytest.fixture(scope="module")
def predicted(market):
    return monthly(*market)


def test_each_month_is_predicted_by_a_model_of_the_months_before(market, predicted):
    (bars, config), (links, vote) = market, predicted
    assert [link.name for link in links] == ["1970-02", "1970-03", "1970-04"] == predicted_months(config)
    starts = 24 * np.cumsum([0, 31, 28, 31, 30])
    for link, (before, start, stop) in zip(links, zip(starts, starts[1:], starts[2:], strict=False), strict=True):
        facts = link.facts
        assert (facts["predict_start"], facts["predict_stop"]) == (start, stop)
        assert facts["last_row"] == start - 1 - 5
        own = compute(bars, config.features)[before : start - 5]
        assert np.allclose(facts["scaler"]["mean"], own[np.isfinite(own).all(axis=1)].mean(axis=0), rtol=1e-12)
        assert vote["fitted_until"][start:stop].eq(bars.t[start] - 1).all()
    assert vote["fall"].notna().to_numpy().nonzero()[0].tolist() == list(range(starts[1], starts[4]))


def test_the_first_month_s_model_gets_the_epochs_of_a_first_fit_and_patience_ends_none_before_its_third(market):
    bars, config = market
    more = {"epochs": 5, "patience_epochs": 1, "learning_rate": 10.0}  # steps so large that no later epoch is better
    changes = {
        "classifiers": config.classifiers.model_copy(update=more),
        "walk_forward": config.walk_forward.model_copy(update={"epochs": 4}),
    }
    config = config.model_copy(update=changes)
    chain = monthly_chain("lstm", Inputs.of(bars, compute(bars, config.features), config))
    assert [plan.epochs for plan in chain.plans] == [5, 4, 4]
    links = list(fit_months(chain))
    for link in links:
        losses = [row["stop_loss"] for row in link.history]
        best = losses.index(min(losses[link.name == "1970-02" :]))
        assert link.facts["best_epoch"] == best, "patience that waits does not change what is best"
        assert len(losses) - 1 >= 3
    assert any(len(link.history) - 1 == 3 and link.facts["best_epoch"] < 2 for link in links)


@pytest.mark.parametrize("month", ["1970-03", "1970-04"])
def test_nothing_before_a_month_changes_when_its_bars_do(month, market, predicted):
    bars, config = market
    first = int(np.flatnonzero([month_of(int(t)) == month for t in bars.t])[0])
    close = bars.close.copy()
    close[first:] *= 1.5
    changed = type(bars)(bars.t, bars.open, np.maximum(bars.high, close), np.minimum(bars.low, close), close,
                         bars.volume, bars.segment, bars.timeframe_s)  # fmt: skip
    links, vote = monthly(changed, config)
    number = predicted_months(config).index(month)
    known = [weights_digest(link) for link in predicted[0]]
    assert [weights_digest(link) for link in links][: number + 1] == known[: number + 1]
    pd.testing.assert_frame_equal(vote[:first], predicted[1][:first], check_exact=True)
    assert not vote[first:].equals(predicted[1][first:])
    features = {name: compute(series, config.features) for name, series in (("was", bars), ("is", changed))}
    was = window_data(bars, features["was"], predicted[1], month, config)
    now = window_data(changed, features["is"], vote, month, config)
    assert was.scaler.to_json() == now.scaler.to_json()
    stop = was.window.fit[1]
    assert np.array_equal(was.tape.observation[:stop], now.tape.observation[:stop])


def test_a_window_s_tape_is_cut_from_the_series(market, predicted):
    bars, config = market
    data = window_data(bars, compute(bars, config.features), predicted[1], "1970-04", config)
    assert np.array_equal(data.tape.t, bars.t[data.first_row : data.first_row + len(data.tape)])
    assert data.window.test == (24 * 31, 24 * 61)
    assert data.spans("test") == [data.window.test] == spans(data.tape, *data.window.test)
