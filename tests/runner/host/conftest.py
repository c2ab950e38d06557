"""What the tests of a rented machine share."""

from collections.abc import Iterator

import pytest

from tests.providers.runpod import FakeRunPod


@pytest.fixture
def fake() -> Iterator[FakeRunPod]:
    with FakeRunPod() as server:
        yield server
