"""A TCP proxy that breaks connections on demand; controllable while it runs."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNK_BYTES = 65_536


@dataclass
class Fault:
    """What goes wrong from the moment it is set; byte counts run over all connections from there."""

    cut_request_after: int | None = None
    """Both sides are cut when this many bytes went to the server."""
    cut_reply_after: int | None = None
    """Both sides are cut when this many bytes of answers went to the client; 0 loses the answer to a done deed."""
    delay_s: float = 0.0
    """Every piece, in both directions, waits for this long."""
    black_hole: bool = False
    """Connections are accepted and nothing passes."""
    black_hole_after: int | None = None
    """The same once the proxy has sent so many bytes to the server since it was made."""
    times: int = 1_000_000
    """Cuts after which the network is sound again."""
    cuts: int = 0
    """Cuts so far."""
    _sent: dict[str, int] = field(default_factory=lambda: {"request": 0, "reply": 0})

    def allow(self, direction: str, size_bytes: int) -> int:
        """How many of the next bytes may pass; fewer than all means that the cut is now."""
        limit = self.cut_request_after if direction == "request" else self.cut_reply_after
        if limit is None or self.cuts >= self.times:
            return size_bytes
        allowed = limit - self._sent[direction]
        if size_bytes < allowed or (size_bytes == allowed and size_bytes):
            self._sent[direction] += size_bytes
            return size_bytes
        self.cuts += 1
        self._sent = {"request": 0, "reply": 0}
        return max(0, allowed)


class FaultProxy:
    """Forwards connections to one server, as faultily as `fault` says."""

    def __init__(self, endpoint: str) -> None:
        """Listen on a free loopback port for `http://host:port`."""
        host, _, port = endpoint.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.fault = Fault()
        self.sent_bytes = 0
        self._moved = threading.Condition()
        self._open: set[socket.socket] = set()
        self._closed = threading.Event()
        threading.Thread(target=self._accept, name="fault proxy", daemon=True).start()

    def wait_until_sent(self, size_bytes: int) -> None:
        """Wait until this many bytes went to the server since the proxy was made.

        Raises:
            TimeoutError: they did not in five minutes.
        """
        with self._moved:
            if not self._moved.wait_for(lambda: self.sent_bytes >= size_bytes, timeout=300):
                raise TimeoutError(f"{self.sent_bytes} of {size_bytes} bytes went to the server")

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._closed.set()
        for each in (self._listener, *self._open):
            _end(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:  # the server is down, or going down: so is the way to it
                _end(client)
                continue
            self._open |= {client, server}
            for source, target, direction in ((client, server, "request"), (server, client, "reply")):
                pump = (source, target, direction)
                threading.Thread(target=self._pump, args=pump, name=f"fault proxy {direction}", daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(CHUNK_BYTES):
                fault = self.fault
                swallowed = fault.black_hole_after is not None and self.sent_bytes >= fault.black_hole_after
                if fault.black_hole or swallowed:
                    continue
                if fault.delay_s:
                    self._closed.wait(fault.delay_s)
                interim = INTERIM if direction == "reply" and piece.startswith(INTERIM) else b""
                rest = piece[len(interim) :]
                with self._moved:
                    allowed = fault.allow(direction, len(rest)) if rest else 0
                target.sendall(interim + rest[:allowed])
                if direction == "request":
                    with self._moved:
                        self.sent_bytes += allowed
                        self._moved.notify_all()
                if allowed < len(rest):
                    break
        for each in (source, target):
            self._open.discard(each)
            _end(each)


@contextlib.contextmanager
def fault_proxy(endpoint: str) -> Iterator[FaultProxy]:
    """A proxy in front of `endpoint` for the length of a block."""
    proxy = FaultProxy(endpoint)
    try:
        yield proxy
    finally:
        proxy.close()


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
