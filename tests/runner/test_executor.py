"""Slots: how many units at once, and which GPU each sees."""

from typing import cast

import pytest

from configs.load import resolve
from runner.executor import LocalExecutor, Slot, gpu_environment, visible_gpus
from runner.graph import Unit
from runner.guard import Reaper

NO_REAPER = cast(Reaper, None)
"""Nothing is started here."""
ON_GPU, ON_CPU = Unit("a", "s", "m", uses_gpu=True), Unit("b", "s", "m")


def executor(workers: int, *gpus: str) -> LocalExecutor:
    config = resolve("DEMO-USD_1H", "quick", settings=[f"runtime.workers={workers}"]).config
    return LocalExecutor(config, NO_REAPER, gpus)


def test_no_more_units_than_workers_run_at_once():
    assert executor(2).slot_for(ON_CPU, [Slot()]) == Slot()
    assert executor(2).slot_for(ON_CPU, [Slot(), Slot()]) is None


def test_each_unit_on_a_gpu_has_one_of_its_own():
    places = executor(8, "0", "1")
    taken: list[Slot] = []
    while (slot := places.slot_for(ON_GPU, taken)) is not None:
        taken.append(slot)
    assert taken == [Slot("0"), Slot("1")]
    assert places.slot_for(ON_CPU, taken) == Slot(), "a unit without a GPU runs beside them"
    assert places.slot_for(ON_GPU, [Slot("0"), Slot()]) == Slot("1")


def test_where_no_gpu_can_be_counted_units_that_use_one_run_one_at_a_time():
    places = executor(8)
    assert places.slot_for(ON_GPU, []) == Slot("")
    assert places.slot_for(ON_GPU, [Slot("")]) is None


def test_a_process_sees_its_gpu_alone():
    assert gpu_environment(Slot("1")) == {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert gpu_environment(Slot()) == gpu_environment(Slot("")) == {}


@pytest.mark.parametrize(("variable", "expected"), [("3,5", ["3", "5"]), ("", []), ("GPU-1a2b", ["GPU-1a2b"])])
def test_gpus_that_the_user_hid_stay_hidden(monkeypatch, variable, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == expected


def test_the_number_of_workers_is_that_of_the_gpus_unless_somebody_says_otherwise():
    assert resolve("DEMO-USD_1H", "standard", gpus=4).config.runtime.workers == 4
    assert resolve("DEMO-USD_1H", "standard").config.runtime.workers == 2
    assert resolve("DEMO-USD_1H", "standard", gpus=4, settings=["runtime.workers=1"]).config.runtime.workers == 1
    assert resolve("DEMO-USD_1H", "quick", gpus=4).config.compute.device == "cpu"
