"""Does compression pay for what a run stores? Size, share and time per kind of file, and what the upload decides.

Run with `python -m benchmarks.compression RUN_DIR`, where RUN_DIR is a finished run. Learner checkpoints are made
here: both nets and their Adam moments after a few updates.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import zstandard
from safetensors.numpy import save_file

from benchmarks.ppo import job
from configs.load import resolve
from ppo.learner.train import advance, start
from runner.store.upload import LEVEL, SAMPLE_BYTES, WORTH_FRAC
from training.determinism import set_up_torch

LEVELS = (1, 3, 9)
UPDATES = 3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    arguments = parser.parse_args()
    set_up_torch(1)
    levels = "".join(f"{f'level {level}':>24}" for level in LEVELS)
    print(f"{'kind of file':<28}{'files':>6}{'MB':>9}{levels}{f'level {LEVEL}, sent':>20}")
    with tempfile.TemporaryDirectory() as folder:
        kinds = {f"checkpoint, {profile}": [checkpoint(profile, Path(folder))] for profile in ("quick", "standard")}
        for kind, paths in (kinds | by_suffix(arguments.run_dir)).items():
            show(kind, paths)


def checkpoint(profile: str, folder: Path) -> Path:
    """A learner's state with the nets of a profile."""
    config = resolve("DEMO-USD_1H", profile).config
    state, path = start(job(config)), folder / f"{profile}.safetensors"
    for _ in range(UPDATES):
        advance(state, config.ppo)
    save_file(state.to_arrays()[0], path)
    return path


def by_suffix(run_dir: Path) -> dict[str, list[Path]]:
    """The run's files by their suffix."""
    found = defaultdict(list)
    for path in sorted(run_dir.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size:
            found[path.suffix or path.name].append(path)
    return dict(found)


def show(kind: str, paths: list[Path]) -> None:
    """One row: size, share left and speed at each level, and what is sent in the end."""
    bodies = [path.read_bytes() for path in paths]
    size_bytes = sum(map(len, bodies))
    cells = ""
    for level in LEVELS:
        begin = time.perf_counter()
        left = sum(len(zstandard.ZstdCompressor(level).compress(body)) for body in bodies)
        speed = size_bytes / (time.perf_counter() - begin) / 1e6
        cells += f"{left / size_bytes:>12.1%}{speed:>8.0f} MB/s"
    sent = sum(min(len(zstandard.ZstdCompressor(LEVEL).compress(body)), len(body)) if pays(body) else len(body)
               for body in bodies)  # fmt: skip
    print(f"{kind:<28}{len(paths):>6}{size_bytes / 1e6:>9.2f}{cells:>24}{sent / size_bytes:>20.1%}")


def pays(body: bytes) -> bool:
    """What the upload decides."""
    sample = body[:SAMPLE_BYTES]
    return len(zstandard.ZstdCompressor(LEVEL).compress(sample)) <= WORTH_FRAC * len(sample)


if __name__ == "__main__":
    main()
