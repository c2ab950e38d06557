"""The account against a ledger in exact fractions that knows nothing but trades.csv and the costs."""

import csv
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import EnvConfig
from ppo import ledger, rules
from ppo.tape import price_table
from tests.ppo.worlds import BARS_PER_YEAR, COSTS, HOUR_S, make_tape, random_tape

ENV = EnvConfig()
EQUITY_0, FLOOR = Fraction(10_000), Fraction(1)
FEE, SLIP = Fraction("0.0025"), Fraction("0.0005")


def trade(tape, actions):
    """Play `actions` from bar 0 of one account through segments, as a fresh account after none."""
    terms, bars = rules.terms_of(ENV, COSTS, BARS_PER_YEAR), price_table(tape, len(tape))
    account, fills = np.zeros(rules.ACCOUNT_FIELDS), np.zeros(rules.FILL_SHAPE)
    rules.open_account(account, 10_000.0)
    fill_bar, booked, bar = [], [], 0
    for bar, action in enumerate(actions, start=1):
        closes = bar + 1 < len(tape) and tape.segment[bar + 1] != tape.segment[bar]
        _, terminated, count = rules.advance(account, action, bars[bar], closes, terms, fills)
        fill_bar += [bar] * count
        booked += fills[:count].tolist()
        if terminated:
            break
    return ledger.trades(tape, np.array(fill_bar), np.array(booked).reshape(-1, 8), bar, account), account


def rebuild(path):
    """Cash, quantity and equity after each row of a trades.csv, in exact fractions."""
    cash, quantity, track = EQUITY_0, Fraction(0), []
    with path.open() as file:
        for row in csv.DictReader(file):
            amount, price = Fraction(row["quantity"]), Fraction(row["price"])
            sign = {"buy": 1, "sell": -1, "": 0}[row["side"]]
            cash -= Fraction(row["borrow"]) + sign * amount * price + FEE * amount * price
            quantity += sign * amount
            if abs(quantity) < Fraction("1e-12"):
                cash = max(cash, FLOOR) if row["reason"] != "mark" else cash
            track.append((row, cash, quantity, cash + quantity * price))
    return track


def assert_same(path, account):
    """The file's own numbers, and the account's, are those of the exact rebuild within 1e-9 of equity."""
    track = rebuild(path)
    for row, cash, quantity, equity in track:
        near = max(abs(equity), abs(cash), 1) * Fraction("1e-9")
        assert abs(Fraction(row["cash_after"]) - cash) <= near
        assert abs(Fraction(row["quantity_after"]) - quantity) * Fraction(row["price"]) <= near
        assert abs(Fraction(row["equity_after"]) - equity) <= near
    assert track[-1][0]["reason"] == "mark"
    assert float(track[-1][3]) == pytest.approx(account[rules.EQUITY], rel=1e-9)
    assert float(track[-1][2]) == pytest.approx(account[rules.QUANTITY], rel=1e-9, abs=1e-9)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_account_is_what_trades_csv_says_in_exact_fractions(tmp_path_factory, seed, volatility):
    tape = random_tape(200, seed, columns=1, segments=3, volatility=volatility)
    frame, account = trade(tape, np.random.default_rng(seed).integers(0, 9, 199).tolist())
    path = tmp_path_factory.mktemp("ledger") / "trades.csv"
    ledger.write_trades(path, frame)
    assert_same(path, account)


def test_fill_prices_and_borrow_are_those_of_the_bars():
    tape = random_tape(300, 5, columns=1, segments=2)
    frame, _ = trade(tape, np.random.default_rng(5).choice([0, 0, 0, 0, 0, 0, 3, 8], 299).tolist())
    exact = {name: [Fraction(x) for x in getattr(tape, name)] for name in ("open", "close")}
    rate, quantity, unpaid = Fraction("0.10") / 8760, Fraction(0), 1  # first bar whose borrow is not yet paid for
    for row in frame.itertuples():
        at_open = row.reason not in ("segment-end", "mark")
        owed = exact["open"][unpaid : row.bar if at_open else row.bar + 1]
        unpaid = row.bar if at_open else row.bar + 1
        assert row.borrow == pytest.approx(float(rate * max(-quantity, 0) * sum(owed)), rel=1e-9, abs=1e-12)
        base = exact["open" if at_open else "close"][row.bar]
        factor = {"buy": 1 + SLIP, "sell": 1 - SLIP, "": 1}[row.side]
        assert row.price == pytest.approx(float(base * factor), rel=1e-12)
        quantity = Fraction(row.quantity_after)
    assert set(frame["reason"]) == {"order", "reverse-close", "reverse-open", "segment-end", "mark"}


def test_the_file_reads_back_as_the_same_numbers(tmp_path):
    frame, _ = trade(random_tape(100, 1), np.random.default_rng(1).integers(0, 9, 99).tolist())
    ledger.write_trades(tmp_path / "trades.csv", frame)
    again = pd.read_csv(tmp_path / "trades.csv", keep_default_na=False)
    assert again.to_dict("list") == frame.to_dict("list")
    assert len(again) > 30


def test_a_round_trip_in_the_file_by_hand(tmp_path):
    prices = np.full(4, 100.0)
    frame, _ = trade(make_tape(prices, prices, prices), [3, 7, 0])
    ledger.write_trades(tmp_path / "trades.csv", frame)
    header, bought, sold, mark = (tmp_path / "trades.csv").read_text().splitlines()
    assert header == ",".join(ledger.COLUMNS)
    assert bought.startswith("2023-11-14T23:20:00Z,1,order,buy,")
    assert sold.startswith("2023-11-15T00:20:00Z,2,order,sell,")
    assert mark.startswith("2023-11-15T01:20:00Z,3,mark,,0.0,100.0,0.0,0.0,0.0,")
    assert float(mark.split(",")[-1]) == pytest.approx(10_000 * 0.9975 * 0.9995 / 1.0025 / 1.0005, rel=1e-14)


def test_a_liquidation_is_in_the_file_with_its_floor(tmp_path):
    prices = np.array([100.0, 100.0, 100.0, 300.0, 300.0])
    frame, account = trade(make_tape(prices, prices, prices), [3, 8, 0, 0])
    ledger.write_trades(tmp_path / "trades.csv", frame)
    assert frame["reason"].tolist() == ["order", "reverse-close", "reverse-open", "liquidation", "mark"]
    assert frame["bar"].tolist() == [1, 2, 2, 3, 3]
    assert frame["cash_after"].iloc[-1] == 1.0
    assert_same(tmp_path / "trades.csv", account)


def test_a_price_off_by_a_ten_millionth_is_noticed(tmp_path):
    frame, account = trade(random_tape(50, 2), [3, 7] * 20)
    frame["price"] = frame["price"] * (1 + 1e-7)
    ledger.write_trades(tmp_path / "trades.csv", frame)
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "trades.csv", account)


def test_stamps_are_the_open_of_the_bar_in_utc():
    tape = random_tape(10, 0)
    frame, _ = trade(tape, [3, 0, 0])
    assert frame["t"].tolist() == ["2023-11-14T23:20:00Z", "2023-11-15T01:20:00Z"]
    assert tape.t[1] - tape.t[0] == HOUR_S
