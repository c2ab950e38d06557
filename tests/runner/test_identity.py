import shutil

import pytest

from configs.load import resolve
from configs.run_dir import Output, Result
from runner.graph import expand, settings_of
from runner.identity import (
    KERNEL_VARIABLES,
    PROJECT_ROOT,
    Keys,
    code_digest,
    lock_digest,
    machine_facts,
    next_free_id,
    run_id_of,
)

DIGEST = "d" * 64


def configured(*settings: str, profile: str = "quick"):
    return resolve("ADA-EUR_1H", profile, settings=settings).config


def keys(**changes) -> Keys:
    values = {
        "config": configured(),
        "datasets": {"ADA-EUR_1H": DIGEST},
        "code": dict.fromkeys(("configs", "training"), "c"),
    }
    return Keys(**(values | {"lock": "l"} | changes))


def prepare_key(given: Keys) -> str:
    unit = expand(given.config)[0]
    return given.request(unit, {}).cache_key


def test_a_run_id_names_dataset_and_profile_and_is_stable():
    run_id = run_id_of(configured(), {"ADA-EUR_1H": DIGEST})
    assert run_id.startswith("ADA-EUR_1H-quick-") and len(run_id.rpartition("-")[2]) == 8
    assert run_id == run_id_of(configured(), {"ADA-EUR_1H": DIGEST})


@pytest.mark.parametrize(
    "setting",
    ["seed=1", "costs.fee_frac=0.001", "ppo.epochs=3", "compute.threads_per_unit=2", "parallel_models=true"],
)
def test_a_setting_that_decides_results_makes_another_run(setting):
    assert run_id_of(configured(setting), {"ADA-EUR_1H": DIGEST}) != run_id_of(configured(), {"ADA-EUR_1H": DIGEST})


@pytest.mark.parametrize("setting", ["runtime.workers=1", "ablation.seeds=9"])
def test_a_setting_that_cannot_change_a_result_keeps_the_run(setting):
    assert run_id_of(configured(setting), {"ADA-EUR_1H": DIGEST}) == run_id_of(configured(), {"ADA-EUR_1H": DIGEST})


def test_other_data_make_another_run():
    assert run_id_of(configured(), {"ADA-EUR_1H": DIGEST}) != run_id_of(configured(), {"ADA-EUR_1H": "e" * 64})


def test_a_fresh_run_takes_the_first_free_suffix():
    assert next_free_id("a", set().__contains__) == "a"
    assert next_free_id("a", {"a", "a-2"}.__contains__) == "a-3"


@pytest.mark.parametrize(
    "change",
    [
        {"datasets": {"ADA-EUR_1H": "e" * 64}},
        {"lock": "m"},
        {"code": {"configs": "c", "training": "changed"}},
        {"config": configured("features.rsi_period=9")},
        {"config": configured("compute.threads_per_unit=2")},
        {"config": configured("compute.device=cuda")},
    ],
)
def test_everything_that_decides_a_result_changes_the_cache_key(change):
    assert prepare_key(keys(**change)) != prepare_key(keys())


def test_models_side_by_side_make_another_run_of_equal_units():
    """They hold no gate back, so other units may be there to judge; each of them is the same."""
    one, other = (expand(configured(f"parallel_models={value}")) for value in ("false", "true"))
    assert [settings_of(unit, configured()) for unit in one] == [
        settings_of(unit, configured("parallel_models=true")) for unit in other
    ]


def test_code_that_a_unit_cannot_import_does_not_change_its_key():
    code = {"configs": "c", "training": "c"}
    assert prepare_key(keys(code=code | {"ppo": "x"})) == prepare_key(keys(code=code | {"ppo": "y"}))


def test_another_output_of_a_need_changes_the_key_of_its_dependant():
    given = keys()
    unit = next(unit for unit in expand(given.config) if unit.id == "classifiers/gru")

    def request(content: str):
        outputs = {"bars.parquet": Output(sha256=content, size_bytes=1)}
        return given.request(unit, {"prepare": Result(unit="prepare", cache_key="k", outputs=outputs, metrics={})})

    assert request("a").cache_key == request("a").cache_key != request("b").cache_key
    assert set(request("a").inputs) == {"prepare"}


def test_a_code_digest_sees_every_source_file_and_its_place(tmp_path):
    package = tmp_path / "package"
    shutil.copytree(PROJECT_ROOT / "configs", package, ignore=shutil.ignore_patterns("__pycache__"))
    before = code_digest(package)
    (package / "notes.txt").write_text("no code")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.py").write_text("")
    assert code_digest(package) == before
    (package / "errors.py").rename(package / "faults.py")
    moved = code_digest(package)
    (package / "faults.py").write_text("")
    assert len({before, moved, code_digest(package)}) == 3


def test_the_lock_digest_is_the_lock_files_or_that_of_what_is_installed(tmp_path):
    installed = lock_digest(tmp_path)
    (tmp_path / "requirements.lock").write_text("numpy==1\n")
    assert len({installed, lock_digest(tmp_path)}) == 2
    assert installed == lock_digest(tmp_path / "elsewhere")


def test_a_library_that_is_told_of_another_processor_is_a_fact_of_the_machine(monkeypatch):
    for name in KERNEL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert machine_facts()["kernels"] == []
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert machine_facts()["kernels"] == ["OPENBLAS_CORETYPE=Haswell"]


def test_machine_facts_are_plain_and_positive():
    facts = machine_facts()
    assert facts["cpu_cores"] >= 1 and facts["memory_bytes"] > 2**28 and facts["cpu_model"]
