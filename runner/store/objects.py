"""What every object store can do, in six verbs.

A tag names one version of one object (ETag, generation); it is what
`replace_if_match` compares. A conditional write is atomic: of several at once
one succeeds. Bodies that are written conditionally are small and unique to their
writer, so a refused write whose body is already there was our own, whose reply
was lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from configs.errors import ExitCode, StoreError

KEY_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]*(/[A-Za-z0-9_][A-Za-z0-9._+=-]*)*")
MAX_KEY_CHARACTERS = 512


class KeyMissingError(StoreError):
    """There is no such object."""


class PreconditionFailedError(StoreError):
    """A conditional write was refused: the object exists, or is not the version that was named."""


class StoreUnreachableError(StoreError):
    """No answer, a broken connection, or a server that is overloaded: the same call may succeed later."""

    exit_code = ExitCode.MACHINE_UNFIT
    retryable = True


class StoreDeniedError(StoreError):
    """The credentials are missing, wrong or expired, or may not do this; new ones may be found later."""

    exit_code = ExitCode.MACHINE_UNFIT
    retryable = True


@dataclass(frozen=True)
class Stat:
    """What a store says about one object."""

    key: str
    size_bytes: int
    tag: str
    modified_t: float
    """Unix seconds by the store's own clock."""


class ObjectStore(Protocol):
    """A flat space of named byte strings below one prefix.

    Every method raises StoreUnreachableError or StoreDeniedError where the store cannot be used now. An OSError is
    about the local file that is sent or filled.
    """

    url: str
    """What the user gave, without credentials."""

    def put(self, key: str, body: bytes | Path) -> str:
        """Write or overwrite an object; a path is streamed with bounded memory. Returns its tag."""

    def put_if_absent(self, key: str, body: bytes) -> str:
        """Write a new object and return its tag.

        Raises:
            PreconditionFailedError: it exists.
        """

    def replace_if_match(self, key: str, body: bytes, tag: str) -> str:
        """Replace the version named by `tag` and return the new tag.

        Raises:
            PreconditionFailedError: the object is another version by now, or is gone.
        """

    def get(self, key: str) -> tuple[bytes, Stat]:
        """Read a whole small object.

        Raises:
            KeyMissingError: there is none.
        """

    def get_to(self, key: str, path: Path) -> None:
        """Stream an object into a file that is created or overwritten.

        Raises:
            KeyMissingError: there is none.
        """

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Every object whose key begins with `prefix`, by key."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is fine."""


def check_key(key: str) -> str:
    """Return `key` when it cannot leave its prefix.

    Raises:
        StoreError: it is absolute, has `..`, an empty or hidden part, or characters that stores treat differently.
    """
    if len(key) > MAX_KEY_CHARACTERS or not KEY_PATTERN.fullmatch(key):
        raise StoreError(
            f"object key {key!r} is refused: parts of letters, digits and '._+=-' that start with a letter, digit or "
            f"'_', separated by single slashes, at most {MAX_KEY_CHARACTERS} characters"
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` when some key begins with it.

    Raises:
        StoreError: as of `check_key`.
    """
    check_key(f"{prefix}0")
    return prefix
