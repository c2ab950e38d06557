"""The image, built once by the real engine; its tests are skipped where no engine answers."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.engine import DOCKER, docker, layers, size_bytes

ROOT = Path(__file__).parents[2]
TAG = "sequence-runner:dev"
BUILD_LIMIT_S = 1_500


def head() -> str:
    """The commit that is checked out."""
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """Tag of the image of this very tree."""
    if not Path(DOCKER).exists() or docker("version", check=False).returncode:
        says = "no docker engine answers at /usr/bin/docker (../shared/tools/docker-engine starts one)"
        pytest.fail(says) if os.environ.get("CONTAINER") else pytest.skip(says)
    with (Path(tempfile.gettempdir()) / "sequence-runner-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of these tests builds it, too
        built = subprocess.run(
            [DOCKER, "build", "--network", "host", "--build-arg", f"REVISION={head()}", "-t", TAG, "."],
            cwd=ROOT,
            env=os.environ | {"DOCKER_BUILDKIT": "1"},
            capture_output=True,
            text=True,
            timeout=BUILD_LIMIT_S,
        )
    assert built.returncode == 0, built.stderr[-3000:]
    print(f"\n{TAG}: {size_bytes(TAG) / 1e6:,.0f} MB; largest layers:")
    for layer in sorted(layers(TAG), key=lambda layer: -layer.size_bytes)[:5]:
        print(f"{layer.size_bytes / 1e6:>9,.1f} MB  {layer.made_by[:100]}")
    yield TAG
