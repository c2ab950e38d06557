"""Compiled functions from a cache that may only be read, by processes of their own: numba reads its settings once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALL = "from ppo.rules import is_legal; import numpy as np; print(is_legal(np.zeros(32), 0, np.zeros(32)))"


def called(place: Path, program: str, **environment: str) -> str:
    """What a process that calls a compiled function says, numba's own words about its cache included."""
    ours = {"NUMBA_CACHE_DIR": str(place / "cache"), "NUMBA_DEBUG_CACHE": "1", "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | ours)
    assert done.returncode == 0, done.stderr
    return done.stdout


def private(place: Path) -> str:
    """The program, with the private copy below `place` instead of in the machine's memory."""
    return f"""
from pathlib import Path
from training import numba_cache
numba_cache.MEMORY = Path({str(place)!r})
from numba.core import config
config.CACHE_LOCATOR_CLASSES = "training.numba_cache.PrivateCopyLocator"
{CALL}
"""


@pytest.mark.slow
def test_a_cache_that_is_only_read_serves_a_private_copy_and_stays_as_it_is(tmp_path):
    assert "data saved" in called(tmp_path, CALL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    said = called(tmp_path, private(tmp_path))
    assert "data loaded" in said and "saved" not in said
    assert str(tmp_path / f"numba-{os.getuid()}-{os.uname().nodename}") in said
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before


@pytest.mark.slow
def test_what_the_cache_lacks_is_compiled_into_the_private_copy(tmp_path):
    (tmp_path / "cache").mkdir()
    assert "data saved" in called(tmp_path, private(tmp_path))
    assert not list((tmp_path / "cache").iterdir())
    assert "saved" not in called(tmp_path, private(tmp_path))


@pytest.mark.slow
def test_where_memory_has_no_room_the_private_copy_is_among_temporary_files(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "memory").mkdir()
    (tmp_path / "temporary").mkdir()
    small = private(tmp_path / "memory").replace("from numba.core", "numba_cache.ROOM_BYTES = 2**80\nfrom numba.core")
    said = called(tmp_path, small, TMPDIR=str(tmp_path / "temporary"))
    assert f"{tmp_path / 'temporary'}/numba-" in said and not list((tmp_path / "memory").iterdir())
