"""What a pod asks of RunPod, against the fake that checks every request by the published schemas."""

import pytest

from runner.host.price import true_price
from runner.host.runpod import end_pod
from runner.host.where import Host
from tests.providers.base import Fault, Reply
from tests.providers.runpod import KEY, FakeRunPod

REFUSED = Fault("DELETE", Reply(403, {"title": "Forbidden", "status": 403, "detail": f"{KEY} has no such scope"}))


def inside(fake: FakeRunPod) -> dict[str, str]:
    """The variables of a pod, where no program is."""
    urls = {"SEQUENCE_RUNPOD_URL": fake.url, "SEQUENCE_RUNPOD_GRAPHQL_URL": fake.graphql_url}
    return urls | {"RUNPOD_API_KEY": KEY, "PATH": "/nowhere"}


def test_a_pod_reads_its_price_and_ends_itself(fake):
    pod, other = fake.add("rented", cost=0.61), fake.add("another")
    assert true_price(Host("runpod", pod.id, True, ""), inside(fake)) == 0.61
    (answer,) = end_pod(pod.id, inside(fake))
    assert answer.accepted and list(fake.pods) == [other.id]


def test_where_rest_refuses_graphql_ends_it(fake):
    pod = fake.add("rented")
    fake.faults.append(REFUSED)
    answers = end_pod(pod.id, inside(fake))
    assert [answer.accepted for answer in answers] == [False, True] and not fake.pods


@pytest.mark.parametrize(
    ("pod", "environment"),
    [
        ("pod9999", {}),
        ("pod0000", {"RUNPOD_API_KEY": "rpa_another"}),
        ("pod0000", {"RUNPOD_API_KEY": ""}),
        ("pod0000", {"RUNPOD_API_KEY": "rpa_with\nnewline"}),
        ("../pods/pod0000", {}),
        ('pod0000"}) {id} #', {}),
        (
            "pod0000",
            {"SEQUENCE_RUNPOD_URL": "http://127.0.0.1:9", "SEQUENCE_RUNPOD_GRAPHQL_URL": "http://127.0.0.1:9"},
        ),
        ("pod0000", {"SEQUENCE_RUNPOD_URL": "http://example.com", "SEQUENCE_RUNPOD_GRAPHQL_URL": "ftp://x"}),
    ],
)
def test_what_cannot_be_ended_is_told_for_every_way_and_never_raised(fake, monkeypatch, pod, environment):
    there = fake.add("rented")
    merged = inside(fake) | environment
    monkeypatch.setenv("RUNPOD_API_KEY", merged["RUNPOD_API_KEY"])
    answers = end_pod(pod, merged)
    assert [answer.accepted for answer in answers] == [False] * 3 and there.id in fake.pods
    assert all(answer.says for answer in answers)
    assert not merged["RUNPOD_API_KEY"] or not any(merged["RUNPOD_API_KEY"] in str(answer) for answer in answers)
