"""The command line as a user sees it, on a run that has prepared its data and no more."""

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from configs.errors import EXIT_CODE_MEANING
from configs.run_dir import RunDir
from runner.cli import main
from runner.guard import Owner
from runner.preflight.checks import CHECKS
from tests.cli import cli
from tests.runner.fixture_stages.world import wait_for

pytestmark = pytest.mark.slow

DEMO = ("--dataset", "DEMO-USD_1H")


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def call(*arguments: str | Path) -> Done:
    """The command line in this process: saves the start of an interpreter."""
    out, said, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    try:
        with redirect_stdout(out), redirect_stderr(said):
            code = main([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, handler)
    return Done(code, out.getvalue(), said.getvalue())


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A runs directory with one run, done up to `prepare`."""
    directory = tmp_path_factory.mktemp("runs")
    done = cli(*DEMO, "--runs-dir", directory, "--skip-preflight", "--until", "prepare", "--offline", "--json")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def run(runs) -> RunDir:
    return RunDir(next(path.parent for path in runs.glob("*/config.yaml")))


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    shown = cli(*arguments, PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines()}
    assert shown.returncode == 0 and "runner" in loaded
    assert not loaded & {"torch", "pandas", "numpy", "pyarrow", "plotly", "boto3", "google", "git", "talib", "scipy"}


def test_help_lists_every_exit_code_and_command():
    shown = call("--help").stdout
    for code, meaning in EXIT_CODE_MEANING.items():
        assert f"{code.value}  {meaning}" in shown
    for command in "run ablate preflight plan status logs stop report compare evaluate data config".split():
        assert f"\n  {command} " in shown


def test_the_command_may_be_left_out(runs, run):
    shown = [call(*way, *DEMO, "--runs-dir", runs, "--dry-run").stdout for way in ((), ("run",))]
    assert run.run_id in shown[0]
    assert shown[0] == shown[1]


def test_a_run_goes_on_when_nobody_reads_its_messages_any_more(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "runner.cli", *DEMO, "--runs-dir", str(tmp_path), "--until", "prepare"]
    done = subprocess.run(command, stderr=writer, stdout=subprocess.PIPE, timeout=600, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert list(tmp_path.glob("*/stages/prepare/result.json"))


def test_a_dry_run_says_what_is_done_and_writes_nothing(runs, run, tmp_path):
    before = sorted(path for path in runs.rglob("*"))
    done = call(*DEMO, "--runs-dir", runs, "--dry-run", "--json")
    answer = json.loads(done.stdout)
    assert answer["run_id"] == run.run_id and answer["exists"] is True
    assert answer["units"]["prepare"] == "done" and answer["units"]["evaluate"] == "to run"
    assert sorted(path for path in runs.rglob("*")) == before
    assert call(*DEMO, "--runs-dir", tmp_path / "none", "--dry-run").returncode == 0
    assert not (tmp_path / "none").exists()


def test_a_dry_run_of_what_would_be_refused_ends_as_the_run_would(runs, run):
    part = (*DEMO, "--runs-dir", runs, "--stages", "evaluate")
    wet, dry, machine = call(*part, "--json"), call(*part, "--dry-run"), call(*part, "--dry-run", "--json")
    assert wet.returncode == dry.returncode == machine.returncode == 78
    assert json.loads(wet.stdout)["error"] == json.loads(machine.stdout)["error"]
    assert "missing: its stage was not chosen" in dry.stdout and "was not chosen; add it to --stages" in dry.stderr


def test_a_changed_setting_is_another_run_that_can_reuse_what_does_not_depend_on_it(runs, run):
    answer = json.loads(call(*DEMO, "--runs-dir", runs, "--dry-run", "--json", "--set", "ppo.epochs=2").stdout)
    assert answer["run_id"] != run.run_id
    assert answer["units"]["prepare"] == f"reusable from {run.run_id}"


def test_a_fresh_run_has_a_suffix_and_reuses_nothing(runs, run):
    answer = json.loads(call(*DEMO, "--runs-dir", runs, "--dry-run", "--json", "--fresh").stdout)
    assert answer["run_id"] == f"{run.run_id}-2"
    assert set(answer["units"].values()) == {"to run"}


def test_the_same_command_again_does_no_work(runs, run):
    log = run.events / "prepare.jsonl"
    before = log.read_bytes()
    again = call(*DEMO, "--runs-dir", runs, "--until", "prepare", "--json")
    answer = json.loads(again.stdout)
    assert (answer["run_id"], answer["exit_code"], answer["verdict"]) == (run.run_id, 0, None)
    assert log.read_bytes() == before
    assert "nothing to do" in again.stderr


def test_resume_takes_configuration_and_data_from_the_run(runs, run):
    done = call("--resume", run.run_id, "--runs-dir", runs, "--until", "prepare", "--json")
    assert json.loads(done.stdout)["run_id"] == run.run_id
    for other in (("--set", "seed=1"), ("--profile", "full"), ("--symbol", "ADA-EUR")):
        assert call("--resume", run.run_id, "--runs-dir", runs, *other).returncode == 2
    refused = call("--resume", run.run_id, "--runs-dir", runs, "--set", "seed=1")
    assert refused.returncode == 2 and "--set" in refused.stderr


def test_plan_says_whether_a_whole_run_fits_the_limits(runs):
    asked = ("plan", *DEMO, "--runs-dir", runs, "--set", "runtime.calibrate_s=0")
    assert "limits:" not in call(*asked).stdout
    assert "a whole run fits: 0 of 100.00 h spent" in call(*asked, "--max-hours", "100").stdout
    assert "a whole run would be refused: " in call(*asked, "--max-hours", "0.001").stdout


def test_resuming_a_run_that_is_not_there_is_refused(runs):
    done = call("--resume", "nothing", "--runs-dir", runs)
    assert done.returncode == 78 and "nothing" in done.stderr


def test_a_run_id_of_another_configuration_is_refused_with_the_differing_keys(runs, run):
    done = call(*DEMO, "--runs-dir", runs, "--run-id", run.run_id, "--set", "seed=3", "--set", "ppo.epochs=2")
    assert done.returncode == 78
    assert "seed: 0 -> 3" in done.stderr and "ppo.epochs: 8 -> 2" in done.stderr


def test_stages_whose_needs_are_not_done_are_refused(runs):
    done = call(*DEMO, "--runs-dir", runs, "--stages", "evaluate", "--skip-preflight")
    assert done.returncode == 78 and "classifiers" in done.stderr


def test_a_second_runner_is_refused(runs, run):
    with Owner(run.root):
        done = call(*DEMO, "--runs-dir", runs, "--skip-preflight")
    assert done.returncode == 76 and "owned by another runner" in done.stderr


def test_a_run_of_another_container_is_shown_as_running_and_followed_to_its_end(runs, run, tmp_path):
    with Owner(run.root):
        lock = run.root / "lock"
        lock.write_text(json.dumps(json.loads(lock.read_text()) | {"place": "container 9205ac0ff736"}))
        assert "running (in container 9205ac0ff736)" in call("status", "--runs-dir", runs).stdout
        command = [sys.executable, "-m", "runner.cli", "logs", "prepare", "--follow", "--runs-dir", runs]
        beats = os.environ | {"SEQUENCE_HEARTBEAT": str(tmp_path / "heartbeat")}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=beats) as logs:
            assert logs.stdout and logs.stdout.readline()
            wait_for(lambda: list(tmp_path.glob("heartbeat.*")))
            (beat,) = tmp_path.glob("heartbeat.*")
            os.utime(beat, (0, 0))
            wait_for(lambda: beat.stat().st_mtime > 0)
            with run.log_path("prepare").open("a") as log:
                log.write("more\n")
            while logs.stdout.readline() != "more\n":
                assert logs.poll() is None
            lock.write_text("")
            assert logs.wait(120) == 0


def test_an_unwritable_runs_directory_is_73(tmp_path):
    (tmp_path / "file").write_text("")
    done = call(*DEMO, "--runs-dir", tmp_path / "file" / "runs", "--skip-preflight")
    assert done.returncode == 73
    assert_one_message(done)


def assert_one_message(done) -> None:
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--dataset", "DEMO-USD_9H"], 78, "unknown timeframe"),
        (["--dataset", "FOO-BAR_1H"], 78, "asset class"),
        (["--dataset", "../x/y.csv"], 66, "no file"),
        (["--dataset", "prices.csv"], 66, "no file"),
        (["--dataset", "ADA-EUR_1H", "--data-dir", "nowhere", "--offline"], 66, "ADA-EUR_1H"),
        ([*DEMO, "--profile", "quik"], 78, "full, quick, standard"),
        ([*DEMO, "--set", "ppo.epoch=1", "--set", "seed=-1"], 78, "2 invalid settings"),
        ([*DEMO, "--until", "training"], 78, "expected one of prepare"),
        ([*DEMO, "--run-id", "../x"], 78, "run id"),
        (["ablate", *DEMO, "--set", "walk_forward.windows=0"], 78, "nothing to do in ablation"),
        ([*DEMO, "--workers", "0"], 78, "runtime.workers"),
        (["status", "../../etc"], 78, "no run"),
        (["status", "none-such"], 78, "no run"),
        (["stop"], 78, "no run"),
    ],
)
def test_a_wrong_request_is_one_message_and_its_code(arguments, code, part, tmp_path):
    done = call(*arguments, "--runs-dir", tmp_path / "runs")
    assert done.returncode == code, done.stderr
    assert part in done.stderr
    assert_one_message(done)


MONTHS = ("--dataset", "DEMO-USD_1H_20230101-20230610", "--offline", "--dry-run", "--json")


def test_data_that_hold_no_window_are_refused_only_where_windows_are_to_be_played(tmp_path):
    def asked(*options: str) -> Done:
        return call(*MONTHS, "--runs-dir", tmp_path / "runs", *options)

    refused = asked()
    assert refused.returncode == 65 and "5 full calendar months (2023-01 to 2023-05)" in refused.stderr
    assert_one_message(refused)
    assert asked("--until", "ppo").returncode == 0
    assert asked("--set", "walk_forward.windows=0").returncode == 0
    fewer = asked("--set", "walk_forward.train_months=1")
    assert fewer.returncode == 0 and "3 of the 12 windows asked for fit" in fewer.stderr
    assert "walk_forward/2023-05" in json.loads(fewer.stdout)["units"]


def test_an_error_with_json_is_still_one_object_on_stdout(tmp_path):
    done = call(*DEMO, "--set", "seed=-1", "--json", "--runs-dir", tmp_path)
    answer = json.loads(done.stdout)
    assert (answer["exit_code"], answer["run_id"]) == (78, None) and "seed" in answer["error"]


def test_a_missing_dataset_option_is_a_usage_error(tmp_path):
    done = call("run", "--runs-dir", tmp_path)
    assert done.returncode == 2 and "--dataset" in done.stderr


def test_status_shows_every_chosen_unit_and_says_which_run_it_took(runs, run):
    done = call("status", "--runs-dir", runs)
    assert done.returncode == 0 and run.run_id in done.stderr
    assert "finished" in done.stdout
    assert next(line for line in done.stdout.splitlines() if line.startswith("prepare")).split()[1] == "done"
    answer = json.loads(call("status", run.run_id, "--runs-dir", runs, "--json").stdout)
    assert [(name, unit["state"]) for name, unit in answer["units"].items()] == [("prepare", "done")]


def test_status_takes_a_path_and_names_near_runs(runs, run):
    assert call("status", run.root).returncode == 0
    done = call("status", run.run_id[:-1], "--runs-dir", runs)
    assert done.returncode == 78 and run.run_id in done.stderr


def test_logs_of_an_unknown_unit_name_the_known_ones(runs, run):
    (run.logs / "prepare.log").write_text("one\ntwo\nthree\n")
    done = call("logs", run.run_id, "nope", "--runs-dir", runs)
    assert done.returncode == 78 and "prepare" in done.stderr
    assert call("logs", run.run_id, "prepare", "-n", "2", "--runs-dir", runs).stdout == "two\nthree\n"
    assert call("logs", "prepare", "-n", "1", "--runs-dir", runs).stdout == "three\n"
    assert call("logs", run.run_id, "-n", "1", "--runs-dir", runs).stdout == "prepare | three\n"


def test_logs_follow_until_the_runner_is_gone(runs, run):
    log = run.logs / "prepare.log"
    log.write_text("old\n")
    with Owner(run.root):
        command = [sys.executable, "-m", "runner.cli", "logs", run.run_id, "prepare", "-f", "--runs-dir", str(runs)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "old\n"
        with log.open("a") as file:
            file.write("new\n")
        assert process.stdout.readline() == "new\n"
    assert process.wait(120) == 0
    process.stdout.close()


def test_following_a_log_that_nobody_reads_any_more_ends_well(runs, run):
    log = run.logs / "prepare.log"
    log.write_text("old\n")
    with Owner(run.root):
        command = [sys.executable, "-m", "runner.cli", "logs", run.run_id, "prepare", "-f", "--runs-dir", str(runs)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "old\n"
        process.stdout.close()
        with log.open("a") as file:
            file.write("new\n")
        assert process.wait(120) == 0 and process.stderr.read() == ""
        process.stderr.close()


def test_what_nobody_reads_does_not_change_how_a_command_ends(runs, run):
    refused = (*DEMO, "--runs-dir", runs, "--stages", "evaluate", "--json")
    for arguments, code in ((("status", run.run_id, "--runs-dir", runs, "--json"), 0), (refused, 78)):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "runner.cli", *map(str, arguments)]
        assert subprocess.run(command, stdout=writer, timeout=600, check=False).returncode == code
        os.close(writer)


def test_stopping_a_run_that_does_not_run_is_refused(runs, run):
    done = cli("stop", run.run_id, "--runs-dir", runs)
    assert done.returncode == 2 and "not running" in done.stderr


def test_stop_ends_a_running_run_with_75(tmp_path):
    command = [sys.executable, "-m", "runner.cli", *DEMO, "--runs-dir", str(tmp_path), "--skip-preflight"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("*/stages/prepare/result.json")))
    wait_for(lambda: cli("stop", "--runs-dir", tmp_path).returncode == 0)
    assert process.wait(300) == 75
    run = next(tmp_path.glob("*/config.yaml")).parent
    assert "ended with exit code 75" in cli("status", run.name, "--runs-dir", tmp_path).stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_data_are_read_is_130_or_143(tmp_path, number, code):
    command = [sys.executable, "-m", "runner.cli", *DEMO, "--runs-dir", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: children.read_text().split())
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code and "Traceback" not in said


def test_compare_names_what_differs(runs, run):
    other = call(*DEMO, "--runs-dir", runs, "--run-id", "other", "--set", "seed=5", "--until", "prepare",
                "--skip-preflight", "--json")  # fmt: skip
    assert other.returncode == 0, other.stderr
    done = call("compare", run.run_id, "other", "--runs-dir", runs)
    assert "seed: 0 -> 5" in done.stdout
    answer = json.loads(call("compare", run.run_id, "other", "--runs-dir", runs, "--json").stdout)
    assert [line for line in answer["differences"] if "digest of the code" not in line] == ["seed: 0 -> 5"]


def test_config_show_names_the_origin_of_every_value():
    done = cli("config", "show", *DEMO, "--set", "ppo.epochs=3", SEQUENCE_SEED="4")
    lines = {line.partition(":")[0]: line for line in done.stdout.splitlines()}
    assert lines["ppo.epochs"].split("#") == [lines["ppo.epochs"].split("#")[0], " --set"]
    assert "profile quick" in lines["ppo.timesteps"] and "environment" in lines["seed"]
    assert "default" in lines["labels.horizon_bars"]


def test_config_schema_describes_every_section():
    schema = json.loads(call("config", "schema").stdout)
    assert {"ppo", "classifiers", "runtime", "preflight"} <= set(schema["properties"])


def test_data_is_handed_over_with_its_exit_code(tmp_path):
    done = cli("data", "check", *DEMO, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["synthetic"] is True
    assert cli("data", "check", "--dataset", "ADA-EUR_1H", "--data-dir", tmp_path, "--offline").returncode == 66


def test_run_json_keeps_what_reproduces_the_run(run):
    identity = json.loads(run.run_json.read_text())
    assert identity["command"] == ["sequence-runner", "--dataset", "DEMO-USD_1H", "--profile", "quick"]
    for key in ("config_digest", "dataset_digest", "code_digest", "lock_digest"):
        assert len(identity[key]) == 64
    assert identity["machine"]["cpu_cores"] >= 1


def test_the_environment_is_a_layer_of_the_configuration(monkeypatch):
    monkeypatch.setenv("SEQUENCE_PPO__TIMESTEPS", "4096")
    shown = json.loads(call("config", "show", *DEMO, "--json").stdout)
    assert shown["ppo.timesteps"] == {"value": 4096, "origin": "environment"}
    shown = json.loads(call("config", "show", *DEMO, "--json", "--set", "ppo.timesteps=8192").stdout)
    assert shown["ppo.timesteps"] == {"value": 8192, "origin": "--set"}


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SEQUENCE_PPO__TIMESTEPZ", "1", "did you mean 'timesteps'? (from environment)"),
        ("SEQUENCE_PPO__TIMESTEPS", "many", "'many' (from environment)"),
        ("SEQUENCE_SEED", "{[", "environment variable SEQUENCE_SEED"),
        ("SEQUENCE_PPO", "3", "ppo: a section"),
    ],
)
def test_a_wrong_environment_variable_is_a_configuration_error(monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    done = call("config", "show", *DEMO)
    assert done.returncode == 78 and said in done.stderr


def test_preflight_shows_every_check_where_the_dataset_is_missing(tmp_path):
    done = call("preflight", "--dataset", "XMR-EUR_1H", "--data-dir", tmp_path, "--offline", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 66
    assert checks["dataset"]["verdict"] == "fail" and "XMR-EUR_1H" in checks["dataset"]["found"]
    assert checks["memory"]["verdict"] == "ok" and len(checks) == len(CHECKS)


def test_help_on_data_names_the_command_that_users_type():
    done = cli("data", "check", "--help")
    assert done.stdout.startswith("usage: sequence-runner data check")


def test_an_error_of_data_is_json_too_where_json_is_asked_for():
    done = cli("data", "check", "--dataset", "NOT-A-NAME", "--json")
    answer = json.loads(done.stdout)
    assert answer["exit_code"] == done.returncode == 78 and answer["error"] in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    line = [sys.executable, "-m", "training.stages.data", "check", *DEMO]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 0


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_damaged_run_json_is_named_with_what_to_do(runs, run, text):
    before = run.run_json.read_bytes()
    run.run_json.write_text(text)
    try:
        again = (*DEMO, "--runs-dir", runs, "--until", "prepare", "--offline", "--skip-preflight")
        where = ("--runs-dir", runs)
        for command in (again, ("--resume", run.run_id, *where), ("compare", run.run_id, run.run_id, *where)):
            done = call(*command)
            assert done.returncode == 78 and f"{run.run_json}" in done.stderr and "remove it" in done.stderr
        run.run_json.unlink()
        assert call(*again).returncode == 0 and json.loads(run.run_json.read_text())["run_id"] == run.run_id
    finally:
        run.run_json.write_bytes(before)


def test_lines_that_are_no_events_are_passed_over(runs, run):
    log = run.events / "supervisor.jsonl"
    before = log.read_bytes()
    noise = b'x\n[]\n\xff\xfe\n{"t":"x","unit":"run","kind":"metric"}\n{"t":1,"unit":5,"kind":"progress"}\n'
    try:
        plain = call("status", run.run_id, "--runs-dir", runs, "--json")
        log.write_bytes(before + noise)
        assert call("status", run.run_id, "--runs-dir", runs, "--json") == plain and plain.returncode == 0
        assert call("report", run.run_id, "--runs-dir", runs).returncode == 0
    finally:
        log.write_bytes(before)


def test_an_unknown_timeframe_of_a_file_is_wrong_usage(tmp_path):
    (tmp_path / "a file.csv").touch()
    done = call("--dataset", tmp_path / "a file.csv", "--symbol", "ADA-EUR", "--timeframe", "3H")
    assert done.returncode == 2 and "'3H'" in done.stderr and "1H" in done.stderr


def test_the_reproducing_line_can_be_pasted_into_a_shell(tmp_path):
    file = tmp_path / "my bars.csv"
    file.write_text("timestamp,open,high,low,close,volume\n1704067200,1,1,1,1,1\n1704070800,1,1,1,1,1\n")
    options = ("--symbol", "ADA-EUR", "--timeframe", "1H", "--runs-dir", tmp_path, "--dry-run", "--until", "prepare")
    shown = call("--dataset", file, *options).stdout
    assert shlex.split(shown.splitlines()[-1].partition(": ")[2])[2] == str(file)


def test_a_failed_run_has_a_report_and_a_fault_of_it_is_one_line(runs, run, capsys):
    from configs.errors import ExitCode
    from configs.events import EventLog
    from runner.epilogue import Epilogue
    from runner.stopping import StopSignals
    from runner.store.layout import Spent
    from runner.watch import Ending

    def wind_up() -> Ending:
        with contextlib.closing(EventLog(run.events, "supervisor")) as events, StopSignals(30) as signals:
            return Epilogue(run, run.load_config(), events, signals, Spent).wind_up(Ending(ExitCode.UNIT_FAILED))

    run.report.unlink(missing_ok=True)
    assert wind_up().exit_code == ExitCode.UNIT_FAILED
    assert run.report.is_file()
    run.report.unlink()
    run.report.mkdir()  # a file cannot replace it
    try:
        assert wind_up().exit_code == ExitCode.UNIT_FAILED
    finally:
        run.report.rmdir()
    assert capsys.readouterr().err.count("no report: ") == 1


def test_the_log_of_a_unit_that_goes_well_says_so(tmp_path):
    done = cli(*DEMO, "--runs-dir", tmp_path, "--skip-preflight", "--until", "prepare", "--offline")
    assert done.returncode == 0, done.stderr
    said = call("logs", "prepare", "--runs-dir", tmp_path).stdout.splitlines()
    assert said[0].endswith("unit prepare begins") and said[-1].endswith("unit prepare is done")
