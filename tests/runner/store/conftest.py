"""Servers shared by the tests of one process; each test takes a fresh `server.store_url()`."""

from collections.abc import Iterator

import pytest

from tests import servers
from tests.fault_proxy import FaultProxy, fault_proxy


@pytest.fixture(scope="session")
def seaweed() -> Iterator[servers.Server]:
    with servers.seaweed() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_s3() -> Iterator[servers.Server]:
    with servers.rclone_s3() as server:
        yield server


@pytest.fixture(scope="session")
def gcs_emulator() -> Iterator[servers.Server]:
    with servers.gcs_emulator() as server:
        yield server


@pytest.fixture(scope="session")
def storage_testbench() -> Iterator[servers.Server]:
    with servers.storage_testbench() as server:
        yield server


@pytest.fixture
def seaweed_by_proxy(seaweed: servers.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A fault proxy in front of SeaweedFS, the environment pointing at it."""
    with fault_proxy(seaweed.endpoint) as proxy:
        for name, value in seaweed.environment_by(proxy.endpoint).items():
            monkeypatch.setenv(name, value)
        yield proxy
