"""A small HTTP client for the providers' APIs: what may be asked twice is, what may have been carried out is not.

It shows no key: the key is read from the environment at each call, and every
message is freed of secrets.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import httpx

from runner.host.addresses import address
from runner.host.calls import client_for
from runner.launch.provider import BadRequestError, LaunchError, UnclearError
from runner.launch.secrets import clean
from runner.say import say

CONNECT_S = 10.0
ANSWER_S = 60.0
"""Longest wait for a server's next bytes."""
PATIENCE_S = 90.0
"""A call that keeps failing is given up after this."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 16.0
MAX_SAID_CHARACTERS = 600
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
"""Failures after which the server cannot have seen the request."""


Read = TypeVar("Read")


class AnswerError(LaunchError):
    """The provider answered, and refused; its status and words are kept for who knows what they mean."""

    def __init__(self, who: str, status: int, code: str, says: str) -> None:
        """Refused with an HTTP status and, where the provider has such a thing, its own code."""
        self.status, self.code, self.says = status, code, says
        super().__init__(f"{who} answers {status}{f' ({code})' if code else ''}: {says or 'nothing'}")


class Api:
    """One provider's API. Thread-safe."""

    def __init__(self, who: str, url_variable: str, key_variable: str, *, interval_s: float = 0.0) -> None:
        """Prepare calls; nothing is sent yet.

        Args:
            who: the provider's name, for messages.
            url_variable: says where the API is, as `runner.host.addresses` knows it; paths are appended.
            key_variable: environment variable with the bearer key.
            interval_s: shortest time between two calls.

        Raises:
            ConfigError: the URL is none that a key may be sent to.
        """
        self.who, self.url, self.key_variable = who, address(url_variable), key_variable
        self._interval_s, self._next_t, self._lock = interval_s, 0.0, threading.Lock()

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """Read something; repeated while the provider is out of order.

        Raises:
            AnswerError: it refuses.
            LaunchError: it cannot be reached.
        """
        return self._call("GET", path, query=query)

    def read(self, path: str, read: Callable[[Any], Read], query: Mapping[str, Any] | None = None) -> Read:
        """What `read` makes of an answer to `get`.

        Raises:
            LaunchError: the answer is another than `read` expects, or there is none.
        """
        answer = self.get(path, query)
        try:
            return read(answer)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise LaunchError(
                f"{self.who} answers GET {path} with something else than its published API says"
            ) from error

    def delete(self, path: str) -> Any:
        """Remove something; repeated while the provider is out of order.

        Raises:
            AnswerError: it refuses, for example with 404 where there is no such thing.
            LaunchError: it cannot be reached.
        """
        return self._call("DELETE", path)

    def post(
        self,
        path: str,
        body: Any,
        *,
        secrets: Mapping[str, str] | None = None,
        repeat: bool = False,
        pause_s: float = 0.0,
    ) -> Any:
        """Ask for something to be done.

        Args:
            path: appended to the API's URL.
            body: JSON values.
            secrets: name -> value of those in the body, so that no message repeats one.
            repeat: asking twice does no more than asking once.
            pause_s: shortest wait before it is asked again, whatever the provider says.

        Raises:
            AnswerError: it refuses, so nothing was done.
            UnclearError: it may have been done; never where `repeat` is set.
            LaunchError: it cannot be reached, so nothing was done.
        """
        return self._call("POST", path, body=body, secrets=secrets or {}, repeat=repeat, least_s=pause_s)

    def lines(self, path: str, query: Mapping[str, Any], headers: Mapping[str, str], idle_s: float) -> Iterator[str]:
        """Lines of a stream as they come, to its end or until it is silent for `idle_s`.

        Raises:
            AnswerError: it refuses.
            LaunchError: it cannot be reached.
        """
        timeout = httpx.Timeout(CONNECT_S, read=idle_s)
        self._wait_for_turn()
        try:
            with (
                client_for(self.url, timeout) as client,
                client.stream(
                    "GET", self.url + path, params=dict(query), headers={**self._headers(), **headers}
                ) as answer,
            ):
                if not answer.is_success:
                    answer.read()
                    raise self._refusal(answer, {})
                yield from _until_idle(answer.iter_lines(), idle_s)
        except httpx.ReadTimeout:
            return
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        secrets: Mapping[str, str] | None = None,
        repeat: bool = True,
        least_s: float = 0.0,
    ) -> Any:
        give_up_t = time.monotonic() + PATIENCE_S
        wait_s = max(FIRST_WAIT_S, least_s)
        while True:
            pause_s = wait_s
            try:
                answer = self._send(method, path, query, body)
                if answer.is_success:
                    return self._read(answer, repeat)
                failure: LaunchError = self._refusal(answer, secrets or {})
                if answer.status_code == 429:
                    pause_s = max(_retry_after_s(answer) or wait_s, least_s)
                elif answer.status_code < 500:
                    raise failure
                elif not repeat:
                    raise UnclearError(str(failure)) from None
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if not repeat and not isinstance(error, (*NOT_SENT, httpx.InvalidURL)):
                    raise UnclearError(f"{self.who} may have carried it out: {self._why(error)}") from error
                failure = self._unreachable(error)
            if time.monotonic() + pause_s > give_up_t:
                raise failure
            say(f"{failure}; again in {pause_s:g} s")
            time.sleep(pause_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _send(self, method: str, path: str, query: Mapping[str, Any] | None, body: Any) -> httpx.Response:
        headers = self._headers()
        self._wait_for_turn()
        try:
            with client_for(self.url, httpx.Timeout(ANSWER_S, connect=CONNECT_S)) as client:
                return client.request(method, self.url + path, params=query, json=body, headers=headers)
        finally:  # however long it was on its way, the provider sees the next one late enough
            self._next_t = max(self._next_t, time.monotonic() + self._interval_s)

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise BadRequestError(f"{self.key_variable} is not set; export the API key of your {self.who} account")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise BadRequestError(f"{self.key_variable} holds characters that no API key has; export it anew")
        return {"Authorization": f"Bearer {key}"}

    def _wait_for_turn(self) -> None:
        if not self._interval_s:
            return
        with self._lock:
            now = time.monotonic()
            turn_t = max(now, self._next_t)
            self._next_t = turn_t + self._interval_s
        time.sleep(turn_t - now)

    def _read(self, answer: httpx.Response, repeat: bool) -> Any:
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            kind = LaunchError if repeat else UnclearError
            raise kind(f"{self.who} answers {answer.status_code} with what is no JSON") from error

    def _refusal(self, answer: httpx.Response, secrets: Mapping[str, str]) -> LaunchError:
        code, says = _words(answer)
        if answer.status_code == 401:
            return BadRequestError(f"{self.who} does not accept the key in {self.key_variable}: {self._clean(says)}")
        return AnswerError(self.who, answer.status_code, code, self._clean(says, secrets))

    def _unreachable(self, error: Exception) -> LaunchError:
        return LaunchError(f"{self.who} cannot be reached: {self._why(error)}")

    def _why(self, error: Exception) -> str:
        words = self._clean(" ".join(str(error).split()))
        return f"{type(error).__name__}{f', {words}' if words else ''}"

    def _clean(self, text: str, secrets: Mapping[str, str] | None = None) -> str:
        key = {self.key_variable: os.environ.get(self.key_variable, "")}
        return clean(text, {**(secrets or {}), **key})[:MAX_SAID_CHARACTERS]


def _until_idle(lines: Iterator[str], idle_s: float) -> Iterator[str]:
    """Lines until for so long only comments came, which servers send to keep a stream open.

    Only the waiting for lines counts: who takes them slowly (`| less`) loses none of those that are there.
    """
    silent_s = 0.0
    while True:
        begun_t = time.monotonic()
        if (line := next(lines, None)) is None:
            return
        silent_s += time.monotonic() - begun_t
        if line and not line.startswith(":"):
            silent_s = 0.0
        elif silent_s > idle_s:
            return
        yield line


def _retry_after_s(answer: httpx.Response) -> float:
    """Seconds as the provider says them; 0 where it says none, or a date."""
    text = answer.headers.get("Retry-After", "").strip()
    return float(text) if text.isdigit() and len(text) < 6 else 0.0


def _words(answer: httpx.Response) -> tuple[str, str]:
    """The provider's own code and its message: RFC 9457 (RunPod), `{"error": {...}}` (Lambda), or plain text."""
    try:
        body = answer.json()
    except ValueError:
        return "", " ".join(answer.text.split())
    if not isinstance(body, dict):
        return "", ""
    if isinstance(error := body.get("error"), dict):
        parts = [error.get("message"), error.get("suggestion")]
        return str(error.get("code") or ""), "; ".join(str(part) for part in parts if part)
    parts = [body.get("detail") or body.get("title") or body.get("error"), *_texts(body.get("errors"))]
    return "", "; ".join(str(part) for part in parts if part)


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
