"""The one filter that keeps secrets out of what is written: events, records, logs that are shown, the report.

It knows a secret in two ways: as the value of an environment variable whose
name says so, and by its form (tokens, keys, credentials in URLs and headers). It
leaves hashes, ids, paths and numbers alone. It cannot know a secret that has
neither a name nor a form.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote

REDACTED = "[redacted]"
MIN_SECRET_CHARACTERS = 6
LONG_SECRET_CHARACTERS = 12
"""A shorter value counts only where it stands alone, so that it never tears a hash or a number apart."""
MAX_LINE_CHARACTERS = 300

_SECRET_WORDS = frozenset("KEY KEYS AUTH PAT PASSPHRASE SIGNATURE".split())
_SECRET_ENDINGS = tuple(
    "APIKEY TOKEN TOKENS SECRET SECRETS PASSWORD PASSWD CREDENTIAL CREDENTIALS WEBHOOK WEBHOOKS".split()
)
_PLACE_WORDS = frozenset("FILE FILES PATH DIR SOCK SOCKET".split())
"""A variable that ends with one of these names a place, not a secret."""
_SETTING_WORDS = frozenset("default disabled disable enabled enable optional required anonymous".split())
"""Values that are settings; as secrets they would blot out ordinary text."""


class Form(NamedTuple):
    """What a kind of secret looks like."""

    begins: tuple[str, ...]
    """Lower-case beginnings; the pattern is tried only where one of them stands, so a search costs little."""
    pattern: re.Pattern[str]
    """Its groups stay; the rest is replaced."""


def _form(pattern: str, *begins: str) -> Form:
    return Form(begins, re.compile(pattern, re.IGNORECASE))


def _token(body: str, *begins: str) -> Form:
    """A token with a fixed beginning; letters in their case."""
    return Form(begins, re.compile(rf"\b{body}"))


_FIELDS = (
    *("password", "passwd", "passphrase", "secret_key", "secretkey", "client_secret", "clientsecret"),
    *("secret_access_key", "secretaccesskey", "api_key", "apikey", "private_key", "privatekey"),
    *(f"{of}{gap}token" for of in ("access", "refresh", "auth", "session", "security") for gap in ("_", "")),
)
"""Names of settings whose value is a secret, as files and answers of services have them."""
FORMS = (
    _form(
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"
        r"(?:[\s\S]{0,20000}?-----END [A-Z ]{0,30}PRIVATE KEY-----|[A-Z0-9+/=\\\s]{0,20000})",
        "-----begin ",
    ),
    _token(r"A(?:KIA|SIA)[A-Z0-9]{16}\b", "akia", "asia"),
    _token(r"GOOG1?[A-Z0-9]{20,}\b", "goog"),
    _token(r"AIza[A-Za-z0-9_-]{35}", "aiza"),
    _token(r"ya29\.[A-Za-z0-9_-]{20,}", "ya29."),
    _token(r"gh[pousr]_[A-Za-z0-9]{30,}", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    _token(r"github_pat_[A-Za-z0-9_]{22,}", "github_pat_"),
    _token(r"glpat-[A-Za-z0-9_.-]{20,}", "glpat-"),
    _token(r"hf_[A-Za-z0-9]{30,}", "hf_"),
    _token(r"rpa_[A-Za-z0-9]{20,}", "rpa_"),
    _token(r"wandb_v\d_[A-Za-z0-9_]{20,}", "wandb_v"),
    _token(r"xox[abeoprs]-[A-Za-z0-9-]{10,}", "xox"),
    _token(r"sk-[A-Za-z0-9_-]{20,}", "sk-"),
    _token(r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}", "eyj"),
    _form(r"(hooks\.slack\.com/services/)[A-Z0-9/_-]+", "hooks.slack.com/services/"),
    _form(r"(/api/webhooks/)[A-Z0-9/_-]+", "/api/webhooks/"),
    _form(r"(authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer|token|digest)\s+)[^\s\"',;<>]+", "authorization"),
    _form(r"(authorization[\"']?\s*[:=]\s*[\"']?AWS4-HMAC-SHA256\s)[^\"'\r\n<>]+", "authorization"),
    _form(r"(bearer\s+)(?=[A-Z._~+/=-]*[0-9])[A-Z0-9._~+/=-]{16,}", "bearer"),
    _form(r"(://[^\s/:@\"'<>]*:)[^\s/@\"'<>]+(?=@)", "://"),
    _form(r"(://)[A-Z0-9_.-]{20,}(?=@)", "://"),
    _form(r"(x-(?:amz|goog)-(?:signature|credential|security-token)=)[^&\s\"'<>]+", "x-amz-", "x-goog-"),
    _form(rf"((?:{'|'.join(_FIELDS)})(?:[\"']\s*:\s*[\"']|\s?=\s?[\"']?))[^\s\"',;&<>(){{}}\[\]]{{6,}}", *_FIELDS),
)


def redact(text: str) -> str:
    """`text` with every secret in it replaced by `[redacted]`; doing it twice changes nothing more."""
    while (found := _redact_once(text)) != text:
        text = found  # one secret may have hidden where the next begins
    return text


def one_line(text: object, limit: int | None = MAX_LINE_CHARACTERS) -> str:
    """What somebody else says (an error, a service) in one line, without secrets and cut to `limit` characters."""
    return redact(" ".join(str(text).split()))[:limit]


def redact_values(value: Any) -> Any:
    """JSON values with every text redacted, keys as they are."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _redact_field(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item) for item in value]
    return value


