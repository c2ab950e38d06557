"""On which machines a run was, and whether that matters to its bytes."""

import pytest

from configs.events import EventLog
from configs.files import write_json
from configs.load import resolve
from configs.run_dir import RunDir
from runner.machines import inexact_reasons, machines_of, note_exactness
from runner.report import background
from runner.report.facts import Facts

CONFIG = resolve("DEMO-USD_1H", "quick").config


def machine(since_t: float = 1, place: str = "here", **facts) -> dict:
    return {
        "cpu_vendor": "AuthenticAMD",
        "cpu_model": "AMD EPYC 9655",
        "cpu_flags": ["avx2", "avx512f", "fma"],
        "kernels": [],
        "gpus": [],
        "threads": 1,
        "device": "cpu",
        "lock_digest": "l" * 64,
        "memory_bytes": 8,
        "place": place,
        "since_t": since_t,
    } | facts


def halved(**times: int):
    runtime = CONFIG.runtime.model_copy(update={"batch_halvings": times})
    return CONFIG.model_copy(update={"runtime": runtime})


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"cpu_model": "Intel Xeon"}, "processor: AMD EPYC 9655 -> Intel Xeon"),
        ({"cpu_vendor": "GenuineIntel"}, "processor vendor: AuthenticAMD -> GenuineIntel"),
        ({"cpu_flags": ["avx2", "fma"]}, "vector instructions: avx2 avx512f fma -> avx2 fma"),
        (
            {"kernels": ["OPENBLAS_CORETYPE=Haswell"]},
            "libraries told to compute as on another processor: none -> OPENBLAS_CORETYPE=Haswell",
        ),
        ({"gpus": ["H200"]}, "GPUs: none -> H200"),
        ({"threads": 4}, "threads per unit: 1 -> 4"),
        ({"device": "cuda"}, "device: cpu -> cuda"),
    ],
)
def test_another_kind_of_machine_is_no_longer_bit_exact_and_says_why(other, reason):
    assert inexact_reasons([machine(), machine(2, **other)], CONFIG) == [reason]


def test_more_memory_another_place_or_another_clock_is_the_same_kind():
    assert inexact_reasons([machine(), machine(2, place="there", memory_bytes=16)], CONFIG) == []


def test_a_machine_in_between_counts_though_the_last_is_as_the_first():
    machines = [machine(1), machine(2, cpu_model="another"), machine(3)]
    assert inexact_reasons(machines, CONFIG) == ["processor: another -> AMD EPYC 9655"]


def test_units_of_another_lock_were_all_computed_anew():
    assert inexact_reasons([machine(cpu_model="another", lock_digest="m" * 64), machine(2)], CONFIG) == []


def test_a_halved_batch_is_a_reason():
    config = halved(**{"ppo/seed-0": 2, "classifiers/lstm": 3})
    assert inexact_reasons([machine()], config) == [
        "the batch of classifiers/lstm was halved 3 times, for want of memory",
        "the batch of ppo/seed-0 was halved twice, for want of memory",
    ]


@pytest.mark.parametrize(
    ("kind", "fields", "counts"),
    [
        ("checkpoint", {}, True),
        ("unit_finished", {"state": "done"}, True),
        ("unit_finished", {"state": "skipped"}, False),
        ("progress", {}, False),
    ],
)
def test_only_a_machine_that_saved_something_stays_on_the_list(tmp_path, kind, fields, counts):
    run = RunDir(tmp_path / "run")
    events = EventLog(run.events, "ppo.seed-0")
    events.emit(kind, "ppo/seed-0", **fields)
    events.close()
    before, mine = machine(1, cpu_model="another"), machine(2)
    assert machines_of(run, {"machines": [before]}, mine) == ([before, mine] if counts else [mine])
    assert machines_of(run, {"machines": [machine(1)]}, machine(2)) == [machine(1) if counts else machine(2)]


def test_the_run_says_what_has_become_of_it_while_it_ran(tmp_path):
    run = RunDir(tmp_path / "run")
    facts = dict.fromkeys(("dataset_digest", "data_place", "data_dirs", "code_digest", "lock_digest", "command"), "")
    write_json(run.run_json, facts | {"machines": [machine()], "bit_exact": True, "bit_exact_reasons": []})
    run.save_config(CONFIG)
    assert note_exactness(run) == [] and run.load_facts()["bit_exact"] is True
    run.save_config(halved(**{"ppo/seed-0": 1}))
    assert len(note_exactness(run)) == 1 and run.load_facts()["bit_exact"] is False


def test_the_report_says_that_a_run_is_not_bit_exact(tmp_path):
    def identity(**run) -> str:
        section = background.identity(Facts("a-run", tmp_path, run={"run_id": "a-run"} | run))
        assert section is not None
        return "".join(map(str, section.parts))

    assert "This run is not bit-exact: processor: one, GPUs: two." in identity(
        bit_exact_reasons=["processor: one, GPUs: two"]
    )
    assert "not bit-exact" not in identity(bit_exact_reasons=[])
