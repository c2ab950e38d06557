"""What a cut takes, what of it is sent, and that a reader sees a whole snapshot or the one before."""

import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.run_dir import RunDir
from runner.store.cut import take_cut
from runner.store.file import FileStore
from runner.store.layout import Head, blob_key
from runner.store.lease import acquire, read_head
from runner.store.open import open_store
from runner.store.records import check_path, check_paths, committed_ids
from runner.store.restore import restore_newest
from runner.store.snapshots import newest_snapshot, read_snapshot
from runner.store.upload import MAX_BLOBS, UploadCancelledError, Uploader
from tests.runner.store.runs import (
    NOTHING,
    RUN,
    Counting,
    commit,
    make_run,
    newest_of,
    owner,
    save_result,
    tree,
    upload,
    write,
    write_checkpoint,
)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs")


@pytest.fixture
def staging(tmp_path) -> Path:
    return tmp_path / "staging"


@pytest.fixture
def store(tmp_path) -> Counting:
    return Counting(tmp_path / "store")


@pytest.fixture
def lease(store):
    return acquire(store, RUN, owner(), 60)


def names(run, staging) -> set[str]:
    with take_cut(run, staging) as cut:
        return set(cut.files)


# -- the cut


def test_a_cut_has_all_of_a_run_but_what_a_unit_in_work_has_not_finished(run, staging):
    write(run.root / "lock", "")
    write(run.root / "store.json", "{}")
    write(run.root / "notes.txt", "not ours")
    expected = {path for path in tree(run.root) if path not in ("lock", "store.json", "notes.txt")}
    expected -= {"stages/ppo/seed-0/history.json"}
    assert names(run, staging) == expected | {"trials.jsonl"}
    assert not list(staging.iterdir())


@pytest.mark.parametrize("harm", ["missing", "shorter", "link", "in a linked directory"])
def test_a_unit_whose_outputs_are_not_what_its_result_says_is_taken_as_undone(run, staging, harm):
    folder = run.unit_dir("prepare")
    bars, plots = folder / "bars.parquet", folder / "plots"
    if harm == "in a linked directory":
        shutil.move(plots, folder.parent / "elsewhere")
        plots.symlink_to(folder.parent / "elsewhere")
    else:
        content = bars.read_bytes()
        bars.unlink()
        if harm == "shorter":
            bars.write_bytes(content[:-1])
        elif harm == "link":
            write(folder.parent / "elsewhere", content)
            bars.symlink_to(folder.parent / "elsewhere")
    assert {name for name in names(run, staging) if "prepare" in name} == {"stages/prepare/unit.json"}


def test_the_tensorboard_of_a_finished_unit_is_kept_and_its_checkpoints_are_not(run, staging):
    folder = run.unit_dir("ppo/seed-0")
    kept = folder / "policy.safetensors"
    write(kept, "weights")
    shutil.move(folder / "checkpoints", folder.parent / "aside")
    shutil.move(folder / "tensorboard", folder.parent / "aside-too")
    save_result(run, "ppo/seed-0")
    shutil.move(folder.parent / "aside", folder / "checkpoints")
    shutil.move(folder.parent / "aside-too", folder / "tensorboard")
    taken = {name.removeprefix("stages/ppo/seed-0/") for name in names(run, staging) if "seed-0/" in name}
    assert taken == {"unit.json", "result.json", "policy.safetensors", "history.json", "tensorboard/events.out"}


def test_no_torn_line_is_taken(run, staging):
    log = run.log_path("ppo/seed-0")
    write(log, "one\ntwo\nthr")
    write(run.events / "torn.jsonl", "no line feed at all")
    write(run.events / "long.jsonl", b"x" * 200_000 + b"\n" + b"y" * 200_000)
    with take_cut(run, staging) as cut:
        assert cut.files["logs/ppo/seed-0.log"].size_bytes == len("one\ntwo\n")
        assert cut.files["events/torn.jsonl"].size_bytes == 0
        assert cut.files["events/long.jsonl"].size_bytes == 200_001


def test_links_special_files_and_odd_names_are_left_out_and_named(run, staging, tmp_path):
    write(tmp_path / "secret", "not yours")
    run.config_yaml.unlink()
    run.config_yaml.symlink_to(tmp_path / "secret")
    (run.logs / "evil.log").symlink_to(tmp_path / "secret")
    (run.root / "report" / "more").symlink_to(tmp_path)
    os.mkfifo(run.root / "report" / "pipe")
    write(run.root / "report" / "two\nlines", "x")
    with take_cut(run, staging) as cut:
        odd = {"config.yaml", "logs/evil.log", "report/more", "report/pipe", "report/two\nlines"}
        assert set(cut.left_out) == odd and not odd & set(cut.files)


