"""Uploads through our stores against the plain calls they stand on, on real servers of this machine.

S3: boto3's `upload_file` with its defaults, to SeaweedFS. A directory: `shutil.copyfile` and fsync. Google:
`upload_from_filename`, to the emulator; its parts of 100 MB lie in the client's memory, ours of 32 MiB, and as the
emulator rewrites an upload with every part, fewer parts look faster there. Turns alternate, and so does who goes first.
Server and client share the cores.
Run: `python -m benchmarks.store [--megabytes N]`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from runner.store.open import open_store
from tests import servers

REPEATS = 5
TARGET = 0.9
GOOGLE_SHARE = 5


def main() -> int:
    """Measure all three and print their ratios; 1 when the target is missed on S3."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500)
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        directory = Path(name)
        large, smaller = directory / "large", directory / "smaller"
        write_random(large, megabytes)
        write_random(smaller, megabytes // GOOGLE_SHARE)
        print(f"uploads of random bytes, {REPEATS} turns each, median (lowest to highest)")
        ratio = to_s3(large)
        to_google(smaller)
        to_directory(large, directory / "store")
    print(f"S3 through our path: {ratio:.2f} x the plain SDK (target {TARGET:g})")
    return int(ratio < TARGET)


def to_s3(path: Path) -> float:
    """Throughput of ours as a share of boto3's."""
    import boto3

    with servers.seaweed() as server:
        os.environ.update(server.environment)
        store, plain = open_store(server.store_url()), boto3.session.Session().client("s3")
        ours = lambda: store.put("large", path)  # noqa: E731
        theirs = lambda: plain.upload_file(str(path), servers.BUCKET, "plain/large")  # noqa: E731
        return compare("s3 (SeaweedFS)", path, ours, "boto3 upload_file", theirs)


def to_google(path: Path) -> float:
    """Throughput of ours as a share of google-cloud-storage's."""
    with servers.gcs_emulator() as server:
        os.environ.update(server.environment)
        store = open_store(server.store_url())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)
            from google.cloud import storage
        bucket = storage.Client(project=None).bucket(servers.BUCKET)
        ours = lambda: store.put("large", path)  # noqa: E731
        theirs = lambda: bucket.blob("plain/large").upload_from_filename(str(path))  # noqa: E731
        return compare("gs (emulator)", path, ours, "upload_from_filename", theirs)


def to_directory(path: Path, root: Path) -> float:
    """Throughput of ours as a share of copying and syncing a file."""

    def copy() -> None:
        shutil.copyfile(path, root / "plain")
        with (root / "plain").open("rb") as file:
            os.fsync(file.fileno())

    store = open_store(root.as_uri())
    return compare("file", path, lambda: store.put("large", path), "copyfile and fsync", copy)


def compare(name: str, path: Path, ours: Callable[[], object], peer: str, theirs: Callable[[], object]) -> float:
    """Print both and return the peer's median time over ours."""
    both = {"ours": ours, peer: theirs}
    walls_s: dict[str, list[float]] = {who: [] for who in both}
    for work in both.values():
        work()  # connections, first volumes, page cache
    for turn in range(REPEATS):
        for who in list(both)[:: 1 if turn % 2 else -1]:
            began_s = time.perf_counter()
            both[who]()
            walls_s[who].append(time.perf_counter() - began_s)
    megabytes = path.stat().st_size / 1e6
    print(f"{name}, {megabytes:.0f} MB")
    for who, walls in walls_s.items():
        speeds = sorted(megabytes / wall_s for wall_s in walls)
        print(f"  {who:24} {statistics.median(speeds):7.1f} MB/s ({speeds[0]:.1f} to {speeds[-1]:.1f})")
    ratio = statistics.median(walls_s[peer]) / statistics.median(walls_s["ours"])
    print(f"  ours / {peer}: {ratio:.2f}")
    return ratio


def write_random(path: Path, megabytes: int) -> None:
    """A file that no server can compress."""
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))


if __name__ == "__main__":
    raise SystemExit(main())
