"""Where the runner finds itself, from an environment and a file system that a test made."""

import pytest

from configs.errors import ConfigError
from runner.host.addresses import ADDRESSES, address
from runner.host.where import Host, this_host
from runner.store.lease import owner_facts

OWN, LAYER = "ab" * 32, "cd" * 32
OVERLAY = f"1 0 0:5 / {{}} rw - overlay overlay rw,lowerdir=/l/{LAYER}/diff,upperdir=/o/{OWN}/diff\n"
HOSTNAME = "2 1 8:1 {} /etc/hostname rw - ext4 /dev/sda rw\n"
DOCKER = OVERLAY.format("/") + HOSTNAME.format(f"/var/lib/docker/containers/{OWN}/hostname")
PODMAN = OVERLAY.format("/") + HOSTNAME.format(f"/run/containers/storage/overlay-containers/{OWN}/userdata/hostname")
KUBERNETES = OVERLAY.format("/") + HOSTNAME.format(
    f"/run/containerd/io.containerd.grpc.v1.cri/sandboxes/{OWN}/hostname"
)
OUTSIDE = OVERLAY.format(f"/var/lib/docker/overlay2/{OWN}/merged") + (
    f"3 1 0:6 / /var/lib/docker/containers/{OWN}/mounts/shm rw - tmpfs shm rw\n"
)
"""Mounts that the host of a container sees."""


@pytest.fixture
def root(tmp_path):
    """A machine that is no container."""
    for path, text in {"proc/sys/kernel/hostname": "box\n", "etc/machine-id": "0123456789abcdef\n"}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[4026531836]")
    return tmp_path


PLAIN = "machine box 0123456789ab pid:[4026531836]"


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ({}, Host("plain", "box", False, PLAIN)),
        ({"RUNPOD_POD_ID": "p1"}, Host("runpod", "p1", False, "pod p1")),
        ({"RUNPOD_POD_ID": "p1", "SEQUENCE_HOST": "runpod"}, Host("runpod", "p1", True, "pod p1")),
        ({"SEQUENCE_HOST": "lambda", "SEQUENCE_MACHINE": "run-1"}, Host("lambda", "run-1", True, PLAIN)),
        ({"SKYPILOT_TASK_ID": "t-8"}, Host("sky", "t-8", False, PLAIN)),
        ({"SKYPILOT_TASK_ID": "t-8", "SEQUENCE_HOST": "sky"}, Host("sky", "t-8", True, PLAIN)),
        ({"SKYPILOT_TASK_ID": "t", "SEQUENCE_HOST": "sky", "SEQUENCE_MACHINE": "m"}, Host("sky", "m", True, PLAIN)),
        ({"RUNPOD_POD_ID": "p1", "SEQUENCE_MACHINE": "m"}, Host("runpod", "p1", False, "pod p1")),
        ({"SKYPILOT_TASK_ID": "t", "RUNPOD_POD_ID": "p", "SEQUENCE_HOST": "sky"}, Host("sky", "t", True, "pod p")),
    ],
)
def test_a_machine_is_told_by_its_environment(root, environment, host):
    assert this_host(environment, root) == host


@pytest.mark.parametrize(("mounts", "machine"), [(DOCKER, OWN[:12]), (PODMAN, OWN[:12]), (OUTSIDE, "box")])
def test_a_container_is_told_by_a_mount_of_its_own_not_by_what_it_shares(root, mounts, machine):
    (root / "proc/self/mountinfo").write_text(mounts)
    host = this_host({}, root)
    assert host.machine == machine
    assert (host.kind, host.place) == (("docker", f"container {machine}") if machine != "box" else ("plain", PLAIN))


def test_a_container_whose_mounts_do_not_name_it_is_one_all_the_same(root):
    (root / "proc/self/mountinfo").write_text(KUBERNETES)
    (root / ".dockerenv").touch()
    assert this_host({}, root) == Host("docker", "box", False, PLAIN)


def test_a_launcher_that_is_not_known_is_refused(root):
    with pytest.raises(ConfigError, match="SEQUENCE_HOST='moon'.*runpod, lambda, sky"):
        this_host({"SEQUENCE_HOST": "moon"}, root)


def test_this_very_machine_is_the_place_of_its_lease():
    assert this_host().place == owner_facts().place


@pytest.mark.parametrize("variable", ADDRESSES)
def test_a_key_travels_only_over_https_or_within_this_machine(variable):
    assert address(variable, {}).startswith("https://")
    assert address(variable, {variable: "http://127.0.0.1:80/v2/"}) == "http://127.0.0.1:80/v2"
    for refused in ("http://example.com", "http://127.0.0.1.example.com/", "ftp://localhost/"):
        with pytest.raises(ConfigError, match=variable):
            address(variable, {variable: refused})
