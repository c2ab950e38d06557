"""The GPU: what NVML says and whether a small matrix product comes out right, asked in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from configs.schema import Config
from runner.guard import die_with_parent
from runner.identity import PROJECT_ROOT
from runner.preflight.check import CheckResult, Context, Verdict, human_bytes
from runner.process import last_words

MAX_RELATIVE_ERROR = 1e-3
"""A broken device is off by orders of magnitude; float32 by less than 1e-5."""


def check_gpu(config: Config, context: Context) -> CheckResult:
    """Driver, name, memory and arithmetic of the GPU."""
    required = gpu_required(config, context)
    command = [sys.executable, "-m", "runner.preflight.gpu_probe", *(["--torch"] if required else [])]
    parent_pid = os.getpid()
    # not `process.ask`: a probe of a sick driver can hang, and must be ended
    done = subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=config.preflight.gpu_timeout_s,
        check=False,
        preexec_fn=lambda: die_with_parent(parent_pid),
    )
    if done.returncode:
        return _absent(config, required, f"the probe ended with status {done.returncode}: {last_words(done.stderr)}")
    return judge_gpu(json.loads(done.stdout), config, required)


def gpu_required(config: Config, context: Context) -> bool:
    """Whether the run cannot go on without a GPU."""
    return context.require_gpu or config.preflight.require_gpu or config.compute.device == "cuda"


def judge_gpu(probe: dict[str, Any], config: Config, required: bool) -> CheckResult:
    """Verdict on what the probe printed."""
    matmul = probe["matmul"]
    if not (matmul and matmul["available"]):
        return _absent(config, required, _why_absent(probe))
    device: dict[str, Any] = probe["devices"][0] if probe["devices"] else {"name": "unnamed GPU", "memory_bytes": 0}
    error = matmul["relative_error"]
    bad: Verdict = "fail" if required else "warn"
    found = (
        f"{device['name']}, {human_bytes(device['memory_bytes'])}, driver {probe['driver'] or 'unknown'}, "
        f"CUDA {matmul['cuda']}, product off by {error:.0e}"
    )
    if not error <= MAX_RELATIVE_ERROR:
        return _result(config, found, bad, "the GPU computes wrong numbers: use another machine")
    if device["memory_bytes"] < config.preflight.min_gpu_memory_bytes:
        return _result(config, found, bad, "use a GPU with more memory, or compute.device=cpu")
    return _result(config, found, "ok", "")


def _why_absent(probe: dict[str, Any]) -> str:
    matmul = probe["matmul"]
    if not probe["devices"]:
        return f"no NVIDIA GPU ({probe['nvml_error'] or 'no device'})"
    name = probe["devices"][0]["name"]
    if not matmul["cuda"]:
        return f"{name}, but torch {matmul['torch']} is built without CUDA"
    return f"{name}, driver {probe['driver']}, but torch {matmul['torch']} (CUDA {matmul['cuda']}) cannot use it"


def _absent(config: Config, required: bool, found: str) -> CheckResult:
    if required:
        return _result(config, found, "fail", "use a machine with a GPU, or set compute.device=cpu")
    return _result(config, found, "warn", "nothing; the run uses the CPU and is slower")


def _result(config: Config, found: str, verdict: Verdict, remedy: str) -> CheckResult:
    return CheckResult("gpu", found, f"{human_bytes(config.preflight.min_gpu_memory_bytes)} GPU", verdict, remedy)
