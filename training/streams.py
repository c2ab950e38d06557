"""Random streams by name: every user of randomness derives its own from the run's one root seed.

A stream depends on its names alone, never on how many others exist or in which
order they are drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator (Philox) for the stream `names` under the root `seed`."""
    return np.random.Generator(np.random.Philox(_sequence(seed, names)))


def integer(seed: int, *names: str | int) -> int:
    """A 63-bit integer for libraries that want a seed, derived like `stream`."""
    return int(_sequence(seed, names).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _sequence(seed: int, names: tuple[str | int, ...]) -> np.random.SeedSequence:
    words = hashlib.sha256("/".join(str(name) for name in names).encode()).digest()
    return np.random.SeedSequence([seed, *np.frombuffer(words, dtype="<u4").tolist()])
