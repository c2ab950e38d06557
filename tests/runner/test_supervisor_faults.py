"""The supervisor when things go wrong: stops with a deadline, hangs, want of memory, a full disk. Real processes."""

import math
import signal
import subprocess
import time

import pytest

from configs.errors import ExitCode
from configs.events import read_events
from configs.run_dir import RunDir
from runner.out_of_memory import OomKills
from runner.watch import Ending
from tests.control_group import control_group
from tests.runner.fixture_stages.world import CHAIN, ONE, World, lives, wait_for

pytestmark = pytest.mark.slow

MEMORY_LIMIT_BYTES = 700_000_000


def events(run: RunDir, kind: str, unit: str = "first") -> list[dict]:
    return [event for event in read_events(run.events) if event["kind"] == kind and event["unit"] == unit]


class Listener:
    """Hears events, and ends the run with `ending` after the first one of a kind."""

    def __init__(self, ending: Ending | None = None, after: str = "progress") -> None:
        self.heard: list[dict] = []
        self._ending, self._after = ending, after

    def on_event(self, event: dict) -> None:
        self.heard.append(event)

    def verdict(self) -> Ending | None:
        return self._ending if any(event["kind"] == self._after for event in self.heard) else None


# -- watchers and the deadline


def test_watchers_hear_every_event_of_units_and_supervisor(world):
    listeners = [Listener(), Listener()]
    world.plans(second={"seconds": 0.1})
    world.supervise(watchers=listeners)
    for listener in listeners:
        assert sorted(listener.heard, key=lambda event: event["t"]) == read_events(world.run.events)


def test_an_ending_of_a_watcher_stops_the_units_softly_and_is_the_runs(world):
    world.needs = CHAIN
    world.plans(first={"seconds": 60})
    ending = Ending(ExitCode.OWNED_BY_ANOTHER, "taken over")
    assert world.supervise(watchers=[Listener(), Listener(ending)]) is ending
    assert events(world.run, "unit_finished")[0]["return_code"] == ExitCode.INTERRUPTED
    assert world.starts("second") == 0
    assert time.monotonic() < world.supervisor.deadline_s + 60 < math.inf


def test_a_budget_that_ends_with_the_last_unit_took_nothing_away(world):
    world.needs = ONE
    listener = Listener(Ending(ExitCode.BUDGET, "spent"), after="unit_finished")
    assert world.supervise(watchers=[listener]).exit_code == ExitCode.DONE


def test_nobody_asked_for_a_stop_means_no_deadline(world):
    world.needs = ONE
    world.plans(first={"crash": "no"})
    world.supervise()
    assert world.supervisor.deadline_s == math.inf and not world.signals.hurried
    assert world.signals.name == ""


