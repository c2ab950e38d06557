"""The project's own files agree with each other."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(lock: str) -> dict[str, str]:
    lines = (ROOT / lock).read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def names(requirements: list[str]) -> set[str]:
    return {re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[ ]", item)[0]).lower() for item in requirements}


def test_the_changelog_starts_with_this_version():
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert [version for version in versions if version != "Unreleased"][0] == PROJECT["version"]


def test_every_dependency_is_pinned():
    runtime, dev = pinned("requirements.lock"), pinned("requirements-dev.lock")
    assert names(PROJECT["dependencies"]) <= runtime.keys()
    assert names(PROJECT["optional-dependencies"]["dev"]) <= dev.keys()


def test_the_development_lock_changes_no_runtime_pin():
    runtime, dev = pinned("requirements.lock"), pinned("requirements-dev.lock")
    assert {name: dev.get(name) for name in runtime} == runtime


def test_no_tracked_file_names_a_package_index_or_a_machine_path():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    forbidden = re.compile(r"--(extra-)?index-url|--find-links|files\.pythonhosted|pypi\.org|/root/|/opt/wheels")
    me = Path(__file__).relative_to(ROOT).as_posix()
    texts = {
        path: (ROOT / path).read_text(errors="ignore") for path in tracked if path != me and (ROOT / path).is_file()
    }
    assert not [path for path, text in texts.items() if forbidden.search(text)]


def test_env_example_has_every_variable_of_the_compose_file_with_its_default():
    compose, example = (ROOT / "compose.yaml").read_text(), (ROOT / ".env.example").read_text()
    used = dict(re.findall(r"\$\{(\w+):-(.*?)\}", compose))
    assert used == dict(re.findall(r"^# (\w+)=(.*)$", example, re.M))
    assert set(re.findall(r"\$\{(\w+):\?", compose)) == set(re.findall(r"^(\w+)=.", example, re.M))
