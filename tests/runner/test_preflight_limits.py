"""Container limits on fake trees: cgroup v1, v2, nested, without limit, with and without a namespace."""

from pathlib import Path

import pytest

from runner.preflight.cgroups import MemoryLimit, cgroup_directories, cpu_quota_cores, memory_limit
from runner.preflight.mounts import mount_of, parse_mounts

V1_NO_LIMIT = 9223372036854771712
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MEMORY_MOUNT = "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V1_CPU_MOUNT = "36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct"


def tree(root: Path, *, cgroup: str, mounts: str, files: dict[str, object]) -> Path:
    """A file system with a process's cgroup lines, its mounts and cgroup files."""
    for name, content in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def test_v2_limit_inside_a_namespace_is_read_at_the_mount_point(tmp_path):
    files = {
        "sys/fs/cgroup/memory.max": 4_000_000_000,
        "sys/fs/cgroup/memory.current": 1_500_000_000,
        "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 500000000",
        "sys/fs/cgroup/cpu.max": "150000 100000",
    }
    root = tree(tmp_path, cgroup="0::/", mounts=V2_MOUNT, files=files)
    assert memory_limit(root) == MemoryLimit(4_000_000_000, 3_000_000_000)
    assert cpu_quota_cores(root) == 1.5


def test_the_tightest_ancestor_binds_when_the_own_cgroup_says_max(tmp_path):
    files = {
        "sys/fs/cgroup/pod/box/job/memory.max": "max",
        "sys/fs/cgroup/pod/box/memory.max": 9_000_000_000,
        "sys/fs/cgroup/pod/memory.max": 2_000_000_000,
        "sys/fs/cgroup/pod/box/job/cpu.max": "max 100000",
        "sys/fs/cgroup/pod/box/cpu.max": "50000 100000",
        "sys/fs/cgroup/pod/cpu.max": "400000 100000",
    }
    root = tree(tmp_path, cgroup="0::/pod/box/job", mounts=V2_MOUNT, files=files)
    limit = memory_limit(root)
    assert limit is not None
    assert limit.limit_bytes == 2_000_000_000
    assert cpu_quota_cores(root) == 0.5


def test_a_fuller_outer_cgroup_leaves_less_than_the_tighter_inner_one(tmp_path):
    files = {
        "sys/fs/cgroup/pod/job/memory.max": 1_000,
        "sys/fs/cgroup/pod/job/memory.current": 100,
        "sys/fs/cgroup/pod/memory.max": 5_000,
        "sys/fs/cgroup/pod/memory.current": 4_800,
    }
    root = tree(tmp_path, cgroup="0::/pod/job", mounts=V2_MOUNT, files=files)
    assert memory_limit(root) == MemoryLimit(1_000, 200)


def test_v1_path_of_the_host_is_cut_at_the_mounts_root(tmp_path):
    """Docker on v1 without a namespace: the path is the host's, only the container's subtree is mounted."""
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 3_000_000_000,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 1_000_000_000,
        "sys/fs/cgroup/memory/memory.stat": "inactive_file 7\ntotal_inactive_file 400000000",
    }
    cgroup = "4:memory:/docker/abc\n1:name=systemd:/docker/abc"
    root = tree(tmp_path, cgroup=cgroup, mounts=V1_MEMORY_MOUNT.format(root="/docker/abc"), files=files)
    assert cgroup_directories("memory", root) == [root / "sys/fs/cgroup/memory"]
    assert memory_limit(root) == MemoryLimit(3_000_000_000, 2_400_000_000)


def test_v1_limit_of_an_invisible_ancestor_is_taken_from_the_statistics(tmp_path):
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_NO_LIMIT,
        "sys/fs/cgroup/memory/memory.stat": "hierarchical_memory_limit 6000000000",
    }
    root = tree(tmp_path, cgroup="4:memory:/", mounts=V1_MEMORY_MOUNT.format(root="/"), files=files)
    limit = memory_limit(root)
    assert limit is not None
    assert limit.limit_bytes == 6_000_000_000


def test_v1_without_a_limit_and_a_quota_of_minus_one_are_no_limits(tmp_path):
    files = {
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": V1_NO_LIMIT,
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": -1,
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": 100_000,
    }
    mounts = V1_MEMORY_MOUNT.format(root="/") + "\n" + V1_CPU_MOUNT
    root = tree(tmp_path, cgroup="4:memory:/job\n3:cpu,cpuacct:/job\n0::/", mounts=mounts, files=files)
    assert memory_limit(root) is None
    assert cpu_quota_cores(root) is None


def test_v1_quota_is_quota_over_period_of_the_tightest_level(tmp_path):
    files = {
        "sys/fs/cgroup/cpu,cpuacct/pod/job/cpu.cfs_quota_us": 600_000,
        "sys/fs/cgroup/cpu,cpuacct/pod/job/cpu.cfs_period_us": 100_000,
        "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us": 125_000,
        "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us": 50_000,
    }
    root = tree(tmp_path, cgroup="3:cpu,cpuacct:/pod/job", mounts=V1_CPU_MOUNT, files=files)
    assert cpu_quota_cores(root) == 2.5


def test_hybrid_machine_takes_the_tighter_of_both_versions(tmp_path):
    mounts = V1_MEMORY_MOUNT.format(root="/") + "\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    files = {
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": 8_000,
        "sys/fs/cgroup/unified/job/memory.max": 5_000,
    }
    root = tree(tmp_path, cgroup="4:memory:/job\n0::/job", mounts=mounts, files=files)
    limit = memory_limit(root)
    assert limit is not None
    assert limit.limit_bytes == 5_000


@pytest.mark.parametrize("path", ["/../../other", "/gone"])
def test_a_path_outside_what_is_mounted_leaves_the_mount_point(tmp_path, path):
    files = {"sys/fs/cgroup/memory.max": 1_234}
    root = tree(tmp_path, cgroup=f"0::{path}", mounts=V2_MOUNT, files=files)
    limit = memory_limit(root)
    assert limit is not None
    assert limit.limit_bytes == 1_234


def test_a_machine_without_cgroups_has_no_limit(tmp_path):
    assert memory_limit(tmp_path) is None
    assert cpu_quota_cores(tmp_path) is None


def test_the_longest_and_latest_mount_above_a_path_holds_it():
    mounts = parse_mounts(
        "1 0 0:1 / / rw - overlay overlay rw,lowerdir=/a\n"
        "2 1 0:2 / /data rw - ext4 /dev/sda rw\n"
        "3 1 0:3 /sub /data/my\\040runs rw - xfs /dev/sdb rw\n"
        "4 1 0:4 / /data rw - ext4 /dev/sdc rw,late\n"
        "torn line\n"
    )
    held = {path: mount_of(Path(path), mounts) for path in ("/home", "/data/x", "/data/my runs/1", "/database")}
    assert {path: mount and mount.kind for path, mount in held.items()} == {
        "/home": "overlay",
        "/data/x": "ext4",
        "/data/my runs/1": "xfs",
        "/database": "overlay",
    }
    assert held["/data/x"].options == ("rw", "late")
