"""What a process that computes with torch sets before it starts, so that equal inputs give equal bytes.

Our own random numbers come from named streams (`training.streams`); the global generators of python, numpy
and torch are for the libraries below us, and they are saved and put back with every checkpoint all the same.
"""

from __future__ import annotations

import random

import numpy as np
import torch

_PYTHON_VERSION = 3
_NUMPY_NAME = "MT19937"


def set_up_torch(threads: int) -> None:
    """Hold torch to `threads` threads and to deterministic kernels, for this whole process."""
    torch.set_num_threads(threads)
    # the same switch as use_deterministic_algorithms, which would load the compiler for 1.5 s; nothing is compiled here
    torch.set_deterministic_debug_mode("error")
    # a debugging aid that deterministic mode switches on: nothing here reads memory before writing it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def random_state() -> dict[str, np.ndarray]:
    """The global generators of python, numpy and torch, and of every CUDA device once CUDA is in use, as arrays."""
    _, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, np.ndarray] = {
        "python": np.array(words, dtype=np.uint32),
        "python_gauss": np.array([] if gauss is None else [gauss], dtype=np.float64),
        "numpy": np.array(keys, dtype=np.uint32),
        "numpy_position": np.array([position, has_gauss], dtype=np.int64),
        "numpy_gauss": np.array([cached], dtype=np.float64),
        "torch": torch.random.get_rng_state().numpy().copy(),
    }
    if torch.cuda.is_initialized():
        states = torch.cuda.get_rng_state_all()
        state |= {f"cuda_{device}": own.cpu().numpy() for device, own in enumerate(states)}
    return state


def restore_random_state(state: dict[str, np.ndarray]) -> None:
    """Put back what `random_state` gave; generators that it does not name, and devices that are not here, stay."""
    if "python" in state:
        gauss = state["python_gauss"].tolist()
        random.setstate((_PYTHON_VERSION, tuple(state["python"].tolist()), gauss[0] if gauss else None))
    if "numpy" in state:
        position, has_gauss = state["numpy_position"].tolist()
        np.random.set_state((_NUMPY_NAME, state["numpy"], position, has_gauss, float(state["numpy_gauss"][0])))
    if "torch" in state:
        torch.random.set_rng_state(torch.from_numpy(state["torch"].copy()))
    for device in range(torch.cuda.device_count()):
        if f"cuda_{device}" in state:
            torch.cuda.set_rng_state(torch.from_numpy(state[f"cuda_{device}"].copy()), device)
