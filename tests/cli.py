"""Run the public command line as a user does, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TINY = [
    "classifiers.lookback_bars=16",
    "classifiers.units=8",
    "classifiers.folds=2",
    "classifiers.epochs=1",
    "classifiers.fold_epochs=1",
    "classifiers.window_stride=4",
    "ppo.timesteps=32768",
    "ppo.eval_every_steps=16384",
    "agent.seeds=2",
    "judging.random_shifts=100",
    "judging.bootstrap_samples=200",
    "costs.fee_frac=0.0002",
    "costs.slippage_frac=0.0001",
    "synthetic.scenarios=4",
    "synthetic.bars=600",
    "pretrain.timesteps=16384",
    "multi_asset.timesteps=16384",
    "multi_asset.eval_every_steps=8192",
    "lstm_ppo.timesteps=16384",
    "lstm_ppo.eval_every_steps=8192",
    "lstm_ppo.memory_units=16",
    "walk_forward.smoke=true",
    "walk_forward.train_months=1",
    "walk_forward.windows=2",
    "walk_forward.timesteps=8192",
    "walk_forward.epochs=1",
]
"""Settings that visit every stage in seconds."""
ONE_CLASSIFIER = ["classifiers.members=[dlstm]", "ensemble.members=[dlstm]"]
"""Settings for tests that do not care about the others."""
BASE = ("--stages", "prepare,classifiers,ppo,evaluate")
"""The shortest way to a verdict, for tests of what is no stage's own."""


def cli(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `sequence-runner` with these arguments; output is captured, the exit code is the caller's to check."""
    return subprocess.run(
        [sys.executable, "-m", "runner.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        timeout=850,
    )


def settings(*extra: str) -> list[str]:
    """`TINY` and more, as `--set` arguments."""
    return [part for setting in (*TINY, *extra) for part in ("--set", setting)]


def run_json(*arguments: str | Path, **environment: str) -> dict:
    """Run with `--json` and return its one object; anything but exit code 0 fails the test."""
    done = cli("run", "--json", "--skip-preflight", *arguments, **environment)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[-3000:]}"
    return json.loads(done.stdout)
