"""A chain of fits that is cut at any boundary and goes on: the same weights, history, metadata and metric rows."""

from pathlib import Path

import pytest
import torch

from configs.errors import StopRequested
from tests.training.feature_samples import config_of, random_walk
from training import fit as fit_module
from training import meter as meter_module
from training.chain import Inputs
from training.checkpoint import CheckpointClock, Checkpoints
from training.crossfit import crossfit
from training.features import compute
from training.meter import Silent
from training.splits import split

N = 420
SETTINGS = (
    "classifiers.lookback_bars=4", "classifiers.folds=2", "labels.horizon_bars=5", "classifiers.units=3",
    "classifiers.layers=2", "classifiers.dropout=0.3", "classifiers.epochs=3", "classifiers.fold_epochs=2",
    "classifiers.patience_epochs=1", "classifiers.learning_rate=0.05", "classifiers.batch_size=16",
    "classifiers.window_stride=1", "classifiers.trend_kernel=3",
)  # fmt: skip


class Killed(BaseException):
    """The process is gone; nothing more is saved."""


class Cut(Silent):
    """Notes the rows of the curves and the progress, and raises on the `after`-th progress."""

    def __init__(self, after=None, error=StopRequested):
        self.rows, self.done = [], []
        self._after, self._error = after, error

    def metric(self, name, **values):
        self.rows.append((name, values))

    def progress(self, done, total, rate=None, **fields):
        self.done.append(done)
        if len(self.done) == self._after:
            raise self._error("cut")


class Ticking(CheckpointClock):
    """Due at every so-manieth time it is asked."""

    def __init__(self, every):
        super().__init__(1.0)
        self._every, self._asked = every, 0

    def due(self):
        self._asked += 1
        return self._asked % self._every == 0


@pytest.fixture(autouse=True)
def every_step_is_told(monkeypatch):
    monkeypatch.setattr(meter_module, "REPORT_EVERY_S", 0.0)


@pytest.fixture(scope="module")
def inputs():
    config = config_of("ADA-EUR_1H", *SETTINGS)
    bars = random_walk(N, seed=3)
    return Inputs.of(bars, compute(bars, config.features), config)


def fitted(inputs, member, report, directory: Path | None = None, clock=None, **options):
    """The chain as comparable values: name -> weights, metadata and history."""
    if directory is not None:
        options["checkpoints"] = Checkpoints(directory, "key", clock or CheckpointClock(1e9))
    models = crossfit(member, inputs, split(N, inputs.config.splits), report, **options)
    return {
        model.name: (
            {key: value.numpy().tobytes() for key, value in model.weights().items()},
            model.to_json(),
            model.history,
        )
        for model in models
    }


@pytest.fixture(scope="module")
def undisturbed(inputs):
    """Member -> its chain and report, without a break or a checkpoint."""
    patch = pytest.MonkeyPatch()
    patch.setattr(meter_module, "REPORT_EVERY_S", 0.0)
    found = {}
    for member in ("lstm", "gru", "bilstm", "dlstm"):
        report = Cut()
        found[member] = (fitted(inputs, member, report), report)
    patch.undo()
    return found


MEMBERS = ("lstm", "gru", "bilstm", "dlstm")


@pytest.mark.parametrize("member", MEMBERS)
def test_a_chain_that_is_stopped_at_every_boundary_ends_with_the_same_bits(member, inputs, undisturbed, tmp_path):
    expected, whole = undisturbed[member]
    rows, starts, result = [], [], None
    while result is None:
        # told at the start, after up to three evaluations that are done again, and after one step
        report = Cut(after=6)
        try:
            result = fitted(inputs, member, report, tmp_path)
        except StopRequested:
            assert not starts or report.done[0] > starts[-1], "no progress from start to start"
            rows += report.rows
            starts.append(report.done[0])
    assert result == expected
    assert rows + report.rows == whole.rows
    assert len(starts) > 4 and set(starts) <= set(whole.done)
    assert report.done[-1] == whole.done[-1]


@pytest.mark.slow
@pytest.mark.parametrize("member", ["bilstm", "dlstm"])
def test_a_chain_that_is_stopped_once_anywhere_ends_with_the_same_bits(member, inputs, undisturbed, tmp_path):
    expected, whole = undisturbed[member]
    for after in range(2, len(whole.done)):
        report, directory = Cut(after), tmp_path / str(after)
        with pytest.raises(StopRequested):
            fitted(inputs, member, report, directory)
        again = Cut()
        assert fitted(inputs, member, again, directory) == expected, after
        assert report.rows + again.rows == whole.rows
        assert again.done[0] == report.done[-1]


