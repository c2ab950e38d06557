"""The `store` commands as a user meets them: what they print, do and return."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.load import resolve
from configs.run_dir import RunDir
from runner.cli import main
from runner.dataset_url import send
from runner.store.file import FileStore
from runner.store.layout import Snapshot, Spent, head_key
from runner.store.lease import Lease, acquire, read_head
from runner.store.records import snapshot_ids
from tests.cli import cli
from tests.runner.store.runs import RUN, commit, make_run, owner, tree, write


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def objects(tmp_path) -> FileStore:
    return FileStore(tmp_path / "store")


@pytest.fixture
def lease(objects) -> Lease:
    return acquire(objects, RUN, owner(), 600)


def configured_run(runs_dir: Path) -> RunDir:
    """A run that keeps its three newest snapshots and no others."""
    run = make_run(runs_dir)
    run.save_config(resolve("DEMO-USD_1H", "quick", settings=("store.keep_last=3", "store.keep_every=100")).config)
    return run


@pytest.fixture
def snapshots(lease, tmp_path) -> list[Snapshot]:
    """Four snapshots with another report each; the run stays owned by a runner elsewhere."""
    run, made = configured_run(tmp_path / "runs"), []
    for number in range(4):
        write(run.report, f"report {number}")
        made.append(commit(lease, run, tmp_path / "staging", score=0.1 * number))
    return made


@pytest.fixture
def store(objects, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run a `store` command; exit code, stdout, stderr."""

    def run(*arguments: str | Path, url: str = objects.url) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["store", *map(str, arguments), "--store", url])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_ls_lists_the_runs_with_their_owners(store, snapshots, objects):
    acquire(objects, "another", owner("two"), 60).release(Spent())
    code, said, _ = store("ls")
    assert code == 0 and RUN in said and "owned by pid 1 on host-one" in said and "released" in said
    facts = json.loads(store("ls", "--json")[1])
    assert [(run["run_id"], run["snapshots"]) for run in facts["runs"]] == [(RUN, 4), ("another", 0)]


def test_datasets_that_were_sent_are_no_run(store, snapshots, objects, tmp_path):
    (tmp_path / "ADA-EUR_1H.csv").write_text("a")
    send(objects.url, {"ADA-EUR_1H": tmp_path / "ADA-EUR_1H.csv"})
    assert [run["run_id"] for run in json.loads(store("ls", "--json")[1])["runs"]] == [RUN]


def test_ls_of_a_run_lists_its_snapshots_newest_first(store, snapshots):
    code, said, _ = store("ls", RUN)
    assert code == 0 and [line.split()[0] for line in said.splitlines()[2:]] == [one.id for one in snapshots[::-1]]
    facts = json.loads(store("ls", RUN, "--json")[1])
    assert [one["is_head"] for one in facts["snapshots"]] == [True, False, False, False]
    assert facts["snapshots"][0]["score"] == pytest.approx(0.3) and facts["owner"]["epoch"] == 1


def test_ls_shows_what_is_damaged_instead_of_failing(store, snapshots, objects):
    objects.put(f"{RUN}/snapshots/{snapshots[0].id}.json", b"{}")
    assert store("ls", RUN)[0] == 0 and "damaged" in store("ls", RUN)[1]
    objects.put(head_key(RUN), b"{}")
    assert store("ls")[0] == 0 and "HEAD is damaged" in store("ls")[1]


def test_verify_says_what_is_whole_and_ends_with_74_where_something_is_not(store, snapshots, objects):
    assert store("verify", RUN)[0] == 0
    objects.put(f"{RUN}/{snapshots[3].files['report/index.html'].blobs[0].key}", b"other")
    code, said, _ = store("verify", RUN)
    assert (
        code == 74 and "is damaged" in said and sum(line.rstrip().endswith(" whole") for line in said.splitlines()) == 3
    )
    facts = json.loads(store("verify", RUN, "--json")[1])
    assert facts["exit_code"] == 74 and facts["faults"].keys() == {snapshots[3].id}


def test_pull_makes_the_run_directory_on_an_empty_machine(store, snapshots, tmp_path):
    code, said, _ = store("pull", RUN, "--runs-dir", tmp_path / "here")
    assert code == 0 and said.strip() == str(tmp_path / "here" / RUN)
    assert tree(tmp_path / "here" / RUN)["report/index.html"] == b"report 3"
    assert (tmp_path / "here" / "trials.jsonl").is_file()
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == sorted([RUN, "trials.jsonl"])


def test_pull_of_an_older_snapshot_goes_where_it_is_told_and_touches_nothing_else(store, snapshots, tmp_path):
    (tmp_path / "look").mkdir()
    code, *_ = store("pull", RUN, "--snapshot", snapshots[1].id, "--to", tmp_path / "look" / "old")
    assert code == 0 and tree(tmp_path / "look" / "old")["report/index.html"] == b"report 1"
    assert [path.name for path in (tmp_path / "look").iterdir()] == ["old"]


def test_pull_never_writes_over_what_is_there(store, snapshots, tmp_path):
    before = tree(tmp_path / "runs")
    code, _, said = store("pull", RUN, "--runs-dir", tmp_path / "runs")
    assert code == 73 and "exists" in said and "--to" in said and tree(tmp_path / "runs") == before


def test_pull_falls_back_to_an_older_snapshot_and_says_so(store, snapshots, objects, tmp_path):
    objects.delete(f"{RUN}/{snapshots[3].files['report/index.html'].blobs[0].key}")
    code, _, said = store("pull", RUN, "--runs-dir", tmp_path / "here")
    assert code == 0 and "cannot be used" in said and f"{snapshots[2].id} of " in said
    assert store("pull", RUN, "--snapshot", snapshots[3].id, "--to", tmp_path / "two")[0] == 74
    assert not (tmp_path / "two").exists()


