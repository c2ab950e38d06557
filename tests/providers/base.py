"""What the fake providers share: a real HTTP server on loopback, a record of what came, faults in an order that is set.

A fake is a subclass of `FakeApi` with an `answer`; it raises `Refusal` for what its provider refuses.

    with FakeRunPod() as fake:
        fake.faults.append(Fault("POST /pods", lost=True))
        monkeypatch.setenv("SEQUENCE_RUNPOD_URL", fake.url)
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    """Below the API's address, without the query."""
    query: dict[str, str]
    body: Any
    headers: dict[str, str]
    """Names in lower case."""
    t: float
    """Monotonic seconds."""

    @property
    def what(self) -> str:
        """`POST /pods`."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Reply:
    """What is answered."""

    status: int = 200
    body: Any = None
    """JSON values, or an iterator of byte strings that are sent as they come; None for no body."""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass
class Fault:
    """Something that goes wrong for the next matching requests."""

    on: str
    """Beginning of `METHOD /path`; empty for any request."""
    reply: Reply | None = None
    """Answered in place of the real thing."""
    lost: bool = False
    """The request is carried out, and the connection ends without an answer."""
    hang_s: float = 0.0
    """The request is carried out, and its answer comes so much later."""
    times: int = 1


class Refusal(Exception):
    """The provider's own way to say no."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


class FakeApi:
    """One provider's API on loopback, from `with` on."""

    prefix = ""
    """Path that the API's address ends with."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.calls: list[Call] = []
        self.answered: list[tuple[Call, int]] = []
        """Requests with the status of their answer, where one was sent."""
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        """Held while a request is carried out."""
        self._over = threading.Event()

    def answer(self, call: Call) -> Reply:
        """Carry a request out; the key is right, and the lock is held."""
        raise NotImplementedError

    def refuse_key(self) -> Reply:
        """Answer to a request with another key."""
        raise NotImplementedError

    def check_key(self, call: Call) -> None:
        """Refuse a request with a key that may not make it."""
        if call.headers.get("authorization") != f"Bearer {self.key}":
            raise Refusal(self.refuse_key())

    @property
    def url(self) -> str:
        return f"{self.origin}{self.prefix}"

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def made(self, what: str) -> list[Call]:
        """The requests whose `METHOD /path` begins so."""
        return [call for call in self.calls if call.what.startswith(what)]

    def __enter__(self) -> Self:
        class Handler(_Handler):
            fake = self

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _carry_out(self, call: Call) -> tuple[Reply, Fault | None]:
        with self.lock:
            self.calls.append(call)
            try:
                self.check_key(call)
            except Refusal as refusal:
                return refusal.reply, None
            fault = next((fault for fault in self.faults if call.what.startswith(fault.on)), None)
            if fault:
                fault.times -= 1
                if not fault.times:
                    self.faults.remove(fault)
                if fault.reply:
                    return fault.reply, None
            try:
                return self.answer(call), fault
            except Refusal as refusal:
                return refusal.reply, fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *where: Any) -> None:
        """A client that was killed is no fault of the server."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*where)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeApi

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        text = self.rfile.read(size)
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = parts.path.removeprefix(self.fake.prefix)
        call = Call(self.command, path, query, json.loads(text) if text else None, headers, time.monotonic())
        reply, fault = self.fake._carry_out(call)
        if fault and fault.hang_s:
            self.fake._over.wait(fault.hang_s)
        if fault and fault.lost:
            self.close_connection = True
            return
        self.fake.answered.append((call, reply.status))
        try:
            self._send(reply)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, reply: Reply) -> None:
        stream = reply.body if isinstance(reply.body, Iterator) else None
        text = b"" if reply.body is None or stream else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        if stream:
            self.send_header("Connection", "close")
            self.close_connection = True
        elif reply.status != 204:
            self.send_header("Content-Length", str(len(text)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)
        for piece in stream or ():
            self.wfile.write(piece)
            self.wfile.flush()
