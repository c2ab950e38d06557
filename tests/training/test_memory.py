"""Memory that does not suffice, asked for in earnest, is one named error."""

import numpy as np
import pytest
import torch

from configs.errors import OutOfMemoryError
from tests.training.test_fit import last_bar_task, net, run, settings
from training.fit import Windows
from training.memory import naming_out_of_memory

TOO_MANY = 2**52


def cuda_would_say():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")


@pytest.mark.parametrize(
    ("allocate", "says"),
    [
        (lambda: torch.empty(TOO_MANY), "allocate memory"),
        (lambda: np.empty(TOO_MANY), "Unable to allocate"),
        (lambda: bytearray(TOO_MANY), "MemoryError"),
        (cuda_would_say, "20.00 GiB"),
    ],
)
def test_every_library_s_failure_is_the_same_error(allocate, says):
    with pytest.raises(OutOfMemoryError, match=rf"fitting x ran out of memory \(.*{says}.*\); a smaller batch"):
        with naming_out_of_memory("fitting x"):
            allocate()


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shape"), naming_out_of_memory("fitting x"):
        raise RuntimeError("shape")


class Greedy(Windows):
    def gather(self, ends):
        return torch.empty(TOO_MANY)


def test_a_fit_that_does_not_fit_names_its_batch():
    task = last_bar_task(windows=Greedy(last_bar_task().windows.table, 6))
    with pytest.raises(OutOfMemoryError, match="fitting toy with 32 windows at once ran out of memory"):
        run(net(settings()), task, settings())
