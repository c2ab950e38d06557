"""Checks of the installation and of the runs directory."""

from __future__ import annotations

import os
import platform
import re
import tomllib
import uuid
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from configs.errors import ExitCode
from configs.schema import Config
from runner.identity import PROJECT_ROOT
from runner.preflight.check import CheckResult, Context

REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?(?:==(?P<version>[^\s;,\\]+))?")
PROBE_BYTES = b"sequence-runner write probe\n" * 64


def check_dependencies(config: Config, context: Context) -> CheckResult:
    """Installed packages against the lock file, or against pyproject's names where there is none."""
    if context.lock_file.is_file():
        wanted, needed = parse_requirements(context.lock_file.read_text()), f"as in {context.lock_file.name}"
    else:
        project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
        wanted, needed = parse_requirements("\n".join(project["dependencies"])), "as in pyproject.toml"
    missing, different = compare_versions(wanted)
    found = f"Python {platform.python_version()}, {len(wanted) - len(missing)} of {len(wanted)} packages"
    if missing:
        return CheckResult("dependencies", f"{found}; missing: {', '.join(missing)}", needed, "fail", "make setup")
    if different:
        remedy = "make setup; results are bit-equal only under equal versions"
        return CheckResult("dependencies", f"{found}; different: {', '.join(different)}", needed, "warn", remedy)
    return CheckResult("dependencies", found, needed, "ok")


def parse_requirements(text: str) -> dict[str, str]:
    """Package name -> pinned version ('' where none) of a requirements file; lines with a marker are left out.

    A marker may exclude the package here (another system, another Python); deciding that is the installer's part.
    """
    wanted = {}
    for line in text.splitlines():
        line = line.partition(" #")[0].strip()
        match = REQUIREMENT.match(line)
        if match and ";" not in line:
            wanted[match["name"]] = match["version"] or ""
    return wanted


def compare_versions(wanted: dict[str, str]) -> tuple[list[str], list[str]]:
    """Packages that are missing, and those whose version differs, as `name found (wanted)`."""
    missing, different = [], []
    for name, pinned in sorted(wanted.items()):
        try:
            installed = version(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        if pinned and _public(installed) != _public(pinned):
            different.append(f"{name} {installed} ({pinned})")
    return missing, different


def check_writing(config: Config, context: Context) -> CheckResult:
    """Write, fsync, rename, read back and delete a file in the runs directory."""
    needed = "write, fsync, rename, read, delete"
    try:
        probe_directory(context.runs_dir)
    except OSError as error:
        found = f"{context.runs_dir}: {error.strerror or error}"
        remedy = "free space or choose a writable directory with --runs-dir"
        return CheckResult("writing", found, needed, "fail", remedy, ExitCode.CANNOT_WRITE)
    return CheckResult("writing", str(context.runs_dir), needed, "ok")


def probe_directory(directory: Path) -> None:
    """Try what every atomic write of a run does; directories made for it are removed again.

    Raises:
        OSError: a step was refused, or other bytes came back.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    first, second = (directory / f".probe-{uuid.uuid4().hex}{suffix}" for suffix in (".tmp", ""))
    try:
        with first.open("wb") as file:
            file.write(PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
        first.replace(second)
        if second.read_bytes() != PROBE_BYTES:
            raise OSError("read back other bytes than were written")
        second.unlink()
    finally:
        for path in (first, second):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        for path in made:
            with suppress(OSError):
                path.rmdir()


def _public(version_text: str) -> str:
    """A version without its local part: 2.13.0+cpu and 2.13.0 are the same release."""
    return version_text.partition("+")[0]
