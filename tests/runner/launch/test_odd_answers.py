"""Answers that no published API has: each is told as what it is, and hides no other machine."""

import json
from typing import Any

import pytest

from tests.providers.base import Reply
from tests.providers.runpod import FakeRunPod, Fault, gpu_type
from tests.runner.launch.conftest import A40, Launch

ODD = [None, [], {}, {"pods": None}, {"gpus": None}, [1]]


@pytest.mark.parametrize("body", ODD, ids=json.dumps)
def test_an_answer_of_another_form_is_the_providers_fault_and_not_ours(runpod, launch, capsys, body):
    runpod.faults.append(Fault("GET /", Reply(200, body), times=9))
    assert launch("runpod") == launch("stop", "mine", "--provider", "runpod") == 69
    assert "something else than its published API says" in capsys.readouterr().err
    runpod.faults[:] = [Fault("GET /catalog", Reply(200, body), times=9)]
    assert launch("runpod") == 69 and not runpod.pods


ODD_PODS: list[dict[str, Any]] = [{"name": None}, {"cost": "n/a"}, {"createdAt": 5}, {"dataCenterId": 5}, {"env": None}]


@pytest.mark.parametrize("oddity", [*ODD_PODS, {"id": None}, {"id": {}}], ids=json.dumps)
def test_an_odd_pod_of_somebody_else_keeps_nothing_from_being_done(runpod: FakeRunPod, launch: Launch, oddity):
    other = runpod.add("my-notebook")
    shown = type(other).shown
    runpod.pods[other.id] = odd = type("Odd", (type(other),), {"shown": lambda pod: shown(pod) | oddity})(**vars(other))
    answer = runpod.answer
    pods = lambda: Reply(200, {"pods": [runpod._look(pod) for pod in runpod.pods.values()]})  # noqa: E731
    runpod.answer = lambda call: pods() if call.what == "GET /pods" else answer(call)  # no schema checks what is odd
    assert launch("list") == launch("reap", "--yes") == launch("runpod", "--run-id", "mine") == 0
    assert launch("stop", "mine") == 0
    assert list(runpod.pods.values()) == [odd]


def test_a_price_that_is_no_number_in_the_answer_to_a_creation_loses_no_pod(runpod: FakeRunPod, launch: Launch):
    create = runpod._create
    runpod._create = lambda body: Reply(201, create(body).body | {"cost": "0.44 USD"})
    assert launch("runpod") == 0
    assert len(runpod.pods) == len(runpod.made("POST /pods")) == 1


def test_a_pod_with_a_status_of_tomorrow_is_neither_waited_for_nor_ended(runpod: FakeRunPod, launch: Launch):
    pod = runpod.add("mine")
    listing = {"pods": [pod.shown() | {"status": "MIGRATING"}]}
    runpod.faults.append(Fault("GET /pods", Reply(200, listing), times=9))
    assert launch("runpod", "--run-id", "mine") == 0 and not runpod.made("POST") and not runpod.made("DELETE")


@pytest.mark.parametrize(
    ("oddity", "code"),
    [
        ({"price": {"secure": None, "community": 0}}, 0),
        ({"price": None}, 69),
        ({"maxCount": None}, 69),
        ({"dataCenters": None}, 69),
        ({"dataCenters": [{"id": "EU-SE-1", "name": "x", "availability": "VERY_HIGH"}]}, 0),
    ],
    ids=["no price", "no prices", "no counts", "nowhere", "availability"],
)
def test_an_odd_catalogue_is_read_as_far_as_it_can_be(runpod: FakeRunPod, launch: Launch, oddity, code):
    gpu = gpu_type(A40, "A40", 0.44, {"EU-SE-1": "HIGH"})
    runpod.gpus = [gpu if code == 0 else gpu | {"dataCenters": []}]
    runpod.faults.append(Fault("GET /catalog", Reply(200, {"gpus": [gpu | oddity]})))
    assert launch("runpod") == code
