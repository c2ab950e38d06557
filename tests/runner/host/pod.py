"""The little of RunPod and Lambda that a machine sees of them, on loopback, and runners that believe to be there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from runner.store.ends import ends, newest_end
from runner.store.file import FileStore
from runner.store.layout import End
from tests.runner.fixture_stages.world import wait_for

POD, KEY = f"pod{uuid.uuid4().hex[:8]}", "rpa_0123456789abcdefghijklmnop"
"""A pod of these very tests: on a computer one runner answers for each."""
HOLDS = ("holds until it is gone", "STILL HERE AND BILLS", "kept alive after")


class Api(ThreadingHTTPServer):
    """Answers what `replies` says for a method and path, else as if the pod were somebody else's."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.replies: dict[str, tuple[int, object]] = {}
        self.asked: list[str] = []
        """`METHOD path`, and the query of GraphQL."""
        self.keys: set[str | None] = set()
        self.delay_s = 0.0
        """Before each answer."""
        self.ahead_s = 0.0
        """Its clock, of this computer's."""

    def accepts(self, *ways: str) -> Api:
        """The requests for the end of the pod that are granted: `rest`, `graphql`."""
        if "rest" in ways:
            self.replies[f"DELETE /v2/pods/{POD}"] = (204, "")
        granted = {"data": {"podTerminate": None}}
        refused = {"errors": [{"message": f"not allowed for {KEY}"}], "data": {"podTerminate": None}}
        self.replies["POST /graphql"] = (200, granted if "graphql" in ways else refused)
        return self

    @property
    def ends(self) -> int:
        """How often the end of the pod was asked for by REST."""
        return self.asked.count(f"DELETE /v2/pods/{POD}")

    def environment(self, **more: str) -> dict[str, str]:
        """Of a pod that was launched for its run."""
        return {
            "SEQUENCE_HOST": "runpod",
            "RUNPOD_POD_ID": POD,
            "RUNPOD_API_KEY": KEY,
            "SEQUENCE_RUNPOD_URL": f"{self.url}/v2",
            "SEQUENCE_RUNPOD_GRAPHQL_URL": f"{self.url}/graphql",
            "SEQUENCE_LAMBDA_URL": f"{self.url}/api/v1",
        } | more


class Handler(BaseHTTPRequestHandler):
    server: Api

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = f"{self.command} {self.path}"
        self.server.asked.append(asked if not body else f"{asked} {json.loads(body)['query']}")
        self.server.keys.add(self.headers.get("Authorization"))
        refusal = {
            "title": "Forbidden",
            "status": 403,
            "detail": f"{self.headers.get('Authorization')} may not do this",
        }
        time.sleep(self.server.delay_s)
        status, reply = self.server.replies.get(asked, (403, refusal))
        with contextlib.suppress(ConnectionError):  # it did not wait for the answer
            self.send_response(status)
            self.end_headers()
            self.wfile.write(reply.encode() if isinstance(reply, str) else json.dumps(reply).encode())

    do_GET = do_POST = do_DELETE = answer

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(timestamp or time.time() + self.server.ahead_s)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def serving() -> Iterator[Api]:
    with Api() as api:
        threading.Thread(target=api.serve_forever, args=(0.02,), daemon=True).start()
        yield api
        api.shutdown()


PROGRAM = """
import os, sys
from runner import executor
from runner.host import deadman, ending

ending.FIRST_WAIT_S, deadman.ASK_S = float(os.environ["TEST_FIRST_WAIT_S"]), 0.5
if "TEST_UNITS_HANG" in os.environ:
    executor.stage_command = lambda *_: [sys.executable, "-c", "import time; time.sleep(600)"]
from runner.cli import main
raise SystemExit(main())
"""
"""`sequence-runner`, whose second request for its end no test is too slow for; its units may do nothing for ever."""


class Pod:
    """A runner in a process of its own; what it says is written to a file that a test may read meanwhile."""

    def __init__(self, said: Path, *arguments: str | Path, **environment: str) -> None:
        self.said = said
        with said.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *map(str, arguments)],
                stdout=file,
                stderr=file,
                env=os.environ | {"TEST_FIRST_WAIT_S": "600"} | environment,
                start_new_session=True,
            )

    def until(self, *words: str) -> str:
        """Wait for one of the words; what was said by then."""
        wait_for(lambda: self.process.poll() is not None or any(word in self.said.read_text() for word in words))
        said = self.said.read_text()
        assert any(word in said for word in words), f"ended with {self.process.returncode}:\n{said}"
        return said

    def held(self) -> str:
        """Wait until it holds, then stop it; what it said. `code` is its exit code."""
        self.until(*HOLDS)
        self.process.send_signal(signal.SIGTERM)
        self.code = self.process.wait(120)
        return self.said.read_text()

    def ended(self) -> str:
        """Wait until it ends by itself; what it said."""
        self.code = self.process.wait(300)
        return self.said.read_text()


@contextlib.contextmanager
def pod(folder: Path, *arguments: str | Path, **environment: str) -> Iterator[Pod]:
    """A runner that is gone afterwards; what it says lies in the folder."""
    started = Pod(folder / "said.txt", *arguments, **environment)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            os.killpg(started.process.pid, signal.SIGKILL)
            started.process.wait()


def end_of(store: Path, run_id: str, machine: str = POD) -> End | None:
    """What the store says of the end on a machine."""
    objects = FileStore(store)
    return newest_end(objects, ends(objects, run_id, machine))
