"""One protocol, several stores: the same claims on a directory, S3 and Google Cloud Storage."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError, StoreError
from runner.store.file import ABANDONED_S, INCOMING, FileStore
from runner.store.objects import (
    KEY_PATTERN,
    KeyMissingError,
    ObjectStore,
    PreconditionFailedError,
    check_key,
    check_prefix,
)
from runner.store.open import open_store

KEEPS_CONDITIONS = [
    "file",
    pytest.param("seaweed", marks=pytest.mark.slow),
    pytest.param("storage_testbench", marks=pytest.mark.slow),
]
ALL = [
    *KEEPS_CONDITIONS,
    pytest.param("rclone_s3", marks=pytest.mark.slow),
    pytest.param("gcs_emulator", marks=pytest.mark.slow),
]
every_store = pytest.mark.parametrize("store", ALL, indirect=True)
every_store_with_conditions = pytest.mark.parametrize("store", KEEPS_CONDITIONS, indirect=True)
RACERS = 8


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    if request.param == "file":
        return open_store((tmp_path / "store").as_uri())
    server = request.getfixturevalue(request.param)
    server.use(monkeypatch)
    return open_store(server.store_url(), answer_s=20, deadline_s=30)


@every_store
def test_what_was_put_is_given_back(store):
    tag = store.put("a/b", b"bytes")
    body, stat = store.get("a/b")
    assert (body, stat.key, stat.size_bytes, stat.tag) == (b"bytes", "a/b", 5, tag)


@every_store
def test_an_overwrite_changes_body_and_tag(store):
    first = store.put("a", b"first")
    second = store.put("a", b"second")
    assert first != second
    assert store.get("a")[0] == b"second"
    assert [stat.tag for stat in store.list()] == [second]


@every_store
def test_an_empty_object_is_an_object(store):
    store.put("empty", b"")
    assert store.get("empty")[0] == b""
    assert [stat.size_bytes for stat in store.list("empty")] == [0]


@every_store
def test_a_listing_is_by_key_and_holds_exactly_what_begins_with_the_prefix(store):
    keys = ["b/x", "a", "b/y/deep", "b-2", "c/x", "b.x"]
    for key in keys:
        store.put(key, key.encode())
    assert [stat.key for stat in store.list()] == sorted(keys)
    assert [stat.key for stat in store.list("b/")] == ["b/x", "b/y/deep"]
    assert [stat.key for stat in store.list("b")] == ["b-2", "b.x", "b/x", "b/y/deep"]
    assert [stat.key for stat in store.list("b/y")] == ["b/y/deep"]
    assert list(store.list("nothing/here")) == []


@every_store
def test_a_listing_names_the_version_that_a_read_finds(store):
    store.put("a/b", b"bytes")
    (listed,) = store.list("a/")
    found = store.get("a/b")[1]
    assert (listed.key, listed.size_bytes, listed.tag) == (found.key, found.size_bytes, found.tag)
    assert listed.modified_t == pytest.approx(found.modified_t, abs=1)  # some list with a finer clock than they answer


@every_store
def test_a_missing_object_is_told_from_a_broken_store(store, tmp_path):
    with pytest.raises(KeyMissingError):
        store.get("a/b")
    with pytest.raises(KeyMissingError):
        store.get_to("a/b", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    store.delete("a/b")
    store.put("a/b", b"bytes")
    with pytest.raises(KeyMissingError):
        store.get("a")
    store.delete("a/b")
    with pytest.raises(KeyMissingError):
        store.get("a/b")


@every_store
def test_the_time_of_writing_is_now_by_the_stores_clock(store):
    before_t = time.time()
    store.put("a", b"bytes")
    stat = store.get("a")[1]
    assert before_t - 1 <= stat.modified_t <= time.time() + 1  # HTTP dates have whole seconds


@pytest.mark.slow
@every_store
def test_a_large_file_comes_back_as_it_was(store, tmp_path):
    sent, back = tmp_path / "sent", tmp_path / "back"
    sent.write_bytes(os.urandom(40_000_000))
    tag = store.put("large", sent)
    store.get_to("large", back)
    assert digest(back) == digest(sent)
    (stat,) = store.list("large")
    assert (stat.size_bytes, stat.tag) == (40_000_000, tag)


@every_store
def test_small_files_and_files_that_are_there_already_are_streamed_too(store, tmp_path):
    sent, back = tmp_path / "sent", tmp_path / "back"
    sent.write_bytes(b"new")
    back.write_bytes(b"something longer that was there before")
    store.put("small", sent)
    store.get_to("small", back)
    assert back.read_bytes() == b"new"


@every_store
def test_a_local_file_that_is_missing_is_no_fault_of_the_store(store, tmp_path):
    with pytest.raises(FileNotFoundError):
        store.put("a", tmp_path / "missing")
    assert list(store.list()) == []


@every_store_with_conditions
def test_a_create_is_refused_where_an_object_is(store):
    tag = store.put_if_absent("a", b"first")
    with pytest.raises(PreconditionFailedError):
        store.put_if_absent("a", b"second")
    assert store.get("a") == (b"first", store.get("a")[1])
    assert store.get("a")[1].tag == tag


@every_store_with_conditions
def test_only_the_named_version_is_replaced(store):
    first = store.put("a", b"first")
    second = store.replace_if_match("a", b"second", first)
    with pytest.raises(PreconditionFailedError):
        store.replace_if_match("a", b"third", first)
    assert store.get("a")[0] == b"second"
    store.replace_if_match("a", b"third", second)
    assert store.get("a")[0] == b"third"


@every_store_with_conditions
def test_nothing_is_replaced_where_nothing_is(store):
    tag = store.put("a", b"first")
    store.delete("a")
    for wrong in (tag, ""):
        with pytest.raises(PreconditionFailedError):
            store.replace_if_match("a", b"second", wrong)
    assert list(store.list()) == []


@every_store_with_conditions
def test_of_eight_creates_at_once_one_succeeds(store):
    winner = the_one_that_succeeded(lambda body: store.put_if_absent("a", body))
    assert store.get("a")[0] == winner


@every_store_with_conditions
def test_of_eight_replacements_at_once_one_succeeds(store):
    tag = store.put("a", b"before")
    winner = the_one_that_succeeded(lambda body: store.replace_if_match("a", body, tag))
    assert store.get("a")[0] == winner


def the_one_that_succeeded(write: Callable[[bytes], str]) -> bytes:
    """Body of the only one of `RACERS` writes at once that was not refused."""
    together = threading.Barrier(RACERS)

    def race(number: int) -> bytes | None:
        together.wait()
        try:
            write(b"racer %d" % number)
        except PreconditionFailedError:
            return None
        return b"racer %d" % number

    with ThreadPoolExecutor(RACERS) as pool:
        (winner,) = [body for body in pool.map(race, range(RACERS)) if body]
    return winner


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


REFUSED = [
    "",
    "/a",
    "a/",
    "a//b",
    "..",
    "a/../b",
    ".hidden",
    "a/.b",
    "a\\b",
    "a b",
    "a\n",
    "\u00e4",
    "a?b",
    "-a",
    "a" * 513,
]


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_could_leave_its_prefix_or_read_differently_is_refused_by_every_verb(key, tmp_path):
    store = FileStore(tmp_path / "store")
    calls = [
        lambda: store.put(key, b""),
        lambda: store.put_if_absent(key, b""),
        lambda: store.replace_if_match(key, b"", "tag"),
        lambda: store.get(key),
        lambda: store.get_to(key, tmp_path / "back"),
        lambda: store.delete(key),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="is refused"):
            call()
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=40) | st.lists(st.sampled_from(["a", ".", "..", "/", "\\", "~", "\0"])).map("".join))
def test_an_accepted_key_stays_below_its_prefix_and_needs_no_quoting(key):
    from urllib.parse import quote

    try:
        check_key(key)
    except StoreError:
        return
    assert os.path.normpath(f"/store/{key}") == f"/store/{key}"
    assert quote(key, safe="/+=") == key
    assert not any(part.startswith(".") for part in key.split("/"))


@settings(max_examples=50)
@given(st.from_regex(KEY_PATTERN, fullmatch=True), st.integers(0, 60))
def test_the_beginning_of_a_key_is_a_prefix_unless_it_ends_inside_a_name_that_could_be_hidden(key, length):
    assert check_prefix(key[:length]) == key[:length]


@pytest.mark.parametrize("prefix", ["../", "/", "a//", ".", "a/."])
def test_a_listing_cannot_leave_its_prefix(prefix, tmp_path):
    with pytest.raises(StoreError, match="is refused"):
        FileStore(tmp_path).list(prefix)


URLS = [
    "",
    "runs",
    "/runs",
    "file://runs",
    "file://host/runs",
    "http://host/runs",
    "s3://",
    "s3:///prefix",
    "s3://bucket/../other",
    "s3://bucket/a//b",
    "gs://bucket/.hidden",
    "s3://bucket/prefix?versionId=1",
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_of_another_form_is_refused_with_the_forms_that_are_known(url):
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        open_store(url)


def test_credentials_in_a_url_are_refused_and_not_repeated():
    with pytest.raises(ConfigError) as refusal:
        open_store("s3://key:hunter2@bucket/prefix")
    assert "hunter2" not in str(refusal.value)


def test_opening_a_directory_imports_no_sdk():
    code = "import sys; from runner.store.open import open_store; open_store('file:///tmp/x').url; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"boto3", "botocore", "google.cloud.storage", "requests"} & set(loaded)


def test_a_directory_url_may_hold_any_character_as_pathlib_writes_it(tmp_path):
    directory = tmp_path / "a b#c%20"
    open_store(directory.as_uri()).put("a", b"bytes")
    assert (directory / "a").read_bytes() == b"bytes"


def test_a_reader_alone_leaves_no_trace(tmp_path):
    store = open_store((tmp_path / "store").as_uri())
    list(store.list())
    store.delete("a")
    with pytest.raises(KeyMissingError):
        store.get("a")
    assert list(tmp_path.iterdir()) == []


def test_deleting_the_last_object_of_a_directory_removes_the_directory(tmp_path):
    store = FileStore(tmp_path)
    store.put("a/b/c", b"")
    store.put("a/d", b"")
    store.delete("a/b/c")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["d"]


def test_what_a_killed_writer_leaves_is_no_object_and_goes_after_a_day(tmp_path):
    os.mkfifo(tmp_path / "endless")
    code = "import sys; from pathlib import Path; from runner.store.file import FileStore; "
    code += "FileStore(Path(sys.argv[1])).put('a', Path(sys.argv[2]))"
    root = tmp_path / "store"
    writer = subprocess.Popen([sys.executable, "-c", code, root, tmp_path / "endless"])
    with (tmp_path / "endless").open("wb", buffering=0) as pipe:  # opens when the writer reads
        pipe.write(b"half of it" * 1_000)
        while not list(root.glob(f"{INCOMING}/*")):
            assert writer.poll() is None
            time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    (left,) = root.glob(f"{INCOMING}/*")
    store = FileStore(root)
    assert list(store.list()) == []
    store.put("b", b"")
    assert left.exists()
    long_ago_t = time.time() - ABANDONED_S - 60
    os.utime(left, (long_ago_t, long_ago_t))
    FileStore(root).put("b", b"")
    assert not left.exists()


def test_a_file_in_the_way_of_a_directory_is_an_error_that_no_retry_mends(tmp_path):
    store = FileStore(tmp_path)
    store.put("a", b"")
    with pytest.raises(StoreError, match="something else") as error:
        store.put("a/b", b"")
    assert not error.value.retryable


def test_a_full_local_disk_is_no_fault_of_the_store(tmp_path):
    store = FileStore(tmp_path)
    store.put("a", b"bytes")
    with pytest.raises(OSError, match="No space left"):
        store.get_to("a", Path("/dev/full"))