def test_a_directory_that_is_a_link_is_not_followed(run, staging):
    shutil.move(run.stages, run.root.parent / "elsewhere")
    run.stages.symlink_to(run.root.parent / "elsewhere")
    with take_cut(run, staging) as cut:
        assert cut.left_out == ["stages"] and not [name for name in cut.files if name.startswith("stages")]


def test_a_cut_does_not_change_when_the_run_does(run, staging):
    checkpoint = "stages/ppo/seed-0/checkpoints/100/manifest.json"
    with take_cut(run, staging) as cut:
        shutil.rmtree(run.stages)
        run.config_yaml.unlink()
        with run.log_path("ppo/seed-0").open("a") as log:
            log.write("more\n")
        assert cut.files[checkpoint].path.read_text() == "manifest.json of step 100\n"
        taken = cut.files["logs/ppo/seed-0.log"]
        assert taken.path.read_bytes()[: taken.size_bytes] == b"started\n"


def test_checkpoints_that_come_and_go_are_in_a_cut_whole_or_not_at_all(run, staging):
    unit, ended = run.unit_dir("ppo/seed-0"), threading.Event()

    def train() -> None:
        for step in range(300, 2_000, 100):
            write_checkpoint(unit, step)
        while not ended.is_set():
            step += 100
            write_checkpoint(unit, step)
            old = unit / "checkpoints" / str(step - 1_900)
            old.rename(old.with_name(f".{old.name}.old"))
            shutil.rmtree(old.with_name(f".{old.name}.old"))

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        for _ in range(60):
            with take_cut(run, staging) as cut:
                taken = {name: cut.files[name].path.read_text() for name in cut.files if "/checkpoints/" in name}
            steps = {name.split("/")[-2] for name in taken}
            assert steps, "a newer checkpoint lay beside each that went"
            for step in steps:
                for part in ("state.safetensors", "manifest.json"):
                    assert taken[f"stages/ppo/seed-0/checkpoints/{step}/{part}"] == f"{part} of step {step}\n"
    finally:
        ended.set()
        trainer.join()


# -- the upload


def test_a_run_comes_back_byte_for_byte_on_an_empty_machine(run, lease, staging, tmp_path):
    commit(lease, run, staging)
    there = tmp_path / "other" / RUN
    snapshot, notices = restore_newest(lease.store, RUN, there)
    expected = tree(run.root)
    del expected["stages/ppo/seed-0/history.json"]  # half written
    assert notices == [] and tree(there) == expected
    assert (there.parent / "trials.jsonl").read_bytes() == (run.root.parent / "trials.jsonl").read_bytes()
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in there.rglob("*") if path.is_file())
    assert snapshot.id == read_head(lease.store, RUN).snapshot


def test_nothing_is_sent_twice(run, lease, staging):
    uploader = Uploader(lease, staging)
    commit(lease, run, staging, uploader)
    again = upload(lease, run, staging, uploader)
    assert (again.sent_blobs, again.sent_bytes) == (0, 0)
    assert again.files == newest_of(lease).files


def test_what_was_sent_before_a_restart_is_not_sent_again(run, lease, staging, store):
    commit(lease, run, staging)
    lease.release(NOTHING)
    after = acquire(store, RUN, owner("two"), 60)
    assert upload(after, run, staging).sent_blobs == 0


def test_equal_contents_are_sent_once(run, lease, staging):
    write(run.root / "report" / "copy.html", run.report.read_bytes())
    sent = upload(lease, run, staging)
    assert sent.sent_blobs == len({file.sha256 for file in sent.files.values()}) < len(sent.files)


def test_of_a_file_that_grows_only_the_tail_is_sent(run, lease, staging, store):
    log, noise = run.log_path("ppo/seed-0"), random.Random(0)
    write(log, noise.randbytes(100_000).hex() + "\n")
    commit(lease, run, staging)
    with log.open("a") as file:
        file.write("and a little more\n")
    grown = upload(lease, run, staging)
    assert grown.sent_blobs == 1 and grown.sent_bytes < 100
    assert [blob.size_bytes for blob in grown.files["logs/ppo/seed-0.log"].blobs] == [200_001, 18]


def test_a_log_that_was_begun_anew_is_sent_anew(run, lease, staging, tmp_path):
    commit(lease, run, staging)
    write(run.log_path("ppo/seed-0"), "another beginning, longer than before\n")
    commit(lease, run, staging)
    restore_newest(lease.store, RUN, tmp_path / "there" / RUN)
    assert (tmp_path / "there" / RUN / "logs/ppo/seed-0.log").read_text() == "another beginning, longer than before\n"


