"""A RunPod on loopback, the variables that a launch needs, and waits that a test can afford."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runner.cli import main
from runner.launch import creation, http, life
from tests.providers.runpod import FakeRunPod

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG\"b'PxRfi $CYEXAMPLEKEY",
    "SEQUENCE_WEBHOOK_URL": "https://chat.example.org/in/S3CR3T-path",
}
DATASET = "s3://runs/x/datasets/0123456789ab/ADA-EUR_1H.parquet"
A40 = "NVIDIA A40"
ORDER = ("--dataset", DATASET, "--store", "s3://runs/x", "--image", "registry.example.org/runner@sha256:0123")
Launch = Callable[..., int]


def only_entry(runs_dir: Path) -> dict:
    (path,) = (runs_dir / ".launches").glob("*.json")
    return json.loads(path.read_text())


@pytest.fixture
def runpod(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRunPod]:
    for variable in ("LAMBDA_API_KEY", "AWS_SESSION_TOKEN", "SEQUENCE_IMAGE", "AWS_REGION"):
        monkeypatch.delenv(variable, raising=False)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nothing goes beyond this computer
    monkeypatch.setattr(life, "POLL_S", 0.01)
    monkeypatch.setattr(creation, "LOOKS_S", (0.01, 0.01, 0.02))
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.01)
    with FakeRunPod() as fake:
        monkeypatch.setenv("RUNPOD_API_KEY", fake.key)
        monkeypatch.setenv("SEQUENCE_RUNPOD_URL", fake.url)
        monkeypatch.setenv("SEQUENCE_RUNPOD_GRAPHQL_URL", fake.graphql_url)
        yield fake


@pytest.fixture
def launch(runpod: FakeRunPod, tmp_path: Path) -> Launch:
    """`sequence-runner launch ...` in this process, its runs directory a temporary one; `runpod` gets a whole order."""

    def run(command: str, *arguments: str) -> int:
        order = (*ORDER, "--gpu", A40) if command == "runpod" else ()
        return main(["launch", command, *order, "--runs-dir", str(tmp_path), *arguments])

    return run


EMPTY = b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
MISSING = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


class ExpiringStore:
    """A bucket in which nothing is found, and which refuses every request from the moment its token expires."""

    url = "s3://bucket/runs"

    def __init__(self) -> None:
        self.answers_before = 10**9
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                store.answers_before -= 1
                status, body = (200, EMPTY) if "list-type" in self.path else (404, MISSING)
                status, body = (status, body) if store.answers_before >= 0 else (400, EXPIRED)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def expiring(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExpiringStore]:
    store = ExpiringStore()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRETS[name])
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{store.server.server_port}")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    yield store
    store.server.shutdown()
    store.server.server_close()


def interrupted_at(words: str, runs_dir: Path, *options: str) -> tuple[int, str]:
    """Exit code of a `launch runpod` that gets Ctrl-C when it says `words`, and what it says from then on."""
    command = [sys.executable, "-m", "runner.cli", "launch", "runpod", *ORDER, "--gpu", A40, *options]
    with subprocess.Popen([*command, "--runs-dir", runs_dir], stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if words in line:
                process.send_signal(signal.SIGINT)
                break
        said = process.stderr.read()
    return process.returncode, said
