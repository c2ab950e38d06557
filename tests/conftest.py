"""Shared fixtures: where the real data lies, a resolved quick configuration."""

import os
from pathlib import Path

import pytest

from configs.load import resolve
from configs.schema import Config

# one thread per process: two test processes on two cores starve each other otherwise
os.environ.setdefault("OMP_NUM_THREADS", "1")
REAL_DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Directory of the real market data; the test is skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("real market data is not on this machine (../shared/data)")
    return REAL_DATA


@pytest.fixture(scope="session")
def quick_config() -> Config:
    """The quick profile on ADA-EUR_1H."""
    return resolve("ADA-EUR_1H", "quick").config
