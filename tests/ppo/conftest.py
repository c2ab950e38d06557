"""What the tests of the learner share."""

import pytest


@pytest.fixture(scope="module")
def torch_of_a_unit():
    """Torch as a unit's process sets it up, and back."""
    import torch

    from training.determinism import set_up_torch

    threads = torch.get_num_threads()
    set_up_torch(1)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
