"""A real unit for scheduling tests: what it does is written in a plan file beside the run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from configs.errors import BadDataError
from configs.unit import OUT_OF_MEMORY_STATUS, Unit, run_stage


def work(unit: Unit) -> dict:
    plan = json.loads((unit.run.root / "plan.json").read_text()).get(unit.id, {})
    starts = unit.run.root / "starts"
    starts.mkdir(exist_ok=True)
    attempt = note_start(starts, unit.name)
    if attempt <= plan.get("killed_attempts", 0):
        os.kill(os.getpid(), 9)
    if "fault" in plan:
        raise BadDataError(plan["fault"])
    if "crash" in plan:
        raise RuntimeError(plan["crash"])
    if "exit" in plan or attempt <= plan.get("out_of_memory_attempts", 0):
        os._exit(plan.get("exit", OUT_OF_MEMORY_STATUS))
    if "takes_bytes" in plan:
        halved(unit, plan["takes_bytes"])
    if "fills_disk" in plan:
        fill_disk(unit, plan["survives_it"])
    if "child" in plan:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        note_pid(starts / f"{unit.name}-child", child.pid)
    linger(unit, plan)
    unit.dir.mkdir(parents=True, exist_ok=True)
    read = " ".join(sorted(unit.run.request(unit.id).inputs))
    (unit.dir / "made.txt").write_text(f"{unit.id} {unit.config.seed} {read}")
    return {"attempt": attempt} | plan.get("metrics", {})


def note_pid(path: Path, pid: int) -> None:
    """Appears with its content, and never in place of another."""
    beside = path.with_name(f".{os.getpid()}")
    try:
        beside.write_text(str(pid))
        os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def note_start(starts: Path, name: str) -> int:
    """Which attempt this is; units of one name may start in one instant."""
    attempt = 1
    while True:
        try:
            note_pid(starts / f"{name}-{attempt}", os.getpid())
            return attempt
        except FileExistsError:
            attempt += 1


def halved(unit: Unit, whole_bytes: int) -> None:
    """Use memory as a batch does: half of it after each halving."""
    held = b"x" * (whole_bytes >> unit.config.runtime.batch_halvings.get(unit.id, 0))
    unit.metric("memory", held_bytes=len(held))


def fill_disk(unit: Unit, survives: bool) -> None:
    """Write until the disk is full; a unit that survives it waits for a stop, writing nothing."""
    unit.dir.mkdir(parents=True, exist_ok=True)
    try:
        with (unit.dir / "big").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
    except OSError:
        while survives:
            time.sleep(0.02)
            unit.check_stop()
        raise


def linger(unit: Unit, plan: dict) -> None:
    """Work for a while: `seconds`, or until there is the file `until` among the starts; in silence or with progress,
    heeding a stop or not."""
    until = unit.run.root / "starts" / plan.get("until", "never")
    end = time.monotonic() + plan.get("seconds", 300 if "until" in plan else 0)
    if plan.get("has_no_stacks"):
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    checkpoint = unit.dir / "checkpoints" / "1" / "manifest.json"
    if plan.get("checkpoint"):
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text("{}")
    while time.monotonic() < end and not until.exists():
        if plan.get("deaf"):
            time.sleep(0.02)
            if unit._stop[0]:
                (unit.run.root / "starts" / "asked-to-stop").touch()
        elif "step_s" in plan:  # the next safe boundary is far
            unit.progress(1, 2)
            time.sleep(plan["step_s"])
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
