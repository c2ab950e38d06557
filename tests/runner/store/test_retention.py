"""What is removed is never what somebody needs: not the newest snapshot, not the best, nothing of a new owner."""

import random
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError, FencedError, StoreError
from configs.run_dir import RunDir
from runner.store.file import FileStore
from runner.store.layout import Snapshot, snapshot_id, snapshot_key
from runner.store.lease import acquire, read_head
from runner.store.records import DamagedError, snapshot_ids
from runner.store.restore import restore_newest
from runner.store.retention import Retention, kept_ids, roll_back
from runner.store.verify import verify
from tests.runner.store.runs import NOTHING, RUN, PausesAtDelete, commit, make_run, owner, tree, upload, write


def numbered(scores: list[float | None]) -> list[Snapshot]:
    """Snapshots 1, 2, ... with these scores, newest first."""
    made = [
        Snapshot(run_id=RUN, id=snapshot_id(number, 1), created_t=number, reason="", score=score, files={})
        for number, score in enumerate(scores, 1)
    ]
    return made[::-1]


def kept(scores: list[float | None], last: int, every: int) -> list[int]:
    return sorted(int(name[:8]) for name in kept_ids(numbered(scores), last, every))


def test_the_newest_every_kth_and_the_first_best_are_kept():
    scores = [0.1, 0.5, 0.9, 0.2, 0.9, 0.3, None, 0.4, 0.1, 0.0]
    assert kept(scores, last=2, every=4) == [3, 4, 8, 9, 10]
    assert kept(scores, last=3, every=100) == [3, 8, 9, 10]
    assert kept([None] * 6, last=2, every=100) == [5, 6]


def test_never_fewer_than_two_are_kept_whatever_is_asked():
    assert kept([None] * 5, last=0, every=100) == [4, 5]
    assert kept([None], last=0, every=100) == [1] and kept([], last=3, every=1) == []


@pytest.fixture
def run(tmp_path) -> RunDir:
    return make_run(tmp_path / "runs")


def test_what_no_kept_snapshot_names_is_removed_and_the_rest_stays_whole(run, tmp_path):
    store, staging = FileStore(tmp_path / "store"), tmp_path / "staging"
    lease = acquire(store, RUN, owner(), 60)
    for number in range(6):
        write(run.report, f"report {number}")
        commit(lease, run, staging, score=-number)
    upload_of_nobody = f"{RUN}/blobs/00000001/{'0' * 64}"
    store.put(upload_of_nobody, b"an upload that was never committed")
    before = {stat.key for stat in store.list()}
    would = Retention(lease, 2, 100).collect(dry_run=True)
    assert {stat.key for stat in store.list()} == before
    done = Retention(lease, 2, 100).collect()
    assert (done.removed, done.removed_blobs) == (would.removed, would.removed_blobs) and done.removed_blobs == 4
    assert (
        [name[:8] for name in done.kept]
        == ["00000001", "00000005", "00000006"]
        == [name[:8] for name in snapshot_ids(store, RUN)]
    )
    assert upload_of_nobody not in {stat.key for stat in store.list()} and not verify(store, RUN).faults


def test_a_damaged_older_record_is_put_aside_and_a_damaged_newest_one_stops_everything(run, tmp_path):
    store, lease = FileStore(tmp_path / "store"), acquire(FileStore(tmp_path / "store"), RUN, owner(), 60)
    for number in range(3):
        write(run.report, f"report {number}")
        commit(lease, run, tmp_path / "staging")
    store.put(snapshot_key(RUN, "00000002-00000001"), b"{}")
    found = Retention(lease, 5, 1).collect()
    assert "00000002-00000001" not in found.kept and "quarantine" in " ".join(found.notices)
    before = {stat.key for stat in store.list()}
    for harm in (lambda key: store.put(key, b"{}"), store.delete):
        harm(snapshot_key(RUN, "00000003-00000001"))
        with pytest.raises(DamagedError):
            Retention(lease, 2, 100).collect()
    assert before - {stat.key for stat in store.list()} == {snapshot_key(RUN, "00000003-00000001")}


def test_a_record_of_a_newer_version_is_not_removed(run, tmp_path):
    import json

    store = FileStore(tmp_path / "store")
    lease = acquire(store, RUN, owner(), 60)
    for _ in range(4):
        commit(lease, run, tmp_path / "staging")
    key = snapshot_key(RUN, "00000001-00000001")
    store.put(key, json.dumps(json.loads(store.get(key)[0]) | {"format": 2}).encode())
    with pytest.raises(StoreError, match="newer version"):
        Retention(lease, 2, 100).collect()
    assert len(snapshot_ids(store, RUN)) == 4


