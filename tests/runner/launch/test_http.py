"""The providers' client against a server on loopback: what it repeats, what it must not, what it never shows."""

import itertools
import time
from types import SimpleNamespace

import pytest

from configs.errors import ConfigError
from runner.launch import http
from runner.launch.http import AnswerError, Api
from runner.launch.provider import BadRequestError, LaunchError, UnclearError
from tests.providers.base import Fault, Reply
from tests.providers.runpod import FakeRunPod, problem, too_many
from tests.runner.fixture_stages.world import wait_for

BODY = {"name": "x"}


@pytest.fixture
def api(runpod: FakeRunPod) -> Api:
    return Api("RunPod", "SEQUENCE_RUNPOD_URL", "RUNPOD_API_KEY")


@pytest.mark.parametrize("fault", [Fault("", problem(503, "Unavailable", "x"), times=2), Fault("", lost=True, times=2)])
def test_what_only_reads_is_asked_again(runpod: FakeRunPod, api: Api, fault):
    runpod.faults.append(fault)
    assert api.get("/pods") == {"pods": []}
    assert len(runpod.calls) == 3


@pytest.mark.parametrize(
    "fault", [Fault("", problem(500, "Error", "x")), Fault("", lost=True), Fault("", hang_s=600)], ids=str
)
def test_what_does_something_is_asked_once_and_said_to_be_unclear(runpod: FakeRunPod, api: Api, monkeypatch, fault):
    monkeypatch.setattr(http, "ANSWER_S", 0.3 if fault.hang_s else http.ANSWER_S)
    runpod.faults.append(fault)
    with pytest.raises(UnclearError):
        api.post("/pods", BODY)
    wait_for(lambda: runpod.calls)  # it may have been given up before it was seen there
    assert len(runpod.calls) == 1


def test_an_answer_that_is_no_json_leaves_it_unclear_what_was_done(runpod: FakeRunPod, api: Api, monkeypatch):
    runpod.faults.append(Fault("", Reply(201, iter([b"<html>"]))))
    with pytest.raises(UnclearError, match="no JSON"):
        api.post("/pods", BODY)


def test_a_request_that_never_left_is_not_unclear(api: Api, monkeypatch):
    monkeypatch.setattr(http, "PATIENCE_S", 0.05)
    api.url = "http://127.0.0.1:9/v2"
    with pytest.raises(LaunchError, match="cannot be reached") as raised:
        api.post("/pods", BODY)
    assert not isinstance(raised.value, UnclearError)


def test_a_provider_that_stays_out_of_order_is_given_up(runpod: FakeRunPod, api: Api, monkeypatch):
    monkeypatch.setattr(http, "PATIENCE_S", 0.1)
    runpod.faults.append(Fault("", problem(503, "Unavailable", "maintenance"), times=10**6))
    with pytest.raises(AnswerError, match="503.*maintenance"):
        api.get("/pods")


def test_a_wait_longer_than_our_patience_is_not_begun(runpod: FakeRunPod, api: Api):
    runpod.faults.append(Fault("", too_many(86_400)))
    with pytest.raises(AnswerError, match="429"):
        api.get("/pods")


def test_calls_keep_the_distance_that_the_provider_wants(runpod: FakeRunPod):
    api = Api("RunPod", "SEQUENCE_RUNPOD_URL", "RUNPOD_API_KEY", interval_s=0.1)
    begun_t = time.monotonic()
    for _ in range(3):
        api.get("/pods")
    assert time.monotonic() - begun_t >= 0.2


def test_who_takes_the_lines_of_a_stream_slowly_loses_none(monkeypatch):
    now_s = itertools.count()
    monkeypatch.setattr(http, "time", SimpleNamespace(monotonic=lambda: float(next(now_s))))
    said = ["one", "", "two", "", ": here", ": here", "three"]
    taken = []
    for line in http._until_idle(iter(said), 3.5):
        taken.append(line)
        now_s = itertools.count(next(now_s) + 100)
    assert taken == said
    assert list(http._until_idle(iter(said), 1.5)) == said[:4], "a silence in which only comments come is one"


def test_the_key_travels_in_a_header_only(runpod: FakeRunPod, api: Api):
    api.get("/pods", {"a": "b"})
    (call,) = runpod.calls
    assert call.headers["authorization"] == f"Bearer {runpod.key}" and call.query == {"a": "b"}


def test_a_provider_that_repeats_what_it_was_sent_gives_no_secret_away(runpod: FakeRunPod, api: Api):
    secrets = {"PLAIN_NAME": 'a "quoted" value'}
    echoed = problem(422, "Unprocessable", r'env.X: a \"quoted\" value; a "quoted" value', [f"header {runpod.key}"])
    runpod.faults.append(Fault("", echoed))
    with pytest.raises(AnswerError) as raised:
        api.post("/pods", BODY, secrets=secrets)
    said = str(raised.value)
    assert "quoted" not in said and runpod.key not in said and said.count("[redacted]") == 3


@pytest.mark.parametrize("key", ["", "two words", "k\u00e9y", "a\nb"])
def test_a_key_that_is_none_is_refused_and_not_shown(runpod: FakeRunPod, api: Api, monkeypatch, key):
    monkeypatch.setenv("RUNPOD_API_KEY", key)
    with pytest.raises(BadRequestError, match="RUNPOD_API_KEY") as raised:
        api.get("/pods")
    assert not key or key not in str(raised.value)
    assert not runpod.calls


def test_a_key_is_not_sent_in_the_clear_to_another_computer(monkeypatch):
    monkeypatch.setenv("SEQUENCE_RUNPOD_URL", "http://api.example.org/v2")
    with pytest.raises(ConfigError, match="https"):
        Api("RunPod", "SEQUENCE_RUNPOD_URL", "RUNPOD_API_KEY")


def test_a_redirection_takes_the_key_nowhere(runpod: FakeRunPod, api: Api):
    with FakeRunPod() as elsewhere:
        runpod.faults.append(Fault("", Reply(307, None, {"Location": elsewhere.url + "/pods"})))
        with pytest.raises(AnswerError, match="307"):
            api.get("/pods")
        assert not elsewhere.calls


def test_a_proxy_of_the_environment_is_not_asked_for_this_computer(runpod: FakeRunPod, api: Api, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert api.get("/pods") == {"pods": []}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"error": {"code": "global/quota-exceeded", "message": "Too much.", "suggestion": "Ask."}}, "Too much.; Ask."),
        ({"title": "Bad", "status": 400, "detail": "why", "errors": ["one", "two"]}, "why; one; two"),
        (["no object"], "nothing"),
    ],
)
def test_the_words_of_every_kind_of_error_are_kept(runpod: FakeRunPod, api: Api, body, says):
    runpod.faults.append(Fault("", Reply(400, body)))
    with pytest.raises(AnswerError) as raised:
        api.get("/pods")
    assert str(raised.value).endswith(f": {says}")
