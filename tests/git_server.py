"""A git server over HTTP with Basic authentication: `git http-backend` behind `http.server`, on loopback.

It also speaks as much of the Git LFS batch protocol as an upload needs
(github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class GitServer:
    """One bare repository that is served; `url` is its address."""

    repository: Path
    user: str
    token: str
    port: int = 0
    before: Callable[[str, str], None] = lambda method, path: None
    """Called before each request is answered, with its method and path."""
    redirect_to: str = ""
    """Origin that every request is sent on to."""
    requests: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    """Every `Authorization` header that came in."""
    sent_bytes: int = 0
    """Of all bodies."""

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/{self.repository.name}"

    @property
    def lfs_objects(self) -> Path:
        return self.repository / "lfs" / "received"

    def lets_in(self, authorization: str) -> bool:
        expected = base64.b64encode(f"{self.user}:{self.token}".encode()).decode()
        return authorization == f"Basic {expected}"


@contextlib.contextmanager
def git_server(repository: Path, token: str = "", user: str = "x-access-token") -> Iterator[GitServer]:
    """Serve a bare repository, made if missing, to those who know the token."""
    if not repository.exists():
        bare_repository(repository)
    server = GitServer(repository, user, token)

    class Handler(_Handler):
        git = server

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        server.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def bare_repository(path: Path) -> Path:
    """A bare repository as a careful host sets it up: never rewound, partial fetches allowed, pushes over HTTP."""
    git("init", "--quiet", "--bare", path)
    for setting in ("receive.denyNonFastForwards", "uploadpack.allowFilter", "http.receivepack"):
        git("-C", path, "config", setting, "true")
    return path


def hook(repository: Path, name: str, script: str) -> Path:
    """Give a repository a hook."""
    path = repository / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def git(*arguments: str | Path, feed: str = "") -> str:
    """Run git as somebody with a name; a failure fails the test."""
    somebody = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
    done = subprocess.run(["git", *somebody, *map(str, arguments)], input=feed, capture_output=True, text=True)
    assert done.returncode == 0, f"git {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    git: GitServer

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self._body()
        self.git.requests.append(f"{self.command} {self.path}")
        self.git.before(self.command, self.path)
        authorization = self.headers.get("Authorization", "")
        if authorization:
            self.git.authorizations.append(authorization)
        if self.git.redirect_to:
            self._send(302, b"", {"Location": self.git.redirect_to + self.path})
        elif not self.git.lets_in(authorization):
            self._send(401, b"who are you?", {"WWW-Authenticate": 'Basic realm="git"'})
        elif "/info/lfs/" in self.path:
            self._lfs(body)
        else:
            self._backend(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _backend(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        variables = {
            "GIT_PROJECT_ROOT": str(self.git.repository.parent),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": self.git.user,
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=os.environ | variables)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self._send(int(headers.pop("Status", "200").split()[0]), content, headers)

    def _lfs(self, body: bytes) -> None:
        if self.command == "PUT":
            self.git.lfs_objects.mkdir(parents=True, exist_ok=True)
            (self.git.lfs_objects / self.path.rpartition("/")[2]).write_bytes(body)
            self._send(200, b"", {})
        elif self.path.endswith("/objects/batch"):
            asked = json.loads(body)["objects"]
            where = f"{self.git.url}/info/lfs/upload/"
            objects = [item | {"actions": {"upload": {"href": where + item["oid"]}}} for item in asked]
            answer = json.dumps({"transfer": "basic", "objects": objects}).encode()
            self._send(200, answer, {"Content-Type": "application/vnd.git-lfs+json"})
        else:
            self._send(404, b"{}", {"Content-Type": "application/vnd.git-lfs+json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.git.sent_bytes += len(body)
