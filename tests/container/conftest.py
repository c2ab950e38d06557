import pytest


@pytest.fixture(scope="session")
def image():
    return "sequence-runner:dev"
