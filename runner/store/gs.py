"""Google Cloud Storage: `gs://bucket/prefix`, by google-cloud-storage.

Endpoint and credentials by the SDK's own variables and files (application default
credentials, STORAGE_EMULATOR_HOST); where no file can be handed over,
GOOGLE_CREDENTIALS_JSON holds the content of a service account's key file. The tag
is the generation.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import urllib3.exceptions

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)  # it misses grpc's status texts; only JSON over HTTP is spoken here
    from google.api_core import exceptions as sdk
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.cloud import storage
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
    from google.cloud.storage.retry import DEFAULT_RETRY
    from google.oauth2.service_account import Credentials

from configs.errors import ConfigError, StoreError
from configs.secrets import one_line
from runner.store.objects import (
    KeyMissingError,
    PreconditionFailedError,
    Stat,
    StoreDeniedError,
    StoreUnreachableError,
    check_key,
    check_prefix,
)

CONNECT_S = 10.0
WHOLE_BYTES = 8_000_000
"""Files up to this size go up in one request."""
PART_BYTES = 32 * 1024 * 1024
"""Each part of a resumable upload lies in memory once; a multiple of 256 KiB."""
BROKEN = (
    sdk.RetryError,
    DataCorruption,
    TransportError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    ConnectionError,
)
LOST_PLACE = (400, 404, 410)
"""After a cut, server and SDK may differ on how much has arrived, or the upload is forgotten: a new one agrees."""
CREDENTIALS = "GOOGLE_CREDENTIALS_JSON"
RIGHTS = ("https://www.googleapis.com/auth/devstorage.read_write",)
NO_BUCKET = StoreDeniedError
"""What 404 means where no object is asked for."""


class GoogleStore:
    """Objects below one prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str, answer_s: float) -> None:
        """Name the place; `prefix` is empty or ends with a slash. Credentials are looked up by the first call."""
        self.url = f"gs://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = prefix
        self._call: dict[str, Any] = {"timeout": (min(CONNECT_S, answer_s), answer_s), "retry": None}
        self._part_retry = DEFAULT_RETRY.with_timeout(answer_s)
        self._local = threading.local()

    def put(self, key: str, body: bytes | Path) -> str:
        """Write or overwrite an object and return its tag; a large file goes up in parts, which are resumed."""
        if isinstance(body, bytes):
            return self._put(key, body)
        with body.open("rb") as file, self._errors(key, NO_BUCKET) as bucket:
            size_bytes = body.stat().st_size
            if size_bytes <= WHOLE_BYTES:
                blob = bucket.blob(self._name(key))
                blob.upload_from_file(file, size=size_bytes, **self._call)
            else:
                blob = bucket.blob(self._name(key), chunk_size=PART_BYTES)
                try:
                    blob.upload_from_file(file, size=size_bytes, **self._call | {"retry": self._part_retry})
                except sdk.ClientError as error:
                    if error.code not in LOST_PLACE:
                        raise
                    raise StoreUnreachableError(f"{self.url}/{key}: the upload broke: {one_line(error)}") from error
            return str(blob.generation)

    def put_if_absent(self, key: str, body: bytes) -> str:
        """Write a new object and return its tag; see `ObjectStore`."""
        return self._put(key, body, if_generation_match=0)

    def replace_if_match(self, key: str, body: bytes, tag: str) -> str:
        """Replace the version named by `tag` and return the new tag; see `ObjectStore`."""
        if not tag.isdecimal() or int(tag) == 0:  # 0 would mean "where there is none"
            raise PreconditionFailedError(f"{self.url}/{key}: {tag!r} is no generation")
        return self._put(key, body, if_generation_match=int(tag))

    def get(self, key: str) -> tuple[bytes, Stat]:
        """Read a whole small object."""
        with self._version(key) as blob:
            stat = self._stat(blob)  # before the download, whose headers replace what is known
            return blob.download_as_bytes(**self._call), stat

    def get_to(self, key: str, path: Path) -> None:
        """Stream an object into a file."""
        with self._version(key) as blob, path.open("wb") as file:
            blob.download_to_file(file, **self._call)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Every object whose key begins with `prefix`, by key."""
        with self._errors(prefix, NO_BUCKET) as bucket:
            for blob in bucket.client.list_blobs(bucket, prefix=self._prefix + check_prefix(prefix), **self._call):
                yield self._stat(blob)

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is fine."""
        with contextlib.suppress(KeyMissingError), self._errors(key) as bucket:
            bucket.blob(self._name(key)).delete(**self._call)

    @contextlib.contextmanager
    def _version(self, key: str) -> Iterator[Any]:
        """The object as it is now: what is read from it belongs to this generation, or is not there any more."""
        with self._errors(key) as bucket:
            blob = bucket.blob(self._name(key))
            blob.reload(**self._call)
            try:
                yield blob
            except sdk.NotFound as error:
                raise StoreUnreachableError(f"{self.url}/{key} was replaced while it was read") from error

    def _put(self, key: str, body: bytes, **condition: int) -> str:
        with self._errors(key, NO_BUCKET) as bucket:
            blob = bucket.blob(self._name(key))
            blob.upload_from_string(body, "application/octet-stream", **condition, **self._call)
            return str(blob.generation)

    def _stat(self, blob: Any) -> Stat:
        key = blob.name.removeprefix(self._prefix)
        return Stat(key, int(blob.size or 0), str(blob.generation), blob.updated.timestamp())

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    @contextlib.contextmanager
    def _errors(self, key: str, missing: type[StoreError] = KeyMissingError) -> Iterator[Any]:
        """The bucket; what the SDK raises becomes ours. After a denial the next call looks the credentials up anew."""
        local = self._local
        try:
            if not hasattr(local, "bucket"):  # one client per thread: they share no connection
                local.bucket = storage.Client(project=None, credentials=_credentials()).bucket(self._bucket)
            yield local.bucket
        except (*BROKEN, sdk.GoogleAPICallError, GoogleAuthError, InvalidResponse) as error:
            ours = self._translated(key, error, missing)
            if isinstance(ours, StoreDeniedError):
                self._local = threading.local()
            raise ours from error

    def _translated(self, key: str, error: Exception, missing: type[StoreError]) -> StoreError:
        says = f"{self.url}/{key}: {one_line(error)}"
        if isinstance(error, BROKEN):
            return StoreUnreachableError(says)
        if isinstance(error, GoogleAuthError):
            remedy = (
                f"set GOOGLE_APPLICATION_CREDENTIALS or {CREDENTIALS}, "
                "or log in with gcloud auth application-default login"
            )
            return StoreDeniedError(f"{says}; {remedy}")
        code = int(
            error.response.status_code if isinstance(error, InvalidResponse) else getattr(error, "code", None) or 0
        )
        if code == 412:
            return PreconditionFailedError(says)
        if code == 404:
            if missing is NO_BUCKET or "bucket does not exist" in says:
                return NO_BUCKET(f"{says}; create the bucket or correct --store")
            return missing(says)
        if code in (401, 403):
            return StoreDeniedError(f"{says}; correct the credentials or their rights on this bucket")
        if code in (408, 409, 429) or code >= 500 and code != 501:
            return StoreUnreachableError(says)
        return StoreError(says)


def _credentials() -> Any:
    """Those of the variable; None, where it is not set, for what the SDK finds."""
    text = os.environ.get(CREDENTIALS)
    if not text:
        return None
    try:
        return Credentials.from_service_account_info(json.loads(text), scopes=RIGHTS)
    except (ValueError, TypeError, AttributeError):  # what they say may quote the key
        raise ConfigError(f"{CREDENTIALS} is not the content of a service account's key file") from None
