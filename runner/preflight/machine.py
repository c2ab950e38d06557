"""Checks of the machine itself: disk, memory, CPU, shared memory, what the runs directory lies on."""

from __future__ import annotations

import os
import shutil

import psutil

from configs.schema import Config
from configs.secrets import redact
from runner.preflight.cgroups import cpu_quota_cores, memory_limit
from runner.preflight.check import CheckResult, Context, Verdict, existing_ancestor, human_bytes
from runner.preflight.mounts import CONTAINER_FILE_SYSTEMS, mount_of, read_mounts

MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


def check_disk(config: Config, context: Context) -> CheckResult:
    """Free space on the volume that the runs directory really lies on."""
    needed_bytes = config.preflight.min_disk_bytes
    volume = existing_ancestor(context.runs_dir)
    free_bytes = shutil.disk_usage(volume).free
    return CheckResult(
        name="disk",
        found=f"{human_bytes(free_bytes)} free at {volume}",
        needed=f"{human_bytes(needed_bytes)} for {config.profile}",
        verdict="ok" if free_bytes >= needed_bytes else "fail",
        remedy="" if free_bytes >= needed_bytes else "free space, or choose another volume with --runs-dir",
    )


def check_memory(config: Config, context: Context) -> CheckResult:
    """Memory this process may use: the host's, or the container's limit where that is lower."""
    needed_bytes = config.preflight.min_memory_bytes
    host = psutil.virtual_memory()
    limit = memory_limit(context.filesystem_root)
    total_bytes = min(host.total, limit.limit_bytes) if limit else host.total
    available_bytes = min(host.available, limit.available_bytes) if limit else host.available
    contained = limit is not None and limit.limit_bytes < host.total
    verdict: Verdict = "ok"
    remedy = ""
    if total_bytes < needed_bytes:
        verdict = "fail"
        remedy = "raise the container's memory limit" if contained else "use a machine with more memory"
    elif available_bytes < needed_bytes:
        verdict, remedy = "warn", "close other programs; less is free now than the run may need"
    where = f"container limit, host has {human_bytes(host.total)}" if contained else "host, no lower container limit"
    return CheckResult(
        name="memory",
        found=f"{human_bytes(total_bytes)} ({where}), {human_bytes(available_bytes)} free now",
        needed=f"{human_bytes(needed_bytes)} for {config.profile}",
        verdict=verdict,
        remedy=remedy,
    )


def check_cpu(config: Config, context: Context) -> CheckResult:
    """Cores this process may use: its affinity, or the container's quota where that is lower."""
    affinity = len(os.sched_getaffinity(0))
    quota = cpu_quota_cores(context.filesystem_root)
    cores = min(affinity, quota) if quota else affinity
    needed = config.preflight.min_cpu_cores
    wanted = config.runtime.workers * config.compute.threads_per_unit
    verdict: Verdict = "ok"
    remedy = ""
    if cores < needed:
        verdict, remedy = "fail", "raise the container's CPU quota, or use a machine with more cores"
    elif cores < wanted:
        verdict = "warn"
        remedy = f"{wanted} threads share {cores:g} cores; lower runtime.workers for steadier timings"
    limit = f"container quota {quota:g}" if quota else "no container quota"
    return CheckResult(
        name="cpu",
        found=f"{cores:g} cores (affinity {affinity}, {limit})",
        needed=f"{needed:g} {'core' if needed == 1 else 'cores'} for {config.profile}",
        verdict=verdict,
        remedy=remedy,
    )


def check_shared_memory(config: Config, context: Context) -> CheckResult:
    """Size of /dev/shm, which PyTorch's worker processes share tensors through."""
    needed_bytes = config.preflight.min_shm_bytes
    path = context.filesystem_root / "dev/shm"
    if not path.is_dir():
        return CheckResult("shared memory", "no /dev/shm", human_bytes(needed_bytes), "warn", "mount /dev/shm")
    size_bytes = shutil.disk_usage(path).total
    enough = size_bytes >= needed_bytes
    return CheckResult(
        name="shared memory",
        found=f"{human_bytes(size_bytes)} in /dev/shm",
        needed=f"{human_bytes(needed_bytes)} for {config.profile}",
        verdict="ok" if enough else "warn",
        remedy="" if enough else "start the container with --shm-size 1g",
    )


def check_durability(config: Config, context: Context) -> CheckResult:
    """Whether the runs directory outlives the container or the machine's memory."""
    volume = existing_ancestor(context.runs_dir)
    mount = mount_of(volume, read_mounts(context.filesystem_root))
    kind = mount.kind if mount else "unknown"
    point = mount.point if mount else "?"
    where, remedy = "", ""
    if kind in CONTAINER_FILE_SYSTEMS:
        where = f"{volume} lies on the container's layer ({kind})"
        mounted = f"add -v $PWD/runs:{context.runs_dir.resolve()} to docker run"
        remedy = f"results are lost with the container: {mounted}, or --store URL"
    elif kind in MEMORY_FILE_SYSTEMS:
        where = f"{volume} lies in memory ({kind})"
        remedy = "results are lost at a restart: choose a directory on a disk with --runs-dir, or --store URL"
    if not where:
        return CheckResult("durability", f"{kind} mounted at {point}", "a disk that outlives the container", "ok")
    needed = "a disk that outlives the container, or a store"
    if config.store.url:
        return CheckResult("durability", f"{where}; {redact(config.store.url)} outlives it", needed, "ok")
    return CheckResult("durability", where, needed, "warn", remedy)
