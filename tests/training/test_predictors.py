"""The four nets: shapes, the published formulas, the decomposition."""

import numpy as np
import pytest
import torch

from training.predictors import PREDICTORS, Architecture, build_predictor
from training.predictors.dlstm import moving_average_matrix

MEMBERS = sorted(PREDICTORS)


def architecture(member="lstm", **changes):
    values = {"features": 3, "lookback_bars": 7, "layers": 1, "units": 4, "dropout": 0.0, "trend_kernel": 3}
    return Architecture(member=member, **values | changes)


def window(batch=5, bars=7, features=3, seed=0):
    return torch.randn(batch, bars, features, generator=torch.Generator().manual_seed(seed))


def weights(cell, layer=0, reverse=False):
    suffix = f"l{layer}{'_reverse' if reverse else ''}"
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [getattr(cell, f"{name}_{suffix}").detach().double().numpy() for name in names]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_by_hand(cell, x_LF, reverse=False):
    """The final hidden state by the equations of Hochreiter & Schmidhuber, one bar at a time."""
    w_x, w_h, b_x, b_h = weights(cell, reverse=reverse)
    h = c = np.zeros(w_h.shape[1])
    for x in x_LF[::-1] if reverse else x_LF:
        i, f, g, o = np.split(w_x @ x + b_x + w_h @ h + b_h, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


def gru_by_hand(cell, x_LF):
    w_x, w_h, b_x, b_h = weights(cell)
    h = np.zeros(w_h.shape[1])
    for x in x_LF:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(w_x @ x + b_x, 3), np.split(w_h @ h + b_h, 3)
        z = sigmoid(x_z + h_z)
        h = (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h
    return h


def moving_average_by_hand(x_LF, kernel):
    """DLinear's: repeat the ends, then a plain mean of `kernel` bars."""
    before = (kernel - 1) // 2
    padded = np.concatenate([x_LF[:1].repeat(before, 0), x_LF, x_LF[-1:].repeat(kernel - 1 - before, 0)])
    return np.stack([padded[row : row + kernel].mean(axis=0) for row in range(len(x_LF))])


def encoding_by_hand(model, x_LF):
    member = model.architecture.member
    if member == "gru":
        return gru_by_hand(model.cell, x_LF)
    if member == "lstm":
        return lstm_by_hand(model.cell, x_LF)
    if member == "bilstm":
        return np.concatenate([lstm_by_hand(model.cell, x_LF), lstm_by_hand(model.cell, x_LF, reverse=True)])
    trend = moving_average_by_hand(x_LF, model.architecture.trend_kernel)
    return lstm_by_hand(model.trend, trend) + lstm_by_hand(model.remainder, x_LF - trend)


@pytest.mark.parametrize("member", MEMBERS)
def test_logits_follow_the_published_equations(member):
    model, x = build_predictor(architecture(member), seed=1), window()
    head, bias = model.head.weight.detach().double().numpy(), model.head.bias.detach().double().numpy()
    wanted = np.stack([head @ encoding_by_hand(model, row) + bias for row in x.double().numpy()])
    assert np.abs(model(x).detach().numpy() - wanted).max() < 1e-5


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("layers", [1, 3])
def test_every_window_gets_three_logits(member, layers):
    model = build_predictor(architecture(member, layers=layers, dropout=0.3), seed=0)
    assert model(window(batch=2)).shape == (2, 3)


@pytest.mark.parametrize("member", MEMBERS)
def test_the_first_and_the_last_bar_of_the_window_are_both_read(member):
    model, x = build_predictor(architecture(member), seed=0), window().requires_grad_()
    model(x).sum().backward()
    assert (x.grad[:, [0, -1]].abs().sum(dim=2) > 0).all()


@pytest.mark.parametrize("member", MEMBERS)
def test_a_window_in_time_major_memory_gives_the_same_logits(member):
    model, x = build_predictor(architecture(member), seed=0), window()
    time_major = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.allclose(model(time_major), model(x), atol=1e-6)


@pytest.mark.parametrize("member", MEMBERS)
def test_weights_depend_on_the_seed_alone(member):
    def state(seed):
        return torch.cat(
            [value.flatten() for value in build_predictor(architecture(member), seed).state_dict().values()]
        )

    first = state(7)
    torch.rand(3)
    assert torch.equal(first, state(7))
    assert not torch.equal(first, state(8))


def test_building_leaves_the_callers_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build_predictor(architecture(), seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_acts_in_training_only():
    model, x = build_predictor(architecture(dropout=0.5), seed=0), window(batch=64)
    assert not torch.equal(model.train()(x), model.train()(x))
    assert torch.equal(model.eval()(x), model.eval()(x))


@pytest.mark.parametrize(("length", "kernel"), [(7, 3), (7, 4), (5, 25), (60, 25), (6, 2)])
def test_the_averaging_matrix_is_a_moving_average_with_repeated_ends(length, kernel):
    x = np.random.default_rng(0).normal(size=(length, 2))
    averaged = moving_average_matrix(length, kernel).double().numpy() @ x
    assert np.allclose(averaged, moving_average_by_hand(x, kernel), atol=1e-6)


def test_a_straight_line_is_all_trend_away_from_the_edges():
    line = np.arange(60.0)[:, None]
    trend = moving_average_matrix(60, 25).double().numpy() @ line
    assert np.allclose(trend[12:-12], line[12:-12], atol=1e-5)


def test_weights_are_all_that_a_state_holds():
    state = build_predictor(architecture("dlstm"), seed=0).state_dict()
    assert not any("averaging" in key for key in state)