@pytest.mark.parametrize(("every", "after"), [(1, 9), (3, 14), (5, 30), (7, 41)])
def test_a_chain_that_is_killed_goes_on_from_its_last_checkpoint(every, after, inputs, undisturbed, tmp_path):
    expected, whole = undisturbed["dlstm"]
    assert after < len(whole.done)
    report, again = Cut(after, Killed), Cut()
    with pytest.raises(Killed):
        fitted(inputs, "dlstm", report, tmp_path, Ticking(every))
    assert fitted(inputs, "dlstm", again, tmp_path) == expected
    assert 0 < again.done[0] <= report.done[-1]
    rows = report.rows + again.rows  # those after the checkpoint come twice, and are the same
    assert [row for at, row in enumerate(rows) if row not in rows[:at]] == whole.rows


def test_larger_blocks_are_exact_too(inputs, tmp_path, monkeypatch):
    """As on a GPU, where several steps lie between two boundaries."""
    monkeypatch.setitem(fit_module.BLOCK_STEPS, "cpu", 2)
    expected, report = fitted(inputs, "lstm", Cut()), Cut(7)
    with pytest.raises(StopRequested):
        fitted(inputs, "lstm", report, tmp_path)
    assert fitted(inputs, "lstm", Cut(), tmp_path) == expected


def test_the_finished_chain_is_there_without_another_step(inputs, undisturbed, tmp_path):
    expected, whole = undisturbed["gru"]
    with pytest.raises(StopRequested):
        fitted(inputs, "gru", Cut(len(whole.done)), tmp_path)
    again = Cut()
    assert fitted(inputs, "gru", again, tmp_path) == expected
    assert again.done[0] == whole.done[-1] and again.rows == []


def test_a_damaged_checkpoint_costs_time_and_nothing_else(inputs, undisturbed, tmp_path):
    expected, _ = undisturbed["dlstm"]
    with pytest.raises(Killed):
        fitted(inputs, "dlstm", Cut(25, Killed), tmp_path, Ticking(3))
    newest = max(tmp_path.glob("[0-9]*"), key=lambda path: int(path.name)) / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert fitted(inputs, "dlstm", Cut(), tmp_path) == expected
    assert (tmp_path / f".damaged-{newest.parent.name}").is_dir()


def test_dropout_does_not_depend_on_the_callers_random_state(inputs, undisturbed, tmp_path):
    with pytest.raises(StopRequested):
        fitted(inputs, "lstm", Cut(11), tmp_path)
    before = torch.random.get_rng_state()
    torch.manual_seed(99)
    assert fitted(inputs, "lstm", Cut(), tmp_path) == undisturbed["lstm"][0]
    torch.random.set_rng_state(before)


@pytest.mark.parametrize("halvings", [1, 3])
def test_a_halved_batch_takes_the_same_steps_up_to_rounding(halvings, inputs):
    exact = Inputs.of(inputs.bars, inputs.features, config_of("ADA-EUR_1H", *SETTINGS, "classifiers.dropout=0"))
    whole = fitted(exact, "lstm", Cut())
    halved = fitted(exact, "lstm", Cut(), batch_halvings=halvings)
    for name, (_, metadata, history) in halved.items():
        assert metadata["micro_batch"] == 16 >> halvings and whole[name][1]["micro_batch"] == 16
        losses = [[row["stop_loss"] for row in rows] for rows in (history, whole[name][2])]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("member", MEMBERS)
def test_a_chain_on_a_gpu_goes_on_to_the_same_bits(member, inputs, tmp_path):
    """Mixed precision, and cuDNN's dropout between the layers, whose state nobody can save."""
    config = config_of("ADA-EUR_1H", *SETTINGS, "compute.device=cuda", "classifiers.batch_size=4")
    there, whole = Inputs.of(inputs.bars, inputs.features, config), Cut()
    expected = fitted(there, member, whole)
    for after in range(3, len(whole.done), 5):
        with pytest.raises(StopRequested):
            fitted(there, member, Cut(after), tmp_path / str(after))
        assert fitted(there, member, Cut(), tmp_path / str(after)) == expected
