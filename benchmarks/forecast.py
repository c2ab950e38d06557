"""Predicted against actual: ADA-EUR_1H quick, three times in fresh runs directories, each measured anew.

The whole is to be within 25 % of what was expected, and its range is to hold it. Needs an idle machine.
`make forecast ARGS="--runs 1 --stages prepare,classifiers"` passes what follows `--runs` on to each run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from configs.run_dir import RunDir
from runner.forecast import WHOLE, Row, compared
from runner.say import say

DATASET = "ADA-EUR_1H"
DATA_DIR = Path(__file__).parents[2] / "shared" / "data"
MOST_ERROR_FRAC = 0.25
"""Of the whole."""


def main() -> int:
    """Run and compare; exit status 1 where a whole misses its prediction."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    arguments, options = parser.parse_known_args()
    missed = 0
    for number in range(1, arguments.runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            rows = run_once(Path(folder), options)
        say(f"run {number} of {arguments.runs}")
        show(rows)
        whole = next(row for row in rows if row.name == WHOLE)
        missed += not whole.held or abs(whole.error_frac or 0.0) > MOST_ERROR_FRAC
    print(json.dumps({"benchmark": "forecast", "runs": arguments.runs, "missed": missed}))
    return int(missed > 0)


def run_once(folder: Path, options: list[str]) -> list[Row]:
    """One run of the public command, measured and compared."""
    command = [sys.executable, "-m", "runner.cli", "--dataset", DATASET, "--profile", "quick", "--offline"]
    command += ["--data-dir", str(DATA_DIR), "--runs-dir", str(folder), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEQUENCE_")}
    subprocess.run(command, env=environment, check=True)
    return compared(RunDir(next(folder.glob("*/config.yaml")).parent))


def show(rows: list[Row]) -> None:
    """A line per row on stdout."""
    for row in rows:
        if row.predicted_s is None or row.error_frac is None:
            line = f"{row.actual_s:8.1f} s"
        else:
            low, expected, high = row.predicted_s.low, row.predicted_s.expected, row.predicted_s.high
            held = "held" if row.held else "MISSED"
            line = f"{row.actual_s:8.1f} s, expected {expected:8.1f} s ({low:.1f} to {high:.1f}: {held})"
            line += f" {row.error_frac:+.0%}"
        print(f"{row.name:<22}{line}")


if __name__ == "__main__":
    raise SystemExit(main())
