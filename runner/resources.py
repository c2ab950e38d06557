"""Samples of what a run uses: processor, memory, disk, GPU; for the whole machine and per unit."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import psutil


class Sampler:
    """Takes one sample per call; processor shares are since the call before."""

    def __init__(self, volume: Path) -> None:
        """Watch the disk that holds `volume`."""
        self._volume = volume
        self._processes: dict[int, psutil.Process] = {}
        self._gpu_handles = _gpu_handles()
        psutil.cpu_percent()

    def sample(self, units: dict[str, int]) -> dict[str, Any]:
        """One sample.

        Args:
            units: unit id -> process id of each running unit.

        Returns:
            `cpu_percent` (of all cores), `ram_used_bytes`, `ram_total_bytes`, `disk_free_bytes`, `gpus`
            (list of {"util_percent", "memory_used_bytes", "memory_total_bytes"}) and `units`
            (unit id -> {"cpu_percent" (100 = one core), "rss_bytes"}, each over its process tree).
        """
        memory = psutil.virtual_memory()
        trees = {unit: self._tree(pid) for unit, pid in units.items()}
        self._processes = {process.pid: process for tree in trees.values() for process in tree}
        return {
            "cpu_percent": psutil.cpu_percent(),
            "ram_used_bytes": memory.total - memory.available,
            "ram_total_bytes": memory.total,
            "disk_free_bytes": shutil.disk_usage(self._volume).free,
            "gpus": [_gpu_sample(handle) for handle in self._gpu_handles],
            "units": {unit: _tree_sample(tree) for unit, tree in trees.items()},
        }

    def _tree(self, pid: int) -> list[psutil.Process]:
        try:
            root = self._processes.get(pid) or psutil.Process(pid)
            children = [self._processes.get(child.pid, child) for child in root.children(recursive=True)]
        except psutil.Error:
            return []
        return [root, *children]


def _tree_sample(tree: list[psutil.Process]) -> dict[str, float]:
    cpu_percent, rss_bytes = 0.0, 0
    for process in tree:
        with contextlib.suppress(psutil.Error):
            cpu_percent += process.cpu_percent()
            rss_bytes += process.memory_info().rss
    return {"cpu_percent": round(cpu_percent, 1), "rss_bytes": rss_bytes}


def _gpu_handles() -> list[Any]:
    import pynvml  # heavy: opens the driver's library

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _gpu_sample(handle: Any) -> dict[str, int]:
    import pynvml

    sample: dict[str, int] = {}
    # a GPU slice may answer memory but no utilisation
    with contextlib.suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        sample |= {"memory_used_bytes": int(memory.used), "memory_total_bytes": int(memory.total)}
        sample["util_percent"] = int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    return sample
