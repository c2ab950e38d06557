"""A real unit for scheduling tests: what it does is written in a plan file beside the run."""

import json
import os
import subprocess
import sys
import time

from configs.errors import BadDataError
from configs.unit import Unit, run_stage


def work(unit: Unit) -> dict:
    plan = json.loads((unit.run.root / "plan.json").read_text()).get(unit.id, {})
    starts = unit.run.root / "starts"
    starts.mkdir(exist_ok=True)
    attempt = len(list(starts.glob(f"{unit.name}-*"))) + 1
    (starts / f"{unit.name}-{attempt}").write_text(str(os.getpid()))
    if attempt <= plan.get("killed_attempts", 0):
        os.kill(os.getpid(), 9)
    if "fault" in plan:
        raise BadDataError(plan["fault"])
    if "crash" in plan:
        raise RuntimeError(plan["crash"])
    if "exit" in plan:
        os._exit(plan["exit"])
    if "child" in plan:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (starts / f"{unit.name}-child").write_text(str(child.pid))
    linger(unit, plan)
    unit.dir.mkdir(parents=True, exist_ok=True)
    (unit.dir / "made.txt").write_text(f"{unit.id} {unit.config.seed}")
    return {"attempt": attempt}


def linger(unit: Unit, plan: dict) -> None:
    """Work for a while: `seconds`, in silence or with progress, heeding a stop or not."""
    end = time.monotonic() + plan.get("seconds", 0)
    checkpoint = unit.dir / "checkpoints" / "1" / "manifest.json"
    if plan.get("checkpoint"):
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text("{}")
    while time.monotonic() < end:
        if plan.get("deaf"):
            time.sleep(0.02)
            if unit._stop[0]:
                (unit.run.root / "starts" / "asked-to-stop").touch()
        elif plan.get("silent"):
            time.sleep(0.02)
            unit.check_stop()
        else:
            unit.progress(1, 2, rate=1.0, loss=0.5)
            time.sleep(0.02)


def describe(config) -> dict:
    return {"bars_needed": 100, "memory_bytes": 1_000, "work": [{"name": "steps", "amount": 30, "rate_per_s": 10}]}


def main(argv: list[str] | None = None) -> int:
    return run_stage(argv, work, describe)


if __name__ == "__main__":
    raise SystemExit(main())