def test_an_owner_that_stood_still_while_it_removed_takes_nothing_from_the_next(run, tmp_path):
    """It is paused after it has decided what to remove, before it removes anything."""
    slow, store, staging = PausesAtDelete(tmp_path / "store"), FileStore(tmp_path / "store"), tmp_path / "staging"
    old = acquire(slow, RUN, owner("old"), 60)
    for number in range(5):
        write(run.report, f"report {number}")
        commit(old, run, staging)
    collector = threading.Thread(target=Retention(old, 2, 100).collect)
    collector.start()
    try:
        assert slow.paused.wait(60)
        new = acquire(store, RUN, owner("new"), 60, take_over=True)
        newest, notices = restore_newest(store, RUN, tmp_path / "other" / RUN, new)
        there = RunDir(tmp_path / "other" / RUN)
        back = roll_back(new, "00000001-00000001")  # one that the old owner is about to remove
        write(there.report, "report 0")  # a content that the old owner is about to remove
        commit(new, there, staging)
    finally:
        slow.go_on.set()
        collector.join()
    assert notices == [] and newest.id == "00000005-00000001"
    faults = verify(store, RUN).faults
    assert back.id not in faults and read_head(store, RUN).snapshot not in faults
    assert newest.id not in faults


def test_a_rollback_makes_the_old_content_the_newest_and_forgets_nothing(run, tmp_path):
    store, staging = FileStore(tmp_path / "store"), tmp_path / "staging"
    lease = acquire(store, RUN, owner(), 60)
    first = commit(lease, run, staging, score=0.5)
    before = tree(run.root)
    write(run.report, "a report that was a mistake")
    second = commit(lease, run, staging)
    lease.release(NOTHING)
    with_lease = acquire(store, RUN, owner("two"), 60)
    back = roll_back(with_lease, first.id)
    assert (back.parent, back.score) == (second.id, first.score) and first.id in back.reason
    assert {path: file.sha256 for path, file in back.files.items()} == {
        path: file.sha256 for path, file in first.files.items()
    }
    restore_newest(store, RUN, tmp_path / "there" / RUN)
    restored = tree(tmp_path / "there" / RUN)
    assert restored == {path: before[path] for path in restored} and restored.keys() == first.files.keys() - {
        "trials.jsonl"
    }
    assert [*verify(store, RUN).snapshots] == [back.id, second.id, first.id]


def test_a_rollback_to_what_is_not_there_or_damaged_changes_nothing(run, tmp_path):
    store, staging = FileStore(tmp_path / "store"), tmp_path / "staging"
    lease = acquire(store, RUN, owner(), 60)
    first = commit(lease, run, staging)
    write(run.report, "second")
    second = commit(lease, run, staging)
    with pytest.raises(ConfigError, match=f"it has {second.id}, {first.id}"):
        roll_back(lease, "00000009-00000001")
    store.delete(f"{RUN}/{first.files['report/index.html'].blobs[0].key}")
    with pytest.raises(DamagedError):
        roll_back(lease, first.id)
    assert read_head(store, RUN).snapshot == second.id


ACTS = st.lists(st.sampled_from(["commit", "commit", "collect", "take over", "roll back", "late"]), max_size=12)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=ACTS, last=st.integers(2, 3), every=st.integers(1, 4), seed=st.integers(0, 99))
def test_in_no_history_is_anything_removed_that_head_needs(tmp_path_factory, acts, last, every, seed):
    """Commits of a few recurring contents, removals, take-overs, rollbacks, and a former owner that goes on."""
    folder, chance = tmp_path_factory.mktemp("history"), random.Random(seed)
    store, run, staging = FileStore(folder / "store"), RunDir(folder / "runs" / RUN), folder / "staging"
    write(run.run_json, "{}")
    write(run.log_path("prepare"), "")
    lease, former = acquire(store, RUN, owner("0"), 60), None
    for number, act in enumerate(acts, 1):
        if act == "commit":
            write(run.report, f"report {chance.randrange(3)}")
            with run.log_path("prepare").open("a") as log:
                log.write("a line\n")
            commit(lease, run, staging, score=chance.choice([None, 0.1, 0.2]))
        elif act == "collect":
            Retention(lease, last, every).collect()
        elif act == "take over":
            former, lease = lease, acquire(store, RUN, owner(str(number)), 60, take_over=True)
        elif act == "roll back" and (known := [*verify(store, RUN).snapshots]):
            roll_back(lease, chance.choice(known))
        elif act == "late" and former:
            late = former.new_snapshot(upload(former, run, staging).files, "late", NOTHING)
            with pytest.raises(FencedError):
                former.commit(late, NOTHING)
            with pytest.raises(FencedError):
                Retention(former, 2, 100).collect()
        found = verify(store, RUN)
        assert not found.faults and len(found.snapshots) >= min(2, acts[:number].count("commit"))
        assert next(iter(found.snapshots), "") == read_head(store, RUN).snapshot
