"""One owner at a time, and no harm by one that does not know it has lost the run."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from configs.errors import ExitCode, FencedError, StoreError
from configs.files import digest
from runner.guard import OwnedByAnotherError
from runner.store.file import FileStore
from runner.store.layout import HEAD_FORMAT, Spent, head_key, split_id
from runner.store.lease import DamagedHeadError, acquire, owner_facts, read_head, store_time
from runner.store.open import open_store
from runner.store.records import snapshot_ids
from runner.store.retention import Retention
from runner.store.verify import verify
from tests.runner.store.runs import (
    NOTHING,
    RUN,
    IgnoresConditions,
    LosesReplies,
    ServerClock,
    commit,
    make_run,
    owner,
    upload,
)

LEASE_S = 60.0


@pytest.fixture
def store(tmp_path) -> ServerClock:
    return ServerClock(tmp_path / "store")


def test_the_first_to_come_owns_a_new_run_and_the_next_is_told_who_and_until_when(store):
    lease = acquire(store, RUN, owner("one", pid=41), LEASE_S)
    store.now_t += 20
    with pytest.raises(
        OwnedByAnotherError, match=r"pid 41 on host-one .*renewed 20 s ago.*in 41 s.*--take-over"
    ) as told:
        acquire(store, RUN, owner("two"), LEASE_S)
    assert told.value.exit_code == ExitCode.OWNED_BY_ANOTHER == 76
    assert lease.epoch == 1 and read_head(store, RUN).owner.token == "one"


def test_of_many_that_start_a_run_at_once_one_owns_it(tmp_path):
    def start(number: int) -> int:
        barrier.wait()
        try:
            return acquire(FileStore(tmp_path), RUN, owner(str(number)), LEASE_S).epoch
        except OwnedByAnotherError:
            return 0

    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(start, range(8))) == [0] * 7 + [1]


def test_of_many_that_take_a_run_over_at_once_one_owns_it(tmp_path):
    def take(number: int) -> int:
        barrier.wait()
        try:
            return acquire(FileStore(tmp_path), RUN, owner(str(number)), LEASE_S, take_over=True).epoch
        except OwnedByAnotherError:
            return 0

    acquire(FileStore(tmp_path), RUN, owner("old"), LEASE_S)
    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        epochs = [epoch for epoch in pool.map(take, range(4)) if epoch]
    # one that came later may have found the new owner and was allowed to take over from it: never two in one epoch
    assert len(epochs) == len(set(epochs)) and read_head(FileStore(tmp_path), RUN).epoch == max(epochs)


def test_a_released_run_is_anyones(store):
    acquire(store, RUN, owner("one"), LEASE_S).release(Spent(wall_s=7, cost_usd=2))
    lease = acquire(store, RUN, owner("two"), LEASE_S)
    assert lease.epoch == 2 and not lease.head.released
    assert lease.head.spent == Spent(wall_s=7, cost_usd=2)


@pytest.mark.parametrize("server_t", [0.0, 4e9], ids=["1970", "2096"])
def test_a_silent_owner_is_replaced_by_the_clock_of_the_store_whatever_the_local_one_says(tmp_path, server_t):
    store = ServerClock(tmp_path, server_t)
    acquire(store, RUN, owner("one"), LEASE_S)
    with pytest.raises(OwnedByAnotherError):
        acquire(store, RUN, owner("two"), LEASE_S)
    store.now_t += LEASE_S + 2
    assert acquire(store, RUN, owner("two"), LEASE_S).epoch == 2


def test_the_owner_is_measured_by_its_own_lease_not_by_that_of_the_newcomer(store):
    acquire(store, RUN, owner("one"), 600)
    store.now_t += 100
    with pytest.raises(OwnedByAnotherError, match="501 s"):
        acquire(store, RUN, owner("two"), lease_s=5)


def test_an_owner_that_renews_keeps_the_run_for_ever(store):
    lease = acquire(store, RUN, owner("one"), LEASE_S)
    for _ in range(5):
        store.now_t += LEASE_S - 1
        lease.renew(NOTHING)
    with pytest.raises(OwnedByAnotherError):
        acquire(store, RUN, owner("two"), LEASE_S)


def test_the_clock_probe_leaves_nothing_behind(store):
    assert store_time(store, RUN) == store.now_t and not list(store.list())


def test_the_same_place_comes_back_at_once_after_its_process_has_died(store):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    acquire(store, RUN, owner("one", "pod x", ended.pid), LEASE_S)
    with pytest.raises(OwnedByAnotherError):
        acquire(store, RUN, owner("two", "pod y"), LEASE_S)
    assert acquire(store, RUN, owner("two", "pod x"), LEASE_S).epoch == 2


def test_a_pid_that_another_process_has_by_now_counts_as_dead_and_a_living_owner_does_not(store):
    me = owner_facts()
    acquire(store, RUN, me.model_copy(update={"token": "one", "started_s": me.started_s - 1_000}), LEASE_S)
    acquire(store, RUN, me.model_copy(update={"token": "two"}), LEASE_S)
    with pytest.raises(OwnedByAnotherError):
        acquire(store, RUN, me.model_copy(update={"token": "three"}), LEASE_S)


def test_starts_that_keep_nothing_are_counted_and_those_that_end_in_order_are_not(store, tmp_path):
    for number in (1, 2, 3):
        lease = acquire(store, RUN, owner(f"start {number}", place="the pod"), LEASE_S)
        lease.renew(NOTHING)
        assert read_head(store, RUN).unkept_starts == number
    lease.release(NOTHING)
    assert read_head(store, RUN).unkept_starts == 2, "it refused, or was stopped"
    lease = acquire(store, RUN, owner("next"), LEASE_S)
    commit(lease, make_run(tmp_path / "runs"), tmp_path / "staging")
    assert read_head(store, RUN).unkept_starts == 0
    lease.release(NOTHING)
    assert acquire(store, RUN, owner("last"), LEASE_S).head.unkept_starts == 1


def test_a_head_of_the_former_format_is_read_and_written_in_this_one(store):
    acquire(store, RUN, owner(), LEASE_S).release(NOTHING)
    former = json.loads(store.get(head_key(RUN))[0]) | {"format": 1}
    del former["unkept_starts"], former["sha256"]
    store.put(head_key(RUN), json.dumps(former | {"sha256": digest(former)}).encode())
    assert read_head(store, RUN).unkept_starts == 0
    head = acquire(store, RUN, owner("new"), LEASE_S).head
    assert (head.format, head.epoch, head.unkept_starts) == (HEAD_FORMAT, 2, 1)


def test_who_lost_the_run_can_neither_renew_nor_commit_nor_release(store, tmp_path):
    run, staging = make_run(tmp_path / "runs"), tmp_path / "staging"
    old = acquire(store, RUN, owner("old"), LEASE_S)
    first = commit(old, run, staging)
    new = acquire(store, RUN, owner("new"), LEASE_S, take_over=True)
    head = store.get(head_key(RUN))[0]
    snapshot = old.new_snapshot(upload(old, run, staging).files, "too late", NOTHING)
    for act in (old.renew, lambda spent: old.commit(snapshot, spent), old.release):
        with pytest.raises(FencedError, match=r"taken over by .*host-new.*epoch 2 \(ours was 1\).*intact"):
            act(NOTHING)
    assert store.get(head_key(RUN))[0] == head and new.head.snapshot == first.id


def test_who_lost_the_run_while_it_was_sending_harms_nothing_and_what_it_sent_is_removed(store, tmp_path):
    run, staging = make_run(tmp_path / "runs"), tmp_path / "staging"
    old = acquire(store, RUN, owner("old"), LEASE_S)
    first = commit(old, run, staging)
    run.report.write_text("what the old owner made after it had lost the run")
    new = acquire(store, RUN, owner("new"), LEASE_S, take_over=True)
    late = old.new_snapshot(upload(old, run, staging).files, "too late", NOTHING)
    with pytest.raises(FencedError):
        old.commit(late, NOTHING)  # by now its record lies in the store
    assert late.id in snapshot_ids(store, RUN)
    with pytest.raises(FencedError):
        Retention(old, 2, 1).collect()
    run.report.write_text("what the new owner made")
    second = commit(new, run, staging)
    assert [*verify(store, RUN).snapshots] == [second.id, first.id] and not verify(store, RUN).faults
    Retention(new, 5, 1).collect()
    assert snapshot_ids(store, RUN) == [first.id, second.id]


def test_a_write_whose_answer_was_lost_is_recognised_as_our_own(tmp_path):
    store = LosesReplies(tmp_path)
    lease = acquire(store, RUN, owner(), LEASE_S)
    store.losing = True
    with pytest.raises(StoreError):
        lease.renew(Spent(wall_s=5))
    store.losing = False
    lease.renew(Spent(wall_s=6))
    assert read_head(store, RUN).spent.wall_s == 6


def test_a_commit_whose_answer_was_lost_is_found_by_the_next_write(tmp_path):
    store = LosesReplies(tmp_path)
    lease = acquire(store, RUN, owner(), LEASE_S)
    snapshot = lease.new_snapshot({}, "first", NOTHING)
    store.losing = True
    with pytest.raises(StoreError):
        lease.commit(snapshot, NOTHING)
    store.losing = False
    lease.renew(NOTHING)
    assert lease.head.snapshot == read_head(store, RUN).snapshot == snapshot.id


class ActsFirst(FileStore):
    """Lets somebody else act just before the first replacement."""

    def __init__(self, root: Path, act: Callable[[], object]) -> None:
        super().__init__(root)
        self._act: list[Callable[[], object]] = [act]

    def replace_if_match(self, key: str, body: bytes, tag: str) -> str:
        while self._act:
            self._act.pop()()
        return super().replace_if_match(key, body, tag)


def test_a_take_over_succeeds_although_the_owner_renews_in_that_very_moment(tmp_path):
    old = acquire(FileStore(tmp_path), RUN, owner("old"), LEASE_S)
    store = ActsFirst(tmp_path, lambda: old.renew(NOTHING))
    assert acquire(store, RUN, owner("new"), LEASE_S, take_over=True).epoch == 2


def test_a_take_over_is_not_meant_for_another_that_was_faster(tmp_path):
    acquire(FileStore(tmp_path), RUN, owner("old"), LEASE_S)
    faster = lambda: acquire(FileStore(tmp_path), RUN, owner("faster"), LEASE_S, take_over=True)  # noqa: E731
    with pytest.raises(OwnedByAnotherError, match="host-faster"):
        acquire(ActsFirst(tmp_path, faster), RUN, owner("new"), LEASE_S, take_over=True)


def test_a_server_without_conditions_is_fooled_at_most_for_an_instant(tmp_path):
    store = IgnoresConditions(tmp_path)
    old = acquire(store, RUN, owner("old"), LEASE_S)
    acquire(store, RUN, owner("new"), LEASE_S, take_over=True)
    with pytest.raises(FencedError):
        old.renew(NOTHING)
    assert read_head(store, RUN).owner.token == "new"


def test_many_threads_may_use_one_lease(tmp_path):
    lease = acquire(FileStore(tmp_path), RUN, owner(), LEASE_S)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda wall_s: lease.renew(Spent(wall_s=wall_s)), range(40)))
        names = [one.id for one in pool.map(lambda _: lease.new_snapshot({}, "", NOTHING), range(20))]
    assert read_head(FileStore(tmp_path), RUN).renewals == 40 and len(set(names)) == 20


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"format": 1}', b"\xff\xfe"])
def test_a_damaged_head_is_put_aside_and_the_run_goes_on_from_its_newest_snapshot(store, tmp_path, body):
    before = acquire(store, RUN, owner("one"), LEASE_S)
    first = commit(before, make_run(tmp_path / "runs"), tmp_path / "staging")
    store.put(head_key(RUN), body)
    with pytest.raises(DamagedHeadError):
        read_head(store, RUN)
    with pytest.raises(OwnedByAnotherError, match="may be alive"):
        acquire(store, RUN, owner("two"), LEASE_S)
    store.now_t += LEASE_S + 2
    lease = acquire(store, RUN, owner("two"), LEASE_S)
    assert lease.head.snapshot == first.id and lease.epoch > 100 and "quarantine" in lease.notices[0]
    assert store.get(f"{RUN}/quarantine/HEAD.json")[0] == body
    assert split_id(lease.new_snapshot({}, "", NOTHING).id)[0] == 2


def test_a_flipped_bit_in_head_is_noticed(store):
    acquire(store, RUN, owner("one"), LEASE_S)
    body = store.get(head_key(RUN))[0].replace(b'"epoch": 1', b'"epoch": 2')
    store.put(head_key(RUN), body)
    with pytest.raises(DamagedHeadError, match="digest"):
        read_head(store, RUN)


def test_a_lost_head_is_written_anew_far_above_every_epoch_that_is_seen(store, tmp_path):
    commit(acquire(store, RUN, owner("one"), LEASE_S), make_run(tmp_path / "runs"), tmp_path / "staging")
    store.delete(head_key(RUN))
    lease = acquire(store, RUN, owner("two"), LEASE_S)
    assert lease.epoch > 100 and lease.head.snapshot == "00000001-00000001" and "missing" in lease.notices[0]


def test_a_head_of_a_newer_version_is_left_alone(store):
    acquire(store, RUN, owner("one"), LEASE_S).release(NOTHING)
    newer = json.dumps(json.loads(store.get(head_key(RUN))[0]) | {"format": 3, "unheard": "of"}).encode()
    store.put(head_key(RUN), newer)
    with pytest.raises(StoreError, match=r"newer version .*format 3, known up to 2"):
        acquire(store, RUN, owner("two"), LEASE_S, take_over=True)
    assert store.get(head_key(RUN))[0] == newer


def test_a_head_that_is_removed_under_its_owner_ends_its_commits_with_74(store):
    lease = acquire(store, RUN, owner("one"), LEASE_S)
    store.delete(head_key(RUN))
    with pytest.raises(StoreError, match="removed while this runner owned") as told:
        lease.renew(NOTHING)
    assert told.value.exit_code == ExitCode.STORE_DAMAGED


def test_the_place_is_the_pod_where_there_is_one(monkeypatch):
    monkeypatch.setenv("RUNPOD_POD_ID", "abc")
    assert owner_facts().place == "pod abc"
    monkeypatch.delenv("RUNPOD_POD_ID")
    assert owner_facts().place == owner_facts().place != "pod abc"


OLD_OWNER = """
import sys
from configs.errors import ProjectError
from runner.store.lease import acquire, owner_facts
from runner.store.layout import Spent
from runner.store.open import open_store

