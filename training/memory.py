"""Running out of memory as one named error, whichever library found out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from configs.errors import OutOfMemoryError

_CPU_ALLOCATOR = "can't allocate memory"
"""Of the message with which torch's CPU allocator raises a plain RuntimeError."""


@contextmanager
def naming_out_of_memory(what: str) -> Iterator[None]:
    """Turn a failed allocation inside into an error that says `what` was being done, with which batch.

    Raises:
        OutOfMemoryError: the GPU's or the machine's memory did not suffice.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _named(what, error) from error
    except RuntimeError as error:
        if _CPU_ALLOCATOR in str(error):
            raise _named(what, error) from error
        raise


def _named(what: str, error: BaseException) -> OutOfMemoryError:
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    return OutOfMemoryError(f"{what} ran out of memory ({first}); a smaller batch or fewer units side by side may fit")
