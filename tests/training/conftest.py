"""Nets train on one thread in these tests, as in a unit: two share badly with anything else that runs."""

import sys

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Only where a collected test module has loaded torch."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
