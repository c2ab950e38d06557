"""The program `sky`: found, run, and heard out. It lives in an environment of its own, for it holds click back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from runner.launch.provider import LaunchError, UnclearError
from runner.launch.secrets import clean

VARIABLE = "SEQUENCE_SKY"
INSTALL = (
    "install SkyPilot 0.14 into an environment of its own, with the clouds you use, for example "
    "pipx install 'skypilot[aws]==0.14.1', name its program with SEQUENCE_SKY where it is not on PATH, then `sky check`"
)
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHOWN_LINES = 3


class SkyError(LaunchError):
    """`sky` ended with an error; the message has its last words."""


def find() -> str:
    """Path of the program; empty where there is none."""
    named = os.path.expanduser(os.environ.get(VARIABLE, ""))
    return shutil.which(named or "sky") or ""


def require() -> str:
    """Path of the program.

    Raises:
        LaunchError: there is none.
    """
    if found := find():
        return found
    named = os.environ.get(VARIABLE, "")
    what = f"{VARIABLE}={named} is no program" if named else f"there is no program sky on PATH, and no {VARIABLE}"
    raise LaunchError(f"{what}; {INSTALL}")


def run(arguments: Sequence[str], limit_s: float, secrets: Mapping[str, str] | None = None) -> str:
    """What `sky ARGUMENTS` prints.

    Args:
        arguments: of the program; nothing secret.
        limit_s: after so many seconds it is given up.
        secrets: variables that it gets beside our own; never shown.

    Raises:
        SkyError: it ended with an error.
        UnclearError: it did not end in time.
        LaunchError: it cannot be started.
    """
    program, secrets = require(), secrets or {}
    try:
        ended = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            env={**os.environ, **secrets},
        )
    except subprocess.TimeoutExpired as error:
        raise UnclearError(f"sky {' '.join(arguments[:2])} did not end within {limit_s:.0f} s") from error
    except OSError as error:
        raise LaunchError(f"{program} cannot be started: {error.strerror or error}; {INSTALL}") from error
    if ended.returncode:
        raise SkyError(
            f"sky {' '.join(arguments[:2])} ended with exit code {ended.returncode}: "
            + clean(last_words(ended.stderr) or last_words(ended.stdout) or "it said nothing", secrets)
        )
    return ANSI.sub("", ended.stdout)


def lines(arguments: Sequence[str]) -> Iterator[str]:
    """Each line that `sky ARGUMENTS` prints, as it comes; the program is ended when no more are taken.

    Raises:
        SkyError: it printed nothing and ended with an error.
        LaunchError: it cannot be started.
    """
    program = require()
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise LaunchError(f"{program} cannot be started: {error.strerror or error}; {INSTALL}") from error
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                yield ANSI.sub("", line).rstrip("\r\n")
        finally:
            process.terminate()


def last_words(text: str) -> str:
    """The end of what a program said, on one line."""
    said = [line.strip() for line in ANSI.sub("", text).splitlines() if line.strip()]
    return " | ".join(said[-SHOWN_LINES:])
