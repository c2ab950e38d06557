"""A computer with a shell and curl alone, for the launch scripts: docker and `sleep` are programs that do nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tests.providers.base import FakeApi

Fake = TypeVar("Fake", bound=FakeApi)
ACCESS_KEY = "an-access-key"


@dataclass(frozen=True)
class Secrets:
    """What no script may show."""

    key: str
    """Of the provider."""
    secret: str
    """Of the store."""


class Computer(Generic[Fake]):
    """One with a shell and curl alone."""

    def __init__(self, root: Path, fake: Fake, command: Sequence[str], provider: str, hidden: Secrets) -> None:
        """A computer whose files lie in `root`; `provider` is the word that its variables have for it."""
        self.root, self.fake, self.command, self._hidden = root, fake, list(command), hidden
        self.environment = {
            "PATH": f"{root}:/usr/bin:/bin",
            "TMPDIR": str(root),
            f"{provider}_API_KEY": hidden.key,
            f"SEQUENCE_{provider}_URL": fake.url,
            "SEQUENCE_IMAGE": "registry/image:1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": hidden.secret,
        }
        self.program("docker", "exit 1")
        self.program("sleep", "exit 0")
        self.program("curl", f'printf "%s\\n" "$@" >> {root}/argv; exec {shutil.which("curl")} "$@"')

    def program(self, name: str, text: str) -> None:
        """Put a program before the system's own."""
        (self.root / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.root / name).chmod(0o755)

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        """What the script says; it must end so, show no secret and leave none behind."""
        command = [*self.command, *arguments]
        done = subprocess.run(command, env=self.environment, cwd=self.root, capture_output=True, text=True, timeout=300)
        said = done.stdout + done.stderr
        assert done.returncode == exit_code, said
        assert self._hidden.key not in said and self._hidden.secret not in said
        assert not list(self.root.glob("tmp.*")), "the temporary directory holds secrets"
        return said
