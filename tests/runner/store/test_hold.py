"""Holding a run: what of a former owner's death is known without waiting for its lease."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from configs.errors import FencedError
from configs.run_dir import RunDir
from configs.schema import StoreConfig
from runner.guard import OwnedByAnotherError, Owner, owner_of
from runner.store.file import FileStore
from runner.store.hold import held
from runner.store.layout import Spent
from runner.store.lease import acquire
from runner.store.place import OWNERS
from tests.runner.fixture_stages.world import wait_for
from tests.runner.store.runs import owner

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow
HOLDER = """
import sys, time
from tests.runner.store.test_hold import holding

with holding(sys.argv[1], sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


def holding(root: str, url: str, tell: Callable[[str], object] = print) -> ExitStack:
    """Hold a run; the lease is too long to be waited for."""
    run = RunDir(Path(root))
    with ExitStack() as stack:
        stack.enter_context(Owner(run.root))
        stack.enter_context(held(run, StoreConfig(url=url, lease_s=3600), False, tell))
        return stack.pop_all()


@pytest.fixture
def killed(tmp_path, monkeypatch) -> Iterator[tuple[str, str]]:
    """Directory and store of a run whose owner, in another container, was killed this instant."""
    place = str(tmp_path / "run"), f"file://{tmp_path}/store"
    monkeypatch.setenv("RUNPOD_POD_ID", "the-first")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, *place], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setenv("RUNPOD_POD_ID", "the-second")
        with pytest.raises(OwnedByAnotherError, match="owned by another runner"):
            holding(*place)
        holder.kill()
    wait_for(lambda: not owner_of(Path(place[0])))  # its reaper needs an instant
    yield place


def test_a_run_goes_on_at_once_in_the_directory_whose_lock_its_dead_owner_held(killed):
    with holding(*killed):
        pass


def test_in_another_directory_nothing_says_that_the_owner_is_dead(killed, tmp_path):
    with pytest.raises(OwnedByAnotherError, match="if it stays silent"):
        holding(str(tmp_path / "other" / "run"), killed[1])


def test_what_another_kernel_wrote_says_nothing_of_a_lock(killed):
    owners = Path(killed[0], OWNERS)
    text = owners.read_text()
    owners.write_text(text.replace(text.split('"boot": "')[1][:8], "00000000"))
    with pytest.raises(OwnedByAnotherError, match="if it stays silent"):
        holding(*killed)
    owners.write_text(text)
    with holding(*killed):
        pass


def test_a_silent_owners_lease_is_waited_for_and_then_taken(tmp_path, capsys):
    url = f"file://{tmp_path}/store"
    gone = acquire(FileStore(tmp_path / "store"), "run", owner("a container that is gone"), 10)
    with holding(str(tmp_path / "run"), url):
        pass
    assert "waiting until it renews" in capsys.readouterr().out
    with pytest.raises(FencedError):
        gone.renew(Spent())


def test_a_living_owner_is_refused_as_soon_as_it_renews_and_its_lease_not_waited_for(tmp_path):
    lease = acquire(FileStore(tmp_path / "store"), "run", owner("another machine"), 80)

    def renew(says: str) -> None:
        assert "waiting until it renews" in says
        lease.renew(Spent())

    with pytest.raises(OwnedByAnotherError, match="another machine"):
        holding(str(tmp_path / "run"), f"file://{tmp_path}/store", renew)
    lease.renew(Spent())
