"""A cut: what a run directory holds at one moment, as hard links that no later write or deletion can change.

Units go on while it is taken. What they replace as a whole (results, reports) is linked; what they append to is
linked with its length of that moment; a checkpoint that is deleted meanwhile is left out as a whole. No symbolic link
is followed, and nothing is taken that a snapshot could not name.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import CannotWriteError
from configs.run_dir import Result, RunDir
from runner.store.records import LEDGER, TOP_FILES, check_path

CHECKPOINT_ATTEMPTS = 10
"""A checkpoint is only deleted once a newer one lies beside it, so looking again finds that one."""
_TAIL_BYTES = 65_536


@dataclass(frozen=True)
class CutFile:
    """One file of a cut."""

    path: Path
    """The link (or copy) in the staging directory."""
    size_bytes: int
    """At the moment of the cut."""
    sha256: str = ""
    """Where the unit's result says it."""
    grows: bool = False
    """The file is appended to: only its first `size_bytes` belong to the cut."""


@dataclass
class Cut:
    """Files of a run by their path below the run directory; to be closed when they have been stored."""

    folder: Path
    files: dict[str, CutFile] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    """Symbolic links, special files and names that no snapshot may hold."""

    def __enter__(self) -> Cut:
        """The cut itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove the links."""
        shutil.rmtree(self.folder, ignore_errors=True)


def take_cut(run: RunDir, staging: Path) -> Cut:
    """Take a cut of a run that may be running.

    Args:
        run: the run directory.
        staging: where the links are kept, best on the same file system; created if missing.

    Raises:
        CannotWriteError: the staging directory cannot be written.
    """
    cutter = _Cutter(run.root, Cut(staging / f"cut-{uuid.uuid4().hex}"))
    try:
        cutter.cut.folder.mkdir(parents=True)
        cutter.take_run()
    except OSError as error:
        shutil.rmtree(cutter.cut.folder, ignore_errors=True)
        raise CannotWriteError(f"cannot write {staging}: {error.strerror or error}; free space") from error
    return cutter.cut


class _Cutter:
    def __init__(self, root: Path, cut: Cut) -> None:
        self._root, self.cut = root, cut
        self._counter = itertools.count()

    def take_run(self) -> None:
        for name in sorted(TOP_FILES - {LEDGER}):
            self._take(self._root / name)
        if ledger := self._linked(self._root.parent / LEDGER, LEDGER):
            self.cut.files[LEDGER] = _whole_lines(ledger)
        for path in self._files(self._root / "report"):
            self._take(path)
        for path in [*self._files(self._root / "events"), *self._files(self._root / "logs")]:
            if found := self._linked(path, self._name(path)):
                self.cut.files[self._name(path)] = _whole_lines(found)
        for directory in self._units(self._root / "stages"):
            self._take_unit(directory)

    def _take_unit(self, directory: Path) -> None:
        self._take(directory / "unit.json")
        if not self._take_result(directory):
            self._take_checkpoints(directory / "checkpoints")
        for path in self._files(directory / "tensorboard"):
            self._take(path, grows=True)

    def _take_result(self, directory: Path) -> bool:
        """Take a finished unit: its outputs and its result, or nothing of both."""
        link = self._linked(directory / "result.json", self._name(directory / "result.json"))
        try:
            result = Result.model_validate_json(link.read_bytes()) if link else None
        except ValueError:
            result = None
        if link is None or result is None:
            return False
        taken: dict[str, CutFile] = {}
        present = set(self._files(directory))
        for name, output in result.outputs.items():
            path = directory / name
            found = self._linked(path, self._name(path)) if path in present else None
            if found is None or found.stat().st_size != output.size_bytes:
                return False
            taken[self._name(path)] = CutFile(found, output.size_bytes, output.sha256)
        self.cut.files |= taken
        self.cut.files[self._name(directory / "result.json")] = CutFile(link, link.stat().st_size)
        return True

    def _take_checkpoints(self, folder: Path) -> None:
        for _ in range(CHECKPOINT_ATTEMPTS):
            taken: dict[str, CutFile] = {}
            whole = True
            for members in self._checkpoints(folder):
                found = {path: self._linked(path, self._name(path)) for path in members}
                if all(found.values()) and all(path.exists() for path in members):
                    taken |= {self._name(path): _whole(link) for path, link in found.items() if link}
                else:
                    whole = False
            if whole:
                break
        self.cut.files |= taken

    def _checkpoints(self, folder: Path, top: bool = True) -> Iterator[list[Path]]:
        """Files that belong together: those at and below the first directory that holds any."""
        inside = list(self._entries(folder))
        files = [Path(entry.path) for entry in inside if entry.is_file(follow_symlinks=False)]
        if files and not top:
            yield list(self._files(folder))
            return
        yield from ([path] for path in files)
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                yield from self._checkpoints(Path(entry.path), top=False)

    def _take(self, path: Path, grows: bool = False) -> None:
        if link := self._linked(path, self._name(path)):
            self.cut.files[self._name(path)] = _whole(link, grows)

    def _linked(self, path: Path, name: str) -> Path | None:
        """A link to a regular file; None where there is none, or none that a snapshot may hold."""
        link = self.cut.folder / str(next(self._counter))
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{name!r} is no regular file")
            check_path(name)
            _link_or_copy(path, link)
        except FileNotFoundError:
            return None
        except ValueError:
            self._leave_out(name)
            return None
        return link

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _leave_out(self, name: str) -> None:
        if name not in self.cut.left_out:
            self.cut.left_out.append(name)

    def _units(self, folder: Path, levels: int = 2) -> Iterator[Path]:
        for entry in self._entries(folder):
            path = Path(entry.path)
            if not entry.is_dir(follow_symlinks=False):
                continue
            if (path / "unit.json").is_file():
                yield path
            elif levels > 1:
                yield from self._units(path, levels - 1)

    def _files(self, folder: Path) -> Iterator[Path]:
        for entry in self._entries(folder):
            if entry.is_dir(follow_symlinks=False):
                yield from self._files(Path(entry.path))
            else:
                yield Path(entry.path)

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        """Directories and regular files that are not hidden; what is neither is noted as left out."""
        if folder.is_symlink():
            self._leave_out(self._name(folder))
            return
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False):
                yield entry
            else:
                self._leave_out(self._name(Path(entry.path)))


def _link_or_copy(path: Path, link: Path) -> None:
    try:
        os.link(path, link, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:  # a volume without hard links, or another one
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as source, link.open("wb") as target:
            shutil.copyfileobj(source, target)


def _whole(link: Path, grows: bool = False) -> CutFile:
    return CutFile(link, link.stat().st_size, grows=grows)


def _whole_lines(link: Path) -> CutFile:
    """Up to the last line feed, so that no torn line is ever stored."""
    with link.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _TAIL_BYTES)
            file.seek(start)
            position = file.read(end - start).rfind(b"\n")
            if position >= 0:
                return CutFile(link, start + position + 1, grows=True)
            end = start
    return CutFile(link, 0, grows=True)
