"""Secrets that are handed to a rented machine: known by name, looked up at the last moment, shown never."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from configs.secrets import MIN_SECRET_CHARACTERS, REDACTED, redact
from runner.launch.provider import BadRequestError

GOOGLE_JSON, GOOGLE_FILE = "GOOGLE_CREDENTIALS_JSON", "GOOGLE_APPLICATION_CREDENTIALS"
"""The content of a service account's file, for a machine without the file; and the variable that names the file."""


def is_known(name: str) -> bool:
    """Whether this computer has something under the name."""
    return bool(os.environ.get(name)) or (name == GOOGLE_JSON and bool(os.environ.get(GOOGLE_FILE)))


def value_of(name: str) -> str:
    """The secret itself.

    Raises:
        BadRequestError: there is none.
    """
    if value := os.environ.get(name):
        return value
    if name == GOOGLE_JSON and (path := os.environ.get(GOOGLE_FILE)):
        return _google_json(Path(path))
    raise BadRequestError(f"the secret {name} is not set; export it, or leave it out")


def values_of(names: Iterable[str]) -> dict[str, str]:
    """Name -> secret.

    Raises:
        BadRequestError: one is not set.
    """
    return {name: value_of(name) for name in names}


def masked(names: Iterable[str]) -> dict[str, str]:
    """Name -> what is shown in its place."""
    return {name: f"<value of {name}>" for name in names}


def clean(text: str, secrets: Mapping[str, str]) -> str:
    """`text` without the secrets, however JSON writes them, and without anything that looks like one."""
    forms = {form for value in secrets.values() for form in (value, value.strip(), json.dumps(value)[1:-1])}
    for form in sorted(forms, key=len, reverse=True):
        if len(form) >= MIN_SECRET_CHARACTERS:
            text = text.replace(form, REDACTED)
    return redact(text)


def _google_json(path: Path) -> str:
    """The file on one line, which every provider's way of handing it over takes."""
    try:
        return json.dumps(json.loads(path.read_text()), separators=(",", ":"))
    except (OSError, ValueError) as error:
        raise BadRequestError(
            f"{GOOGLE_FILE} names {path}, which is no JSON file that can be read; expected a service account's key"
        ) from error
