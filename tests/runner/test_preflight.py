"""Pre-flight checks: each verdict provoked on its own, and all of them run for real."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console

from configs.errors import ExitCode
from configs.load import resolve
from runner import data
from runner.preflight.check import CheckResult, Context, human_bytes
from runner.preflight.checks import CHECKS, Check, exit_code, run_checks, to_json
from runner.preflight.dataset import check_dataset, judge_dataset
from runner.preflight.environment import (
    check_dependencies,
    check_writing,
    compare_versions,
    parse_requirements,
)
from runner.preflight.gpu import judge_gpu
from runner.preflight.machine import check_cpu, check_disk, check_durability, check_memory, check_shared_memory
from runner.preflight.outside import Answer, check_clock, check_network, skew
from runner.preflight.table import render_table

DEMO_FACTS = {
    "name": "DEMO-USD_1H",
    "rows": 17_520,
    "first_t": 1_704_067_200,
    "last_t": 1_767_135_600,
    "synthetic": True,
}


def config(*settings):
    return resolve("DEMO-USD_1H", "quick", settings=settings).config


def context(tmp_path, **changes):
    return Context(**{"runs_dir": tmp_path / "runs", "offline": True, "dataset": lambda: DEMO_FACTS} | changes)


def ok(name):
    return Check(name, lambda config, context: CheckResult(name, "found", "needed", "ok"))


def crash(config, context):
    raise RuntimeError("the disk sang")


def test_every_check_of_a_real_run_answers_in_the_declared_order(tmp_path):
    results = run_checks(config("preflight.min_disk_bytes=1000"), context(tmp_path, bars_needed=lambda: 5_000))
    assert [result.name for result in results] == [check.name for check in CHECKS]
    assert exit_code(results) == ExitCode.DONE
    assert {result.name: result.verdict for result in results}["network"] == "skipped"
    assert not (tmp_path / "runs").exists(), "pre-flight leaves no directory behind"


def test_a_crashing_check_becomes_a_failure_with_its_text_and_hides_no_other():
    checks = [ok("first"), Check("bad", crash, exit_code=ExitCode.CANNOT_WRITE), ok("last")]
    first, bad, last = run_checks(config(), Context(runs_dir=None), checks)
    assert (first.verdict, bad.verdict, last.verdict) == ("ok", "fail", "ok")
    assert bad.found == "RuntimeError: the disk sang"
    assert exit_code([first, bad, last]) == ExitCode.CANNOT_WRITE


def test_a_hanging_check_is_given_up_at_its_own_limit_while_others_answer():
    release = threading.Event()
    hang = Check("hang", lambda config, context: release.wait(300), timeout_s=lambda config: 0.2)
    results = run_checks(config(), Context(runs_dir=None), [hang, ok("other")])
    release.set()
    assert [result.verdict for result in results] == ["fail", "ok"]
    assert results[0].found == "no answer in 0.2 s"


def test_checks_run_at_the_same_time():
    barrier = threading.Barrier(3, timeout=120)  # broken unless all three are inside at once

    def meet(config, context):
        barrier.wait()
        return CheckResult("meet", "", "", "ok")

    results = run_checks(config(), Context(runs_dir=None), [Check("meet", meet)] * 3)
    assert [result.verdict for result in results] == ["ok"] * 3


def test_a_crash_of_an_advisory_check_only_warns():
    [result] = run_checks(config(), Context(runs_dir=None), [Check("clock", crash, advisory=True)])
    assert result.verdict == "warn"
    assert exit_code([result]) == ExitCode.DONE


def test_a_gpu_probe_that_crashes_fails_only_a_run_that_needs_a_gpu(tmp_path):
    probe = Check("gpu", crash)
    without, needing = (
        run_checks(config(), context(tmp_path, require_gpu=required), [probe])[0] for required in (False, True)
    )
    assert (without.verdict, needing.verdict) == ("warn", "fail")


def test_disk_below_the_threshold_fails_as_unfit_machine(tmp_path):
    result = check_disk(config("preflight.min_disk_bytes=1000000000000000000"), context(tmp_path))
    assert (result.verdict, result.exit_code) == ("fail", ExitCode.MACHINE_UNFIT)
    assert "--runs-dir" in result.remedy


def fake_machine(root, memory_bytes, used_bytes=0, cpu="max 100000"):
    for name, text in {
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
        "sys/fs/cgroup/memory.max": memory_bytes,
        "sys/fs/cgroup/memory.current": used_bytes,
        "sys/fs/cgroup/cpu.max": cpu,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))
    return root


@pytest.mark.parametrize(
    "memory_bytes, used_bytes, verdict",
    [(300_000_000, 0, "fail"), (600_000_000, 200_000_000, "warn"), (600_000_000, 0, "ok")],
)
def test_memory_is_judged_by_the_containers_limit(tmp_path, memory_bytes, used_bytes, verdict):
    root = fake_machine(tmp_path / "root", memory_bytes, used_bytes)
    settings = config("preflight.min_memory_bytes=500000000")
    result = check_memory(settings, context(tmp_path, filesystem_root=root))
    assert result.verdict == verdict
    assert result.found.startswith(f"{human_bytes(memory_bytes)} (container limit, host has")


@pytest.mark.parametrize("quota, verdict", [("50000 100000", "fail"), ("100000 100000", "warn")])
def test_cpu_is_judged_by_the_containers_quota(tmp_path, quota, verdict):
    root = fake_machine(tmp_path / "root", "max", cpu=quota)
    result = check_cpu(config("runtime.workers=64"), context(tmp_path, filesystem_root=root))
    assert result.verdict == verdict


def test_small_or_absent_shared_memory_is_a_warning(tmp_path):
    absent = check_shared_memory(config(), context(tmp_path, filesystem_root=tmp_path))
    small = check_shared_memory(config("preflight.min_shm_bytes=1000000000000000000"), context(tmp_path))
    assert (absent.verdict, small.verdict) == ("warn", "warn")
    assert "--shm-size" in small.remedy


@pytest.mark.parametrize("kind, verdict", [("overlay", "warn"), ("tmpfs", "warn"), ("ext4", "ok")])
def test_runs_on_a_container_layer_or_in_memory_are_warned_of(tmp_path, kind, verdict):
    mountinfo = tmp_path / "proc/self/mountinfo"
    mountinfo.parent.mkdir(parents=True)
    mountinfo.write_text(f"1 0 0:1 / / rw - {kind} none rw\n")
    assert check_durability(config(), context(tmp_path, filesystem_root=tmp_path)).verdict == verdict


def test_a_volume_mounted_over_the_layer_is_durable(tmp_path):
    mountinfo = tmp_path / "proc/self/mountinfo"
    mountinfo.parent.mkdir(parents=True)
    mountinfo.write_text(f"1 0 0:1 / / rw - overlay none rw\n2 1 8:1 / {tmp_path} rw - ext4 /dev/sda rw\n")
    assert check_durability(config(), context(tmp_path, filesystem_root=tmp_path)).verdict == "ok"


def test_a_layer_that_goes_with_its_container_is_no_harm_beside_a_store(tmp_path):
    mountinfo = tmp_path / "proc/self/mountinfo"
    mountinfo.parent.mkdir(parents=True)
    mountinfo.write_text("1 0 0:1 / / rw - overlay none rw\n")
    in_layer = context(tmp_path, filesystem_root=tmp_path)
    alone = check_durability(config(), in_layer)
    assert (alone.verdict, alone.remedy) == (
        "warn",
        f"results are lost with the container: add -v $PWD/runs:{tmp_path / 'runs'} to docker run, or --store URL",
    )
    kept = check_durability(config("store.url=s3://bucket/prefix"), in_layer)
    assert (kept.verdict, kept.found) == (
        "ok",
        f"{tmp_path} lies on the container's layer (overlay); s3://bucket/prefix outlives it",
    )


@contextmanager
def server(date_offset_s=0.0, status=200):
    """A loopback server whose clock is `date_offset_s` ahead of ours."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response_only(status)
            self.send_header("Date", formatdate(time.time() + date_offset_s, usegmt=True))
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "offset_s, verdict, word", [(0, "ok", "step"), (600, "warn", "behind"), (-600, "warn", "ahead")]
)
def test_clock_skew_is_measured_against_a_servers_date(tmp_path, offset_s, verdict, word):
    with server(offset_s) as url:
        result = check_clock(config(f"preflight.probe_url={url}"), context(tmp_path, offline=False))
    assert result.verdict == verdict
    assert word in result.found


