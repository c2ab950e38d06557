"""The process side of a unit, as real processes: stops, exit codes, last words, no secrets."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import ExitCode
from configs.load import resolve
from configs.run_dir import Request, RunDir
from configs.unit import OUT_OF_MEMORY_STATUS, RedactedStream

ROOT = Path(__file__).parents[2]
SECRET = "ghp_" + "a1B2" * 9
PROGRAM = """
import os, signal, sys, threading
from configs.errors import OutOfMemoryError
from configs.unit import run_stage

def work(unit):
{body}
    return {{"worked": True}}

raise SystemExit(run_stage(None, work, lambda config: {{"bars_needed": 1}}))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    run = RunDir(tmp_path_factory.mktemp("unit") / "run")
    config = resolve("DEMO-USD_1H", "quick").config
    runtime = config.runtime.model_copy(update={"batch_halvings": {"unit": 2}})
    run.save_config(config.model_copy(update={"runtime": runtime}))
    run.save_request(Request(unit="unit", cache_key="key", inputs={}))
    return run


def unit(run: RunDir, *body: str, before: str = "", options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Run a unit whose work is `body`; `before` runs first of all."""
    program = before + PROGRAM.format(body="\n".join(f"    {line}" for line in body or ("pass",)))
    line = [sys.executable, "-c", program, "--run-dir", str(run.root), "--unit", "unit", *options]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_a_unit_that_ran_out_of_memory_says_so_by_its_own_exit_status(run):
    named = unit(run, "raise OutOfMemoryError('the batch of 8 did not fit')")
    assert (named.returncode, named.stderr) == (
        OUT_OF_MEMORY_STATUS, "OutOfMemoryError: the batch of 8 did not fit\n",
    )  # fmt: skip
    real = unit(run, "bytearray(2**62)")
    assert real.returncode == OUT_OF_MEMORY_STATUS and real.stderr.endswith("\nMemoryError\n")
    assert OUT_OF_MEMORY_STATUS not in list(ExitCode)


def test_a_unit_reads_its_own_halvings(run):
    ended = unit(run, "print('halved', unit.batch_halvings)")
    assert ended.returncode == 0 and "halved 2\n" in ended.stdout


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_stop_that_arrives_before_the_work_is_not_lost(run, number):
    before = f"""
import os, signal
from configs.run_dir import RunDir
load_config = RunDir.load_config
def load_late(self):
    os.kill(os.getpid(), signal.{number})
    return load_config(self)
RunDir.load_config = load_late
"""
    ended = unit(run, "print('worked')", before=before)
    assert (ended.returncode, ended.stdout) == (ExitCode.INTERRUPTED, "")
    assert "stopped at a safe boundary" in ended.stderr


def test_a_description_is_the_only_thing_printed(run):
    assert unit(run, options=("--describe",)).stdout == '{"bars_needed": 1}\n'


def test_a_hung_unit_shows_the_stacks_of_all_its_threads_and_goes_on(run):
    ended = unit(
        run,
        "asked = threading.Event()",
        "threading.Thread(target=asked.wait).start()",
        "while not asked._cond._waiters: pass",
        "os.kill(os.getpid(), signal.SIGUSR1)",
        "asked.set()",
    )
    assert ended.returncode == 0 and run.result("unit").metrics == {"worked": True}
    assert "Current thread" in ended.stderr and " in work" in ended.stderr
    assert ended.stderr.count("hread 0x") == 2 and " in wait" in ended.stderr


def test_a_crash_leaves_its_stack(run):
    ended = unit(run, "import ctypes", "ctypes.string_at(0)")
    assert ended.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in ended.stderr and " in work" in ended.stderr


def test_no_secret_reaches_the_log(run):
    ended = unit(run, f"print('token', {SECRET!r})", "print('begun', end='')", f"raise ValueError({SECRET!r})")
    assert ended.returncode == ExitCode.UNIT_FAILED
    assert SECRET not in ended.stdout + ended.stderr
    assert "token [redacted]\n" in ended.stdout and ended.stdout.endswith("begun")
    assert "ValueError: [redacted]\n" in ended.stderr


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_secret_that_is_written_in_pieces_is_found(cut):
    below = io.StringIO()
    stream = RedactedStream(below)
    text = f"one\nkey {SECRET} here\nlast"
    stream.write(text[:cut])
    stream.write(text[cut:])
    assert below.getvalue() == "one\nkey [redacted] here\n"
    stream.flush()
    assert below.getvalue() == "one\nkey [redacted] here\nlast"


@pytest.mark.parametrize(
    ("body", "status"),
    [("unit.log('x')", 0), ("raise RuntimeError('x')", 70), ("open('/dev/full', 'wb', buffering=0).write(b'x')", 73)],
)
def test_a_log_on_a_full_disk_does_not_change_how_the_unit_ends(run, body, status):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    program = PROGRAM.format(body=f"    {body}")
    line = [sys.executable, "-c", program, "--run-dir", str(run.root), "--unit", "unit"]
    with Path("/dev/full").open("wb", buffering=0) as full:
        assert subprocess.run(line, cwd=ROOT, stdout=full, stderr=full, timeout=600).returncode == status
