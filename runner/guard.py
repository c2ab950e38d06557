"""Who owns a run, and that no process outlives its owner.

`Owner` holds a kernel lock on a file of the run directory; it vanishes with its
holder. `Reaper` is a small process that learns of every process group the
supervisor starts and kills those that are left when the supervisor is gone,
even by SIGKILL. It holds the lock too: while a unit of the old owner may live,
nobody else can own the run. `die_with_parent` is the kernel's own safety net
below it, for the case that both are killed at once. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import CannotWriteError, ExitCode, ProjectError
from runner.container import how_to_write
from runner.host.where import CONTAINER, this_host

_PRCTL = ctypes.CDLL(None).prctl
"""Looked up once: a child between fork and exec must not wait for the loader's lock."""
_PR_SET_PDEATHSIG = 1
_STOPS = (signal.SIGINT, signal.SIGTERM)
_TAKE_TIMEOUT_S = 2.0
"""A probe by `status` holds the lock for an instant."""
_REAPER_TIMEOUT_S = 30.0
"""The reaper of a killed runner holds it until what it kills is gone: seconds, on a loaded machine many."""


class OwnedByAnotherError(ProjectError):
    """Another runner owns the run."""

    exit_code = ExitCode.OWNED_BY_ANOTHER


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived while no supervisor was listening."""


class NotRunningError(ProjectError):
    """There is no runner to signal."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Holder:
    """The runner that owns a run, as its lock tells it."""

    pid: int
    """In its own container or machine; 0 where that is not known."""
    host: str
    place: str
    """As of `Host`."""
    is_here: bool
    """It runs where we do, so that its pid can be signalled."""

    def __str__(self) -> str:
        """`pid 7`, `in container 9205ac0ff736` or `pid 7 on box`."""
        if self.is_here:
            return f"pid {self.pid}"
        if self.place.startswith(CONTAINER):
            return f"in {self.place}"
        return f"pid {self.pid or 'unknown'} on {self.host or 'a machine that is not known'}"

    @property
    def stopped_by(self) -> str:
        """What ends it; as a half-sentence."""
        if not self.is_here and self.place.startswith(CONTAINER):
            return f"`docker stop --time 60 {self.place.removeprefix(CONTAINER)}`"
        return "`sequence-runner stop`" if self.is_here else f"`sequence-runner stop` on {self.host or 'its machine'}"


class Owner:
    """Ownership of a run while inside: the lock, whose file names us, and the reaper that shares it."""

    def __init__(self, root: Path) -> None:
        """Wrap the run directory `root`; nothing is created."""
        self._path = root / "lock"

    def __enter__(self) -> Owner:
        """Take the lock, then fork the reaper: do so before any thread is started.

        Raises:
            OwnedByAnotherError: another runner owns the run.
            CannotWriteError: the run directory cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            if not (_lock_within(self._descriptor, _TAKE_TIMEOUT_S) or self._lock_of_the_dead()):
                raise self._refusal()
            facts = {"pid": os.getpid(), "host": os.uname().nodename, "place": this_host().place}
            facts |= {"started_s": started_s(os.getpid())}
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(facts).encode(), 0)
        except OSError as error:
            raise CannotWriteError(f"cannot write {self._path}: {error.strerror}; {how_to_write(error)}") from error
        self.reaper = Reaper(keep_open=self._descriptor)
        return self

    def __exit__(self, *_error: object) -> None:
        """End the reaper, then let the lock go."""
        self.reaper.close()
        os.truncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _lock_of_the_dead(self) -> bool:
        """Take the lock from a reaper whose runner is gone; whether that is so and succeeded."""
        facts = _read_lock(self._descriptor)
        return bool(facts) and not _owner_by(facts) and _lock_within(self._descriptor, _REAPER_TIMEOUT_S)

    def _refusal(self) -> OwnedByAnotherError:
        holder = _holder(_read_lock(self._descriptor))
        os.close(self._descriptor)
        return OwnedByAnotherError(
            f"run {self._path.parent.name!r} is owned by another runner ({holder}); wait for it or end it with "
            f"{holder.stopped_by}"
        )


def owner_of(root: Path) -> Holder | None:
    """The runner that owns the run, here or in another container or machine; None when nobody does.

    A pid of this place counts only while the lock is held and the process is the very one that wrote it.
    """
    try:
        descriptor = os.open(root / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _lock_within(descriptor, 0.0, fcntl.LOCK_SH):
            return None
        facts = _read_lock(descriptor)
    finally:
        os.close(descriptor)
    return _owner_by(facts) if facts else None  # without facts it comes or goes this instant


def _owner_by(facts: dict) -> Holder | None:
    """Who wrote these facts of a lock; None where it was a process of this place that is gone."""
    holder = _holder(facts)
    return holder if not holder.is_here or started_s(holder.pid) == facts.get("started_s") else None


def started_s(pid: int) -> float | None:
    """When a process started, in seconds since its machine did: a clock that is set changes nothing of it.

    None where there is no such process, or only its status is left.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(fields[18]) / os.sysconf("SC_CLK_TCK")


