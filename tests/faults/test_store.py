"""A store that fails: training goes on, what was committed stays, and the end says what is missing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.view import RUN
from tests import servers
from tests.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.faults.case import AGENT, Case

pytestmark = pytest.mark.slow

POD = "RUNPOD_POD_ID"


@pytest.fixture
def proxy(seaweed) -> Iterator[FaultProxy]:
    with fault_proxy(seaweed.endpoint) as proxy:
        yield proxy


@pytest.fixture
def s3_case(agent_case, seaweed, proxy) -> Case:
    """An agent's run that is kept in an S3 store behind a network that can fail."""
    return dataclasses.replace(
        agent_case, store=seaweed.store_url(), environment=seaweed.environment_by(proxy.endpoint)
    )


@pytest.fixture
def file_case(agent_case, tmp_path) -> Case:
    return dataclasses.replace(agent_case, store=f"file://{tmp_path}/store")


def elsewhere(case: Case, name: str = "elsewhere") -> Case:
    """The same command on an empty machine, in another place."""
    environment = case.environment | {POD: name}
    return dataclasses.replace(case, runs_dir=case.runs_dir.with_name(name), environment=environment, log_to=None)


@pytest.fixture
def settle_from_store(settle) -> Callable[[Case, str, str, int], None]:
    """Prove that the store alone has everything."""

    def settled(case: Case, fault: str, ended: str, exit_code: int) -> None:
        empty = elsewhere(case, "empty")
        settle(empty, fault, ended, exit_code)
        assert len(empty.events("unit_started")) == len(case.events("unit_started")), "nothing was done again"

    return settled


def test_a_store_that_is_away_for_a_while_gets_everything_later(long_one, s3_case, proxy, settle_from_store):
    with s3_case.started() as running:
        running.wait_event("checkpoint", RUN)
        proxy.fault = Fault(cut_request_after=0)
        running.wait_event("retry", RUN)
        proxy.fault = Fault()
        code = running.ended()
    assert code == 0, s3_case.said
    settle_from_store(s3_case, "store away for a while", "trained on, sent later", code)


def test_a_store_that_stays_away_is_74_with_everything_here(long_one, s3_case, proxy, settle, settle_from_store):
    s3_case.settings = ("store.final_upload_s=3",)
    with s3_case.started() as running:
        running.wait_event("checkpoint", RUN)
        proxy.fault = Fault(cut_request_after=0)
        code = running.ended()
    assert code == 74, s3_case.said
    assert str(s3_case.run.root) in s3_case.said and s3_case.run.report.exists()
    settle(s3_case, "store away for good", "trained to the end, all kept here", code, again=None)
    proxy.fault = Fault()
    assert s3_case.finish() == 0, s3_case.said
    settle_from_store(s3_case, "store back after that", "the same command sent it", 0)


def test_a_store_that_is_away_at_the_start_is_69_and_nothing_is_begun(long_one, s3_case, proxy, settle):
    proxy.fault = Fault(cut_request_after=0)
    code = s3_case.finish()
    assert code == 69, s3_case.said
    assert not s3_case.exists
    proxy.fault = Fault()
    settle(s3_case, "store away at the start", "nothing was begun", code)


