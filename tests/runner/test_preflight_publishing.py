"""The pre-flight's word on a push, against real git servers."""

import json
import shutil
import socket
from pathlib import Path

import pytest

from configs.load import resolve
from configs.schema import Config
from runner.preflight.check import CheckResult, Context
from runner.preflight.checks import CHECKS
from runner.preflight.publishing import check_publishing
from tests.git_server import bare_repository, git, git_server

TOKEN = "tok-7f3a9c5e1b2d4860"


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("GIT_ASKPASS", "SSH_ASKPASS", "SEQUENCE_GIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def config(url: str, timeout_s: float = 300) -> Config:
    settings = [f"publish.git_url={json.dumps(url)}", f"preflight.check_timeout_s={timeout_s}"]
    return resolve("ADA-EUR_1H", "quick", settings=settings).config


def check(url: str, tmp_path: Path, **more: float) -> CheckResult:
    return check_publishing(config(url, **more), Context(runs_dir=tmp_path / "runs"))


def test_without_a_repository_nothing_is_asked(tmp_path):
    assert check("", tmp_path).verdict == "skipped"


def test_a_repository_that_takes_pushes_is_ok_and_the_probe_leaves_nothing_there(tmp_path):
    bare = bare_repository(tmp_path / "bare.git")
    result = check(f"file://{bare}", tmp_path)
    assert result.verdict == "ok" and "branch runs will be made" in result.found
    assert git("-C", bare, "for-each-ref") == ""
    assert git("-C", bare, "count-objects").startswith("0 objects")


def test_the_right_token_is_ok_and_a_wrong_or_missing_one_is_a_warning_with_advice(tmp_path, monkeypatch):
    with git_server(tmp_path / "served.git", token=TOKEN) as server:
        missing = check(server.url, tmp_path)
        monkeypatch.setenv("SEQUENCE_GIT_TOKEN", "wrong-token-000000")
        wrong = check(server.url, tmp_path)
        monkeypatch.setenv("SEQUENCE_GIT_TOKEN", TOKEN)
        right = check(server.url, tmp_path)
    assert [result.verdict for result in (missing, wrong, right)] == ["warn", "warn", "ok"]
    assert "SEQUENCE_GIT_TOKEN" in missing.remedy and "SEQUENCE_GIT_TOKEN" in wrong.remedy
    assert TOKEN not in f"{missing}{wrong}{right}"


def test_a_repository_that_may_be_read_only_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQUENCE_GIT_TOKEN", TOKEN)
    with git_server(tmp_path / "served.git", token=TOKEN) as server:
        git("-C", server.repository, "config", "http.receivepack", "false")
        result = check(server.url, tmp_path)
    assert result.verdict == "warn" and result.remedy


def test_a_missing_repository_a_closed_port_and_silence_are_warnings(tmp_path):
    assert "git init --bare" in check(f"file://{tmp_path / 'nothing.git'}", tmp_path).remedy
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        result = check(f"http://127.0.0.1:{port}/repo.git", tmp_path, timeout_s=0.5)
    assert result.verdict == "warn" and "in time" in result.found
    assert check(f"http://127.0.0.1:{port}/repo.git", tmp_path).verdict == "warn"


def test_without_git_it_warns(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not shutil.which("git")
    result = check("file:///repo.git", tmp_path)
    assert (result.verdict, result.found) == ("warn", "git is not installed")


def test_it_is_among_the_checks_and_fails_no_run():
    assert [item.advisory for item in CHECKS if item.name == "publishing"] == [True]