def signal_owner(root: Path) -> int:
    """Ask the runner that owns the run to stop; return its process id.

    Raises:
        NotRunningError: nobody owns it, the recorded pid is stale, or it runs where no signal gets from here.
    """
    holder = owner_of(root)
    if not holder:
        raise NotRunningError(f"run {root.name!r} is not running; nothing was signalled")
    if not holder.is_here:
        raise NotRunningError(
            f"run {root.name!r} is running {holder}, which cannot be signalled from here; end it with "
            f"{holder.stopped_by}"
        )
    os.kill(holder.pid, signal.SIGTERM)
    return holder.pid


@contextlib.contextmanager
def stops_wait() -> Iterator[None]:
    """Stop signals to this thread wait while it forks: Python swallows what a handler raises just after a fork."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(parent_pid: int) -> None:
    """In a child before exec: be killed by the kernel when the thread that started it dies.

    Takes no lock, so the parent may have threads.
    """
    for number in _STOPS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


class Reaper:
    """A process that kills the process groups its parent leaves behind."""

    def __init__(self, keep_open: int) -> None:
        """Fork the reaper; it keeps only the descriptor `keep_open` (the lock's) besides its pipe."""
        read_end, self._write_end = os.pipe()
        with stops_wait():
            self._pid = os.fork()
            if self._pid == 0:
                try:
                    _reap(read_end, keep_open)
                finally:
                    os._exit(0)
        os.close(read_end)

    def before_exec(self) -> Callable[[], None]:
        """What a child runs between fork and exec: join the reaper's list, tie its life to ours. Takes no lock."""
        parent_pid, write_end = os.getpid(), self._write_end

        def register() -> None:
            _tell(write_end, b"+%d\n" % os.getpid())
            die_with_parent(parent_pid)

        return register

    def forget(self, group: int) -> None:
        """The group has ended."""
        _tell(self._write_end, b"-%d\n" % group)

    def close(self) -> None:
        """End the reaper; what is still on its list is killed."""
        os.close(self._write_end)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _tell(write_end: int, line: bytes) -> None:
    # a reaper that was killed is no reason to fail: die_with_parent still holds
    with contextlib.suppress(BrokenPipeError):
        os.write(write_end, line)


def kill_group(group: int) -> None:
    """SIGKILL every process of a group; an empty group is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _reap(read_end: int, keep_open: int) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _close_all_but({read_end, keep_open})
    groups: set[int] = set()
    with os.fdopen(read_end, "rb") as pipe:
        for line in pipe:
            group = int(line[1:])
            groups.add(group) if line.startswith(b"+") else groups.discard(group)
    for group in groups:
        kill_group(group)
    deadline = time.monotonic() + 5
    while any(_alive(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.02)


def _close_all_but(kept: set[int]) -> None:
    first = 0
    for descriptor in sorted(kept - {-1}):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _alive(group: int) -> bool:
    """A process of the group still runs; one that only waits for its parent does not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state not in "ZX":
                return True
    return False


def _lock_within(descriptor: int, timeout_s: float, kind: int = fcntl.LOCK_EX) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _read_lock(descriptor: int) -> dict[str, Any]:
    try:
        facts = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _holder(facts: dict[str, Any]) -> Holder:
    pid, place = facts.get("pid"), str(facts.get("place", ""))
    is_here = isinstance(pid, int) and place == this_host().place
    return Holder(pid if isinstance(pid, int) else 0, str(facts.get("host", "")), place, is_here)
