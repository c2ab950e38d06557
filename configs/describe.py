"""`python -m configs.describe --run-dir DIR [--calibrate ...] MODULE...`: what stages say about themselves.

Each stage module answers alone with `--describe`; here one process answers for several and loads what they
have in common once. With `--calibrate` they measure, too, how fast this machine does their work.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from configs.errors import ExitCode, ProjectError
from configs.run_dir import RunDir
from configs.schema import Config


def main(argv: list[str] | None = None) -> int:
    """Print one JSON object, module -> answer, and return the exit code.

    The answer is that of the module's `describe`; with `--calibrate`, {"start_s": seconds from `--since` until the
    module was loaded, "rates": what its `calibrate` measured, empty where it has none}.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring, per module")
    parser.add_argument("--since", type=float, default=time.time(), help="Unix time at which this process was started")
    parser.add_argument("modules", nargs="*")
    arguments = parser.parse_args(argv)
    try:
        config = RunDir(arguments.run_dir).load_config()
        answers = {}
        for name in arguments.modules:
            module = importlib.import_module(name)
            start_s = time.time() - arguments.since
            answers[name] = (
                {"start_s": start_s, "rates": _calibrated(module, config, arguments.seconds)}
                if arguments.calibrate
                else module.describe(config)
            )
    except ProjectError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 -- stderr is this process's log
        return error.exit_code
    print(json.dumps(answers))  # noqa: T201 -- the answer is this process's output
    return ExitCode.DONE


def _calibrated(module: ModuleType, config: Config, budget_s: float) -> dict[str, Any]:
    calibrate = getattr(module, "calibrate", None)
    return dict(calibrate(config, budget_s)) if calibrate and budget_s > 0 else {}


if __name__ == "__main__":
    raise SystemExit(main())
