"""What a run and a unit are: run ids, digests of code and dependencies, cache keys, machine facts."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from configs.files import digest, sha256_file
from configs.run_dir import Request, Result
from configs.schema import Config
from runner.graph import Unit, settings_of

PROJECT_ROOT = Path(__file__).parents[1]
PACKAGES = ("configs", "training", "ppo", "runner")
IDENTITY_CHARACTERS = 8
DATASET_PREFIX = "dataset/"
"""Of an input that is no unit."""
VECTOR_FLAGS = ("avx", "amx", "fma")
"""Instruction sets that numeric libraries choose their code by."""
KERNEL_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
)
"""Environment variables that make a library sum in another order than it would on this processor. Numba's are none:
without fast-math its code sums in the order that is written."""


def run_id_of(config: Config, datasets: dict[str, str]) -> str:
    """`<dataset>-<profile>-<8 hex of configuration and data>`: the run that one command always continues.

    Args:
        config: of the run.
        datasets: name of each dataset that it reads -> digest of its bars.
    """
    identity = digest({"config": config.identity(), "datasets": datasets})
    return f"{config.dataset.name}-{config.profile}-{identity[:IDENTITY_CHARACTERS]}"


def next_free_id(base: str, is_taken: Callable[[str], bool]) -> str:
    """`base`, or with the first suffix `-2`, `-3`, ... that no run has."""
    suffix = 1
    while is_taken(_suffixed(base, suffix)):
        suffix += 1
    return _suffixed(base, suffix)


@dataclass(frozen=True)
class Keys:
    """What the cache keys of all units of a run share."""

    config: Config
    datasets: dict[str, str]
    """Dataset name -> digest of its bars."""
    code: dict[str, str]
    """Package -> digest of its `.py` files."""
    lock: str

    @classmethod
    def of_this_program(cls, config: Config, datasets: dict[str, str]) -> Keys:
        """Digest the code and the dependency lock."""
        code = {name: code_digest(PROJECT_ROOT / name) for name in PACKAGES}
        return cls(config, datasets, code, lock_digest())

    def inputs(self, unit: Unit, results: dict[str, Result]) -> dict[str, str]:
        """Digests of what the unit reads: datasets, the units it needs, and those it wants that are there."""
        read = [*unit.needs, *(want for want in unit.wants if want in results)]
        datasets = {f"{DATASET_PREFIX}{name}": self.datasets[name] for name in unit.datasets}
        return datasets | {name: outputs_digest(results[name]) for name in read}

    def with_config(self, config: Config) -> Keys:
        """The same program and data with another configuration."""
        return replace(self, config=config)

    def request(self, unit: Unit, results: dict[str, Result]) -> Request:
        """What is asked of the unit, once everything it needs is done."""
        inputs = self.inputs(unit, results)
        return Request(unit=unit.id, cache_key=self.key(unit, inputs), inputs=inputs)

    def key(self, unit: Unit, inputs: dict[str, str]) -> str:
        """The unit's cache key: equal keys mean equal results."""
        halvings = self.config.runtime.batch_halvings.get(unit.id, 0)
        return digest(
            {
                "unit": unit.id,
                "module": unit.module,
                "settings": settings_of(unit, self.config),
                "inputs": inputs,
                "code": {name: self.code[name] for name in unit.packages},
                "lock": self.lock,
                "threads": self.config.compute.threads_per_unit,
                "device": self.config.compute.device,
            }
            | ({"batch_halvings": halvings} if halvings else {})
        )


def outputs_digest(result: Result) -> str:
    """Digest of a unit's files: names and contents."""
    return digest({name: output.sha256 for name, output in result.outputs.items()})


def code_digest(package: Path) -> str:
    """Digest of every `.py` file below a package: relative paths and contents."""
    return digest({path.relative_to(package).as_posix(): sha256_file(path) for path in _sources(package)})


def lock_digest(root: Path = PROJECT_ROOT) -> str:
    """Digest of `requirements.lock`, or of the installed distributions where there is none."""
    lock = root / "requirements.lock"
    return sha256_file(lock) if lock.is_file() else digest(_installed())


def machine_facts() -> dict[str, Any]:
    """What this machine is: processor, cores, memory, GPUs, Python, platform."""
    processor = _processor()
    return {
        "cpu_vendor": processor.get("vendor_id", ""),
        "cpu_model": processor.get("model name") or platform.processor() or platform.machine(),
        "cpu_flags": [flag for flag in sorted(processor.get("flags", "").split()) if flag.startswith(VECTOR_FLAGS)],
        "kernels": [f"{name}={os.environ[name]}" for name in KERNEL_VARIABLES if os.environ.get(name)],
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "gpus": gpu_names(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


@cache
def gpu_names() -> list[str]:
    """Names of the GPUs that the driver shows; empty without a driver."""
    import pynvml  # heavy: opens the driver's library

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def shell_line(command: Sequence[str]) -> str:
    """A command as one line that a shell takes back."""
    return shlex.join(command)


def _suffixed(base: str, suffix: int) -> str:
    return base if suffix == 1 else f"{base}-{suffix}"


def _sources(package: Path) -> Iterable[Path]:
    return sorted(path for path in package.rglob("*.py") if "__pycache__" not in path.parts)


def _installed() -> list[str]:
    return sorted({f"{item.name.lower()}=={item.version}" for item in importlib.metadata.distributions()})


def _processor() -> dict[str, str]:
    """What the kernel says of the first processor; empty where it does not."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
