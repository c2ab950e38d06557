"""A process that looks at the GPU and prints one JSON object; the only place of the runner that imports torch.

    python -m runner.preflight.gpu_probe [--torch]

`--torch` tries a matrix product even where NVML shows no device.
"""

from __future__ import annotations

import json
import sys
from typing import Any

SIZE = 256
"""Rows and columns of the product; large enough to use every multiprocessor's path, small enough to take no time."""


def main(argv: list[str] | None = None) -> int:
    """Print `{"driver", "devices", "nvml_error", "matmul"}`; always returns 0."""
    arguments = sys.argv[1:] if argv is None else argv
    found = read_nvml()
    wanted = bool(found["devices"]) or "--torch" in arguments
    print(json.dumps(found | {"matmul": multiply() if wanted else None}))  # noqa: T201 -- the process's answer
    return 0


def read_nvml() -> dict[str, Any]:
    """Driver, names and memory as NVML tells; `nvml_error` says why there is nothing."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"driver": "", "devices": [], "nvml_error": str(error)}
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        devices = [_device(pynvml, handle) for handle in handles]
        return {"driver": _plain(pynvml.nvmlSystemGetDriverVersion()), "devices": devices, "nvml_error": ""}
    except pynvml.NVMLError as error:
        return {"driver": "", "devices": [], "nvml_error": str(error)}
    finally:
        pynvml.nvmlShutdown()


def multiply() -> dict[str, Any]:
    """A matrix product on the GPU against the same on the CPU in double precision.

    Relative error = max |gpu - cpu| / max |cpu|; float32 with 256 terms stays below 1e-5, TF32 below 1e-2.
    """
    import torch

    if not torch.cuda.is_available():
        return {"torch": torch.__version__, "cuda": torch.version.cuda or "", "available": False}
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = left @ right
    got = (left.float().cuda() @ right.float().cuda()).double().cpu()
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "available": True,
        "relative_error": float((got - expected).abs().max() / expected.abs().max()),
    }


def _device(pynvml: Any, handle: Any) -> dict[str, Any]:
    memory_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return {"name": _plain(pynvml.nvmlDeviceGetName(handle)), "memory_bytes": memory_bytes}


def _plain(text: str | bytes) -> str:
    return text.decode() if isinstance(text, bytes) else text


if __name__ == "__main__":
    raise SystemExit(main())
