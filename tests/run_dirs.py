"""What the tests of stages share: a dataset as a file, and what a unit has written."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from configs.run_dir import RunDir


def write_csv(directory: Path, name: str, frame: pd.DataFrame) -> Path:
    """Write a dataset's bars, as `Bars.frame` has them, in the canonical form; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    stamps = pd.to_datetime(frame["t"], unit="s", utc=True).dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    columns = ["timestamp", "open", "high", "low", "close", "volume"]
    frame.assign(timestamp=stamps)[columns].to_csv(directory / f"{name}.csv", index=False)
    return directory


def digests(run: RunDir, unit_id: str) -> dict[str, str]:
    """Digest of each output of a finished unit."""
    return {name: output.sha256 for name, output in run.result(unit_id).outputs.items()}
