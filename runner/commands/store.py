"""`store`: look at, check, fetch, thin out and turn back the runs of an object store."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from configs.errors import CannotWriteError, ConfigError, ExitCode, StoreError
from configs.run_dir import check_run_id
from configs.schema import StoreConfig
from runner.commands.options import json_option, runs_dir_option
from runner.dataset_url import FOLDER
from runner.preflight.check import human_bytes
from runner.say import say
from runner.store.layout import Head, Snapshot
from runner.store.lease import DamagedHeadError, Lease, acquire, owner_facts, read_head
from runner.store.objects import ObjectStore
from runner.store.records import DamagedError, committed_ids, snapshot_ids
from runner.store.snapshots import read_snapshot, require_run

if TYPE_CHECKING:
    from runner.store.verify import Verification

PATIENCE_S = 10.0


@click.group()
def store() -> None:
    """List, check, fetch and thin out what an object store has."""


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--store`."""
    return click.option(
        "--store",
        "url",
        required=True,
        envvar="SEQUENCE_STORE__URL",
        show_envvar=True,
        metavar="URL",
        help="s3://bucket/prefix, gs://bucket/prefix or file:///path.",
    )(command)


def take_over_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--take-over`."""
    return click.option("--take-over", is_flag=True, help="Do it although another runner owns the run.")(command)


@store.command("ls")
@click.argument("run", default="")
@store_option
@json_option
def list_runs(run: str, url: str, as_json: bool) -> ExitCode:
    """List the runs of a store, or RUN's snapshots, newest first."""
    objects = _open(url)
    if not run:
        runs = _runs(objects)
        _show(as_json, {"store": url, "runs": runs}, lambda: _print_runs(url, runs))
        return ExitCode.DONE
    facts = _run_facts(objects, check_run_id(run))
    _show(as_json, {"store": url} | facts, lambda: _print_snapshots(facts))
    return ExitCode.DONE


@store.command()
@click.argument("run")
@store_option
@json_option
def verify(run: str, url: str, as_json: bool) -> ExitCode:
    """Compare every content of RUN with its digest. Each is fetched once; exit code 74 where anything is damaged."""
    from runner.store.verify import verify as verify_run

    found = verify_run(_open(url), check_run_id(run))
    code = ExitCode.STORE_DAMAGED if found.faults else ExitCode.DONE
    facts = {
        "run_id": run,
        "exit_code": int(code),
        "snapshots": [{"id": name, "faults": found.faults.get(name, [])} for name in found.snapshots],
        "faults": found.faults,
        "blobs": found.blobs,
        "stored_bytes": found.stored_bytes,
    }
    _show(as_json, facts, lambda: _print_verification(run, found))
    return code


@store.command()
@click.argument("run")
@store_option
@click.option("--snapshot", "snapshot_id", default="", help="Its id.  [default: the newest that is whole]")
@click.option("--to", type=click.Path(path_type=Path), help="Directory to make.  [default: RUN in --runs-dir]")
@runs_dir_option
def pull(run: str, url: str, snapshot_id: str, to: Path | None, runs_dir: Path) -> ExitCode:
    """Fetch a snapshot of RUN into a new directory, verified."""
    from runner.store.restore import restore, restore_newest

    objects, target = _open(url), to or runs_dir / check_run_id(run)
    require_run(objects, check_run_id(run))
    if snapshot_id:
        _require_snapshot(objects, run, snapshot_id)
    with _new_directory(target) as beside:
        if snapshot_id:
            snapshot = read_snapshot(objects, run, snapshot_id)
            restore(objects, run, snapshot, beside, ledger=to is None)
        else:
            newest, notices = restore_newest(objects, run, beside, ledger=to is None)
            for notice in notices:
                say(notice)
            if newest is None:
                raise ConfigError(f"run {run!r} in {url} has no snapshot yet")
            snapshot = newest
    say(f"snapshot {snapshot.id} ({snapshot.reason}): {len(snapshot.files)} files, verified")
    click.echo(target)
    return ExitCode.DONE


@store.command()
@click.argument("run")
@store_option
@click.option("--keep-last", type=click.IntRange(min=2), help="Newest snapshots to keep.  [default: as the run does]")
@click.option("--keep-every", type=click.IntRange(min=1), help="Keep every n-th too.  [default: as the run does]")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@take_over_option
def gc(run: str, url: str, keep_last: int | None, keep_every: int | None, dry_run: bool, take_over: bool) -> ExitCode:
    """Remove snapshots of RUN that need not be kept. Contents that no snapshot names go with them."""
    from runner.remote import identity
    from runner.store.retention import Retention

    with identity(_open(url), run) as kept:
        config = kept.load_config().store
    with _owned(url, run, take_over) as lease:
        found = Retention(lease, keep_last or config.keep_last, keep_every or config.keep_every).collect(dry_run)
    for notice in found.notices:
        say(notice)
    done = "would remove" if dry_run else "removed"
    click.echo(
        f"{done} {len(found.removed)} snapshots and {found.removed_blobs} contents ({human_bytes(found.freed_bytes)}); "
        f"kept {', '.join(found.kept) or 'none'}"
    )
    return ExitCode.DONE


@store.command()
@click.argument("run")
@store_option
@click.option("--to", "snapshot_id", required=True, metavar="SNAPSHOT", help="Id of an earlier snapshot.")
@take_over_option
def rollback(run: str, url: str, snapshot_id: str, take_over: bool) -> ExitCode:
    """Make an earlier snapshot of RUN the newest. The next start with this store goes on from there."""
    from runner.store.retention import roll_back

    with _owned(url, run, take_over) as lease:
        snapshot = roll_back(lease, snapshot_id)
    click.echo(f"run {run} is at snapshot {snapshot.id}, which is {snapshot_id} again: {len(snapshot.files)} files")
    return ExitCode.DONE


def _open(url: str) -> ObjectStore:
    """The store; somebody waits for the answer, so it is not retried for long."""
    from runner.store.open import open_store

    return open_store(url, deadline_s=PATIENCE_S)


@contextmanager
def _owned(url: str, run_id: str, take_over: bool) -> Iterator[Lease]:
    """A known run's lease while inside."""
    objects = _open(url)
    with suppress(DamagedHeadError):  # which the new owner mends
        require_run(objects, check_run_id(run_id))
    lease = acquire(objects, run_id, owner_facts(), StoreConfig().lease_s, take_over)
    for notice in lease.notices:
        say(notice)
    try:
        yield lease
    finally:
        lease.release(lease.head.spent)


@contextmanager
def _new_directory(target: Path) -> Iterator[Path]:
    """A hidden directory beside `target` that takes its name at the end; one that was cut off is gone on with."""
    if target.exists() or target.is_symlink():
        raise CannotWriteError(f"{target} exists; nothing is written over it: name another directory with --to")
    beside = target.parent / f".{target.name}.pulled"
    beside.mkdir(parents=True, exist_ok=True)
    yield beside
    beside.rename(target)


def _require_snapshot(objects: ObjectStore, run_id: str, snapshot_id: str) -> None:
    known = snapshot_ids(objects, run_id)
    if snapshot_id not in known:
        raise ConfigError(f"run {run_id!r} has no snapshot {snapshot_id!r}; it has {', '.join(known) or 'none'}")


def _runs(objects: ObjectStore) -> list[dict[str, Any]]:
    """Every run of the store: its size, snapshots, owner, and when it was last written to."""
    sizes: dict[str, int] = defaultdict(int)
    changed_t: dict[str, float] = defaultdict(float)
    snapshots: dict[str, int] = defaultdict(int)
    for stat in objects.list():
        run_id, _, below = stat.key.partition("/")
        if run_id == FOLDER:  # what `launch` sent, of no run's own
            continue
        sizes[run_id] += stat.size_bytes
        snapshots[run_id] += below.startswith("snapshots/")
        changed_t[run_id] = max(changed_t[run_id], stat.modified_t)
    found = []
    for run_id in sorted(sizes):
        try:
            owner = _owner(read_head(objects, run_id))
        except StoreError as error:
            if error.retryable:
                raise
            owner = {"state": "HEAD is damaged"}
        facts = {"run_id": run_id, "snapshots": snapshots[run_id], "stored_bytes": sizes[run_id]}
        found.append(facts | {"changed_t": changed_t[run_id], "owner": owner})
    return found


def _run_facts(objects: ObjectStore, run_id: str) -> dict[str, Any]:
    head = require_run(objects, run_id)
    found = []
    for name in committed_ids(snapshot_ids(objects, run_id), head):
        try:
            facts = _snapshot_facts(read_snapshot(objects, run_id, name))
        except DamagedError as error:
            facts = {"id": name, "damaged": str(error)}
        found.append(facts | {"is_head": head is not None and head.snapshot == name})
    spent = head.spent.model_dump() if head else {}
    return {"run_id": run_id, "owner": _owner(head), "spent": spent, "snapshots": found}


def _snapshot_facts(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "created_t": snapshot.created_t,
        "reason": snapshot.reason,
        "score": snapshot.score,
        "files": len(snapshot.files),
        "size_bytes": sum(file.size_bytes for file in snapshot.files.values()),
    }


def _owner(head: Head | None) -> dict[str, Any]:
    if head is None:
        return {"state": "HEAD is missing"}
    state = "released" if head.released else "owned"
    return {"state": state, "epoch": head.epoch} | head.owner.model_dump(include={"host", "pid", "place"})


def _show(as_json: bool, facts: dict[str, Any], show: Callable[[], None]) -> None:
    click.echo(json.dumps(facts)) if as_json else show()


def _print_runs(url: str, runs: list[dict[str, Any]]) -> None:
    from runner.console import print_table

    rows = [
        (run["run_id"], str(run["snapshots"]), human_bytes(run["stored_bytes"]), _when(run["changed_t"]), _who(run))
        for run in runs
    ]
    print_table(f"{len(runs)} runs in {url}", ("run", "snapshots", "stored", "last change", "owner"), rows)


def _print_snapshots(facts: dict[str, Any]) -> None:
    from runner.console import print_table

    rows = []
    for one in facts["snapshots"]:
        mark = " *" if one["is_head"] else ""
        if "damaged" in one:
            rows.append((one["id"] + mark, "", "damaged", "", "", ""))
            continue
        score = "-" if one["score"] is None else f"{one['score']:.4g}"
        sizes = (str(one["files"]), human_bytes(one["size_bytes"]))
        rows.append((one["id"] + mark, _when(one["created_t"]), one["reason"], score, *sizes))
    title = f"run {facts['run_id']}: {_who(facts)}; * is the newest"
    print_table(title, ("snapshot", "made", "for", "score", "files", "size"), rows)


def _print_verification(run: str, found: Verification) -> None:
    from runner.console import print_table

    rows = [(name, "; ".join(found.faults.get(name, [])) or "whole") for name in found.snapshots]
    rows += [("HEAD", "; ".join(found.faults["HEAD"]))] if "HEAD" in found.faults else []
    title = f"run {run}: {found.blobs} contents, {human_bytes(found.stored_bytes)}, each fetched and compared"
    print_table(title, ("snapshot", "found"), rows)


def _who(facts: dict[str, Any]) -> str:
    owner = facts["owner"]
    if owner["state"] != "owned":
        return str(owner["state"])
    return f"owned by pid {owner['pid']} on {owner['host']}"


def _when(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))
