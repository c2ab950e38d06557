"""Open the store that a URL names; the SDK behind it is imported only then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from configs.errors import ConfigError, StoreError
from runner.store.objects import ObjectStore, check_key
from runner.store.retrying import Retrying

EXPECTED = "expected s3://bucket/prefix, gs://bucket/prefix or file:///absolute/path"
ANSWER_S = 30.0
"""Longest wait for a server's next bytes."""
DEADLINE_S = 120.0
"""Retries of one call end after this."""


def open_store(
    url: str,
    *,
    answer_s: float = ANSWER_S,
    deadline_s: float = DEADLINE_S,
    cancel: threading.Event | None = None,
    on_retry: Callable[[str, StoreError, float], None] = lambda call, error, wait_s: None,
) -> ObjectStore:
    """The store at `url`, its calls retried; nothing is sent yet. Thread-safe.

    Args:
        url: `file:///path`, `s3://bucket/prefix` or `gs://bucket/prefix`. Endpoint and credentials come from the
            environment and files of the SDKs (AWS_ENDPOINT_URL, STORAGE_EMULATOR_HOST, ...), never from here.
        answer_s: seconds without a byte from the server after which an attempt has failed.
        deadline_s: seconds after which a call that keeps failing is given up.
        cancel: once set, a call that fails is not tried again, and a waiting one ends.
        on_retry: told of each failed attempt that will be repeated: the call, its error, the wait in seconds.

    Raises:
        ConfigError: the URL is of another form, or carries credentials.
    """
    return Retrying(_open_bare(url, answer_s), deadline_s=deadline_s, cancel=cancel, on_retry=on_retry)


@dataclass(frozen=True)
class Address:
    """What a store's URL names."""

    scheme: str
    bucket: str
    """Empty for `file`."""
    path: str
    """Of a directory, or a prefix that is empty or ends with a slash."""


def parse_url(url: str) -> Address:
    """Take a store's URL apart; nothing is sent.

    Raises:
        ConfigError: it is of another form, or carries credentials.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"the store's URL is none: {error}; {EXPECTED}") from error
    if "@" in parts.netloc:
        raise ConfigError(f"the store's URL carries credentials; put them into the SDK's environment, {EXPECTED}")
    if parts.query or parts.fragment:
        raise ConfigError(f"the store's URL has a query or fragment; {EXPECTED}, other characters as %XX")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise ConfigError(f"store URL {url!r} names no absolute path; {EXPECTED}")
        return Address(parts.scheme, "", unquote(parts.path))
    if parts.scheme not in ("s3", "gs") or not parts.netloc:
        raise ConfigError(f"store URL {url!r} is of no known form; {EXPECTED}")
    prefix = parts.path.strip("/")
    try:
        prefix = prefix and check_key(prefix) + "/"
    except StoreError as error:
        raise ConfigError(f"store URL {url!r}: {error}; {EXPECTED}") from error
    return Address(parts.scheme, parts.netloc, prefix)


def _open_bare(url: str, answer_s: float) -> ObjectStore:
    place = parse_url(url)
    if place.scheme == "file":
        from runner.store.file import FileStore

        return FileStore(Path(place.path), url.rstrip("/"))
    if place.scheme == "s3":
        from runner.store.s3 import S3Store

        return S3Store(place.bucket, place.path, answer_s)
    from runner.store.gs import GoogleStore

    return GoogleStore(place.bucket, place.path, answer_s)