def test_an_http_error_is_an_answer_of_the_network(tmp_path):
    with server(status=503) as url:
        assert check_network(config(f"preflight.probe_url={url}"), context(tmp_path, offline=False)).verdict == "ok"


def test_an_unreachable_network_warns_and_leaves_the_clock_unjudged(tmp_path):
    with server() as url:
        pass  # the port is closed again
    settings, online = config(f"preflight.probe_url={url}"), context(tmp_path, offline=False)
    assert check_network(settings, online).verdict == "warn"
    assert check_clock(settings, online).verdict == "skipped"


def test_skew_within_what_a_date_of_whole_seconds_can_tell_is_zero():
    date = formatdate(1_000_000_000, usegmt=True)  # the server's clock is anywhere in [0, 1) s after it
    answers = [Answer(date, 1_000_000_000 + offset_s, wall_s=0.2) for offset_s in (-0.05, 1.05, 3.0)]
    assert [skew(answer) for answer in answers] == [0, 0, 2.5]


def test_a_dataset_shorter_than_the_plan_says_how_many_bars_are_needed(tmp_path):
    result = judge_dataset(DEMO_FACTS, bars_needed=20_000)
    assert (result.verdict, result.exit_code) == ("fail", ExitCode.BAD_DATA)
    assert "20,000 bars" in result.needed
    assert "17,520 bars" in result.found
    assert "SYNTHETIC" in result.found


