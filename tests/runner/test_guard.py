"""What a child runs between fork and exec, in a process with threads and without a reaper."""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from runner import guard
from runner.guard import NotRunningError, OwnedByAnotherError, Owner, owner_of, signal_owner, started_s
from runner.process import log_tail, stage_environment, start

ROOT = Path(__file__).parents[2]

HELLO = [sys.executable, "-S", "-c", "import os; print(os.getpgid(0) == os.getpid())"]


@pytest.mark.slow
def test_children_start_while_threads_hold_locks_of_the_loader_and_the_allocator(tmp_path):
    over = threading.Event()

    def keep_busy() -> None:
        while not over.is_set():
            assert ctypes.CDLL(None).getpid
            bytes(1_000_000)

    with Owner(tmp_path) as owner:
        threads = [threading.Thread(target=keep_busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for number in range(20):
                process = start(HELLO, stage_environment(1), tmp_path / f"{number}.log", owner.reaper.before_exec())
                assert process.wait(60) == 0
                assert log_tail(tmp_path / f"{number}.log") == "True\n"
        finally:
            over.set()
            for thread in threads:
                thread.join()


def test_a_killed_reaper_is_no_reason_for_a_child_to_die(tmp_path):
    with Owner(tmp_path) as owner:
        os.kill(owner.reaper._pid, signal.SIGKILL)
        os.waitid(os.P_PID, owner.reaper._pid, os.WEXITED | os.WNOWAIT)
        process = start(HELLO, stage_environment(1), tmp_path / "log", owner.reaper.before_exec())
        assert process.wait(60) == 0
        owner.reaper.forget(process.pid)


def test_an_owner_is_known_by_its_start_even_after_the_clock_was_set(tmp_path, monkeypatch):
    since_boot_s = psutil.Process().create_time() - psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: 0.0)  # as a clock that is set moves it
    assert started_s(os.getpid()) == pytest.approx(since_boot_s, abs=0.02)
    with Owner(tmp_path):
        owner = owner_of(tmp_path)
        assert owner and owner.is_here and owner.pid == os.getpid()
        lock = json.loads((tmp_path / "lock").read_text())
        (tmp_path / "lock").write_text(json.dumps(lock | {"started_s": lock["started_s"] - 1}))
        assert owner_of(tmp_path) is None


@pytest.mark.parametrize(
    ("place", "words", "end"),
    [
        ("container 9205ac0ff736", "in container 9205ac0ff736", "`docker stop --time 60 9205ac0ff736`"),
        ("machine box 0123456789ab pid:[1]", f"pid {os.getpid()} on box", "`sequence-runner stop` on box"),
    ],
    ids=["container", "machine"],
)
def test_a_runner_in_another_container_or_machine_is_told_from_none_and_not_signalled(
    tmp_path, monkeypatch, place, words, end
):
    monkeypatch.setattr(guard, "_TAKE_TIMEOUT_S", 0.0)
    root = tmp_path / "run-1"
    with Owner(root):
        lock = json.loads((root / "lock").read_text())
        # a container with the host's network has the host's name, and its pids are not ours
        (root / "lock").write_text(json.dumps(lock | {"host": "box", "place": place}))
        owner = owner_of(root)
        assert owner and str(owner) == words and not owner.is_here
        with pytest.raises(NotRunningError, match="cannot be signalled from here") as told:
            signal_owner(root)
        assert words in str(told.value) and str(told.value).endswith(end)
        with pytest.raises(OwnedByAnotherError) as refused:
            Owner(root).__enter__()
        assert words in str(refused.value) and str(refused.value).endswith(end)
    assert owner_of(root) is None


def test_the_reaper_of_a_dead_runner_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "_TAKE_TIMEOUT_S", 0.0)
    with Owner(tmp_path):
        facts = json.loads((tmp_path / "lock").read_text())
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    (tmp_path / "lock").write_text(json.dumps(facts | {"pid": gone.pid}))
    reaper = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(reaper, fcntl.LOCK_EX)
    letting_go = threading.Timer(0.3, os.close, [reaper])
    letting_go.start()
    with Owner(tmp_path):
        assert owner_of(tmp_path).pid == os.getpid()
    letting_go.join()


def test_of_a_process_that_has_ended_there_is_no_start():
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{ended.pid}").exists() and started_s(ended.pid) is None
    ended.wait()
    assert started_s(ended.pid) is None


def test_stages_see_proxies_and_paths_but_no_credentials(monkeypatch):
    kept = {"HTTPS_PROXY": "http://proxy:3128", "SSH_AUTH_SOCK": "/tmp/agent", "TOKENIZERS_PARALLELISM": "false"}
    held_back = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_PROFILE": "x",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/hostname",
        "SEQUENCE_WEBHOOK_URL": "https://hooks.example.org/x",
        "WANDB_API_KEY": "x",
        "SEQUENCE_GIT_TOKEN": "x",
    }
    for name, value in (kept | held_back).items():
        monkeypatch.setenv(name, value)
    environment = stage_environment(3)
    assert kept.items() <= environment.items() and not held_back.keys() & environment.keys()
    assert environment["OMP_NUM_THREADS"] == "3"


def test_a_part_of_a_log_ends_where_it_is_told(tmp_path):
    (tmp_path / "log").write_text("before\nwords\nstacks\n")
    assert log_tail(tmp_path / "log", 7, 13) == "words\n"
    assert log_tail(tmp_path / "log", 7) == "words\nstacks\n"


ASK_UNDER_FIRE = """
import json, logging, os, signal, sys  # logging has a handler that runs in the parent after a fork
from pathlib import Path
from runner.process import ask

CHILDREN = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
lost = 0
for _ in range(20):
    old = CHILDREN.read_text().split()
    shooter = os.fork()
    if shooter == 0:
        while not set(CHILDREN.read_text().split()) - {*old, str(os.getpid())}:
            pass
        os.kill(os.getppid(), signal.SIGINT)
        os._exit(0)
    try:
        ask([sys.executable, "-S", "-c", "import time; time.sleep(60); print(1)"])
        lost += 1
    except KeyboardInterrupt:
        pass
    os.waitpid(shooter, 0)
print(lost)
"""


def test_a_ctrl_c_in_the_instant_of_a_fork_is_not_lost():
    done = subprocess.run([sys.executable, "-c", ASK_UNDER_FIRE], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr[-2000:]
