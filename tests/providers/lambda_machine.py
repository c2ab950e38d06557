"""A rented Lambda instance on this computer: its disk below a directory, small programs for docker and the like.

User data is read as cloud-init reads it, and the programs that systemd starts there are started for real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from tests.providers.lambda_cloud import FakeLambda

HOME = "/opt/sequence-runner"
DOCKER = """#!/bin/sh
# docker: notes each call; `exits` holds the exit codes of the container's starts, `pulls` those of pulls
cd "$(dirname "$0")/.." || exit 1
for word in "$@"; do printf '%s\\n' "$word"; done >> calls; printf -- '--\\n' >> calls
take() { code=$(head -n 1 "$1"); sed -i 1d "$1"; [ -n "$code" ] || code=$2; }
case $1 in
  info) [ "$2" = --format ] && cat driver; exit 0 ;;
  pull) take pulls 0; exit "$code" ;;
  run|start) take exits 0; [ "$code" = broken ] && exit 125; rm -f state; echo "$code" > running ;;
  inspect) if [ -f running ]; then echo running 0; else [ -f state ] && echo "exited $(cat state)"; fi ;;
  wait) mv running state ;;
  stop) [ -f state ] ;;
esac
"""


class Machine:
    """A machine's disk below a temporary directory, and the programs on it."""

    def __init__(self, root: Path, fake: FakeLambda) -> None:
        self.root, self.fake = root, fake
        self.state = {"exits": "", "pulls": "", "driver": "cgroupfs\n"}
        (root / "bin").mkdir()
        self.program("docker", DOCKER)
        self.program("nvidia-smi", "#!/bin/sh\nexit 0\n")
        self.program("systemd-run", '#!/bin/sh\necho "$@" >> "$(dirname "$0")/../timers"\n')
        self.program("systemctl", '#!/bin/sh\necho "$@" >> "$(dirname "$0")/../systemctl"\n')

    def program(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def boot(self, text: str) -> None:
        """Write the files as cloud-init would."""
        for file in yaml.safe_load(text)["write_files"]:
            path = self.root / file["path"].lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file["content"])
            path.chmod(int(file["permissions"], 8))
        settings = self.home / "settings.json"
        quick = {"pause_s": 0.005, "docker_config": str(self.root / "daemon.json")}
        settings.write_text(json.dumps(json.loads(settings.read_text()) | quick))
        for name, value in self.state.items():
            (self.root / name).write_text(value)

    @property
    def home(self) -> Path:
        return self.root / HOME.lstrip("/")

    def start(self, what: str = "run") -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(what), env=self.environment, cwd=self.root, stdout=subprocess.PIPE, text=True
        )

    def command(self, what: str) -> list[str]:
        """What systemd starts there."""
        return [sys.executable, "-S", "-E", str(self.home / "machine.py"), what]

    @property
    def environment(self) -> dict[str, str]:
        """Of what systemd starts."""
        return {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"}

    def finish(self, what: str = "run") -> str:
        """Start it, wait for its end, and return what it said."""
        process = self.start(what)
        try:
            said = process.communicate(timeout=300)[0]
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, said
        return said

    def hold(self, times: int = 6) -> str:
        """Start it, let it ask the API so often, and end it: it must not have ended by itself."""
        before = len(self.fake.made("GET /instances"))
        process = self.start()
        give_up_t = time.monotonic() + 120
        while len(self.fake.made("GET /instances")) < before + times and time.monotonic() < give_up_t:
            time.sleep(0.01)
        ended_by_itself = process.poll() is not None
        process.kill()
        said = process.communicate()[0]
        assert not ended_by_itself, said
        return said

    def calls(self, verb: str) -> list[list[str]]:
        """Arguments of docker's calls of one kind."""
        text = (self.root / "calls").read_text() if (self.root / "calls").exists() else ""
        return [call.splitlines() for call in text.split("--\n") if call.startswith(verb + "\n")]
