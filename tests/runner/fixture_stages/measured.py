"""A stage module that measures itself, and leaves a mark each time in the folder that `MARKS` names."""

import os
import tempfile

from configs.errors import BadDataError
from configs.schema import Config


def describe(config: Config) -> dict:
    return {"bars_needed": 1, "memory_bytes": 1_000, "work": [{"name": "steps", "amount": 30, "rate_per_s": 10}]}


def calibrate(config: Config, budget_s: float) -> dict[str, float]:
    if config.seed == 13:
        raise BadDataError("no luck")
    if marks := os.environ.get("MARKS"):
        os.close(tempfile.mkstemp(prefix=f"{budget_s}-", dir=marks)[0])
    return {"steps": 60.0, "broken": 0.0}