@pytest.mark.slow
def test_a_log_of_many_pieces_is_joined_and_stays_whole(lease, staging, tmp_path):
    run = RunDir(tmp_path / "runs" / RUN)
    uploader, log = Uploader(lease, staging), run.log_path("ppo/seed-0")
    log.parent.mkdir(parents=True)
    most = 0
    for number in range(MAX_BLOBS + 3):
        with log.open("a") as file:
            file.write(f"line {number}\n")
        snapshot = commit(lease, run, staging, uploader)
        most = max(most, len(snapshot.files["logs/ppo/seed-0.log"].blobs))
    assert most == MAX_BLOBS and len(snapshot.files["logs/ppo/seed-0.log"].blobs) < 5
    restore_newest(lease.store, RUN, tmp_path / "there" / RUN)
    assert (tmp_path / "there" / RUN / "logs/ppo/seed-0.log").read_bytes() == log.read_bytes()


def test_contents_are_compressed_only_where_that_pays(run, lease, staging):
    write(run.root / "report" / "text.html", "<p>the same again</p>" * 10_000)
    write(run.root / "report" / "noise.html", random.Random(0).randbytes(200_000))
    files = upload(lease, run, staging).files
    text, noise = files["report/text.html"].blobs[0], files["report/noise.html"].blobs[0]
    assert text.key.endswith(".zst") and text.stored_bytes < text.size_bytes / 50
    assert noise.key == blob_key(noise.sha256, 1, compressed=False) and noise.stored_bytes == noise.size_bytes


def test_a_content_that_the_store_has_lost_is_sent_again_after_a_restart(run, lease, staging, store):
    blob = commit(lease, run, staging).files["run.json"].blobs[0]
    store.delete(f"{RUN}/{blob.key}")
    lease.release(NOTHING)
    sent = upload(acquire(store, RUN, owner("two"), 60), run, staging)
    assert sent.sent_blobs == 1 and sent.files["run.json"].blobs[0].key != blob.key


def test_contents_of_a_snapshot_that_head_did_not_name_at_the_start_are_sent_again(run, lease, staging, store):
    """A former owner may be about to remove them."""
    first = commit(lease, run, staging)
    write(run.report, "changed")
    commit(lease, run, staging)
    new = acquire(store, RUN, owner("two"), 60, take_over=True)
    with take_cut(run, staging) as cut:
        sent = Uploader(new, staging).upload(cut, first)
    assert {blob.key.split("/")[1] for file in sent.files.values() for blob in file.blobs} == {"00000002"}


def test_a_cancelled_upload_ends_and_what_it_sent_counts_for_the_next(run, lease, staging, store):
    class Cancels(threading.Event):
        """Set once three contents have been sent."""

        def is_set(self) -> bool:
            return len(store.sent) >= 3

    uploader = Uploader(lease, staging)
    with take_cut(run, staging) as cut:
        with pytest.raises(UploadCancelledError):
            uploader.upload(cut, None, Cancels())
        sent = len(store.sent)
        assert 3 <= sent < len(cut.files)
        rest = uploader.upload(cut, None)
    assert rest.sent_blobs == len({file.sha256 for file in rest.files.values()}) - sent
    assert not [path for path in staging.iterdir()]


def test_a_file_that_is_cut_short_under_the_upload_spoils_no_snapshot(run, lease, staging):
    from configs.errors import StoreError

    with take_cut(run, staging) as cut:
        os.truncate(run.log_path("ppo/seed-0"), 2)
        with pytest.raises(StoreError, match="became shorter"):
            Uploader(lease, staging).upload(cut, None)


# -- records


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "../x", "logs/../../x", "logs//x", "logs/", "logs", "", ".", "stages/./x", "stages/.hidden/x",
        "report\\x", "logs/a\\..\\b", "logs/a\nb", "logs/\x00", "logs/\u202e", "lock", "store.json", "secret/x",
        "run.json/x", "logs/" + "x" * 201, "logs/" + "x/" * 600 + "x", "logs/\ud800", "Logs/x",
    ],
)  # fmt: skip
def test_a_path_that_could_leave_the_run_or_is_no_part_of_it_is_refused(path):
    with pytest.raises(ValueError):
        check_path(path)


TOPS = st.sampled_from(["logs", "stages", "..", ".", "", "run.json", "/", "events", "~", "report"])
PARTS = st.one_of(TOPS, st.text(max_size=8), st.sampled_from(["a", "..", "\\", "a/b", "..\\", "%2e%2e", "\x00"]))


@given(st.lists(PARTS, min_size=1, max_size=5))
def test_a_path_that_is_taken_stays_below_the_run_directory(parts):
    path = "/".join(parts)
    try:
        check_path(path)
    except ValueError:
        return
    root = "/runs/one"
    joined = os.path.normpath(os.path.join(root, path))
    assert joined == f"{root}/{path}" and "\\" not in path and not any(ord(sign) < 32 for sign in path)