def probe(**changes):
    device = {"name": "NVIDIA H200", "memory_bytes": 150_000_000_000}
    matmul = {"torch": "2.13.0", "cuda": "13.0", "available": True, "relative_error": 3e-7}
    return {"driver": "580.1", "devices": [device], "nvml_error": "", "matmul": matmul} | changes


def test_gpu_that_multiplies_right_is_ok():
    assert judge_gpu(probe(), config(), required=True).verdict == "ok"


@pytest.mark.parametrize("required, verdict", [(False, "warn"), (True, "fail")])
@pytest.mark.parametrize(
    "fault, says",
    [
        ({"devices": [], "matmul": None, "nvml_error": "Driver Not Loaded"}, "Driver Not Loaded"),
        ({"matmul": {"torch": "2.13.0+cpu", "cuda": "", "available": False}}, "built without CUDA"),
        ({"matmul": {"torch": "2.13.0", "cuda": "13.0", "available": False}}, "cannot use it"),
        ({"matmul": {"torch": "2", "cuda": "13", "available": True, "relative_error": 0.5}}, "5e-01"),
        ({"matmul": {"torch": "2", "cuda": "13", "available": True, "relative_error": float("nan")}}, "nan"),
        ({"devices": [{"name": "Old", "memory_bytes": 2_000_000_000}]}, "2 GB"),
    ],
)
def test_a_faulty_gpu_warns_and_fails_only_where_it_is_required(fault, says, required, verdict):
    result = judge_gpu(probe(**fault), config(), required)
    assert result.verdict == verdict
    assert says in result.found


@pytest.mark.slow
def test_the_gpu_probe_process_answers_with_one_json_object():
    command = [sys.executable, "-m", "runner.preflight.gpu_probe", "--torch"]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert set(answer) == {"driver", "devices", "nvml_error", "matmul"}
    assert answer["matmul"]["available"] or "relative_error" not in answer["matmul"]


def test_lock_lines_are_read_without_hashes_comments_and_markers():
    lock = (
        "# a comment\n--no-deps\nnumpy==2.4.0 \\\n    --hash=sha256:abc\nuvicorn[standard]==0.3 # why\n"
        "colorama==0.4 ; sys_platform == 'win32'\ntorch==2.13.0+cpu\nclick>=8.1\n"
    )
    assert parse_requirements(lock) == {
        "numpy": "2.4.0",
        "uvicorn": "0.3",
        "torch": "2.13.0+cpu",
        "click": "",
    }


