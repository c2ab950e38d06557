"""`python -m configs.describe --run-dir DIR MODULE...`: what stages say about themselves under a run's configuration.

Each stage module answers alone with `--describe`; here one process answers for several and loads what they
have in common once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from configs.errors import ExitCode, ProjectError
from configs.run_dir import RunDir


def main(argv: list[str] | None = None) -> int:
    """Print one JSON object, module -> answer of its `describe`, and return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("modules", nargs="*")
    arguments = parser.parse_args(argv)
    try:
        config = RunDir(arguments.run_dir).load_config()
        answers = {module: importlib.import_module(module).describe(config) for module in arguments.modules}
    except ProjectError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 -- stderr is this process's log
        return error.exit_code
    print(json.dumps(answers))  # noqa: T201 -- the answer is this process's output
    return ExitCode.DONE


if __name__ == "__main__":
    raise SystemExit(main())
