"""An optional webhook: one JSON POST to `SEQUENCE_WEBHOOK_URL` when a run ends, fails, or nears its budget.

A notification is a courtesy: it never raises, never shows its address, and
never holds the run up for longer than it is told.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from configs.errors import ExitCode
from configs.secrets import one_line, redact_values
from runner.say import say

VARIABLE = "SEQUENCE_WEBHOOK_URL"
TIMEOUT_S = 5.0
"""Of one attempt; there are two."""
PAUSE_S = 0.5
LIMIT_S = 2 * TIMEOUT_S + PAUSE_S
"""Longest wait for a notification."""

Occasion = Literal["finished", "failed", "stopped", "budget"]


@dataclass(frozen=True)
class Notice:
    """What is told."""

    run_id: str
    event: Occasion
    exit_code: int | None = None
    """None while the run goes on."""
    verdict: str | None = None
    says: str = ""
    wall_s: float = 0.0
    cost_usd: float = 0.0

    def text(self) -> str:
        """One line for chat tools."""
        parts = [
            f"run {self.run_id}: {self.event}",
            *([f"verdict {self.verdict}"] if self.verdict else []),
            *([f"exit code {self.exit_code}"] if self.exit_code else []),
            *([one_line(self.says, limit=None)] if self.says else []),
            f"{self.wall_s / 3600:.2f} h",
            *([f"{self.cost_usd:.2f} USD"] if self.cost_usd else []),
        ]
        return ", ".join(parts)


def occasion_of(exit_code: ExitCode) -> Occasion:
    """Which kind of end an exit code is."""
    if exit_code == ExitCode.DONE:
        return "finished"
    if exit_code == ExitCode.BUDGET:
        return "budget"
    stopped = exit_code in (ExitCode.INTERRUPTED, ExitCode.CTRL_C, ExitCode.TERMINATED)
    return "stopped" if stopped else "failed"


def notify(notice: Notice, wait_s: float = LIMIT_S, environment: Mapping[str, str] = os.environ) -> None:
    """Tell the webhook, if there is one; where it fails, one line on stderr says so.

    Args:
        notice: what to tell.
        wait_s: longest wait for it; 0 leaves it to a thread, and says nothing where it fails.
        environment: where the webhook's address is.
    """
    url = environment.get(VARIABLE, "").strip()
    if not url:
        return
    body = json.dumps(redact_values({"text": notice.text()} | asdict(notice))).encode()
    troubles: list[str] = []
    thread = threading.Thread(target=lambda: troubles.append(_post_twice(url, body)), name="webhook", daemon=True)
    thread.start()
    thread.join(wait_s)
    trouble = troubles[0] if troubles else "it does not answer, and the run does not wait for it"
    if trouble and wait_s:
        say(f"the webhook of {VARIABLE} was not told: {trouble}")


def _post_twice(url: str, body: bytes) -> str:
    """What went wrong; empty where the webhook was told."""
    trouble, again = _post(url, body)
    if again:
        time.sleep(PAUSE_S)
        trouble, _ = _post(url, body)
    return trouble


def _post(url: str, body: bytes) -> tuple[str, bool]:
    """What went wrong, without the address, and whether it may go better the next time."""
    if not url.startswith(("http://", "https://")):
        return "its address must begin with https:// or http://", False
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return "", False
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}", error.code >= 500 or error.code == 429
    except urllib.error.URLError as error:
        return f"{type(error.reason).__name__}", True
    except Exception as error:  # noqa: BLE001 -- a courtesy never fails a run, whatever an address makes of itself
        return type(error).__name__, isinstance(error, OSError)
