"""The fit loop: windows, weights of classes, accumulation, early stopping, determinism."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from configs.errors import BadDataError, MachineUnfitError, StopRequested
from configs.schema import ClassifiersConfig
from training.fit import Schedule, Task, TrainingDivergedError, Windows, class_weights, fit, largest_batch, predict
from training.meter import Meter, Silent
from training.predictors import PREDICTORS, Architecture, build_predictor

LOOKBACK, FEATURES = 6, 3
MEMBERS = sorted(PREDICTORS)


def settings(**changes):
    values = {"lookback_bars": LOOKBACK, "layers": 1, "units": 8, "dropout": 0.0, "trend_kernel": 3, "batch_size": 32}
    return ClassifiersConfig(**values | {"learning_rate": 0.02, "patience_epochs": 50} | changes)


def net(config, member="lstm", seed=0):
    return build_predictor(Architecture.of(member, FEATURES, config), seed)


def last_bar_task(n=400, seed=0, **changes):
    """The class is where the last bar's first feature lies; rows 300.. decide the epoch."""
    table = np.random.default_rng(seed).normal(size=(n, FEATURES)).astype(np.float32)
    targets = np.digitize(table[:, 0], [-0.43, 0.43])
    values = {
        "name": "toy",
        "windows": Windows(torch.as_tensor(table), LOOKBACK),
        "targets": torch.as_tensor(targets),
        "class_weights": torch.ones(3),
        "train_rows": np.arange(LOOKBACK - 1, 250),
        "stop_rows": np.arange(300, n),
    }
    return Task(**values | changes)


def run(model, task, config, *, epochs=3, warm=False, seed=0, report=None):
    meter = Meter(report or Silent(), epochs * task.train_rows.size)
    return fit(model, task, config, Schedule(epochs, warm, seed), meter)


def flat(model):
    return torch.cat([value.detach().flatten() for value in model.state_dict().values()])


def stop_loss(model, task):
    """The weighted log-loss by torch's own function."""
    logits = model.eval()(task.windows.gather(torch.as_tensor(task.stop_rows)))
    targets = task.targets[torch.as_tensor(task.stop_rows)]
    return torch.nn.functional.cross_entropy(logits, targets, weight=task.class_weights).item()


def test_gathered_windows_equal_materialised_windows():
    table = np.random.default_rng(0).normal(size=(50, FEATURES)).astype(np.float32)
    ends = np.array([5, 49, 17, 17, 30])
    gathered = Windows(torch.as_tensor(table), LOOKBACK).gather(torch.as_tensor(ends))
    materialised = sliding_window_view(table, LOOKBACK, axis=0).transpose(0, 2, 1)
    assert np.array_equal(gathered.numpy(), materialised[ends - LOOKBACK + 1])


