"""What a process that computes with torch sets before it starts, so that equal inputs give equal bytes."""

from __future__ import annotations

import torch


def set_up_torch(threads: int) -> None:
    """Hold torch to `threads` threads and to deterministic kernels, for this whole process."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # a debugging aid that deterministic mode switches on: nothing here reads memory before writing it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
