"""One small whole run through the command line, watched from within and looked at afterwards."""

import json
from pathlib import Path

import pytest

from configs.run_dir import RunDir
from runner.graph import STAGES, expand
from tests.cli import ONE_CLASSIFIER, cli, settings

pytestmark = pytest.mark.slow

RECORDING = Path(__file__).parent / "recording"
IN_EVERY_KEY = {"seed", "compute.device", "compute.threads_per_unit"}
DECIDES_NO_RESULT = {"runtime", "preflight"}
DEMO = ("--dataset", "DEMO-USD_1H_20230101-20230531")
SETTINGS = settings(*ONE_CLASSIFIER, "agent.seeds=1")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A folder with `runs` and, per unit, the settings that its process read."""
    folder = tmp_path_factory.mktemp("job")
    done = cli(
        *DEMO, "--runs-dir", folder / "runs", *SETTINGS, "--offline",
        PYTHONPATH=str(RECORDING), RECORD_DIR=str(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("verdict  ") and "synthetic" in done.stdout.splitlines()[0]
    return folder


@pytest.fixture(scope="module")
def run(recorded) -> RunDir:
    return RunDir(next((recorded / "runs").glob("*/config.yaml")).parent)


def declared(unit, setting: str) -> bool:
    section = setting.partition(".")[0]
    if setting in IN_EVERY_KEY or section in DECIDES_NO_RESULT:
        return True
    return setting not in unit.ignored and (section in unit.settings or setting in unit.settings)


def test_units_read_only_the_settings_that_enter_their_cache_key(recorded, run):
    """Cache keys are sound only if a unit reads no setting that its stage does not declare."""
    undeclared = {}
    for unit in expand(run.load_config()):
        read = json.loads((recorded / f"{unit.id.replace('/', '.')}.json").read_text())
        assert read, "nothing was recorded"
        undeclared[unit.id] = [setting for setting in read if not declared(unit, setting)]
    assert not {unit: found for unit, found in undeclared.items() if found}


def test_a_units_directory_holds_its_request_its_result_and_whole_outputs(run):
    for unit in expand(run.load_config()):
        result = run.result(unit.id)
        assert result is not None and result.cache_key == run.request(unit.id).cache_key
        assert result.outputs and not run.damaged_outputs(result)


def test_any_unit_can_be_run_again_by_hand_with_the_line_the_supervisor_uses(run):
    import subprocess
    import sys

    before = run.result("prepare")
    line = [sys.executable, "-m", "training.stages.prepare", "--run-dir", str(run.root), "--unit", "prepare"]
    assert subprocess.run(line).returncode == 0
    assert run.result("prepare") == before


def test_plan_names_every_stage_with_time_and_memory(recorded):
    done = cli("plan", *DEMO, "--runs-dir", recorded / "runs", "--json", *SETTINGS)
    plan = json.loads(done.stdout)
    assert [stage["name"] for stage in plan["stages"]] == [stage.name for stage in STAGES if not stage.on_demand]
    assert all(stage["span_s"]["expected"] > 0 and stage["memory_bytes"] > 1e8 for stage in plan["stages"])
    assert plan["bars_found"] == 151 * 24 - 2 > plan["bars_needed"] > 0


def test_preflight_answers_as_json_with_its_exit_code(recorded):
    done = cli("preflight", *DEMO, "--runs-dir", recorded / "runs", "--json", "--offline", *SETTINGS)
    answer = json.loads(done.stdout)
    assert answer["exit_code"] == done.returncode
    assert {"dataset", "disk", "memory", "writing"} <= {check["name"] for check in answer["checks"]}


def test_preflight_fails_with_69_where_a_gpu_is_required_and_absent(recorded, tmp_path):
    from runner.identity import gpu_names

    if gpu_names():
        pytest.skip("this machine has a GPU")
    done = cli(*DEMO, "--runs-dir", tmp_path, "--require-gpu", "--offline", *SETTINGS)
    assert done.returncode == 69 and "gpu" in done.stderr
    assert not list(tmp_path.glob("*/stages/*"))


def test_agents_are_scored_on_another_dataset(recorded, run):
    done = cli("evaluate", run.run_id, *DEMO, "--runs-dir", recorded / "runs", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["scope"]["same_market"] is True and answer["scope"]["bars_in_fit_period"] == 0
    assert Path(answer["out"], "evaluation.json").is_file() and run.root in Path(answer["out"]).parents
    assert len(answer["agents"]) == 1


def test_a_new_report_can_be_written_at_any_time(recorded, run):
    run.report.unlink()
    done = cli("report", run.run_id, "--runs-dir", recorded / "runs")
    assert done.returncode == 0 and Path(done.stdout.strip()) == run.report.resolve()
    assert run.report.stat().st_size > 10_000
