"""Stores and run directories for tests of leases and snapshots: small, real files, contents known."""

from __future__ import annotations

import threading
from pathlib import Path

from configs.files import sha256_file, write_json
from configs.run_dir import RunDir
from runner.store.cut import take_cut
from runner.store.file import FileStore
from runner.store.layout import OwnerFacts, Snapshot, Spent
from runner.store.lease import Lease
from runner.store.objects import Stat, StoreUnreachableError
from runner.store.upload import Uploaded, Uploader

RUN = "DEMO-USD_1H-quick-00000000"
NOTHING = Spent()


def owner(name: str = "one", place: str = "", pid: int = 1) -> OwnerFacts:
    """Somebody; by default each name in a place of its own."""
    return OwnerFacts(token=name, place=place or f"place of {name}", host=f"host-{name}", pid=pid, started_s=1.0)


class ServerClock(FileStore):
    """A store whose server has a clock of its own, which stands unless a test moves it."""

    def __init__(self, root: Path, now_t: float = 1e9) -> None:
        super().__init__(root)
        self.now_t = now_t
        self._written_t: dict[str, float] = {}

    def put(self, key: str, body: bytes | Path) -> str:
        self._written_t[key] = self.now_t
        return super().put(key, body)

    def put_if_absent(self, key: str, body: bytes) -> str:
        tag = super().put_if_absent(key, body)
        self._written_t[key] = self.now_t
        return tag

    def replace_if_match(self, key: str, body: bytes, tag: str) -> str:
        found = super().replace_if_match(key, body, tag)
        self._written_t[key] = self.now_t
        return found

    def get(self, key: str) -> tuple[bytes, Stat]:
        body, stat = super().get(key)
        return body, Stat(key, stat.size_bytes, stat.tag, self._written_t[key])


class Counting(FileStore):
    """Counts what is fetched and sent, by key."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fetched: list[str] = []
        self.sent: list[str] = []

    def get_to(self, key: str, path: Path) -> None:
        self.fetched.append(key)
        super().get_to(key, path)

    def put(self, key: str, body: bytes | Path) -> str:
        self.sent.append(key)
        return super().put(key, body)


class LosesReplies(FileStore):
    """Does what it is asked; while `losing`, the answer to a replacement is lost."""

    losing = False

    def replace_if_match(self, key: str, body: bytes, tag: str) -> str:
        found = super().replace_if_match(key, body, tag)
        if self.losing:
            raise StoreUnreachableError("the connection broke before the answer")
        return found


class IgnoresConditions(FileStore):
    """A server without conditional writes."""

    def put_if_absent(self, key: str, body: bytes) -> str:
        return self.put(key, body)

    def replace_if_match(self, key: str, body: bytes, tag: str) -> str:
        return self.put(key, body)


class PausesAtDelete(FileStore):
    """Stands still at its first removal until it is told to go on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.paused, self.go_on = threading.Event(), threading.Event()

    def delete(self, key: str) -> None:
        self.paused.set()
        assert self.go_on.wait(60)
        super().delete(key)


def make_run(runs_dir: Path, run_id: str = RUN) -> RunDir:
    """A run directory with a finished unit, one in work with two checkpoints, events, a log and a report."""
    run = RunDir(runs_dir / run_id)
    done, working = run.unit_dir("prepare"), run.unit_dir("ppo/seed-0")
    write(run.run_json, "{}\n")
    write(run.config_yaml, "profile: quick\n")
    write(run.report, "<html>report</html>\n")
    write(run.events / "supervisor.jsonl", '{"t":1}\n{"t":2}\n')
    write(run.log_path("ppo/seed-0"), "started\n")
    write(runs_dir / "trials.jsonl", '{"cache_key":"a"}\n')
    for unit in (done, working):
        write(unit / "unit.json", f'{{"unit": "{unit.name}"}}\n')
    write(done / "bars.parquet", "bars " * 1_000)
    write(done / "plots" / "labels.html", "<html></html>")
    save_result(run, "prepare")
    write_checkpoint(working, 100)
    write_checkpoint(working, 200)
    write(working / "history.json", "half written")
    write(working / "tensorboard" / "events.out", "scalars")
    return run


def save_result(run: RunDir, unit: str) -> None:
    """`result.json` naming every file of the unit."""
    folder = run.unit_dir(unit)
    outputs = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("unit.json", "result.json")
    }
    write_json(folder / "result.json", {"unit": unit, "cache_key": "k", "outputs": outputs, "metrics": {}})


def write_checkpoint(unit: Path, step: int) -> Path:
    """Two files that belong together, appearing at once."""
    beside, final = unit / "checkpoints" / f".{step}", unit / "checkpoints" / str(step)
    for name in ("state.safetensors", "manifest.json"):
        write(beside / name, f"{name} of step {step}\n")
    beside.rename(final)
    return final


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def upload(lease: Lease, run: RunDir, staging: Path, uploader: Uploader | None = None) -> Uploaded:
    """What a snapshot of the run would hold."""
    parent = newest_of(lease)
    with take_cut(run, staging) as cut:
        return (uploader or Uploader(lease, staging)).upload(cut, parent)


def commit(
    lease: Lease, run: RunDir, staging: Path, uploader: Uploader | None = None, score: float | None = None
) -> Snapshot:
    """Store the run as it is now."""
    files = upload(lease, run, staging, uploader).files
    snapshot = lease.new_snapshot(files, "a test", NOTHING, score)
    lease.commit(snapshot, NOTHING)
    return snapshot


def newest_of(lease: Lease) -> Snapshot | None:
    """What HEAD names."""
    from runner.store.snapshots import newest_snapshot

    return newest_snapshot(lease.store, lease.run_id)


def tree(root: Path) -> dict[str, bytes]:
    """Every regular file below `root` that is not hidden, with its content."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    }
