"""Lambda through its API, as a fake of it on loopback answers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import yaml

from runner.launch import http
from runner.launch.lambda_cloud import provider
from runner.launch.lambda_cloud.provider import LambdaCloud
from runner.launch.provider import BadRequestError, CandidateRefusedError, LaunchError, Offer, Order, UnclearError
from tests.providers.base import Fault, Reply
from tests.providers.lambda_cloud import (
    INACTIVE,
    KEY,
    LAUNCH,
    NO_CAPACITY,
    QUOTA,
    TERMINATE,
    UNAVAILABLE,
    FakeLambda,
    error,
)

SECRET = "s3cret-of-the-store"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLambda]:
    with FakeLambda() as server:
        monkeypatch.setattr(provider, "REQUEST_INTERVAL_S", 0.0)
        monkeypatch.setattr(provider, "LAUNCH_INTERVAL_S", 0.0)
        monkeypatch.setenv("SEQUENCE_LAMBDA_URL", server.url)
        monkeypatch.setenv("LAMBDA_API_KEY", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield server


def order(**changed: object) -> Order:
    plain = {"run_id": "DEMO-USD_1H-quick-01234567", "image": "registry/image:1", "arguments": ("--dataset", "D")}
    return Order(**plain | {"gpu": "gpu_1x_a10", "secrets": ("AWS_SECRET_ACCESS_KEY",)} | changed)  # type: ignore[arg-type]


def cloud() -> LambdaCloud:
    return LambdaCloud()


def first(asked: Order) -> Offer:
    return cloud().offers(asked)[0]


def test_offers_are_the_regions_with_capacity_in_lambdas_order_at_lambdas_price(fake: FakeLambda):
    offers = cloud().offers(order())
    assert [(offer.region, offer.price_usd_per_hour) for offer in offers] == [
        ("us-west-1", 0.75),
        ("us-east-1", 0.75),
        ("europe-central-1", 0.75),
    ]


def test_regions_that_are_asked_for_are_tried_in_their_own_order(fake: FakeLambda):
    offers = cloud().offers(order(regions=("europe-central-1", "us-west-3", "us-west-1")))
    assert [offer.region for offer in offers] == ["europe-central-1", "us-west-1"]


def test_what_cannot_be_had_names_what_can(fake: FakeLambda):
    with pytest.raises(CandidateRefusedError, match=r"gpu_1x_a10 \(\$0.75/h\), gpu_8x_h100_sxm5"):
        cloud().offers(order(gpu="gpu_1x_a100"))
    with pytest.raises(CandidateRefusedError, match="no gpu_1x_a10 in us-west-3 now, but in us-west-1"):
        cloud().offers(order(regions=("us-west-3",)))
    with pytest.raises(BadRequestError, match="did you mean gpu_1x_a10"):
        cloud().offers(order(gpu="gpu_1x_a1"))


def test_an_instance_is_launched_with_its_name_and_found_by_it(fake: FakeLambda):
    asked = order(environment={"SEQUENCE_HOST": "lambda"})
    machine = cloud().create(asked, first(asked))
    assert cloud().machines(asked.run_id)[0].id == machine.id and not cloud().machines("other")
    told = yaml.safe_load(fake.user_data[machine.id])
    environment = next(file["content"] for file in told["write_files"] if file["path"].endswith("environment"))
    assert environment == f"AWS_SECRET_ACCESS_KEY={SECRET}\nSEQUENCE_HOST=lambda\n"


def test_the_only_ssh_key_is_taken_and_of_several_one_must_be_chosen(fake: FakeLambda):
    asked = order()
    offer = first(asked)
    machine = cloud().create(asked, offer)
    assert fake.instances[machine.id]["ssh_key_names"] == ["laptop"]
    fake.ssh_keys = ["laptop", "desk"]
    with pytest.raises(BadRequestError, match="--ssh-key: laptop, desk"):
        cloud().create(asked, offer)
    cloud().create(order(options={"ssh_key": "desk"}), offer)
    with pytest.raises(BadRequestError, match=r"does not exist.*--ssh-key"):
        cloud().create(order(options={"ssh_key": "none"}), offer)
    fake.ssh_keys = []
    with pytest.raises(BadRequestError, match="the account has none"):
        cloud().create(asked, offer)


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (Fault(LAUNCH, reply=NO_CAPACITY), CandidateRefusedError, "no gpu_1x_a10 in us-west-1 any more"),
        (Fault(LAUNCH, reply=QUOTA), BadRequestError, "end other machines"),
        (Fault(LAUNCH, reply=INACTIVE), BadRequestError, "payment method"),
        (Fault(LAUNCH, reply=UNAVAILABLE), UnclearError, "provider/internal-unavailable"),
        (Fault(LAUNCH, lost=True), UnclearError, "may have carried it out"),
    ],
)
def test_each_refusal_of_a_launch_means_one_thing(fake: FakeLambda, fault: Fault, kind: type, says: str):
    offer = first(order())
    fake.faults = [replace(fault)]
    with pytest.raises(kind, match=says):
        cloud().create(order(), offer)
    assert len(fake.made(LAUNCH)) == 1


def test_a_launch_whose_answer_was_lost_is_found_by_name(fake: FakeLambda):
    offer = first(order())
    fake.faults = [Fault(LAUNCH, lost=True)]
    with pytest.raises(UnclearError):
        cloud().create(order(), offer)
    (found,) = cloud().machines(order().run_id)
    assert (found.status, found.price_usd_per_hour, found.region) == ("running", 0.75, "us-west-1")


def test_a_wrong_key_is_named_and_never_shown(fake: FakeLambda, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAMBDA_API_KEY", "another-key-987654321")
    with pytest.raises(BadRequestError, match="LAMBDA_API_KEY") as caught:
        cloud().machines()
    assert "987654321" not in str(caught.value)


def test_every_status_that_may_cost_is_listed(fake: FakeLambda):
    for status in ("booting", "active", "unhealthy", "preempted", "terminating", "terminated", "new-word"):
        fake.add(status, status)
    fake.boots_after = 9
    assert {machine.says: machine.status for machine in cloud().machines()} == {
        "booting": "starting",
        "active": "running",
        "unhealthy": "failed",
        "preempted": "failed",
        "new-word": "failed",
    }


def test_ending_twice_is_fine(fake: FakeLambda):
    machine_id = fake.add("run")
    cloud().end(machine_id)
    cloud().end(machine_id)
    assert not fake.named("run") and len(fake.made(TERMINATE)) == 2


def test_ending_that_is_refused_says_which_instance_still_costs(fake: FakeLambda):
    machine_id = fake.add("run")
    fake.faults = [Fault(TERMINATE, reply=INACTIVE)]
    with pytest.raises(LaunchError, match=f"end instance {machine_id}"):
        cloud().end(machine_id)


def test_requests_keep_their_distance_and_launches_theirs(fake: FakeLambda, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(provider, "REQUEST_INTERVAL_S", 0.02)
    monkeypatch.setattr(provider, "LAUNCH_INTERVAL_S", 0.24)
    fake.interval_s, fake.launch_interval_s = 0.01, 0.2
    lambda_cloud = LambdaCloud()
    (offer, *_) = lambda_cloud.offers(order())
    for number in range(3):
        lambda_cloud.create(order(run_id=f"run-{number}"), offer)
        lambda_cloud.machines()
    assert fake.too_early == 0 and len(fake.made(LAUNCH)) == 3


def test_a_launch_that_came_too_early_is_asked_again_no_sooner_than_lambda_allows(fake, monkeypatch):
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(provider, "LAUNCH_INTERVAL_S", 0.2)
    offer = first(order())
    fake.faults = [Fault(LAUNCH, reply=error(429, "global/too-many-requests"))]
    cloud().create(order(), offer)
    refused, launched = fake.made(LAUNCH)
    assert launched.t - refused.t >= 0.2 and len(fake.instances) == 1


def test_what_is_shown_before_has_no_secret_and_asks_for_nothing(fake: FakeLambda):
    shown = cloud().request(order(), Offer("gpu_1x_a10", "", 0.0))
    assert shown.url == f"{fake.url}/instance-operations/launch"
    assert KEY not in shown.body and SECRET not in shown.body and not fake.calls
    assert "AWS_SECRET_ACCESS_KEY=<value of AWS_SECRET_ACCESS_KEY>" in shown.body


def test_what_is_shown_is_what_is_sent_but_for_secrets(fake: FakeLambda):
    asked = order()
    offer = first(asked)
    machine = cloud().create(asked, offer)
    shown = cloud().request(asked, offer).body.split("\n\nuser_data:\n")[1]
    sent = fake.user_data[machine.id].replace(SECRET, "<value of AWS_SECRET_ACCESS_KEY>")
    (tag,) = fake.instances[machine.id]["tags"]
    sent = sent.replace(tag["value"], tag["value"][:-8] + "<8 hex>")
    assert shown == sent.replace(KEY, "<value of LAMBDA_API_KEY>")


def test_two_instances_of_one_order_have_tags_of_their_own_which_begin_with_the_machine(fake: FakeLambda):
    asked = order(environment={"SEQUENCE_MACHINE": "a-run-0011aabb"})
    offer = first(asked)
    values = [fake.instances[cloud().create(asked, offer).id]["tags"][0]["value"] for _ in range(2)]
    assert len({*values}) == 2 and all(re.fullmatch("a-run-0011aabb-[0-9a-f]{8}", value) for value in values)


def test_without_the_key_on_the_machine_others_end_it(fake: FakeLambda):
    asked = order(options={"self_terminate": False})
    machine = cloud().create(asked, first(asked))
    assert KEY not in fake.user_data[machine.id]


def test_what_lambda_cannot_do_is_refused_before_anything_is_asked(fake: FakeLambda):
    with pytest.raises(BadRequestError, match="no spot"):
        cloud().offers(order(spot=True))
    with pytest.raises(BadRequestError, match="65 characters"):
        cloud().offers(order(run_id="x" * 65))
    assert not fake.calls
    with pytest.raises(BadRequestError, match="8 GPU"):
        cloud().offers(order(gpu="gpu_8x_h100_sxm5", gpu_count=4))


def test_logs_are_said_to_be_elsewhere(fake: FakeLambda):
    with pytest.raises(LaunchError, match="ssh ubuntu@198.51.100.2"):
        next(cloud().logs(fake.add("run"), 10, False))


def test_an_answer_of_another_shape_is_an_error_of_ours(fake: FakeLambda):
    fake.faults.append(Fault("GET /instances", Reply(200, {"data": None})))
    with pytest.raises(LaunchError, match="something else than its published API"):
        cloud().machines()


def test_one_instance_of_another_shape_hides_no_other(fake: FakeLambda, capsys):
    fake.instances["x"] = {"status": "active"}
    there = fake.add("run")
    fake.instances[there] |= {"instance_type": None, "region": None}
    assert [machine.id for machine in cloud().machines()] == [there]
    assert "it is left out" in capsys.readouterr().err


@pytest.mark.skipif("LAMBDA_API_KEY" in os.environ, reason="a key is set")
def test_a_missing_key_is_named():
    with pytest.raises(LaunchError, match="LAMBDA_API_KEY is not set"):
        LambdaCloud().machines()
