"""Publishing a run: report, metrics, configuration and small weights on a git branch, one commit per run.

What is published lies below `<run-id>/` of the branch; other runs' directories
stay as they are. The branch is never checked out, so nothing on it can run,
follow a link or fill the disk here. What only a real push can tell (branch
rules, server hooks) the probe of the pre-flight does not know.
"""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.errors import ProjectError
from configs.run_dir import RunDir
from configs.schema import PublishConfig
from runner.preflight.check import CheckResult
from runner.publish.content import Content, collect
from runner.publish.errors import MovedOnError, PublishError
from runner.publish.exchange import Exchange

ATTEMPTS = 5
"""Pushes before giving up on a branch that others push to."""
TIMEOUT_S = 600.0
"""Limit of a whole publication."""
BACKOFF_S = 0.1
CHECK_NAME = "publish"


@dataclass(frozen=True)
class Published:
    """What lies on the branch now."""

    commit: str
    branch: str
    new: bool
    """False where the branch had exactly this content already; `commit` is then the branch's tip."""
    files: int
    lfs_files: tuple[str, ...]
    """Paths below the run's directory that went by Git LFS."""
    pointers: tuple[str, ...]
    """Paths below the run's directory whose content stayed behind, for their size."""
    message: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def summary(self) -> str:
        """One line for people."""
        if not self.new:
            return f"nothing new: branch {self.branch} has this content already ({self.commit[:12]})"
        extra = [f"{len(names)} {what}" for names, what in self._special() if names]
        return f"commit {self.commit[:12]} on branch {self.branch}: {', '.join([f'{self.files} files', *extra])}"

    def _special(self) -> tuple[tuple[tuple[str, ...], str], ...]:
        return (self.lfs_files, "by Git LFS"), (self.pointers, "too large, left behind a pointer")


def publish_run(run: RunDir, config: PublishConfig, timeout_s: float = TIMEOUT_S) -> Published:
    """Put what a run has come to onto a branch, in one commit on top of what others pushed.

    Args:
        run: the run; units without a result are left out.
        config: where to; the branch is made where it is not there yet.
        timeout_s: limit of the whole publication.

    Raises:
        PublishError: git is missing, or the server cannot be reached, denies access or rejects the push.
        ConfigError: the run has no readable configuration.
    """
    deadline_s = time.monotonic() + timeout_s
    with tempfile.TemporaryDirectory(prefix="publish-") as folder:
        exchange = Exchange(Path(folder), config.git_url, deadline_s)
        content = collect(run, Path(folder) / "content", config.max_file_bytes)
        exchange.add_blobs(content.files.values())
        for attempt in range(1, ATTEMPTS):
            try:
                return _put_on_top(exchange, content, config.branch)
            except MovedOnError:
                time.sleep(BACKOFF_S * 2**attempt * random.random())
        return _put_on_top(exchange, content, config.branch)


def publish_quietly(run: RunDir, config: PublishConfig, timeout_s: float = TIMEOUT_S) -> CheckResult:
    """Publish as the end of a run: whatever goes wrong becomes a warning; its `to_json()` fits a `check` event."""
    needed = f"branch {config.branch} of {config.git_url}"
    again = f"`sequence-runner publish {run.run_id} --git {config.git_url} --branch {config.branch}` repeats it"
    try:
        done = publish_run(run, config, timeout_s)
    except PublishError as error:
        return CheckResult(CHECK_NAME, error.found, needed, "warn", f"{error.remedy}; {again}")
    except ProjectError as error:
        return CheckResult(CHECK_NAME, str(error), needed, "warn", again)
    except Exception as error:  # noqa: BLE001 -- a run that succeeded must not fail for its publication
        return CheckResult(CHECK_NAME, f"{type(error).__name__}: {error}", needed, "warn", again)
    return CheckResult(CHECK_NAME, done.summary(), needed, "ok")


def probe(url: str, branch: str, timeout_s: float) -> str:
    """Ask whether a push would be let in, by a dry run that sends and changes nothing; returns what was found.

    Raises:
        PublishError: it would not.
    """
    deadline_s = time.monotonic() + timeout_s
    with tempfile.TemporaryDirectory(prefix="publish-") as folder:
        exchange = Exchange(Path(folder), url, deadline_s)
        tip = exchange.tip_of(branch)
        exchange.dry_push(f"{branch}-{random.randrange(16**8):08x}")
    return f"{url} accepts pushes; branch {branch} " + ("is there" if tip else "will be made")


def _put_on_top(exchange: Exchange, content: Content, branch: str) -> Published:
    tip = exchange.fetch(branch)
    tree, lfs_files = exchange.tree_with(tip, content.directory, content.files)
    new = not tip or tree != exchange.tree_of(tip)
    commit = exchange.commit(tree, tip, content.message) if new else tip
    if new:
        exchange.push(commit, branch, lfs_files)
    by_lfs = tuple(name for name in content.files if name in lfs_files)
    pointers = tuple(name for name in content.pointers if name not in lfs_files)
    return Published(commit, branch, new, len(content.files), by_lfs, pointers, content.message)