NETWORKS = {
    "network cut in mid-upload": lambda: Fault(cut_request_after=150_000, times=12),
    "answers truncated": lambda: Fault(cut_reply_after=300, times=12),
    "answers lost": lambda: Fault(cut_reply_after=0, times=3),
    "latency 50 ms each way": lambda: Fault(delay_s=0.05),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_bad_network_costs_time_and_nothing_else(kind, request, s3_case, proxy, settle_from_store):
    if kind != "network cut in mid-upload":
        request.getfixturevalue("long_one")
    proxy.fault = NETWORKS[kind]()
    code = s3_case.finish()
    assert code == 0, s3_case.said
    assert proxy.fault.cuts == (0 if "latency" in kind else proxy.fault.times)
    proxy.fault = Fault()
    settle_from_store(s3_case, kind, "trained on, calls repeated", code)


def test_credentials_that_expire_are_taken_up_anew_when_they_are_renewed(long_one, agent_case, settle_from_store):
    with servers.seaweed() as server:
        environment = server.environment.copy()
        secrets = agent_case.runs_dir.parent / "credentials"

        def grant(secret: str) -> None:
            beside = secrets.with_suffix(".new")
            key = environment_key
            beside.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
            beside.replace(secrets)

        environment_key = environment.pop("AWS_ACCESS_KEY_ID")
        grant(environment.pop("AWS_SECRET_ACCESS_KEY"))
        environment["AWS_SHARED_CREDENTIALS_FILE"] = str(secrets)
        case = dataclasses.replace(agent_case, store=server.store_url(), environment=environment)
        with case.started() as running:
            running.wait_event("checkpoint", RUN)
            change_secret(server, "renewed-secret")
            running.wait_event("retry", RUN)
            grant("renewed-secret")
            code = running.ended()
        assert code == 0, case.said
        settle_from_store(case, "credentials expire and are renewed", "trained on, sent later", code)


def change_secret(server: servers.Server, secret: str) -> None:
    """Let the server know only this one from now on."""
    path = server.directory / "s3.json"
    known = json.loads(path.read_text())
    known["identities"][0]["credentials"][0]["secretKey"] = secret
    path.write_text(json.dumps(known))
    server.kill()
    server.is_ready = lambda _server: servers._listens(server.endpoint)  # its own check has the old secret
    server.start()


def test_a_file_store_that_is_replaced_by_something_else_is_74(long_one, file_case, tmp_path, settle):
    file_case.settings = ("store.final_upload_s=3",)
    store, away = tmp_path / "store", tmp_path / "away"
    with file_case.started() as running:
        running.wait_event("checkpoint", RUN)
        store.rename(away)
        store.write_text("no store")
        code = running.ended()
    assert code == 74, file_case.said
    store.unlink()
    away.rename(store)
    settle(file_case, "file store replaced by a file", "trained to the end, all kept here", code)


@pytest.mark.parametrize("kind", ["file_case", "s3_case"])
def test_a_runner_that_was_paused_while_another_took_over_ends_with_76(
    long_one, kind, request, settle, settle_from_store
):
    case: Case = request.getfixturevalue(kind)
    case.environment[POD] = "first"
    case.settings = ("store.lease_s=3600",)
    with case.started() as paused:
        paused.wait_event("checkpoint", AGENT)
        paused.wait_event("checkpoint", RUN)
        frozen = [paused.pid_of(AGENT), paused.process.pid]
        for pid in reversed(frozen):
            os.kill(pid, signal.SIGSTOP)
        other = elsewhere(case)
        assert other.finish() == 76, "the lease holds"
        assert "--take-over" in other.said
        assert other.finish("--take-over") == 0, other.said
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        code = paused.ended()
    assert code == 76, case.said
    settle(
        other, f"paused, taken over, woken ({kind[:-5]} store)", "the other done, the first fenced", code, again=None
    )
    settle_from_store(other, f"store after that ({kind[:-5]})", "whole", 0)


@pytest.fixture
def skewed(tmp_path) -> Callable[[int], dict[str, str]]:
    """Environment in which every process takes the time of day for another, by so many hours.

    libfaketime cannot be taken: it also falsifies the clock that Python sleeps by.
    """
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    library = tmp_path / "skew.so"
    source = Path(__file__).with_name("skew.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return lambda hours: {"LD_PRELOAD": str(library), "SKEW_S": str(3_600 * hours)}


def test_a_clock_that_is_hours_off_decides_nothing(long_one, skewed, file_case, settle):
    file_case.settings = ("store.lease_s=8",)
    other = elsewhere(file_case)
    before = dict(other.environment)
    file_case.environment |= {POD: "first"} | skewed(3)
    other.environment |= skewed(-2)
    with file_case.started() as running:
        running.wait_event("checkpoint", AGENT)
        told = running.wait_event("checkpoint", RUN)
        assert told["t"] - time.time() > 10_000, "the clock is off"
        running.process.kill()
    codes = [other.finish()]
    while codes[-1] == 76 and len(codes) < 20:  # until the lease has run out by the store's clock
        codes.append(other.finish())
    assert codes[-1] == 0, other.said
    other.environment = before
    settle(other, "clocks 3 h ahead, then 2 h behind", "lease and resume by the store's clock", codes[-1])


def test_a_clock_that_s3_does_not_accept_is_said_at_the_start(long_one, skewed, s3_case, settle):
    right = dict(s3_case.environment)
    s3_case.environment |= skewed(3)
    code = s3_case.finish()
    assert code == 69 and "clock" in s3_case.said, s3_case.said
    assert not s3_case.exists
    s3_case.environment = right
    settle(s3_case, "clock 3 h ahead, S3", "refused, says to set the clock", code)


def test_two_runners_in_two_places_with_one_store_are_one_too_many(long_one, file_case, settle):
    file_case.environment[POD] = "first"
    file_case.settings = ("store.lease_s=9",)  # renewed every 3 s, which refuses the second
    with file_case.started() as running:
        running.wait_event("checkpoint", RUN)
        other = elsewhere(file_case)
        code = other.finish()
        assert code == 76 and "first" in other.said
        assert running.ended() == 0, file_case.said
    settle(file_case, "two machines, one store", "the second refused, the first done", code)


def test_what_is_damaged_in_the_store_is_said_and_an_older_snapshot_used(file_case, tmp_path, settle):
    with file_case.started() as running:
        running.wait_event("checkpoint", AGENT)
        running.wait_event("checkpoint", RUN)
        running.process.send_signal(signal.SIGTERM)
        assert running.ended() == 75, file_case.said
    newest = max((tmp_path / "store").rglob("snapshots/*.json"), key=lambda path: path.name)
    only = blobs_of(newest) - set().union(*(blobs_of(path) for path in newest.parent.glob("*.json") if path != newest))
    for key in only:
        damage(next((tmp_path / "store").glob(f"*/{key}")))
    empty = elsewhere(file_case)
    code = empty.finish("--take-over")
    assert code == 0 and "quarantine" in empty.said, empty.said
    settle(empty, "newest snapshot damaged in the store", "said; an older one used", code)


def blobs_of(snapshot: Path) -> set[str]:
    files = json.loads(snapshot.read_bytes())["files"].values()
    return {blob["key"] for file in files for blob in file["blobs"]}


def damage(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
