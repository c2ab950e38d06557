"""The webhook against real servers on loopback, good and bad ones."""

import contextlib
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from configs.errors import ExitCode
from runner import notify as notifying
from runner.notify import VARIABLE, Notice, notify, occasion_of

NOTICE = Notice("ADA-1", "finished", 0, "collapsed", says="", wall_s=7200, cost_usd=1.5)


@contextmanager
def webhook(*answers: int):
    """A server that gives one answer after the other; yields its address and the bodies it got."""
    bodies: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers[min(len(bodies), len(answers)) - 1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook/S3CR3T", bodies
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(notifying, "PAUSE_S", 0.01)
    monkeypatch.setattr(notifying, "TIMEOUT_S", 60.0)


def test_the_end_of_a_run_is_told_in_one_line_and_in_fields(capsys):
    with webhook(200) as (url, bodies):
        notify(NOTICE, wait_s=200, environment={VARIABLE: url})
    told = {"run_id": "ADA-1", "event": "finished", "exit_code": 0, "verdict": "collapsed", "says": ""}
    text = "run ADA-1: finished, verdict collapsed, 2.00 h, 1.50 USD"
    assert bodies == [told | {"wall_s": 7200, "cost_usd": 1.5, "text": text}]
    assert not capsys.readouterr().err


def test_without_an_address_nothing_is_told():
    notify(NOTICE, environment={})


def test_secrets_stay_here(monkeypatch):
    monkeypatch.setenv("SEQUENCE_GIT_TOKEN", "t0ps3cret-t0ken")
    with webhook(200) as (url, bodies):
        monkeypatch.setenv(VARIABLE, url)
        notify(Notice("r", "failed", 70, says=f"push to https://me:pass-w0rd@host with t0ps3cret-t0ken told {url}"))
    assert not [secret for secret in ("pass-w0rd", "t0ps3cret", "S3CR3T") if secret in json.dumps(bodies)]
    assert "https://me:[redacted]@host" in bodies[0]["says"]


def test_a_fault_of_the_server_is_tried_once_more():
    with webhook(500, 200) as (url, bodies):
        notify(NOTICE, wait_s=200, environment={VARIABLE: url})
    assert len(bodies) == 2


@pytest.mark.parametrize(("status", "times"), [(500, 2), (404, 1)])
def test_a_refusal_is_one_line_without_the_address(capsys, status, times):
    with webhook(status) as (url, bodies):
        notify(NOTICE, wait_s=200, environment={VARIABLE: url})
    said = capsys.readouterr().err
    assert len(bodies) == times and said.count("\n") == 1
    assert str(status) in said and "S3CR3T" not in said and "127.0.0.1" not in said


@pytest.mark.parametrize("url", ["file:///etc/hostname", "nonsense", "http://", "http://127.0.0.1:1/x", "http://[bad/"])
def test_an_address_that_leads_nowhere_is_one_line(capsys, url):
    notify(NOTICE, wait_s=200, environment={VARIABLE: url})
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and VARIABLE in said and url not in said


@pytest.mark.parametrize("how", ["silent", "drips"])
def test_a_server_that_hangs_holds_nobody_up(capsys, how, monkeypatch):
    monkeypatch.setattr(notifying, "TIMEOUT_S", 0.2)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):  # it hangs up
                while not over.wait(0.05):
                    connection.sendall(b"HTTP/1.1 100 wait\r\n\r\n")

        if how == "drips":
            threading.Thread(target=drip, daemon=True).start()
        notify(NOTICE, wait_s=1.0, environment={VARIABLE: f"http://127.0.0.1:{server.getsockname()[1]}/S3CR3T"})
        said = capsys.readouterr().err
        over.set()
    assert VARIABLE in said and "S3CR3T" not in said


def test_each_exit_code_is_one_kind_of_end():
    assert occasion_of(ExitCode.DONE) == "finished"
    assert occasion_of(ExitCode.BUDGET) == "budget"
    assert {occasion_of(ExitCode(code)) for code in (75, 130, 143)} == {"stopped"}
    assert {occasion_of(ExitCode(code)) for code in (65, 69, 70, 73, 74, 76, 77, 78)} == {"failed"}
