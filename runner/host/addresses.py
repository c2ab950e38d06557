"""Where the providers' APIs are, and where tests have them stand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from configs.errors import ConfigError

ADDRESSES = {
    "SEQUENCE_RUNPOD_URL": "https://api.runpod.io/v2",
    "SEQUENCE_RUNPOD_GRAPHQL_URL": "https://api.runpod.io/graphql",
    "SEQUENCE_LAMBDA_URL": "https://cloud.lambda.ai/api/v1",
}
"""Variable that names another address -> the provider's own, which calls are appended to."""
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def address(variable: str, environment: Mapping[str, str] = os.environ) -> str:
    """Address of an API, without a slash at its end.

    Raises:
        ConfigError: a key would travel there in the clear.
    """
    url = (environment.get(variable) or ADDRESSES[variable]).rstrip("/")
    scheme = urlsplit(url).scheme
    if scheme != "https" and not (scheme == "http" and is_loopback(url)):
        raise ConfigError(f"{variable} must begin with https:// (http:// only for a server on this very machine)")
    return url


def is_loopback(url: str) -> bool:
    """Whether an address is this computer's own."""
    return urlsplit(url).hostname in LOOPBACK
