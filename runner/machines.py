"""On which machines a run was computed, and whether its bytes are those of one undisturbed run.

Equal bytes need equal kinds of machine: vector instructions and libraries' choices by processor change the order of
sums. A run goes on anywhere; `run.json` says where it was, and why it is not bit-exact where it is not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from configs.events import read_events
from configs.files import write_json
from configs.run_dir import RunDir
from configs.schema import Config
from runner.identity import machine_facts
from runner.view import RUN

KIND = {
    "cpu_vendor": "processor vendor",
    "cpu_model": "processor",
    "cpu_flags": "vector instructions",
    "kernels": "libraries told to compute as on another processor",
    "gpus": "GPUs",
    "threads": "threads per unit",
    "device": "device",
}
"""What makes two machines one kind, for this purpose. Another lock of the dependencies is no difference: with it
every unit has another cache key and is computed anew."""
TIMES = {1: "once", 2: "twice"}


def this_machine(config: Config, lock_digest: str, place: str) -> dict[str, Any]:
    """This machine as `run.json` lists it."""
    computed = {"threads": config.compute.threads_per_unit, "device": config.compute.device}
    return machine_facts() | computed | {"lock_digest": lock_digest, "place": place, "since_t": int(time.time())}


def machines_of(run: RunDir, known: Mapping[str, Any], mine: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The machines of a run in order of time, `mine` last; one that neither finished nor saved anything is left out."""
    machines = [dict(machine) for machine in known.get("machines", [])]
    if machines and not _did_something(run, machines[-1]["since_t"]):
        machines.pop()
    if machines and not _differences(machines[-1], mine) and _where(machines[-1]) == _where(mine):
        return machines
    return [*machines, dict(mine)]


def inexact_reasons(machines: Sequence[Mapping[str, Any]], config: Config) -> list[str]:
    """Why the run's bytes may differ from an undisturbed run's; empty where they do not."""
    *earlier, last = machines
    counted = [machine for machine in earlier if machine.get("lock_digest") == last.get("lock_digest")]
    differing = [difference for machine in counted for difference in _differences(machine, last)]
    halved = [
        f"the batch of {unit} was halved {TIMES.get(times, f'{times} times')}, for want of memory"
        for unit, times in sorted(config.runtime.batch_halvings.items())
    ]
    return list(dict.fromkeys([*differing, *halved]))


def note_exactness(run: RunDir) -> list[str]:
    """Bring `bit_exact` and `bit_exact_reasons` of `run.json` up to date and return the reasons."""
    facts = run.load_facts()
    reasons = inexact_reasons(facts["machines"], run.load_config()) if facts.get("machines") else []
    if facts.get("bit_exact_reasons") != reasons:
        write_json(run.run_json, facts | {"bit_exact": not reasons, "bit_exact_reasons": reasons})
    return reasons


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [
        f"{title}: {_text(one.get(key))} -> {_text(other.get(key))}"
        for key, title in KIND.items()
        if one.get(key) != other.get(key)
    ]


def _where(machine: Mapping[str, Any]) -> tuple[Any, Any]:
    return machine.get("place"), machine.get("lock_digest")


def _did_something(run: RunDir, since_t: float) -> bool:
    return any(
        event["unit"] != RUN
        and event["t"] >= since_t
        and (event["kind"] == "checkpoint" or event.get("state") == "done")
        for event in read_events(run.events)
    )


def _text(value: Any) -> str:
    return (" ".join(map(str, value)) if isinstance(value, list) else str(value)) or "none"
