"""Accounts that go on where the one before ended."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppo.evaluate import Track, follow
from ppo.ledger import trades
from ppo.tracks import join_tracks
from tests.ppo.worlds import random_tape

SPANS = [(0, 50), (50, 90), (100, 140)]


def at_random(tape, config, played, seed):
    return follow(tape, config, played, np.random.default_rng(seed).random(len(tape)) < 0.5)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_accounts_joined_are_one_account_that_went_through_all_spans(quick_config, seed):
    tape = random_tape(140, seed, volatility=0.03)
    whole = at_random(tape, quick_config, SPANS, seed)
    joined = join_tracks([at_random(tape, quick_config, [span], seed) for span in SPANS])
    for field in fields(Track):
        if field.name == "account":  # all but what is flat
            continue
        assert np.allclose(getattr(joined, field.name), getattr(whole, field.name), rtol=1e-9), field.name
    assert joined.returns == pytest.approx(whole.returns, abs=1e-12)
    rows = [trades(tape, track.fill_row, track.fills, 139, track.account) for track in (joined, whole)]
    assert np.allclose(*(frame.iloc[:, 4:].to_numpy(np.float64) for frame in rows), rtol=1e-9)


def test_a_liquidated_account_goes_on_with_what_is_left(quick_config):
    tape = random_tape(140, 3)
    lost = at_random(tape, quick_config, [SPANS[0]], 1)
    lost = replace(lost, equity=np.linspace(10_000, 1.0, 50), liquidated=True)
    after = at_random(tape, quick_config, [SPANS[1]], 1)
    joined = join_tracks([lost, after])
    assert joined.liquidated
    assert joined.equity[50] == 1.0
    assert joined.returns[-39:] == pytest.approx(after.returns)
