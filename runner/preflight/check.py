"""What a check is asked (`Context`) and what it answers (`CheckResult`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.errors import ExitCode
from runner.identity import PROJECT_ROOT

Verdict = Literal["ok", "warn", "fail", "skipped"]

MAX_TEXT = 600
"""Longest text of a result in JSON; an event line stays below its limit."""


@dataclass(frozen=True)
class CheckResult:
    """One line of the pre-flight table."""

    name: str
    found: str
    needed: str
    verdict: Verdict
    remedy: str = ""
    """What to do; empty where nothing is to be done."""
    exit_code: ExitCode = ExitCode.MACHINE_UNFIT
    """Exit status when the verdict is `fail`."""

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, long texts cut."""
        return {
            "name": self.name,
            "found": self.found[:MAX_TEXT],
            "needed": self.needed[:MAX_TEXT],
            "verdict": self.verdict,
            "remedy": self.remedy[:MAX_TEXT],
            "exit_code": int(self.exit_code) if self.verdict == "fail" else int(ExitCode.DONE),
        }


@dataclass(frozen=True)
class Context:
    """What the checks need to know beyond the configuration."""

    runs_dir: Path
    offline: bool = False
    require_gpu: bool = False
    """`--require-gpu`; `preflight.require_gpu` and `compute.device: cuda` require one too."""
    bars_needed: Callable[[], int] = lambda: 0
    """Asks how many bars the plan needs, as the stages describe it; 0 when unknown."""
    dataset: Callable[[], dict[str, Any]] = dict
    """Asks for the answer of `runner.data.check`."""
    filesystem_root: Path = Path("/")
    """Where proc, sys and dev are read; another tree in tests."""
    lock_file: Path = PROJECT_ROOT / "requirements.lock"


def existing_ancestor(path: Path) -> Path:
    """The nearest directory on the way up that exists, links resolved: the volume that will be written."""
    path = path.resolve()
    return next(parent for parent in (path, *path.parents) if parent.exists())


def human_bytes(size_bytes: float) -> str:
    """`12.3 GB`: decimal units, as the thresholds are."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g} {unit}"
    return f"{size_bytes:.0f} B"