def is_secret_name(name: str) -> bool:
    """An environment variable of this name holds a secret, as far as names tell."""
    return _is_secret_name(name.upper())


def secret_values(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What the environment holds under secret names, the longest first."""
    values = {value for name, value in environment.items() if is_secret_name(name) and _is_secret(value)}
    return tuple(sorted(values, key=lambda value: (-len(value), value)))


def _redact_field(key: Any, value: Any) -> Any:
    named = isinstance(key, str) and isinstance(value, str) and key.lower().endswith(_FIELDS)
    return REDACTED if named and value else redact_values(value)


def _redact_once(text: str) -> str:
    # what is redacted already is never looked at again, nor joined with its neighbours
    return REDACTED.join(_redact_piece(piece) for piece in text.split(REDACTED))


def _redact_piece(text: str) -> str:
    values = secret_values()
    if values:
        texts, pattern = _known(values)
        if any(known in text for known in texts):
            text = pattern.sub(REDACTED, text)
    lowered = _lowered(text)
    for form in FORMS:
        for begins in form.begins:
            if begins in lowered:
                blotted = _blot_out(text, lowered, begins, form.pattern)
                if blotted is not text:
                    text, lowered = blotted, _lowered(blotted)
    return text


def _blot_out(text: str, lowered: str, begins: str, pattern: re.Pattern[str]) -> str:
    kept: list[str] = []
    end = 0
    at = lowered.find(begins)
    while at >= 0:
        if found := pattern.match(text, at):
            kept += [text[end:at], *found.groups(), REDACTED]
            end = found.end()
        at = lowered.find(begins, max(end, at + 1))
    return "".join([*kept, text[end:]]) if kept else text


def _lowered(text: str) -> str:
    """Lower case of the same length: one capital of Turkish alone would become two characters."""
    return text.replace("\u0130", "I").lower()


@lru_cache(maxsize=8)
def _known(values: tuple[str, ...]) -> tuple[tuple[str, ...], re.Pattern[str]]:
    """Texts that give a value away, plain or as JSON, HTML and URLs write it, and the pattern that finds them."""
    texts = {
        form: len(value)
        for value in values
        for form in (value, json.dumps(value)[1:-1], html.escape(value), quote(value, ""))
    }
    ordered = sorted(texts, key=lambda text: (-len(text), text))
    parts = [
        re.escape(text)
        if texts[text] >= LONG_SECRET_CHARACTERS
        else rf"(?<![A-Za-z0-9]){re.escape(text)}(?![A-Za-z0-9])"
        for text in ordered
    ]
    return tuple(ordered), re.compile("|".join(parts))


@lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    words = [word for word in re.split(r"[^A-Z0-9]+", name) if word]
    if not words or words[-1] in _PLACE_WORDS:
        return False
    return any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDINGS) for word in words)


@lru_cache(maxsize=1024)
def _is_secret(value: str) -> bool:
    if len(value) < MIN_SECRET_CHARACTERS or value.lower() in _SETTING_WORDS or value in REDACTED:
        return False
    if value.isdigit() and len(value) < LONG_SECRET_CHARACTERS:
        return False
    # a key may begin with a slash, so a path is what exists
    return not (value.startswith(("/", "~")) and os.path.lexists(os.path.expanduser(value)))
