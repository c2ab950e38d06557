"""Git's side of publishing: a temporary bare repository that reads one branch and pushes one commit.

Only trees of the branch are fetched, where the server can leave the contents
out; the new tree is put together in an index, without any checkout. Hooks,
submodules and transports that run commands are off. A token stays in the
environment: only the askpass script reads it there, and tells it to nobody but the
host that is published to; it is in no argument, file, URL or configuration.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from runner.publish.errors import PublishError, UnreachableError, fault

TOKEN_VARIABLE = "SEQUENCE_GIT_TOKEN"
USER_VARIABLE = "SEQUENCE_GIT_USER"
DEFAULT_USER = "x-access-token"
NAME, EMAIL = "sequence-runner", "sequence-runner@localhost"
FETCHED = "refs/heads/fetched"
NO_BLOBS_WITHIN = "blob:none"
MODE = "100644"
ZERO_ID = "0" * 40
ASKPASS = f"""#!/bin/sh
# Answers git's question for a name or a token, but only for the host that is published to.
asked=${{1#*[\\'\\"]}}
host=${{asked#*://}}
host=${{host%%[/\\'\\"]*}}
[ "${{asked%%://*}}://${{host##*@}}" = "$ASKPASS_ORIGIN" ] || exit 1
case $1 in
  Username*) printf '%s\\n' "${{{USER_VARIABLE}:-{DEFAULT_USER}}}" ;;
  *) printf '%s\\n' "${TOKEN_VARIABLE}" ;;
esac
"""
SETTINGS = (
    "core.hooksPath=/dev/null",
    "protocol.ext.allow=never",
    "credential.useHttpPath=false",
    "transfer.credentialsInUrl=die",
    "push.recurseSubmodules=no",
    "fetch.recurseSubmodules=no",
    "push.gpgSign=false",
    "push.followTags=false",
    "gc.auto=0",
    "maintenance.auto=false",
)
TRANSPORTS = "file:http:https:ssh"


@dataclass(frozen=True)
class Source:
    """One file to publish."""

    path: Path
    """Where its bytes lie."""
    stand_in: Path | None = None
    """Published instead, under `<name>.pointer.json`, where Git LFS does not take the file."""


class Exchange:
    """One publication's conversation with a repository."""

    def __init__(self, folder: Path, url: str, deadline_s: float) -> None:
        """Make the temporary repository in `folder`, which the caller removes; work ends at `deadline_s`, monotonic.

        Raises:
            PublishError: git is missing.
        """
        if not shutil.which("git"):
            raise PublishError("git is not installed", "install git, for example `apt-get install git`")
        from git import Git  # heavy; and without git it cannot even be imported

        self._folder, self._url, self._deadline_s = folder, url, deadline_s
        self._blobs: dict[Path, str] = {}
        directory = self._folder / "repository.git"
        nowhere = self._folder / "nowhere"
        nowhere.mkdir()
        self._git = Git(nowhere)
        self._git.update_environment(**self._environment(directory))
        # a token that is given is no business of the user's credential helpers, which would store it
        settings = (*SETTINGS, "credential.helper=") if self._uses_token() else SETTINGS
        self._settings = [part for setting in settings for part in ("-c", setting)]
        self._run("init", "--quiet", "--template=")
        self._run("config", "remote.origin.url", self._url)

    def tip_of(self, branch: str) -> str:
        """The commit at the tip of a branch, empty where there is no such branch; fetches nothing."""
        reference = f"refs/heads/{branch}"
        told = (line.split("\t") for line in self._run("ls-remote", "origin", reference).splitlines())
        return next((commit for commit, name in told if name == reference), "")

    def fetch(self, branch: str) -> str:
        """Fetch the newest commit of a branch and return its id, empty where there is no such branch."""
        if not self.tip_of(branch):
            return ""
        options = ("--quiet", "--depth=1", f"--filter={NO_BLOBS_WITHIN}", "--no-tags", "--no-write-fetch-head")
        self._run("fetch", *options, "origin", f"+refs/heads/{branch}:{FETCHED}")
        return self._run("rev-parse", FETCHED).strip()

    def add_blobs(self, sources: Iterable[Source]) -> None:
        """Store the files' bytes as they are; a file with a stand-in may still go by Git LFS."""
        plain = [source.stand_in or source.path for source in sources]
        # one per line: the content's own names are plain numbers below our folder
        told = self._run("hash-object", "-w", "--no-filters", "--stdin-paths", feed="".join(f"{p}\n" for p in plain))
        self._blobs |= dict(zip(plain, told.split(), strict=True))

    def tree_with(self, tip: str, directory: str, files: Mapping[str, Source]) -> tuple[str, dict[str, str]]:
        """The tree of `tip` with `directory` holding exactly these files, and what went by LFS (name -> sha256)."""
        self._run("read-tree", tip) if tip else self._run("read-tree", "--empty")
        old = self._run("ls-files", "-z", "--", directory).split("\0")[:-1]
        entries = [f"0 {ZERO_ID}\t{path}\0" for path in old]
        lfs_files: dict[str, str] = {}
        tracked = self._tracked_by_lfs([f"{directory}/{name}" for name in files])
        for name, source in files.items():
            path = f"{directory}/{name}"
            if path in tracked:
                blob, lfs_files[name] = self._lfs_blob(source.path, path)
            else:
                blob = self._blobs[source.stand_in or source.path]
                path += ".pointer.json" if source.stand_in else ""
            entries.append(f"{MODE} {blob}\t{path}\0")
        self._run("update-index", "-z", "--index-info", feed="".join(entries))
        return self._run("write-tree", "--missing-ok").strip(), lfs_files

    def tree_of(self, commit: str) -> str:
        """The tree of a commit."""
        return self._run("rev-parse", f"{commit}^{{tree}}").strip()

    def commit(self, tree: str, parent: str, message: str) -> str:
        """A commit by whom git's configuration names, else by the program itself."""
        names = self._run("-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT", check=False)
        names = names and self._run("-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT", check=False)
        roles = () if names else ("AUTHOR", "COMMITTER")
        own = {f"GIT_{role}_{key}": value for role in roles for key, value in (("NAME", NAME), ("EMAIL", EMAIL))}
        parents = ("-p", parent) if parent else ()
        return self._run("commit-tree", tree, *parents, "-F", "-", feed=message, environment=own).strip()

    def push(self, commit: str, branch: str, lfs_files: Mapping[str, str]) -> None:
        """Push a commit to a branch, its LFS objects first; never forces.

        Raises:
            MovedOnError: the branch has a newer tip than the commit's parent.
            PublishError: the push was not possible.
        """
        if lfs_files:
            self._run("lfs", "push", "--object-id", "origin", *sorted(set(lfs_files.values())))
        self._run("push", "--porcelain", "--no-verify", "origin", f"{commit}:refs/heads/{branch}")

    def dry_push(self, branch: str) -> None:
        """Go as far as a push to a new branch goes without sending anything.

        Raises:
            PublishError: a push would not get that far.
        """
        commit = self.commit(self._run("write-tree").strip(), "", "probe")
        self._run("push", "--dry-run", "--porcelain", "--no-verify", "origin", f"{commit}:refs/heads/{branch}")
        directory = Path(self._url.removeprefix("file://"))
        if self._url.startswith("file://") and not os.access(directory, os.W_OK):
            raise fault(self._url, "Permission denied: the directory cannot be written")

    def _tracked_by_lfs(self, paths: list[str]) -> set[str]:
        if not shutil.which("git-lfs"):
            return set()
        told = self._run("check-attr", "--cached", "-z", "--stdin", "filter", feed="".join(f"{p}\0" for p in paths))
        fields = told.split("\0")[:-1]
        return {path for path, value in zip(fields[::3], fields[2::3], strict=True) if value == "lfs"}

    def _lfs_blob(self, source: Path, path: str) -> tuple[str, str]:
        """Hand a file to Git LFS; returns the id of its pointer blob and the sha256 it goes by."""
        with source.open("rb") as file:
            pointer = self._run("lfs", "clean", "--", path, stream=file)
        found = re.search(r"^oid sha256:([0-9a-f]{64})$", pointer, re.MULTILINE)
        if not found:
            raise PublishError(f"git-lfs made no pointer of {path}", "see whether `git lfs env` works here")
        return self._run("hash-object", "-w", "--stdin", feed=pointer).strip(), found[1]

    def _run(
        self,
        *arguments: str,
        feed: str = "",
        stream: BinaryIO | None = None,
        environment: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> str:
        """One git command in a process group of its own, ended with all it started when time is up."""
        process: Any = self._git.execute(
            ["git", *self._settings, *arguments],
            istream=stream or subprocess.PIPE,
            as_process=True,
            env=dict(environment or {}),
            start_new_session=True,
        )
        try:
            out, err = process.communicate(
                None if stream else feed.encode(), timeout=max(0.0, self._deadline_s - time.monotonic())
            )
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(
                f"{self._url} did not answer in time (git {arguments[0]})", "try again, or look at the connection"
            ) from error
        finally:
            _end_group(process)
        if process.returncode and check:
            raise fault(self._url, f"{out.decode(errors='replace')}\n{err.decode(errors='replace')}")
        return "" if process.returncode else str(out.decode(errors="surrogateescape"))

    def _environment(self, directory: Path) -> dict[str, str]:
        """What git gets: nothing of a repository around us, no question to a terminal, the token's script."""
        environment = {
            "GIT_DIR": str(directory),
            "GIT_COMMON_DIR": str(directory),
            "GIT_OBJECT_DIRECTORY": str(directory / "objects"),
            "GIT_INDEX_FILE": str(directory / "index"),
            "GIT_WORK_TREE": str(self._folder / "nowhere"),
            "GIT_NAMESPACE": "",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_ALLOW_PROTOCOL": TRANSPORTS,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_TRACE_REDACT": "1",
        }
        if self._uses_token():
            script = self._folder / "askpass"
            script.touch(mode=0o700)
            script.write_text(ASKPASS)
            environment |= {"GIT_ASKPASS": str(script), "ASKPASS_ORIGIN": _origin(self._url)}
        return environment

    def _uses_token(self) -> bool:
        return bool(os.environ.get(TOKEN_VARIABLE)) and self._url.startswith(("https://", "http://"))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _end_group(process: Any) -> None:
    """End what is left of a command, the helpers it started included."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