lease = acquire(open_store(sys.argv[1]), sys.argv[2], owner_facts(), 60)
try:
    while True:
        lease.commit(lease.new_snapshot({}, "old", Spent()), Spent())
        print("committed", flush=True)
        sys.stdin.readline()
except ProjectError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def paused_owner_is_fenced(url: str) -> None:
    """SIGSTOP, take-over, SIGCONT, with real processes."""
    root, pipe = Path(__file__).parents[3], subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", OLD_OWNER, url, RUN], stdin=pipe, stdout=pipe, text=True, cwd=root
    ) as old:
        try:
            assert old.stdout.readline() == "committed\n"
            old.send_signal(signal.SIGSTOP)
            store = open_store(url)
            with pytest.raises(OwnedByAnotherError):
                acquire(store, RUN, owner_facts(), LEASE_S)  # it lives, although it stands still
            new = acquire(store, RUN, owner_facts(), LEASE_S, take_over=True)
            ours = new.new_snapshot({}, "new", NOTHING)
            new.commit(ours, NOTHING)
            old.send_signal(signal.SIGCONT)
            said, _ = old.communicate("go on\n", timeout=120)
        finally:
            old.kill()
    assert old.returncode == ExitCode.OWNED_BY_ANOTHER and "taken over by" in said
    assert read_head(store, RUN).snapshot == ours.id
    new.renew(NOTHING)


@pytest.mark.slow
def test_a_stopped_owner_that_wakes_up_after_a_take_over_ends_with_76_on_a_directory(tmp_path):
    paused_owner_is_fenced(f"file://{tmp_path}/store")


@pytest.mark.slow
def test_a_stopped_owner_that_wakes_up_after_a_take_over_ends_with_76_on_s3(seaweed, monkeypatch):
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    paused_owner_is_fenced(seaweed.store_url())
