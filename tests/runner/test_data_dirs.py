from pathlib import Path

from runner.data_dirs import fetched_into, searched


def test_what_is_kept_with_the_runs_is_looked_through_last(tmp_path):
    kept = tmp_path / ".datasets"
    assert searched((), tmp_path) == (Path("data"), Path("/data"), kept)
    assert searched((), tmp_path, Path("/mine"), Path("/data")) == (Path("data"), Path("/data"), Path("/mine"), kept)
    assert searched((Path("/given"),), tmp_path) == (Path("/given"), kept)


def test_a_dataset_is_fetched_into_the_first_directory_that_can_be_written(tmp_path):
    assert fetched_into((Path("/proc/self/data"), tmp_path / "new" / "data", tmp_path)) == tmp_path / "new" / "data"
    assert fetched_into((Path("/proc/self/data"), Path("/proc/self/other"))) == Path("/proc/self/other")
