"""What can go wrong with a push, told from what git says (in English: git runs with LC_ALL=C)."""

from __future__ import annotations

import re

from configs.errors import ExitCode, ProjectError
from configs.secrets import redact

MAX_SAID = 400
"""Characters of git's words that a message keeps."""


class PublishError(ProjectError):
    """The run could not be published; nothing on the branch has changed."""

    exit_code = ExitCode.MACHINE_UNFIT

    def __init__(self, found: str, remedy: str) -> None:
        """Take what was found and what to do about it; both may be shown to anyone."""
        self.found, self.remedy = redact(found), remedy
        super().__init__(f"{self.found}; {self.remedy}")


class UnreachableError(PublishError):
    """The server does not answer, or not in time."""


class NoRepositoryError(PublishError):
    """The server answers, but shows no such repository."""


class DeniedError(PublishError):
    """The server wants other credentials, or does not let these push."""


class RejectedError(PublishError):
    """The server took the push and turned it down: a hook, a branch rule, a size limit."""


class MovedOnError(PublishError):
    """Somebody else pushed to the branch in the meantime."""


FAULTS: tuple[tuple[str, type[PublishError], str], ...] = (
    (
        r"No space left on device|Disk quota exceeded",
        PublishError,
        "free space for temporary files (TMPDIR says where), or on the server",
    ),
    (
        r"exists; cannot create",
        RejectedError,
        "a branch cannot lie below another's name; choose another --branch",
    ),
    (
        r"\((fetch first|non-fast-forward|stale info|incorrect old value|failed to update ref|reference already exists|"
        r"cannot lock ref)|cannot lock ref",
        MovedOnError,
        "others push to this branch all the time; try again, or give this run a branch of its own",
    ),
    (
        r"\[remote rejected\]|hook declined|protected branch|exceeds .*file size limit",
        RejectedError,
        "ask the repository's owner what the branch accepts, or choose another --branch",
    ),
    (
        r"Authentication failed|could not read (Username|Password)|terminal prompts disabled|Permission denied|"
        r"Host key verification failed|error: 40[13]|dubious ownership|insufficient permission|[Aa]uthorization error|"
        r"Read-only file system|[Uu]nauthorized|[Ff]orbidden",
        DeniedError,
        "give a token that may push in SEQUENCE_GIT_TOKEN (user in SEQUENCE_GIT_USER), or set up a credential helper "
        "or ssh agent",
    ),
    (
        r"not found|does not appear to be a git repository|[Nn]o such file|does not exist|not a git repository",
        NoRepositoryError,
        "check the address; a private repository also looks like this without the right token; "
        "`git init --bare DIR` makes one for file://DIR",
    ),
)
NO_REASON = ("hint:", "To ", "Done", "warning: filtering not recognized", "error: failed to push some refs")
"""How lines begin that say nothing about why."""
UNREACHABLE_REMEDY = "check the address, the connection and the proxy"


def fault(url: str, said: str) -> PublishError:
    """The error that git's words mean."""
    # of a --porcelain line, the last column says why
    lines = (line.rpartition("\t")[2].removeprefix("remote: ").strip() for line in said.splitlines() if _tells(line))
    text = " ".join(lines)
    for pattern, error, remedy in FAULTS:
        if re.search(pattern, said):
            return error(f"{url}: {text[-MAX_SAID:]}", remedy)
    return UnreachableError(f"{url}: {text[-MAX_SAID:] or 'git failed without a word'}", UNREACHABLE_REMEDY)


def _tells(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(NO_REASON)