@pytest.mark.parametrize("grace_s", [25])
def test_the_whole_program_is_gone_within_its_grace_even_where_a_unit_does_not_listen(tmp_path, grace_s):
    # with a store ten seconds of the grace are kept for what comes after the units
    world = World(tmp_path / "one", f"runtime.stop_grace_s={grace_s}", f"store.url=file://{tmp_path}/store")
    world.needs = CHAIN
    world.plans(second={"seconds": 300, "deaf": True})
    process = world.in_own_process()
    wait_for(lambda: world.starts("second"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(grace_s) == ExitCode.INTERRUPTED
    assert events(world.run, "unit_finished", "second")[0]["return_code"] == -signal.SIGKILL
    assert not lives(world.pid("second-1"))


@pytest.mark.parametrize(
    ("grace_s", "step_s", "number", "checkpoint", "code"),
    [
        (30, 2.5, signal.SIGTERM, False, 143),
        (30, 2.5, signal.SIGINT, False, 130),
        (30, 6, signal.SIGTERM, True, 75),
    ],
)
def test_a_unit_far_from_its_next_boundary_reaches_it(tmp_path, grace_s, step_s, number, checkpoint, code):
    world = World(tmp_path / "one", f"runtime.stop_grace_s={grace_s}")
    world.needs = ONE
    world.plans(first={"seconds": 300, "step_s": step_s, "checkpoint": checkpoint})
    process = world.in_own_process()
    wait_for(lambda: events(world.run, "progress"))
    process.send_signal(number)
    assert process.wait(grace_s) == code
    assert events(world.run, "unit_finished")[0]["return_code"] == ExitCode.INTERRUPTED


# -- hangs


def test_a_unit_that_hangs_leaves_its_stacks_in_its_log_before_it_is_stopped(tmp_path):
    world = World(tmp_path / "one", "runtime.stop_grace_s=3")
    world.needs = ONE
    world.limits = {"stall_timeout_s": 6.0}
    world.plans(first={"seconds": 60, "deaf": True})
    assert world.supervise().exit_code == ExitCode.GIVEN_UP
    log = world.run.log_path("first").read_text()
    assert log.count("(most recent call first)") >= 2 and "in linger" in log
    for event in (events(world.run, "retry")[0], events(world.run, "unit_finished")[0]):
        assert event["reason"] == "stalled" and "stacks" in event["says"] and "linger" not in event["says"]


def test_a_process_that_would_die_of_the_question_is_only_asked_to_stop(world):
    world.needs = ONE
    world.limits = {"timeout_s": 8.0}
    world.plans(first={"seconds": 60, "silent": True, "has_no_stacks": True})
    world.supervise()
    event = events(world.run, "unit_finished")[0]
    assert event["reason"] == "timed_out" and "stacks" not in event["says"]
    assert event["return_code"] == ExitCode.INTERRUPTED, "it heeded the stop"


# -- want of memory


def keys_of(world: World) -> dict[str, str]:
    return {unit: world.run.request(unit).cache_key for unit in world.needs}


def test_a_unit_that_runs_out_of_memory_begins_anew_with_half_the_batch_and_the_configuration_says_so(world):
    world.limits = {"halvable": "classifiers.batch_size"}
    world.supervise()
    before, batch = keys_of(world), world.config.classifiers.batch_size
    again = World(world.run.root.parent / "two")
    again.limits = world.limits
    again.plans(second={"out_of_memory_attempts": 2})
    assert again.supervise(reuse=False).exit_code == ExitCode.DONE
    retries = events(again.run, "retry", "second")
    assert [f"{batch >> times} instead of {batch >> (times - 1)}" in retries[times - 1]["says"] for times in (1, 2)]
    assert {event["reason"] for event in retries} == {"out_of_memory"}
    assert again.run.load_config().runtime.batch_halvings == {"second": 2}
    assert [unit for unit, key in keys_of(again).items() if key != before[unit]] == ["second"]


def test_the_next_start_takes_the_result_of_the_halved_batch(world):
    world.needs, world.limits = CHAIN, {"halvable": "ppo.minibatch_size"}
    world.plans(first={"out_of_memory_attempts": 1})
    world.supervise()
    later = World(world.run.root)
    later.needs, later.limits = CHAIN, world.limits
    assert later.supervise().exit_code == ExitCode.DONE
    assert {event["state"] for event in events(later.run, "unit_finished")} == {"done", "skipped"}
    assert later.starts("first") == 2


def test_after_three_halvings_the_machine_is_called_too_small(world):
    world.needs, world.limits = ONE, {"halvable": "classifiers.batch_size"}
    world.plans(first={"out_of_memory_attempts": 9})
    ending = world.supervise()
    assert ending.exit_code == ExitCode.MACHINE_UNFIT
    assert "more memory" in ending.message and "smaller batch" in ending.message
    assert world.starts("first") == 4


def test_a_unit_without_a_batch_is_tried_once_more_as_it_is(world):
    world.needs = ONE
    world.plans(first={"out_of_memory_attempts": 9})
    assert world.supervise().exit_code == ExitCode.MACHINE_UNFIT
    assert world.starts("first") == 2 and not world.run.load_config().runtime.batch_halvings


def test_a_checkpoint_of_the_whole_batch_does_not_come_back(world):
    world.needs, world.limits = ONE, {"halvable": "classifiers.batch_size"}
    world.plans(first={"seconds": 60, "checkpoint": True})
    world.supervise(watchers=[Listener(Ending(ExitCode.BUDGET))])
    checkpoint = world.run.unit_dir("first") / "checkpoints"
    assert checkpoint.exists()
    world.plans(first={"out_of_memory_attempts": 2})
    assert world.supervise().exit_code == ExitCode.DONE
    assert len(events(world.run, "retry")) == 1 and not checkpoint.exists()


def test_a_unit_that_the_kernel_kills_for_its_memory_goes_on_with_less(world):
    world.needs, world.limits = ONE, {"halvable": "classifiers.batch_size"}
    world.plans(first={"takes_bytes": 1_600_000_000})
    with control_group("unit") as group:
        group.limit(MEMORY_LIMIT_BYTES)
        process = world.in_own_process("sh", "-c", f'echo $$ > {group.members} && exec "$@"', "sh")
        assert process.wait(120) == ExitCode.DONE
    retries = events(world.run, "retry")
    assert {event["reason"] for event in retries} == {"out_of_memory"} and len(retries) == 2
    assert events(world.run, "metric")[0]["held_bytes"] == 400_000_000
    assert world.run.load_config().runtime.batch_halvings == {"first": 2}


V1 = (
    "4:memory:/job",
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    "memory/job/memory.oom_control",
)
V2 = ("0::/job", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "job/memory.events")


@pytest.mark.parametrize(("cgroup", "mount", "file"), [V1, V2])
def test_the_containers_own_counter_is_believed_and_the_machines_is_not(tmp_path, cgroup, mount, file):
    files = {
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": mount,
        "proc/vmstat": "nr_free 1\noom_kill 7",
        f"sys/fs/cgroup/{file}": "low 0\noom 3\noom_kill 2",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    kills = OomKills(tmp_path)
    (tmp_path / "proc/vmstat").write_text("oom_kill 8")
    assert not kills.grew()
    (tmp_path / "sys/fs/cgroup" / file).write_text("oom_kill 3")
    assert kills.grew() and not kills.grew()


def test_without_control_groups_the_machines_counter_is_read(tmp_path):
    (tmp_path / "proc").mkdir()
    kills = OomKills(tmp_path)
    assert not kills.grew()
    (tmp_path / "proc/vmstat").write_text("oom_kill 1\n")
    assert kills.grew()


# -- a full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; skipped where this process may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("first_to_notice", ["unit", "supervisor"])
def test_a_full_disk_ends_the_run_in_order_and_it_goes_on_when_there_is_space(small_disk, first_to_notice):
    world = World(small_disk / "one", "runtime.sample_resources_every_s=0.05")
    world.plans(second={"fills_disk": True, "survives_it": first_to_notice == "supervisor"})
    ending = world.supervise()
    assert ending.exit_code == ExitCode.CANNOT_WRITE and "space" in ending.message.lower()
    assert not [
        path for path in (world.run.root / "starts").iterdir() if path.read_text() and lives(world.pid(path.name))
    ]
    (world.run.unit_dir("second") / "big").unlink()
    world.plans()
    assert world.supervise().exit_code == ExitCode.DONE
    assert world.starts("first") == 1
    assert [event["state"] for event in events(world.run, "unit_finished", "last")] == ["done"]