def test_gc_and_rollback_are_refused_with_76_while_another_owns_the_run(store, snapshots, objects):
    before = [stat.key for stat in objects.list()]
    for command in (("gc", RUN), ("rollback", RUN, "--to", snapshots[0].id)):
        code, _, said = store(*command)
        assert code == 76 and "host-one" in said and "--take-over" in said
    assert [stat.key for stat in objects.list()] == before


def test_gc_keeps_what_it_is_told_to_keep_and_releases_the_run(store, snapshots, objects, lease):
    lease.release(Spent(wall_s=9))
    code, said, _ = store("gc", RUN, "--keep-last", "2", "--keep-every", "100", "--dry-run")
    assert (
        code == 0
        and said.startswith("would remove 2 snapshots and 2 contents")
        and len(snapshot_ids(objects, RUN)) == 4
    )
    code, said, _ = store("gc", RUN, "--keep-last", "2", "--keep-every", "100")
    assert code == 0 and said.startswith("removed 2 snapshots")
    assert snapshot_ids(objects, RUN) == [snapshots[2].id, snapshots[3].id]
    head = read_head(objects, RUN)
    assert head.released and head.spent.wall_s == 9 and store("verify", RUN)[0] == 0


def test_gc_keeps_what_the_run_itself_keeps_unless_it_is_told_otherwise(store, snapshots, objects):
    code, said, _ = store("gc", RUN, "--take-over")
    assert code == 0 and said.startswith("removed 1 snapshots")
    assert snapshot_ids(objects, RUN) == [one.id for one in snapshots[1:]]


def test_gc_never_keeps_fewer_than_two(store, snapshots):
    assert store("gc", RUN, "--keep-last", "1")[0] == 2


def test_rollback_makes_an_old_snapshot_the_newest(store, snapshots, objects, tmp_path):
    code, said, _ = store("rollback", RUN, "--to", snapshots[1].id, "--take-over")
    assert code == 0 and snapshots[1].id in said
    assert store("pull", RUN, "--runs-dir", tmp_path / "here")[0] == 0
    assert tree(tmp_path / "here" / RUN)["report/index.html"] == b"report 1"
    assert len(snapshot_ids(objects, RUN)) == 5 and read_head(objects, RUN).released


def test_a_damaged_head_is_mended_by_who_takes_the_run_over_and_others_are_told_how(store, snapshots, objects, capsys):
    objects.put(head_key(RUN), b"{}")
    assert main(["status", RUN, "--store", objects.url]) == 74
    assert "start the run again" in capsys.readouterr().err
    assert store("gc", RUN, "--take-over")[0] == 0
    assert read_head(objects, RUN).snapshot == snapshots[3].id and store("verify", RUN)[0] == 0


def test_a_url_that_is_refused_is_not_repeated_for_what_it_may_hold(store):
    for url in (
        "s3://bucket/runs?X-Amz-Security-Token=hush-hush",
        "s3://me:hush-hush@bucket/runs",
        "gs://b/#hush-hush",
    ):
        code, _, said = store("ls", url=url)
        assert code == 78 and "hush" not in said


@pytest.mark.parametrize(
    "arguments",
    [("ls", "other"), ("verify", "other"), ("pull", "other"), ("gc", "other"), ("rollback", "other", "--to", "x"),
     ("verify", "../other"), ("rollback", RUN, "--to", "x", "--take-over"), ("pull", RUN, "--snapshot", "x")],
)  # fmt: skip
def test_what_is_not_there_is_78(store, snapshots, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, said = store(*arguments)
    assert code == 78 and said.startswith("error: ") and not (tmp_path / "runs" / "other").exists()


def test_no_run_is_made_by_asking_for_it(store, objects, snapshots):
    store("gc", "other", "--take-over")
    assert not [stat for stat in objects.list("other/")]


def test_a_wrong_url_is_78_and_none_is_wrong_usage(store, monkeypatch):
    assert store("ls", url="ftp://x/y")[0] == 78
    monkeypatch.delenv("SEQUENCE_STORE__URL", raising=False)
    assert main(["store", "ls"]) == 2


def test_the_url_may_come_from_the_environment(objects, snapshots, monkeypatch, capsys):
    monkeypatch.setenv("SEQUENCE_STORE__URL", objects.url)
    assert main(["store", "ls"]) == 0 and RUN in capsys.readouterr().out


@pytest.mark.slow
def test_a_store_that_cannot_be_reached_is_69(tmp_path):
    done = cli(
        "store", "ls", "--store", "s3://runs/x",
        AWS_ENDPOINT_URL="http://127.0.0.1:1", AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_DEFAULT_REGION="r",
    )  # fmt: skip
    assert done.returncode == 69, done.stderr


@pytest.mark.slow
def test_the_commands_work_on_s3(tmp_path, monkeypatch, store):
    from runner.store.open import open_store
    from tests import servers

    with servers.seaweed() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        url, run = server.store_url(), configured_run(tmp_path / "runs")
        lease = acquire(open_store(url), RUN, owner(), 600)
        first = commit(lease, run, tmp_path / "staging")
        write(run.report, "changed")
        commit(lease, run, tmp_path / "staging")
        assert store("ls", url=url)[0] == 0 and store("verify", RUN, url=url)[0] == 0
        assert store("gc", RUN, url=url)[0] == 76
        assert store("rollback", RUN, "--to", first.id, "--take-over", url=url)[0] == 0
        assert store("pull", RUN, "--runs-dir", tmp_path / "here", url=url)[0] == 0
    assert tree(tmp_path / "here" / RUN)["report/index.html"] == b"<html>report</html>\n"
