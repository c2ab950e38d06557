"""Everything that comes out of a store is verified; what is damaged is put aside and the next older used."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from configs.errors import ConfigError, ExitCode, StoreError
from configs.files import digest
from configs.run_dir import RunDir
from runner.store.cut import take_cut
from runner.store.file import FileStore
from runner.store.layout import Blob, File, Snapshot, head_key, snapshot_key
from runner.store.lease import acquire
from runner.store.records import DamagedError, encode
from runner.store.restore import restore, restore_newest
from runner.store.snapshots import read_snapshot
from runner.store.upload import Uploader
from runner.store.verify import verify
from tests.runner.store.runs import NOTHING, RUN, Counting, commit, make_run, owner, save_result, tree, write

PLAIN, PACKED = "run.json", "stages/prepare/bars.parquet"
"""A content that is stored as it is, and one that is compressed."""


@pytest.fixture
def store(tmp_path) -> Counting:
    return Counting(tmp_path / "store")


@pytest.fixture
def lease(store):
    return acquire(store, RUN, owner(), 60)


@pytest.fixture
def two(tmp_path, lease) -> list[Snapshot]:
    """Two snapshots of a run; between them its PLAIN and PACKED files changed."""
    run = make_run(tmp_path / "runs")
    first = commit(lease, run, tmp_path / "staging")
    write(run.run_json, '{"second": true}\n')
    bars = run.unit_dir("prepare") / "bars.parquet"
    write(bars, "more bars " * 2_000)
    (run.unit_dir("prepare") / "result.json").unlink()
    save_result(run, "prepare")
    return [first, commit(lease, run, tmp_path / "staging")]


@pytest.fixture
def there(tmp_path) -> Path:
    return tmp_path / "there" / RUN


def key_of(snapshot: Snapshot, path: str) -> str:
    return f"{RUN}/{snapshot.files[path].blobs[0].key}"


def flip(body: bytes) -> bytes:
    return body[:-5] + bytes([body[-5] ^ 1]) + body[-4:]


HARMS = {
    "flipped bit": flip,
    "truncated": lambda body: body[: len(body) // 2],
    "emptied": lambda body: b"",
    "longer": lambda body: body + b"more",
    "another": lambda body: b"something else altogether",
}


@pytest.mark.parametrize("path", [PLAIN, PACKED])
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_content_is_put_aside_and_the_snapshot_before_is_used(store, lease, two, there, path, harm):
    key = key_of(two[1], path)
    harmed = HARMS[harm](store.get(key)[0])
    store.put(key, harmed)
    snapshot, notices = restore_newest(store, RUN, there, lease)
    said = "\n".join(notices)
    if harm == "longer" and path == PACKED:
        assert snapshot in two  # bytes after the end of a zstd frame are nobody's content
        return
    assert snapshot == two[0] and f"{two[1].id} cannot be used" in said and key in said and two[0].id in said
    assert json.loads((there / "run.json").read_text()) == {} and "more" not in (there / PACKED).read_text()
    assert store.get(key.replace("/blobs/", "/quarantine/blobs/"))[0] == harmed
    assert key not in [stat.key for stat in store.list()]


def test_a_missing_content_is_said_and_the_snapshot_before_is_used(store, lease, two, there):
    store.delete(key_of(two[1], PACKED))
    snapshot, notices = restore_newest(store, RUN, there, lease)
    assert snapshot == two[0] and "is missing" in notices[0] and len(notices) == 2


def test_without_the_lease_nothing_in_the_store_is_moved(store, two, there):
    store.put(key_of(two[1], PACKED), b"damaged")
    before = [stat.key for stat in store.list()]
    assert restore_newest(store, RUN, there)[0] == two[0]
    assert [stat.key for stat in store.list()] == before


@pytest.mark.parametrize("harm", [*HARMS, "missing"])
def test_a_damaged_record_is_put_aside_and_the_snapshot_before_is_used(store, lease, two, there, harm):
    key = snapshot_key(RUN, two[1].id)
    store.delete(key) if harm == "missing" else store.put(key, HARMS[harm](store.get(key)[0]))
    snapshot, notices = restore_newest(store, RUN, there, lease)
    assert snapshot == two[0] and two[1].id in notices[0]
    assert key not in [stat.key for stat in store.list()]


def test_a_damaged_older_record_is_noticed_by_its_own_digest(store, two):
    key = snapshot_key(RUN, two[0].id)
    store.put(key, store.get(key)[0].replace(b"config.yaml", b"config.yamm"))
    with pytest.raises(DamagedError, match="digest"):
        read_snapshot(store, RUN, two[0].id)


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_without_head_the_newest_snapshot_is_used_and_it_is_said(store, two, there, harm):
    store.delete(head_key(RUN)) if harm == "missing" else store.put(head_key(RUN), b"{}")
    snapshot, notices = restore_newest(store, RUN, there)
    assert snapshot == two[1] and harm in notices[0]


def test_where_no_snapshot_is_whole_the_end_is_74_and_nothing_is_written(store, lease, two, there):
    for snapshot in two:
        store.put(key_of(snapshot, "config.yaml"), b"damaged")
    with pytest.raises(StoreError, match="no snapshot of run") as told:
        restore_newest(store, RUN, there, lease)
    assert told.value.exit_code == ExitCode.STORE_DAMAGED == 74 and tree(there) == {}


def test_a_content_that_all_snapshots_share_and_that_is_lost_is_done_without(store, lease, two, there):
    path = "logs/ppo/seed-0.log"
    assert two[0].files[path] == two[1].files[path]
    store.put(key_of(two[1], path), b"damaged")
    with pytest.raises(StoreError, match="no snapshot of run"):
        restore_newest(store, RUN, there)  # somebody who only looks
    snapshot, notices = restore_newest(store, RUN, there, lease)
    assert (
        snapshot.id == two[1].id and f"{two[1].id} is used without {path}" in notices[-1] and path not in snapshot.files
    )
    assert set(tree(there)) == two[1].files.keys() - {path, "trials.jsonl"}
    write(there / path, "made anew")
    with take_cut(RunDir(there), there.parent / "staging") as cut:
        sent = Uploader(lease, there.parent / "staging").upload(cut, snapshot)
    assert sent.files.keys() == two[1].files.keys() and sent.files[path].blobs != two[1].files[path].blobs


def test_a_failed_restore_leaves_what_was_there(store, two, there):
    write(there / "run.json", "what was here")
    store.put(key_of(two[1], PACKED), b"damaged")
    with pytest.raises(DamagedError):
        restore(store, RUN, two[1], there)
    assert tree(there) == {"run.json": b"what was here"}


def test_all_that_is_damaged_is_told_at_once(store, two, there):
    keys = {key_of(two[1], path) for path in (PLAIN, PACKED, "config.yaml")}
    for key in keys:
        store.put(key, b"damaged")
    with pytest.raises(DamagedError) as told:
        restore(store, RUN, two[1], there)
    assert {f"{RUN}/{key}" for key in told.value.keys} == keys


def test_a_content_that_is_damaged_on_its_way_is_fetched_again(tmp_path, lease, two, there):
    class Unsteady(FileStore):
        """Cuts the first answer for each object short."""

        seen: set[str] = set()

        def get_to(self, key: str, path: Path) -> None:
            super().get_to(key, path)
            if key not in self.seen:
                self.seen.add(key)
                os.truncate(path, path.stat().st_size // 2)

    snapshot, notices = restore_newest(Unsteady(tmp_path / "store"), RUN, there)
    assert snapshot == two[1] and notices == []


def test_what_is_there_and_equal_is_not_fetched(store, two, there):
    restore(store, RUN, two[0], there)
    store.fetched.clear()
    restore(store, RUN, two[1], there)
    changed = [path for path in two[1].files if two[0].files[path] != two[1].files[path]]
    assert len(store.fetched) == len(changed) == 3


def test_only_what_is_asked_for_is_fetched(store, two, there):
    restore(store, RUN, two[1], there, only=lambda path: path.startswith("logs/"))
    assert set(tree(there)) == {"logs/ppo/seed-0.log"} and len(store.fetched) == 1


def test_equal_files_come_back_as_files_of_their_own(store, lease, tmp_path, there):
    run = make_run(tmp_path / "runs")
    write(run.root / "report" / "copy.html", run.report.read_bytes())
    commit(lease, run, tmp_path / "staging")
    restore_newest(store, RUN, there)
    write(there / "report" / "copy.html", "changed")
    assert (there / "report" / "index.html").read_bytes() == run.report.read_bytes()


def test_the_ledger_of_scorings_is_joined_with_the_one_that_is_there(store, two, there):
    ledger = there.parent / "trials.jsonl"
    write(ledger, '{"cache_key":"own"}\n{"cache_key":"torn')
    for _ in range(2):
        restore(store, RUN, two[1], there)
    assert ledger.read_text() == '{"cache_key":"own"}\n{"cache_key":"torn\n{"cache_key":"a"}\n'


def test_a_restore_that_is_not_for_a_runs_directory_leaves_the_ledger_alone(store, two, there):
    restore(store, RUN, two[1], there, ledger=False)
    assert [path.name for path in there.parent.iterdir()] == [RUN]


# -- hostile content


@pytest.mark.parametrize("place", ["logs", "logs/ppo", "logs/ppo/seed-0.log"])
def test_nothing_is_written_through_or_over_a_symbolic_link(store, two, there, tmp_path, place):
    outside = tmp_path / "outside"
    write(outside / "seed-0.log" if place == "logs/ppo" else outside / "x", "mine")
    (there / place).parent.mkdir(parents=True)
    (there / place).symlink_to(outside / "x" if place.endswith(".log") else outside)
    before = tree(outside)
    with pytest.raises(StoreError, match="is a symbolic link"):
        restore(store, RUN, two[1], there)
    assert tree(outside) == before and not (there / "run.json").exists()


@pytest.mark.parametrize("name", [".restore", "../trials.jsonl"])
def test_the_other_places_that_are_written_may_be_no_links_either(store, two, there, tmp_path, name):
    there.mkdir(parents=True)
    write(tmp_path / "outside" / "x", "mine")
    (there / name).symlink_to(tmp_path / "outside" / ("x" if name.endswith("jsonl") else ""))
    with pytest.raises(StoreError, match="is a symbolic link"):
        restore(store, RUN, two[1], there)
    assert tree(tmp_path / "outside") == {"x": b"mine"}


def test_a_directory_in_the_place_of_a_file_is_refused(store, two, there):
    (there / "run.json").mkdir(parents=True)
    with pytest.raises(StoreError, match="in the way"):
        restore(store, RUN, two[1], there)


def forged(store: FileStore, snapshot: Snapshot, **changes: object) -> None:
    """Replace a record by one that is sound but for what it says."""
    value = snapshot.model_dump(mode="json") | changes
    store.put(snapshot_key(RUN, snapshot.id), json.dumps(value | {"sha256": digest(value)}).encode())


@pytest.mark.parametrize("path", ["../escaped", "/tmp/escaped", "logs/../../escaped", "lock", ".git/config", "a\\b"])
def test_a_record_that_names_a_path_outside_is_refused(store, two, path):
    files = {path: two[0].files[PLAIN].model_dump()}
    forged(store, two[0], files=files)
    with pytest.raises(DamagedError, match="is damaged: path"):
        read_snapshot(store, RUN, two[0].id)


@pytest.mark.parametrize("key", ["../../other-run/HEAD.json", "HEAD.json", "blobs/1/x", "blobs/00000001/" + "0" * 64])
def test_a_record_that_names_another_object_than_its_content_is_refused(store, two, key):
    file = two[0].files[PLAIN].model_dump()
    file["blobs"][0]["key"] = key
    forged(store, two[0], files={PLAIN: file})
    with pytest.raises(DamagedError, match="blob key"):
        read_snapshot(store, RUN, two[0].id)


@pytest.mark.parametrize("changes", [{"run_id": "other"}, {"id": "00000009-00000001"}, {"files": 3}, {"extra": 1}])
def test_a_record_that_is_of_something_else_is_refused(store, two, changes):
    forged(store, two[0], **changes)
    with pytest.raises(DamagedError):
        read_snapshot(store, RUN, two[0].id)


def test_a_record_of_a_newer_version_is_refused_and_left_alone(store, lease, two, there):
    forged(store, two[1], format=2)
    body = store.get(snapshot_key(RUN, two[1].id))[0]
    with pytest.raises(StoreError, match="newer version"):
        read_snapshot(store, RUN, two[1].id)
    assert store.get(snapshot_key(RUN, two[1].id))[0] == body


def test_a_content_that_unpacks_to_more_than_it_says_is_not_unpacked_further(store, lease, tmp_path, there):
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(200_000_000))
    blob = Blob(key=f"blobs/00000001/{'0' * 64}.zst", sha256="0" * 64, size_bytes=10, stored_bytes=len(bomb))
    store.put(f"{RUN}/{blob.key}", bomb)
    files = {PLAIN: File(sha256="0" * 64, size_bytes=10, blobs=(blob,))}
    with pytest.raises(DamagedError, match="more than its 10 bytes"):
        restore(store, RUN, lease.new_snapshot(files, "a bomb", NOTHING), there)
    left = sum(path.stat().st_size for path in there.rglob("*") if path.is_file())
    assert left < 10_000_000


def test_records_are_json_and_nothing_else(two):
    assert json.loads(encode(two[1]))["files"].keys() == two[1].files.keys()


# -- looking


def test_a_run_that_is_not_there_is_said_with_those_that_are(store, two, there):
    with pytest.raises(ConfigError, match=RUN):
        restore_newest(store, "other", there)


def test_a_run_without_a_snapshot_yet_gives_none(store, lease, there):
    assert restore_newest(store, RUN, there, lease) == (None, [])


def test_verify_finds_every_fault_and_moves_nothing(store, two):
    clean = verify(store, RUN)
    assert clean.faults == {} and [*clean.snapshots] == [two[1].id, two[0].id]
    store.put(key_of(two[1], PACKED), b"damaged")
    store.delete(key_of(two[0], PACKED))
    store.put(head_key(RUN), b"")
    before = [stat.key for stat in store.list()]
    found = verify(store, RUN)
    assert found.faults.keys() == {two[1].id, two[0].id, "HEAD"}
    assert "is damaged" in found.faults[two[1].id][0] and "is missing" in found.faults[two[0].id][0]
    assert [stat.key for stat in store.list()] == before


def test_verify_fetches_each_content_once(store, two):
    verify(store, RUN)
    assert len(store.fetched) == len(set(store.fetched)) == verify(store, RUN).blobs


def test_many_may_restore_at_once(store, two, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        roots = [tmp_path / str(number) / RUN for number in range(4)]
        list(pool.map(lambda root: restore_newest(store, RUN, root), roots))
    assert all(tree(root) == tree(roots[0]) for root in roots) and tree(roots[0])