def test_no_file_lies_below_another():
    check_paths(["logs/a", "logs/ab", "logs/b/c"])
    with pytest.raises(ValueError, match="below another file"):
        check_paths(["logs/a", "logs/b", "logs/a/c"])


def test_a_record_that_never_became_heads_is_told_from_those_that_did():
    ids = ["00000001-00000001", "00000002-00000001", "00000003-00000001", "00000003-00000002", "00000009-00000001"]
    head = Head(run_id=RUN, epoch=3, owner=owner(), lease_s=1, snapshot="00000003-00000002")
    assert committed_ids(ids, head) == ["00000003-00000002", "00000002-00000001", "00000001-00000001"]
    assert committed_ids(ids, None) == ["00000003-00000002", "00000002-00000001", "00000001-00000001"]
    earlier = head.model_copy(update={"snapshot": "00000002-00000001"})
    assert committed_ids(ids, earlier) == ["00000002-00000001", "00000001-00000001"]


# -- crash points

COMMITTER = """
import sys
from pathlib import Path
from configs.run_dir import RunDir
from configs.run_dir import RunDir
from runner.store.cut import take_cut
from runner.store.layout import Spent
from runner.store.lease import acquire, owner_facts
from runner.store.open import open_store
from runner.store.restore import restore_newest
from runner.store.upload import Uploader

url, run_id, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
store, run = open_store(url), RunDir(folder / "runs" / run_id)
lease = acquire(store, run_id, owner_facts(), 60, take_over=True)
snapshot, _ = restore_newest(store, run_id, run.root, lease)
number = int((run.root / "report" / "a.html").read_text().split()[0]) if snapshot else 0
uploader = Uploader(lease, folder / "staging")
print("begins", flush=True)
while True:
    number += 1
    for name in ("a", "b", "c"):
        path = run.root / "report" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number} {name} " + str(number) * 5_000)
    with take_cut(run, folder / "staging") as cut:
        files = uploader.upload(cut, snapshot).files
    snapshot = lease.new_snapshot(files, str(number), Spent())
    lease.commit(snapshot, Spent())
    print("committed", flush=True)
"""


def survives_kills(url: str, folder: Path, kills: int, seed: int) -> None:
    """SIGKILL at random moments; a reader always finds three files of one number, and numbers never go back."""
    chance, newest = random.Random(seed), 0
    for kill in range(kills):
        command = [sys.executable, "-c", COMMITTER, url, RUN, str(folder / "work")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as process:
            try:
                assert process.stdout.readline() == "begins\n"
                for _ in range(chance.randrange(3)):
                    assert process.stdout.readline() == "committed\n"
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0, 0.4))
            finally:
                process.kill()
        there = folder / f"reader-{kill}" / RUN
        snapshot, notices = restore_newest(open_store(url), RUN, there)
        if snapshot is None:
            assert newest == 0
            continue
        texts = [(there / "report" / f"{name}.html").read_text() for name in ("a", "b", "c")]
        numbers = {int(text.split()[0]) for text in texts}
        assert notices == [] and numbers == {int(snapshot.reason)} and int(snapshot.reason) >= newest
        newest = int(snapshot.reason)
    assert newest > 0


@pytest.mark.slow
def test_whenever_the_committer_is_killed_a_reader_sees_a_whole_snapshot_in_a_directory(tmp_path):
    survives_kills(f"file://{tmp_path}/store", tmp_path, kills=20, seed=1)


@pytest.mark.slow
def test_whenever_the_committer_is_killed_a_reader_sees_a_whole_snapshot_on_s3(seaweed, monkeypatch, tmp_path):
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    survives_kills(seaweed.store_url(), tmp_path, kills=10, seed=2)


def test_a_record_is_read_only_as_the_one_that_head_names(run, lease, staging, store):
    from runner.store.records import DamagedError

    first = commit(lease, run, staging)
    write(run.report, "changed")
    second = commit(lease, run, staging)
    assert newest_snapshot(store, RUN) == second and read_snapshot(store, RUN, first.id) == first
    with pytest.raises(DamagedError, match="not the record that HEAD names"):
        read_snapshot(store, RUN, first.id, lease.head.snapshot_sha256)


def test_a_run_of_another_store_is_no_business_of_this_one(tmp_path, run, staging):
    for name in ("one", "two"):
        commit(acquire(FileStore(tmp_path / "store"), name, owner(name), 60), run, staging)
    assert read_head(FileStore(tmp_path / "store"), "one").owner.token == "one"
