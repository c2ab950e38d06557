"""Amazon S3 and what speaks its language: `s3://bucket/prefix`, by boto3.

Endpoint, region, credentials, proxies and checksums by the SDK's own variables
and files. The tag is the ETag. Parts of an upload that a killed process leaves
behind are no objects, but are billed until a lifecycle rule of the bucket
(AbortIncompleteMultipartUpload) removes them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore import exceptions as sdk
from botocore.config import Config as ClientConfig
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import RetriesExceededError

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
SDK_ATTEMPTS = 2
"""One broken part must not cost a whole upload; everything else is for `Retrying`."""
PART_BYTES = 16_000_000
PARALLEL_PARTS = 4
MISSING = {"NoSuchKey", "404", "NotFound"}
REFUSED = {"PreconditionFailed", "412"}
BUSY = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "RequestTimeout",
    "RequestTimeoutException",
    "SlowDown",
    "ThrottlingException",
    "TooManyRequestsException",
    "XAmzContentChecksumMismatch",
}
DENIED = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "NoSuchBucket"}
NO_CREDENTIALS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.TokenRetrievalError,
    sdk.SSOError,
    sdk.ProfileNotFound,
    sdk.MetadataRetrievalError,
)
BROKEN = (
    sdk.HTTPClientError,
    sdk.ConnectionError,
    sdk.IncompleteReadError,
    sdk.ChecksumError,
    sdk.FlexibleChecksumError,
    ResponseParserError,
    RetriesExceededError,
)


class S3Store:
    """Objects below one prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str, answer_s: float) -> None:
        """Name the place; `prefix` is empty or ends with a slash. Credentials are looked up by the first call."""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = prefix
        self._answer_s = answer_s
        self._lock = threading.Lock()
        self._client: Any = None
        self._transfer = TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PARALLEL_PARTS
        )

    def put(self, key: str, body: bytes | Path) -> str:
        """Write or overwrite an object and return its tag; a large file goes up in parts, a few at once."""
        if isinstance(body, bytes):
            return self._put(key, body)
        if body.stat().st_size < PART_BYTES:
            with body.open("rb") as file:
                return self._put(key, file)
        with self._errors(key) as client:
            with create_transfer_manager(client, self._transfer) as manager:
                manager.upload(str(body), self._bucket, self._name(key)).result()
            return _tag(client.head_object(Bucket=self._bucket, Key=self._name(key)))

    def put_if_absent(self, key: str, body: bytes) -> str:
        """Write a new object and return its tag; see `ObjectStore`."""
        return self._put(key, body, IfNoneMatch="*")

    def replace_if_match(self, key: str, body: bytes, tag: str) -> str:
        """Replace the version named by `tag` and return the new tag; see `ObjectStore`."""
        try:
            return self._put(key, body, IfMatch=f'"{tag}"')
        except KeyMissingError as error:
            raise PreconditionFailedError(f"{self.url}/{key} is gone, no longer version {tag}") from error

    def get(self, key: str) -> tuple[bytes, Stat]:
        """Read a whole small object."""
        with self._errors(key) as client:
            answer = client.get_object(Bucket=self._bucket, Key=self._name(key))
            with contextlib.closing(answer["Body"]) as stream:
                body = stream.read()
        return body, Stat(key, len(body), _tag(answer), _time(answer))

    def get_to(self, key: str, path: Path) -> None:
        """Stream an object into a file."""
        with self._errors(key) as client, create_transfer_manager(client, self._transfer) as manager:
            manager.download(self._bucket, self._name(key), str(path)).result()

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Every object whose key begins with `prefix`, by key."""
        with self._errors(prefix) as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + check_prefix(prefix)
            )
            found = [
                Stat(entry["Key"].removeprefix(self._prefix), entry["Size"], _tag(entry), _time(entry))
                for page in pages
                for entry in page.get("Contents", ())
            ]
        return iter(sorted(found, key=lambda stat: stat.key))  # not every server lists in the order of the keys

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is fine."""
        with contextlib.suppress(KeyMissingError), self._errors(key) as client:
            client.delete_object(Bucket=self._bucket, Key=self._name(key))

    def _put(self, key: str, body: Any, **condition: str) -> str:
        with self._errors(key) as client:
            return _tag(client.put_object(Bucket=self._bucket, Key=self._name(key), Body=body, **condition))

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                try:
                    # a session of its own: the default one keeps the credentials that it found first
                    self._client = boto3.session.Session().client(
                        "s3",
                        config=ClientConfig(
                            connect_timeout=min(CONNECT_S, self._answer_s),
                            read_timeout=self._answer_s,
                            retries={"mode": "standard", "total_max_attempts": SDK_ATTEMPTS},
                        ),
                    )
                except ValueError as error:
                    raise ConfigError(f"{self.url}: {one_line(error)}; correct AWS_ENDPOINT_URL") from error
            return self._client

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[Any]:
        """The client; what the SDK raises becomes ours. After a denial the next call looks the credentials up anew."""
        try:
            yield self._connected()
        except sdk.ParamValidationError as error:
            raise ConfigError(f"{self.url}: {one_line(error)}; correct --store") from error
        except (sdk.BotoCoreError, sdk.ClientError, ResponseParserError, RetriesExceededError) as error:
            ours = self._translated(key, error)
            if isinstance(ours, StoreDeniedError):
                with self._lock:
                    self._client = None
            raise ours from error

    def _translated(self, key: str, error: Exception) -> StoreError:
        where = f"{self.url}/{key}"
        if isinstance(error, sdk.ClientError):
            return _of_answer(where, error.response)
        if isinstance(error, NO_CREDENTIALS):
            remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another source boto3 knows"
            return StoreDeniedError(f"{where}: {one_line(error)}; {remedy}")
        if isinstance(error, BROKEN):
            return StoreUnreachableError(f"{where}: {one_line(error)}; check the connection and AWS_ENDPOINT_URL")
        return StoreError(f"{where}: {one_line(error)}")


def _tag(answer: Any) -> str:
    """The ETag without its quotes, which some servers leave out of listings."""
    return answer["ETag"].strip('"')


def _time(answer: Any) -> float:
    return answer["LastModified"].timestamp()


def _of_answer(where: str, response: Any) -> StoreError:
    """The error for an answer that is not 2xx."""
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    says = f"{where}: {code or status}: {one_line(response.get('Error', {}).get('Message', 'no message'))}"
    if code in REFUSED or status == 412:
        return PreconditionFailedError(says)
    if code in MISSING:
        return KeyMissingError(says)
    if code == "NoSuchBucket":
        return StoreDeniedError(f"{says}; create the bucket or correct --store")
    if code == "RequestTimeTooSkewed":
        return StoreDeniedError(f"{says}; set this machine's clock")
    if code in BUSY or status in (408, 409, 429) or (status >= 500 and status != 501):
        return StoreUnreachableError(says)
    if code in DENIED or status in (401, 403):
        return StoreDeniedError(f"{says}; correct the credentials or their rights on this bucket")
    if status == 301 or code in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
        return StoreDeniedError(f"{says}; set AWS_DEFAULT_REGION to the bucket's region")
    return StoreError(says)
