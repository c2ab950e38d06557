"""Shared fixtures: where the real data lies, a resolved quick configuration, real object-store servers."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from configs.load import resolve
from configs.schema import Config
from tests import servers

# one thread per process: two test processes on two cores starve each other otherwise
os.environ.setdefault("OMP_NUM_THREADS", "1")
# measuring the machine takes longer than most tests; those about it say so
os.environ["SEQUENCE_RUNTIME__CALIBRATE_S"] = "0"
# a shell that starts the tests in the background, or `nohup`, has them ignore signals, and so every program under test
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)
# the same examples every time, and no example fails for the time it takes; `--hypothesis-profile=default` draws anew
hypothesis.settings.register_profile(
    "tests",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")
HERE = Path(__file__).parent
REAL_DATA = HERE.parent.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first, which lie at the top: two processes that share the files end at about the same time."""
    items.sort(key=lambda item: item.path.parent != HERE)


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


# servers shared by the tests of one process; each test takes a fresh `server.store_url()`


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
