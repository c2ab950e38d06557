"""What the tests of the learner and of its stages share."""

import shutil

import pytest

from configs.run_dir import RunDir


@pytest.fixture(scope="module")
def torch_as_before():
    """A stage sets torch up for its own process; here it is put back."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def torch_of_a_unit(torch_as_before):
    """Torch as a unit's process sets it up, and back."""
    from training.determinism import set_up_torch

    set_up_torch(1)


@pytest.fixture
def run(template, tmp_path) -> RunDir:
    """A copy of the module's template, to work in."""
    shutil.copytree(template, tmp_path / "run")
    return RunDir(tmp_path / "run")
