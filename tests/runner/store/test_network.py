"""A bad network, a killed server and changed credentials between the stores and real servers."""

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from configs.errors import ConfigError
from runner.store.objects import ObjectStore, StoreDeniedError, StoreUnreachableError
from runner.store.open import open_store
from tests import servers
from tests.fault_proxy import Fault, FaultProxy, fault_proxy

pytestmark = pytest.mark.slow
BOTH = pytest.mark.parametrize("server", ["seaweed", "gcs_emulator"], indirect=True)
SDK_CUTS = 4
"""More than one part of an upload survives by the SDK's own repetitions."""


@pytest.fixture
def server(request: pytest.FixtureRequest) -> servers.Server:
    return request.getfixturevalue(request.param)


@pytest.fixture
def proxy(server: servers.Server, monkeypatch: pytest.MonkeyPatch):
    """A proxy in front of the server, the environment pointing at it."""
    with fault_proxy(server.endpoint) as proxy:
        server.use(monkeypatch, proxy.endpoint)
        yield proxy


@pytest.fixture
def store(server: servers.Server, proxy: FaultProxy) -> ObjectStore:
    return open_store(server.store_url(), answer_s=60, deadline_s=600)


def random_file(path: Path, size_bytes: int) -> str:
    body = os.urandom(size_bytes)
    path.write_bytes(body)
    return hashlib.sha256(body).hexdigest()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@BOTH
def test_an_upload_that_is_cut_again_and_again_succeeds_whole(store, proxy, tmp_path):
    sha256 = random_file(tmp_path / "sent", 40_000_000)
    proxy.fault = Fault(cut_request_after=5_000_000, times=SDK_CUTS)
    store.put("large", tmp_path / "sent")
    assert proxy.fault.cuts == SDK_CUTS
    store.get_to("large", tmp_path / "back")
    assert digest(tmp_path / "back") == sha256


@pytest.mark.parametrize("server", ["seaweed", "storage_testbench"], indirect=True)
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_conditional_writes_whose_answers_are_lost_succeed_once(store, proxy, lost):
    proxy.fault = Fault(cut_reply_after=0, times=lost)
    created = store.put_if_absent("a", b"first")
    assert proxy.fault.cuts == lost
    assert store.get("a")[0] == b"first"
    assert store.get("a")[1].tag == created
    proxy.fault = Fault(cut_reply_after=0, times=lost)
    replaced = store.replace_if_match("a", b"second", created)
    assert proxy.fault.cuts == lost
    assert store.get("a")[0] == b"second"
    assert store.get("a")[1].tag == replaced


@BOTH
def test_a_truncated_download_is_found_out_and_repeated(store, proxy, tmp_path):
    sha256 = random_file(tmp_path / "sent", 1_000_000)
    store.put("a", tmp_path / "sent")
    proxy.fault = Fault(cut_reply_after=300_000, times=2)
    assert hashlib.sha256(store.get("a")[0]).hexdigest() == sha256
    assert proxy.fault.cuts == 2
    proxy.fault = Fault(cut_reply_after=300_000, times=2)
    store.get_to("a", tmp_path / "back")
    assert proxy.fault.cuts == 2
    assert digest(tmp_path / "back") == sha256


@BOTH
def test_a_download_that_stays_truncated_is_an_error_never_a_short_file(store, proxy, server, tmp_path):
    random_file(tmp_path / "sent", 1_000_000)
    store.put("a", tmp_path / "sent")
    impatient = open_store(store.url, answer_s=60, deadline_s=0)
    proxy.fault = Fault(cut_reply_after=300_000)
    with pytest.raises(StoreUnreachableError):
        impatient.get("a")
    with pytest.raises(StoreUnreachableError):
        impatient.get_to("a", tmp_path / "back")


@BOTH
def test_a_truncated_listing_is_repeated_whole(store, proxy):
    keys = [f"key-{number:02}" for number in range(20)]
    for key in keys:
        store.put(key, b"")
    proxy.fault = Fault(cut_reply_after=2_000, times=3)
    assert [stat.key for stat in store.list()] == keys
    assert proxy.fault.cuts == 3


@BOTH
def test_a_store_that_never_answers_is_unreachable(store, proxy):
    proxy.fault = Fault(black_hole=True)
    impatient = open_store(store.url, answer_s=0.3, deadline_s=0.1)
    for call in (lambda: impatient.put("a", b""), lambda: impatient.get("a"), lambda: impatient.list()):
        with pytest.raises(StoreUnreachableError):
            call()


