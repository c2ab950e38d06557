"""The pre-flight check of the store: what it says of each kind of server, and of none."""

import pytest

from configs.errors import ExitCode
from configs.load import resolve
from runner.preflight.check import Context
from runner.preflight.checks import CHECKS, run_checks
from runner.preflight.store import check_store
from tests import servers

slow = pytest.mark.slow


def check(tmp_path, url, *settings):
    named = [f"store.url={url}"] if url else []
    named += ["preflight.check_timeout_s=240"]  # one answer of the server may take a quarter of it
    config = resolve("DEMO-USD_1H", "quick", settings=[*named, *settings]).config
    return check_store(config, Context(runs_dir=tmp_path / "runs"))


def test_without_a_store_nothing_is_asked(tmp_path):
    assert check(tmp_path, "").verdict == "skipped"


def test_a_directory_passes(tmp_path):
    result = check(tmp_path, (tmp_path / "store").as_uri())
    assert (result.verdict, result.remedy) == ("ok", "")
    assert "conditional writes" in result.found


@pytest.mark.parametrize("name", [pytest.param("seaweed", marks=slow), pytest.param("storage_testbench", marks=slow)])
def test_a_server_that_keeps_conditions_passes(name, request, tmp_path, monkeypatch):
    server = request.getfixturevalue(name)
    server.use(monkeypatch)
    assert check(tmp_path, server.store_url()).verdict == "ok"


@pytest.mark.parametrize("name", ["rclone_s3", "gcs_emulator"])
def test_a_server_that_ignores_conditions_is_a_warning_that_says_what_is_lost(name, request, tmp_path, monkeypatch):
    server = request.getfixturevalue(name)
    server.use(monkeypatch)
    result = check(tmp_path, server.store_url())
    assert result.verdict == "warn"
    assert "creating an object only where there is none" in result.found
    assert "replacing only the version that was named" in result.found
    assert result.remedy.startswith("no conditional writes: two runners of this run cannot be kept apart")


def test_a_wrong_address_is_a_wrong_configuration(tmp_path):
    result = check(tmp_path, "s3:/bucket")
    assert (result.verdict, result.exit_code) == ("fail", ExitCode.BAD_CONFIG)


def test_a_place_that_cannot_be_written_is_a_failure(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    result = check(tmp_path, (tmp_path / "file").as_uri())
    assert (result.verdict, result.exit_code) == ("fail", ExitCode.MACHINE_UNFIT)


def test_wrong_credentials_are_a_failure_with_a_remedy(rclone_s3, tmp_path, monkeypatch):
    rclone_s3.use(monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2")
    result = check(tmp_path, rclone_s3.store_url())
    assert (result.verdict, result.exit_code) == ("fail", ExitCode.MACHINE_UNFIT)
    assert "credentials" in result.remedy
    assert "hunter2" not in result.found


def test_a_server_that_is_not_there_is_a_failure_of_the_check_within_its_limit(rclone_s3, tmp_path, monkeypatch):
    settings = [f"store.url={rclone_s3.store_url()}", "preflight.check_timeout_s=10"]
    config = resolve("DEMO-USD_1H", "quick", settings=settings).config
    (only,) = [each for each in CHECKS if each.name == "store"]
    with servers.closed_port() as port:
        rclone_s3.use(monkeypatch, f"http://127.0.0.1:{port}")
        (result,) = run_checks(config, Context(runs_dir=tmp_path / "runs"), [only])
    assert (result.verdict, result.exit_code) == ("fail", ExitCode.MACHINE_UNFIT)
    assert f":{port}" in result.found