def test_missing_and_different_packages_are_told_apart():
    missing, different = compare_versions({"no-such-package-x": "1.0", "pytest": "0.0.1", "rich": ""})
    assert missing == ["no-such-package-x"]
    assert different == [f"pytest {pytest.__version__} (0.0.1)"]


@pytest.mark.parametrize("line, verdict", [("no-such-package-x==1.0", "fail"), ("rich==0.0.1", "warn"), ("rich", "ok")])
def test_dependencies_are_judged_by_the_lock(tmp_path, line, verdict):
    lock = tmp_path / "requirements.lock"
    lock.write_text(line)
    assert check_dependencies(config(), context(tmp_path, lock_file=lock)).verdict == verdict


def test_a_directory_that_cannot_be_made_is_a_write_failure(tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = check_writing(config(), context(tmp_path, runs_dir=tmp_path / "file" / "runs"))
    assert (result.verdict, result.exit_code) == ("fail", ExitCode.CANNOT_WRITE)
    assert str(tmp_path / "file" / "runs") in result.found


def test_the_write_probe_leaves_existing_directories_as_they_were(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "kept").write_text("x")
    assert check_writing(config(), context(tmp_path)).verdict == "ok"
    assert check_writing(config(), context(tmp_path, runs_dir=tmp_path / "a" / "b")).verdict == "ok"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "runs"]


def test_the_table_shows_every_result_and_no_markup_is_taken_from_texts():
    results = [CheckResult("disk", "[red]5 GB[/red] at /x", "10 GB", "fail", "free space")]
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(render_table(results))
    text = capture.get()
    assert all(word in text for word in ("disk", "[red]5 GB[/red] at /x", "10 GB", "fail", "free space"))


def test_json_carries_the_exit_code_of_the_first_failure_and_cuts_long_texts():
    results = [
        CheckResult("disk", "x", "y", "ok"),
        CheckResult("dataset", "z" * 5_000, "y", "fail", "r", ExitCode.DATASET_NOT_FOUND),
        CheckResult("memory", "x", "y", "fail"),
    ]
    answer = to_json(results)
    assert answer["exit_code"] == 66
    assert [item["exit_code"] for item in answer["checks"]] == [0, 66, 69]
    assert len(json.dumps(answer["checks"][1])) < 4_096


def test_a_missing_dataset_is_a_failure_of_its_own_exit_code(tmp_path):
    settings = resolve("XMR-EUR_1H", "quick").config
    nowhere = context(tmp_path, dataset=lambda: data.check(settings, (tmp_path,), offline=True))
    result = check_dataset(settings, nowhere)
    assert (result.verdict, result.exit_code) == ("fail", ExitCode.DATASET_NOT_FOUND)
    assert "XMR-EUR_1H" in result.found
    assert "--data-dir" in result.remedy


def test_a_broken_dataset_is_a_failure_of_its_own_exit_code(tmp_path):
    (tmp_path / "ADA-EUR_1H.csv").write_text("timestamp,open,high,low,close,volume\n2024-01-01T00:00:00Z,1,1,1,0,1\n")
    settings = resolve("ADA-EUR_1H", "quick").config
    result = check_dataset(settings, context(tmp_path, dataset=lambda: data.check(settings, (tmp_path,))))
    assert (result.verdict, result.exit_code) == ("fail", ExitCode.BAD_DATA)


def test_all_checks_together_keep_within_the_time_they_are_given():
    release = threading.Event()
    hung = [Check(name, lambda config, context: release.wait(300)) for name in "ab"]
    results = run_checks(config(), Context(runs_dir=None), [*hung, ok("other")], limit_s=3)
    release.set()
    assert [result.found for result in results[:2]] == ["no answer in 3 s"] * 2
    assert [result.verdict for result in results] == ["fail", "fail", "ok"]
