"""Started by Python itself in every process that has this folder on its path: notes which settings are read."""

import atexit
import json
import os
import sys
from pathlib import Path

from configs import run_dir, schema

SECTION_OF = {field.annotation: name for name, field in schema.Config.model_fields.items()}
read: set[str] = set()


def note(self: schema.Model, name: str) -> object:
    fields = type(self).__dict__.get("__pydantic_fields__", {})
    if name in fields:
        section = SECTION_OF.get(type(self))
        if section is not None:
            read.add(f"{section}.{name}")
        elif type(self) is schema.Config and fields[name].annotation not in SECTION_OF.keys() - {str, int}:
            read.add(name)
    return object.__getattribute__(self, name)


def write() -> None:
    if "--unit" in sys.argv and "--describe" not in sys.argv:
        unit = sys.argv[sys.argv.index("--unit") + 1]
        path = Path(os.environ["RECORD_DIR"]) / f"{unit.replace('/', '.')}.json"
        path.write_text(json.dumps(sorted(read)))


def load_config(run: run_dir.RunDir) -> schema.Config:
    """The loading itself reads what its own checks compare; a unit's reading begins after it."""
    config = load(run)
    read.clear()
    return config


load = run_dir.RunDir.load_config
run_dir.RunDir.load_config = load_config  # type: ignore[method-assign]
schema.Model.__getattribute__ = note  # type: ignore[method-assign]
atexit.register(write)
