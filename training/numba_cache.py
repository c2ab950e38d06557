"""Where numba keeps compiled functions when the directory that holds them may only be read, as in the image.

numba asks of a cache directory that it can be written, and fails to import the functions otherwise. So each user of
the machine gets a private copy (about a megabyte), where also goes what was not compiled beforehand.
Used where `NUMBA_CACHE_LOCATOR_CLASSES` names it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import UserProvidedCacheLocator

MEMORY = Path("/dev/shm")
"""Can be written in every container, whatever else is read-only; with `--ipc host` all of them see it."""
ROOM_BYTES = 16 * 2**20
"""For the copy and what joins it; where memory has less, the copy is among temporary files."""


class PrivateCopyLocator(UserProvidedCacheLocator):
    """Functions of `NUMBA_CACHE_DIR`, read from a copy that this user owns."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        """Choose the copy's directory of this source file."""
        super().__init__(py_func, py_file)
        self._copy = _place() / f"numba-{os.getuid()}-{os.uname().nodename}"
        self._cache_path = str(self._copy / Path(self._cache_path).name)

    def ensure_cache_path(self) -> None:
        """Make the copy where there is none yet.

        Raises:
            OSError: there is no room, or the copy is another user's: what it holds would be run.
        """
        if not self._copy.exists():
            _copy_whole(Path(os.environ["NUMBA_CACHE_DIR"]), self._copy)
        if self._copy.stat().st_uid != os.getuid():
            raise PermissionError(f"{self._copy} is another user's")
        super().ensure_cache_path()


def _place() -> Path:
    has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).total >= ROOM_BYTES
    return MEMORY if has_room else Path(tempfile.gettempdir())


def _copy_whole(source: Path, target: Path) -> None:
    """Copy a directory so that another process sees all of it or nothing."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "copy"
        made.mkdir(mode=0o700)
        shutil.copytree(source, made, copy_function=shutil.copyfile, dirs_exist_ok=True)
        try:
            made.rename(target)
        except OSError:
            if not target.exists():  # else another process was faster
                raise
