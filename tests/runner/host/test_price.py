"""What a machine costs, asked of a server that plays its provider."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from configs.load import resolve
from runner.host import price
from runner.host.price import with_true_price
from runner.host.where import Host, this_host
from runner.session import Ask
from tests.runner.host.pod import KEY, POD, Api, serving

ASK = Ask(dataset="DEMO-USD_1H")
LAMBDA = Host("lambda", "run-1", True, "machine box")


@pytest.fixture
def api(monkeypatch) -> Iterator[Api]:
    monkeypatch.setattr(price, "ANSWER_S", 120.0)
    monkeypatch.setattr(price, "LIMIT_S", 120.0)
    with serving() as server:
        yield server


def in_pod(api: Api, **more: str) -> dict[str, str]:
    return api.environment(SEQUENCE_BUDGET__PRICE_USD_PER_HOUR="0.5", **more)


def price_of(ask: Ask, environment: dict[str, str]) -> float:
    """What the run would reckon with."""
    ours = {name: value for name, value in environment.items() if "__" in name}
    resolved = resolve(ask.dataset, "quick", environment=ours, settings=ask.settings, file=ask.config_file)
    return resolved.config.budget.price_usd_per_hour


def asked_for(ask: Ask, environment: dict[str, str], host: Host | None = None) -> float:
    return price_of(with_true_price(ask, host or this_host(environment), environment), environment)


def test_the_price_of_a_pod_is_the_providers_and_one_that_differs_is_said(api, capfd):
    environment = in_pod(api)
    for cost, says in ((0.79, "costs 0.79 USD per hour; it was launched for 0.5"), (0.5, "")):
        api.replies[f"GET /v2/pods/{POD}"] = (200, {"id": POD, "cost": cost})
        assert asked_for(ASK, environment) == cost
        said = capfd.readouterr().err
        assert says in said and bool(says) == bool(said)
    assert api.keys == {f"Bearer {KEY}"}


@pytest.mark.parametrize("reply", [(403, {"detail": f"{KEY} may not"}), (200, {"cost": 0}), (200, "<html>"), (200, [])])
def test_where_the_price_is_refused_the_launchers_stays_and_that_is_said_once_without_the_key(
    api, capfd, reply, monkeypatch
):
    api.replies[f"GET /v2/pods/{POD}"] = reply
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    assert asked_for(ASK, in_pod(api)) == 0.5
    said = capfd.readouterr().err
    assert said.count("going on with the 0.5 USD per hour") == 1 and KEY not in said


def test_a_price_of_the_users_own_is_asked_of_nobody(api, tmp_path):
    (tmp_path / "run.yaml").write_text("budget: {price_usd_per_hour: 0.25}\n")
    by_file, by_setting = Ask(dataset=ASK.dataset, config_file=tmp_path / "run.yaml"), "budget.price_usd_per_hour=0.25"
    environment = in_pod(api)
    del environment["SEQUENCE_BUDGET__PRICE_USD_PER_HOUR"]
    for ask in (by_file, Ask(dataset=ASK.dataset, settings=(by_setting,))):
        assert asked_for(ask, environment) == 0.25
    assert not api.asked


def test_the_price_of_an_instance_is_found_by_its_name_where_a_key_is_there(api):
    def instance(name: str, cents: int) -> dict:
        return {"id": "0", "name": name, "instance_type": {"name": "gpu_1x_a10", "price_cents_per_hour": cents}}

    environment = in_pod(api, LAMBDA_API_KEY="secret_lambda")
    path = "GET /api/v1/instances"
    for instances, found in (
        ([instance("other", 1), instance("run-1", 129)], 1.29),
        ([instance("run-1", 1), instance("run-1", 2)], 0.5),
        ([], 0.5),
    ):
        api.replies[path] = (200, {"data": instances})
        assert asked_for(ASK, environment, LAMBDA) == found
    del environment["LAMBDA_API_KEY"]
    assert asked_for(ASK, environment, LAMBDA) == 0.5 and api.asked == [path] * 3


def test_a_provider_that_never_answers_is_not_waited_for(api, monkeypatch, capfd):
    monkeypatch.setattr(price, "LIMIT_S", 0.1)
    api.replies[f"GET /v2/pods/{POD}"] = (200, {"cost": 9})
    api.delay_s = 60.0
    assert asked_for(ASK, in_pod(api)) == 0.5
    assert "no answer within" in capfd.readouterr().err


def test_a_computer_that_nobody_rents_out_asks_for_no_price(api):
    plain = {name: value for name, value in in_pod(api).items() if name != "RUNPOD_POD_ID"} | {"SEQUENCE_HOST": ""}
    assert asked_for(ASK, plain) == 0.5 and not api.asked
