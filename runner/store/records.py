"""How records become bytes and back, and what a record may name.

Nothing that is read is trusted: a record carries its own digest, its paths stay
below the run directory, its blob keys below the run's prefix.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from configs.errors import StoreError
from configs.files import digest
from configs.secrets import one_line
from runner.store.layout import ID_PATTERN, Blob, Head, Record, blob_key, split_id
from runner.store.objects import ObjectStore

LEDGER = "trials.jsonl"
"""Lies beside the run directory, shared by all runs there; in a snapshot under this name."""
TOP_FILES = {"run.json", "config.yaml", "exit.json", "plan.json", LEDGER}
TOP_DIRECTORIES = {"events", "logs", "stages", "report"}
MAX_PART_BYTES = 200
MAX_PATH_BYTES = 1_000


class DamagedError(StoreError):
    """An object is missing, or is not what was stored; `keys` are below the run's prefix."""

    def __init__(self, message: str, *keys: str) -> None:
        """Say what is wrong with which objects."""
        super().__init__(message)
        self.keys = keys


def encode(record: Record) -> bytes:
    """A record as JSON, with the digest of the rest in `sha256`."""
    value = record.model_dump(mode="json")
    return json.dumps(value | {"sha256": digest(value)}, indent=1).encode()


def parse(body: bytes, known_format: int, where: str) -> dict[str, Any]:
    """The JSON object of a record.

    Raises:
        ValueError: it is damaged.
        StoreError: a newer version of this program wrote it.
    """
    value = json.loads(body)
    if not isinstance(value, dict) or not isinstance(value.get("format"), int):
        raise ValueError("it is no record of this program")
    if value["format"] > known_format:
        raise StoreError(
            f"{where} was written by a newer version of this program (format {value['format']}, known up to "
            f"{known_format}); update sequence-runner to use it"
        )
    claimed = value.pop("sha256", None)
    if claimed != digest(value):
        raise ValueError("its content does not fit its digest")
    return value


def fault_of(error: Exception) -> str:
    """What is wrong, without the addresses of documentation that pydantic adds."""
    if not isinstance(error, ValidationError):
        return one_line(error)
    faults = error.errors(include_url=False, include_input=False)
    return one_line("; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults))


def check_path(path: str) -> str:
    """Return `path` when it names a file that belongs to a run directory.

    Raises:
        ValueError: it could leave the directory, is hidden, or is no part of a run.
    """
    parts = path.split("/")
    tops = TOP_FILES if len(parts) == 1 else TOP_DIRECTORIES
    if parts[0] not in tops:
        raise ValueError(f"path {path!r} is no part of a run")
    if not path.isprintable() or "\\" in path or len(path.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"path {path!r} has characters that are not allowed, or is too long")
    if any(not part or part.startswith(".") or len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise ValueError(f"path {path!r} has a part that is empty, hidden or too long")
    return path


def check_paths(paths: Iterable[str]) -> None:
    """Check each path, and that none is the directory of another.

    Raises:
        ValueError: as `check_path`.
    """
    known = {check_path(path) for path in paths}
    for path in known:
        parts = path.split("/")
        if any("/".join(parts[:length]) in known for length in range(1, len(parts))):
            raise ValueError(f"path {path!r} lies below another file")


def check_blob(blob: Blob) -> None:
    """Check that a blob's key is the one its content has in some epoch.

    Raises:
        ValueError: it is another key.
    """
    epoch = blob.key.split("/")[1] if blob.key.count("/") == 2 else ""
    known = [blob_key(blob.sha256, int(epoch), packed) for packed in (False, True)] if epoch.isdecimal() else []
    if blob.key not in known:
        raise ValueError(f"blob key {blob.key!r} is not of content {blob.sha256[:12]}")


def snapshot_ids(store: ObjectStore, run_id: str) -> list[str]:
    """Names of all snapshot records of a run, oldest first; some may never have been committed."""
    names = (stat.key.rpartition("/")[2].removesuffix(".json") for stat in store.list(f"{run_id}/snapshots/"))
    return sorted((name for name in names if ID_PATTERN.fullmatch(name)), key=_age)


def committed_ids(ids: list[str], head: Head | None) -> list[str]:
    """Those of `ids` that HEAD named at some time, newest first.

    An owner counts on from the snapshot that was HEAD's when it took the run. So a record of an earlier epoch with
    the same number or a higher one was written by a runner that had lost the run, and was never committed.
    """
    if head and not head.snapshot:
        return []
    newest = _age(head.snapshot) if head else None
    found: list[str] = []
    for name in sorted(ids, key=_age, reverse=True):
        counted_on = not found or split_id(name)[0] < split_id(found[-1])[0]
        if counted_on and (newest is None or _age(name) <= newest):
            found.append(name)
    return found


def quarantine(store: ObjectStore, run_id: str, key: str) -> None:
    """Copy a small damaged object of the run below `quarantine/`."""
    store.put(f"{run_id}/quarantine/{key.removeprefix(f'{run_id}/')}", store.get(key)[0])


def _age(snapshot_id: str) -> tuple[int, int]:
    """Sorts by epoch, then by number: the order in which records were written."""
    return split_id(snapshot_id)[::-1]