@BOTH
def test_a_store_whose_port_is_closed_is_unreachable(server, monkeypatch):
    with servers.closed_port() as port, pytest.raises(StoreUnreachableError):
        server.use(monkeypatch, f"http://127.0.0.1:{port}")
        open_store(server.store_url(), answer_s=1, deadline_s=0.1).get("a")


@BOTH
def test_a_slow_network_delays_and_nothing_more(store, proxy):
    proxy.fault = Fault(delay_s=0.05)
    store.put("a", b"bytes")
    assert store.get("a")[0] == b"bytes"


def test_a_server_killed_in_mid_upload_has_the_old_object_or_the_new_one(tmp_path, monkeypatch):
    random_file(tmp_path / "sent", 40_000_000)
    sha256 = digest(tmp_path / "sent")
    with servers.seaweed() as server, fault_proxy(server.endpoint) as proxy:
        server.use(monkeypatch, proxy.endpoint)
        store = open_store(server.store_url(), answer_s=5, deadline_s=600)
        store.put("there", b"old")
        half_bytes = proxy.sent_bytes + 8_000_000
        proxy.fault = Fault(black_hole_after=half_bytes)
        uploads = [threading.Thread(target=store.put, args=(key, tmp_path / "sent")) for key in ("there", "new")]
        for upload in uploads:
            upload.start()
        proxy.wait_until_sent(half_bytes)
        server.kill()
        proxy.fault = Fault(black_hole=True)  # the uploads meet the server again only after it was looked at
        server.start()
        bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
        client = servers.s3_client(server)
        assert client.get_object(Bucket=bucket, Key=f"{prefix}/there")["Body"].read() == b"old"
        with pytest.raises(client.exceptions.NoSuchKey):
            client.get_object(Bucket=bucket, Key=f"{prefix}/new")
        client.close()
        proxy.fault = Fault()
        for key, upload in zip(("there", "new"), uploads, strict=True):
            upload.join()
            store.get_to(key, tmp_path / "back")
            assert digest(tmp_path / "back") == sha256


def test_wrong_credentials_are_denied_and_never_shown(seaweed, monkeypatch):
    seaweed.use(monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2")
    with pytest.raises(StoreDeniedError) as denial:
        open_store(seaweed.store_url(), deadline_s=0.1).put("a", b"")
    assert "hunter2" not in str(denial.value)
    assert "credentials" in str(denial.value)


def test_absent_credentials_are_denied_with_the_variables_to_set(seaweed, monkeypatch):
    seaweed.use(monkeypatch)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreDeniedError, match="AWS_ACCESS_KEY_ID"):
        open_store(seaweed.store_url(), deadline_s=0.1).get("a")


def test_credentials_that_are_renewed_while_a_call_is_repeated_are_taken_up(seaweed, monkeypatch):
    seaweed.use(monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "expired")
    denials = []

    def renew(call: str, error: Exception, wait_s: float) -> None:
        denials.append(error)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET_KEY)

    store = open_store(seaweed.store_url(), on_retry=renew)
    store.put("a", b"bytes")
    assert store.get("a")[0] == b"bytes"
    assert [type(denial) for denial in denials] == [StoreDeniedError]


def test_google_credentials_that_are_no_file_are_denied_with_the_variable_to_set(tmp_path, monkeypatch):
    (tmp_path / "key.json").write_text(json.dumps({"type": "service_account"}))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(StoreDeniedError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        open_store("gs://bucket/prefix", deadline_s=0.1).get("a")


@pytest.mark.parametrize("server", ["rclone_s3", "gcs_emulator"], indirect=True)
def test_a_missing_bucket_is_no_missing_object(server, monkeypatch):
    server.use(monkeypatch)
    store = open_store(f"{server.scheme}://no-such-bucket/prefix", deadline_s=0.1)
    for call in (lambda: store.put("a", b""), lambda: store.put_if_absent("a", b""), lambda: list(store.list())):
        with pytest.raises(StoreDeniedError, match="create the bucket"):
            call()


def test_what_is_no_address_and_what_is_no_bucket_are_refused(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not an address")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL"):
        open_store("s3://bucket/prefix").get("a")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with pytest.raises(ConfigError, match="bucket"):
        open_store("s3://no_bucket!/prefix").get("a")