def test_class_weights_by_hand():
    targets = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2])
    assert np.allclose(class_weights(targets, 3), [12 / (3 * 4), 12 / (3 * 2), 12 / (3 * 6)])
    assert np.allclose(class_weights(np.array([0, 0, 2]), 3), [0.5, 0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("member", MEMBERS)
def test_a_learnable_problem_is_learned(member):
    task, config = last_bar_task(n=1_000), settings()
    task = last_bar_task(n=1_000, train_rows=np.arange(LOOKBACK - 1, 600), stop_rows=np.arange(610, 750))
    model = net(config, member)
    run(model, task, config, epochs=25)
    rows = np.arange(760, 1_000)
    calls = predict(model, task.windows, rows).argmax(axis=1)
    assert (calls == task.targets.numpy()[rows]).mean() > 0.85


def test_probabilities_sum_to_one_and_match_single_windows():
    task, model = last_bar_task(), net(settings())
    rows = np.array([30, 10, 99])
    probability = predict(model, task.windows, rows)
    single = np.concatenate([predict(model, task.windows, rows[[i]]) for i in range(3)])
    assert np.allclose(probability.sum(axis=1), 1, atol=1e-12)
    assert np.allclose(probability, single, atol=1e-6)


def test_accumulated_gradients_equal_those_of_the_full_batch():
    task = last_bar_task(class_weights=torch.tensor([0.5, 1.0, 2.0]))
    whole, parts = net(settings()), net(settings())
    run(whole, task, settings(batch_size=96), epochs=2)
    run(parts, task, settings(batch_size=24, accumulation_steps=4), epochs=2)
    other = net(settings())
    run(other, task, settings(batch_size=24), epochs=2)
    assert torch.allclose(flat(whole), flat(parts), atol=1e-4)
    assert not torch.allclose(flat(whole), flat(other), atol=1e-2)


def test_one_step_is_adam_on_the_clipped_gradient_of_the_weighted_loss():
    task = last_bar_task(class_weights=torch.tensor([0.5, 1.0, 2.0]), train_rows=np.arange(40, 72))
    config = settings(batch_size=32, max_grad_norm=0.01, weight_decay=0.1)
    ours, reference = net(config), net(config)
    run(ours, task, config, epochs=1)
    optimizer = torch.optim.Adam(reference.parameters(), lr=config.learning_rate, weight_decay=0.1)
    rows = torch.arange(40, 72)
    logits = reference(task.windows.gather(rows))
    torch.nn.functional.cross_entropy(logits, task.targets[rows], weight=task.class_weights).backward()
    assert torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.01) > 0.01
    optimizer.step()
    assert torch.allclose(flat(ours), flat(reference), atol=1e-5)


def opposite_task():
    """Training teaches the opposite of what the early-stopping rows hold."""
    task = last_bar_task()
    targets = task.targets.clone()
    targets[: task.train_rows[-1] + 1] = 2 - targets[: task.train_rows[-1] + 1]
    return last_bar_task(targets=targets)


def test_a_warm_start_that_no_epoch_improves_is_kept():
    config, task = settings(), last_bar_task()
    model = net(config)
    run(model, task, config, epochs=10)
    before = flat(model).clone()
    fitted = run(model, opposite_task(), config, epochs=3, warm=True)
    assert fitted.best_epoch == 0
    assert torch.equal(flat(model), before)


def test_a_cold_start_is_no_candidate():
    config = settings()
    model = net(config)
    before = flat(model).clone()
    fitted = run(model, opposite_task(), config, epochs=3)
    assert fitted.best_epoch >= 1
    assert not torch.equal(flat(model), before)


def test_the_best_epochs_weights_are_left_in_the_model():
    config, task = settings(learning_rate=0.1), last_bar_task(train_rows=np.arange(LOOKBACK - 1, 60))
    model = net(config)
    fitted = run(model, task, config, epochs=20)
    losses = [row["stop_loss"] for row in fitted.history]
    assert 1 <= fitted.best_epoch < 20
    assert losses[fitted.best_epoch] == min(losses[1:])
    assert stop_loss(model, task) == pytest.approx(min(losses[1:]), abs=1e-5)


def test_patience_ends_the_fit_and_the_meter_counts_the_rest_as_done():
    config, task = settings(patience_epochs=2), last_bar_task()
    model = net(config)
    run(model, task, config, epochs=10)
    meter = Meter(Silent(), 50 * task.train_rows.size)
    fitted = fit(model, opposite_task(), config, Schedule(50, warm=True, seed=0), meter)
    assert [row["epoch"] for row in fitted.history] == [0, 1, 2]
    assert meter.done == meter.total


@pytest.mark.parametrize("member", MEMBERS)
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(member):
    config, task = settings(dropout=0.3, layers=2), last_bar_task()

    def fitted(seed):
        model = net(config, member)
        history = run(model, task, config, epochs=2, seed=seed).history
        return flat(model), history

    first, again, other = fitted(1), fitted(1), fitted(2)
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert not torch.equal(first[0], other[0])


def test_the_callers_random_state_is_untouched():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run(net(settings()), last_bar_task(), settings(dropout=0.5), epochs=1)
    assert torch.equal(before, torch.get_rng_state())


def test_rows_outside_the_task_are_never_read():
    task = last_bar_task()
    table = task.windows.table.clone()
    table[250:295] = float("nan")
    holed = last_bar_task(windows=Windows(table, LOOKBACK))
    whole, other = net(settings()), net(settings())
    run(whole, task, settings())
    run(other, holed, settings())
    assert torch.equal(flat(whole), flat(other))


def test_a_loss_that_is_not_finite_is_an_error_with_a_remedy():
    task = last_bar_task()
    task.windows.table[100] = float("nan")
    with pytest.raises(TrainingDivergedError, match="toy has train loss nan.*learning_rate"):
        run(net(settings()), task, settings())


def test_a_fit_without_rows_is_an_error():
    with pytest.raises(BadDataError, match="0 training and 100 early-stopping windows"):
        run(net(settings()), last_bar_task(train_rows=np.arange(0)), settings())


@pytest.mark.parametrize(("fits", "found"), [(1_000, 96), (96, 96), (50, 48), (1, 1)])
def test_a_batch_is_halved_until_it_fits(fits, found):
    def attempt(size):
        if size > fits:
            raise torch.cuda.OutOfMemoryError

    assert largest_batch(96, attempt) == found


def test_a_gpu_that_holds_no_window_is_unfit():
    def attempt(size):
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(MachineUnfitError):
        largest_batch(8, attempt)


class Recorder(Silent):
    def __init__(self):
        self.calls, self.rows = [], []

    def progress(self, done, total, rate=None, **fields):
        self.calls.append((done, total, rate, fields.get("eta_s")))

    def metric(self, name, **values):
        self.rows.append((name, values))


def test_the_meter_reports_rate_and_time_left_once_a_second():
    now, record = [0.0], Recorder()
    meter = Meter(record, total=100, clock=lambda: now[0])
    for now[0] in (0.5, 1.0, 1.5, 2.0):
        meter.advance(10)
    meter.skip(40)
    meter.tell()
    assert record.calls == [(20, 100, 20.0, 4.0), (40, 100, 20.0, 3.0), (80, 100, 20.0, 1.0)]


def test_every_epoch_is_reported_as_a_row_of_the_curve():
    record = Recorder()
    fitted = run(net(settings()), last_bar_task(), settings(), epochs=2, report=record)
    assert [values for _, values in record.rows] == [{"model": "toy"} | row for row in fitted.history[1:]]


def test_a_report_that_raises_stops_the_fit():
    class Stopping(Silent):
        def metric(self, name, **values):
            raise StopRequested("enough")

    with pytest.raises(StopRequested):
        run(net(settings()), last_bar_task(), settings(), report=Stopping())


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def on_gpu(task):
    return last_bar_task(
        windows=Windows(task.windows.table.cuda(), LOOKBACK),
        targets=task.targets.cuda(),
        class_weights=task.class_weights.cuda(),
    )


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("member", MEMBERS)
def test_a_gpu_in_fp32_agrees_with_the_cpu(member):
    config, task = settings(amp=False), last_bar_task()
    here, there = net(config, member), net(config, member).cuda()
    run(here, task, config, epochs=2)
    run(there, on_gpu(task), config, epochs=2)
    rows = task.stop_rows
    assert np.allclose(predict(here, task.windows, rows), predict(there, on_gpu(task).windows, rows), atol=1e-2)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("member", MEMBERS)
def test_mixed_precision_learns_and_gives_the_same_bytes_twice(member):
    config, task = settings(), on_gpu(last_bar_task())
    first, again = net(config, member).cuda(), net(config, member).cuda()
    fitted = run(first, task, config, epochs=20)
    assert run(again, task, config, epochs=20).history == fitted.history
    assert torch.equal(flat(first), flat(again))
    assert fitted.history[fitted.best_epoch]["stop_accuracy"] > 0.7
