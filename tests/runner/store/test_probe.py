"""The probe tells the stores that keep conditions from those that take them and do not."""

import pytest

from runner.store.file import FileStore
from runner.store.objects import StoreUnreachableError
from runner.store.open import open_store
from runner.store.probe import NO_CREATE, NO_REPLACE, probe

slow = pytest.mark.slow
CASES = [
    pytest.param("seaweed", [], marks=slow),
    pytest.param("storage_testbench", [], marks=slow),
    pytest.param("rclone_s3", [NO_CREATE, NO_REPLACE]),
    pytest.param("gcs_emulator", [NO_CREATE, NO_REPLACE]),
]


@pytest.mark.parametrize(("name", "missing"), CASES)
def test_the_protections_that_a_server_lacks_are_found_by_trying(name, missing, request, monkeypatch):
    server = request.getfixturevalue(name)
    server.use(monkeypatch)
    store = open_store(server.store_url())
    found = probe(store)
    assert found.missing == missing
    assert abs(found.clock_ahead_s) < 60
    assert list(store.list()) == []


def test_a_directory_has_every_protection_and_nothing_is_left_in_it(tmp_path):
    assert probe(open_store((tmp_path / "store").as_uri())).missing == []
    assert [path.name for path in (tmp_path / "store").iterdir() if not path.name.startswith(".")] == []


class Forgetful(FileStore):
    def get(self, key):
        body, stat = super().get(key)
        return body[:-1], stat


def test_a_store_that_gives_back_something_else_is_refused(tmp_path):
    with pytest.raises(Exception, match="does not give back"):
        probe(Forgetful(tmp_path))


class RefusesAll(FileStore):
    """As one server that refuses a replacement of the current version too."""

    def replace_if_match(self, key, body, tag):
        return super().replace_if_match(key, body, "another")


def test_a_server_that_refuses_the_right_version_too_has_no_replacement(tmp_path):
    assert probe(RefusesAll(tmp_path)).missing == [NO_REPLACE]


class Down(FileStore):
    def put_if_absent(self, key, body):
        raise StoreUnreachableError("no answer")


def test_a_store_that_is_down_is_no_store_without_protections(tmp_path):
    with pytest.raises(StoreUnreachableError):
        probe(Down(tmp_path))
