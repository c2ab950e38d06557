"""Publishing to real git repositories: over file:// and over HTTP with authentication."""

import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.errors import ExitCode
from configs.events import read_events
from configs.files import write_json
from configs.load import resolve
from configs.run_dir import Request, RunDir
from configs.schema import PublishConfig
from runner.publish import ATTEMPTS, publish_quietly, publish_run
from runner.publish.errors import (
    DeniedError,
    MovedOnError,
    NoRepositoryError,
    PublishError,
    RejectedError,
    UnreachableError,
)
from tests.cli import cli, settings
from tests.git_server import bare_repository, git, git_server, hook
from tests.runner.fixture_stages.world import wait_for
from tests.runner.test_cli import call
from tests.servers import closed_port

pytestmark = pytest.mark.slow

TOKEN = "tok-7f3a9c5e1b2d4860"
LEAKED = "ghp_" + "a1B2" * 9
WEIGHTS = bytes(range(256)) * 40
needs_lfs = pytest.mark.skipif(not shutil.which("git-lfs"), reason="git-lfs is not installed")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch) -> Path:
    """A user without any git configuration, and a folder of temporary files that can be looked through."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name in ("GIT_ASKPASS", "SSH_ASKPASS", "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "EMAIL", "SEQUENCE_GIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def run(tmp_path) -> RunDir:
    return make_run(tmp_path / "runs" / "one")


@pytest.fixture
def bare(tmp_path) -> Path:
    return bare_repository(tmp_path / "bare.git")


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A repository over HTTP, and its token in the environment."""
    monkeypatch.setenv("SEQUENCE_GIT_TOKEN", TOKEN)
    with git_server(tmp_path / "served.git", token=TOKEN) as server:
        yield server


def make_run(root: Path, sharpe: float = 1.25) -> RunDir:
    """A finished run, small, with a bit of everything that a run directory may hold."""
    run = RunDir(root)
    run.save_config(resolve("ADA-EUR_1H", "quick").config)
    command = ["sequence-runner", "--dataset", "ADA-EUR_1H", "--config", "my settings.yaml"]
    facts = dict.fromkeys(("dataset_digest", "data_place", "data_dirs", "code_digest", "lock_digest"), "")
    write_json(run.run_json, facts | {"run_id": run.run_id, "command": command})
    unit(run, "prepare", {"bars": 17_491}, {"features.parquet": b"PAR1"})
    models = {f"models/{name}/weights.safetensors": WEIGHTS for name in ("final", "fold-0")}
    unit(run, "classifiers/lstm", {}, models | {"metrics.json": b"{}", "roc.png": b"\x89PNG"})
    made = {"policy.safetensors": WEIGHTS, "export.zip": WEIGHTS, ".hidden.json": b"{}"}
    unit(run, "ppo/seed-0", {}, made | {"checkpoints/state.json": b"{}", "tensorboard/x.json": b"{}"})
    figures = {"sharpe": sharpe, "total_return": 0.1, "max_drawdown": 0.2, "trades": 7}
    judged = {"verdict": "edge", "agents": [figures | {"seed": 0}], "mean": figures, "bars_per_year": 8760.0}
    judged |= {"baselines": {"buy_and_hold": figures | {"sharpe": -0.5}, "flat": figures | {"sharpe": 0.0}}}
    judged |= {"detectable_sharpe": {"sharpe": 3.0, "power": 0.8}, "trials": 1}
    judged["families"] = {name: {"verdict": "edge", "mean": figures} for name in ("ppo", "walk_forward")}
    write_json(run.root / "plan.json", {"format": 1, "starts": []})
    unit(run, "pretrain/seed-0", {}, {"policy.safetensors": WEIGHTS, "history.json": b"[]"})
    unit(run, "walk_forward/2024-01", {}, {"seed-0/policy.safetensors": WEIGHTS, "agents.json": b"[]"})
    unit(run, "evaluate", judged, {"ppo/evaluation.json": b"{}", "ppo/trades-seed-0.csv": b"t,side\n1,buy\n"})
    write_json(run.unit_dir("ppo/seed-1") / "training.json", {"not": "finished"})
    run.report.parent.mkdir()
    run.report.write_text(f"<html>as {LEAKED} said</html>\n")
    run.logs.mkdir()
    (run.logs / "prepare.log").write_text("a log\n")
    return run


def unit(run: RunDir, name: str, metrics: dict, outputs: dict[str, bytes]) -> None:
    run.save_request(Request(unit=name, cache_key="0" * 64, inputs={}))
    for path, content in outputs.items():
        (run.unit_dir(name) / path).parent.mkdir(parents=True, exist_ok=True)
        (run.unit_dir(name) / path).write_bytes(content)
    run.save_result(name, metrics)


def file_url(path: Path) -> str:
    return f"file://{path}"


def to(url: str, **more: Any) -> PublishConfig:
    return PublishConfig(git_url=url, **more)


def names(repository: Path, branch: str = "runs") -> list[str]:
    return git("-C", repository, "ls-tree", "-r", "--name-only", branch).splitlines()


def text(repository: Path, name: str, branch: str = "runs") -> str:
    return git("-C", repository, "show", f"{branch}:{name}")


def commits(repository: Path, branch: str = "runs") -> list[str]:
    """First lines of the messages, newest first; none where there is no branch."""
    if not git("-C", repository, "for-each-ref", f"refs/heads/{branch}"):
        return []
    return git("-C", repository, "log", "--format=%s", branch).splitlines()


def push_as_somebody(tmp_path: Path, repository: Path, name: str, content: str = "theirs\n", **more: str) -> None:
    """Another clone pushes files to the branch."""
    clone = tmp_path / f"clone-{name.replace('/', '-')}"
    git("init", "--quiet", "-b", "runs", clone)
    if commits(repository):
        git("-C", clone, "pull", "--quiet", repository, "runs")
    for path, body in ({name: content} | more).items():
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_text(body)
    git("-C", clone, "add", "--all", "--force")
    git("-C", clone, "commit", "--quiet", "--message", f"add {name}")
    git("-C", clone, "push", "--quiet", repository, "HEAD:runs")


PUBLISHED = {
    "one/README.md",
    "one/config.yaml",
    "one/plan.json",
    "one/report/index.html",
    "one/run.json",
    "one/stages/classifiers/lstm/metrics.json",
    "one/stages/classifiers/lstm/models/final/weights.safetensors",
    "one/stages/classifiers/lstm/result.json",
    "one/stages/evaluate/ppo/evaluation.json",
    "one/stages/evaluate/result.json",
    "one/stages/evaluate/ppo/trades-seed-0.csv",
    "one/stages/ppo/seed-0/export.zip",
    "one/stages/ppo/seed-0/policy.safetensors",
    "one/stages/ppo/seed-0/result.json",
    "one/stages/prepare/result.json",
    "one/stages/pretrain/seed-0/history.json",
    "one/stages/pretrain/seed-0/result.json",
    "one/stages/walk_forward/2024-01/agents.json",
    "one/stages/walk_forward/2024-01/result.json",
}


def test_the_branch_holds_report_settings_results_and_final_weights_and_nothing_else(run, bare):
    done = publish_run(run, to(file_url(bare)))
    assert set(names(bare)) == PUBLISHED
    assert (done.files, done.new, done.branch) == (len(PUBLISHED), True, "runs")
    assert done.commit == git("-C", bare, "rev-parse", "runs").strip()
    clone = run.root.parent / "clone"
    git("clone", "--quiet", "--branch", "runs", file_url(bare), clone)
    assert (clone / "one/stages/ppo/seed-0/policy.safetensors").read_bytes() == WEIGHTS
    assert (clone / "one/config.yaml").read_bytes() == run.config_yaml.read_bytes()
    assert not list(Path(tempfile.gettempdir()).iterdir())


def test_the_message_and_the_readme_say_verdict_figures_and_command(run, bare):
    publish_run(run, to(file_url(bare)))
    message = git("-C", bare, "log", "-1", "--format=%an <%ae>%n%B", "runs")
    assert message.splitlines()[:2] == ["sequence-runner <sequence-runner@localhost>", "one: edge"]
    for line in (
        "Walk-forward PPO  edge, Sharpe 1.25, return +10.0%",
        "agents, mean  Sharpe 1.25, return +10.0%",
        "buy & hold    Sharpe -0.50",
        "flat          Sharpe 0.00",
    ):
        assert line in message
    assert "bars     17,491" in message and "profile  quick" in message
    command = "sequence-runner --dataset ADA-EUR_1H --config 'my settings.yaml'"
    readme = text(bare, "one/README.md")
    assert command in message and command in readme
    assert "verdict  edge" in readme and "buy & hold" in readme and str(run.root) not in readme


def test_the_author_is_whom_gits_configuration_names(run, bare, own_home):
    (own_home / ".gitconfig").write_text("[user]\n\tname = A Quant\n\temail = quant@example.org\n")
    publish_run(run, to(file_url(bare)))
    assert (
        git("-C", bare, "log", "-1", "--format=%an <%ae> %cn", "runs").strip() == "A Quant <quant@example.org> A Quant"
    )


def test_secrets_in_texts_do_not_get_onto_the_branch(run, bare):
    publish_run(run, to(file_url(bare)))
    assert LEAKED in run.report.read_text()
    assert text(bare, "one/report/index.html") == "<html>as [redacted] said</html>\n"


def test_links_in_a_run_directory_are_not_followed(run, bare, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "private.json").write_text("{}")
    (run.unit_dir("evaluate") / "link.json").symlink_to(outside / "private.json")
    (run.unit_dir("evaluate") / "folder").symlink_to(outside)
    shutil.rmtree(run.report.parent)
    run.report.parent.symlink_to(outside)
    (outside / "index.html").write_text("private")
    publish_run(run, to(file_url(bare)))
    assert set(names(bare)) == PUBLISHED - {"one/report/index.html"}


def test_a_run_without_verdict_is_published_as_far_as_it_got(run, bare):
    shutil.rmtree(run.unit_dir("evaluate"))
    run.report.unlink()
    publish_run(run, to(file_url(bare)))
    assert commits(bare) == ["one: no verdict"]
    assert "one/stages/ppo/seed-0/policy.safetensors" in names(bare)


def test_the_same_content_again_makes_no_commit_and_changed_content_replaces_all_files(run, bare):
    first = publish_run(run, to(file_url(bare)))
    again = publish_run(run, to(file_url(bare)))
    assert (again.new, again.commit, len(commits(bare))) == (False, first.commit, 1)
    assert "nothing new" in again.summary()
    (run.unit_dir("ppo/seed-0") / "export.zip").unlink()
    run.report.write_text("<html>new</html>\n")
    changed = publish_run(run, to(file_url(bare)))
    assert changed.new and len(commits(bare)) == 2
    assert set(names(bare)) == PUBLISHED - {"one/stages/ppo/seed-0/export.zip"}
    assert text(bare, "one/report/index.html") == "<html>new</html>\n"


def test_runs_and_files_of_others_on_the_branch_stay(run, bare, tmp_path):
    push_as_somebody(tmp_path, bare, "notes.md")
    publish_run(run, to(file_url(bare)))
    publish_run(make_run(tmp_path / "runs" / "two", sharpe=2.0), to(file_url(bare)))
    assert set(names(bare)) == PUBLISHED | {name.replace("one/", "two/") for name in PUBLISHED} | {"notes.md"}
    assert commits(bare) == ["two: edge", "one: edge", "add notes.md"]


def test_the_contents_of_other_runs_are_not_fetched(run, served, tmp_path):
    push_as_somebody(tmp_path, served.repository, "large.txt", os.urandom(500_000).hex())
    publish_run(run, to(served.url))
    assert commits(served.repository) == ["one: edge", "add large.txt"]
    assert served.sent_bytes < 50_000


def test_a_server_that_cannot_leave_contents_out_serves_as_well(run, bare, tmp_path):
    git("-C", bare, "config", "uploadpack.allowFilter", "false")
    push_as_somebody(tmp_path, bare, "notes.md")
    publish_run(run, to(file_url(bare)))
    assert commits(bare) == ["one: edge", "add notes.md"]


def test_nothing_that_lies_on_the_branch_is_run_followed_or_written(run, bare, tmp_path, monkeypatch):
    """Links, submodules, filters and hooks: a branch is material, never an instruction."""
    victim = tmp_path / "victim"
    victim.mkdir()
    clone = tmp_path / "hostile"
    git("init", "--quiet", "-b", "runs", clone)
    (clone / "one").symlink_to(victim)
    (clone / ".gitattributes").write_text("* filter=evil\n")
    (clone / ".gitmodules").write_text(f'[submodule "x"]\n\tpath = x\n\turl = ext::sh -c "touch {victim}/ran"\n')
    git("-C", clone, "add", "--all")
    git("-C", clone, "commit", "--quiet", "--message", "hostile")
    git("-C", clone, "push", "--quiet", bare, "HEAD:runs")
    hooks = tmp_path / "hooks"
    for name in ("pre-push", "reference-transaction", "post-index-change", "pre-commit", "post-commit"):
        hook(tmp_path, name, f"touch {victim}/{name}")
    (Path(os.environ["HOME"]) / ".gitconfig").write_text(
        f'[core]\n\thooksPath = {hooks}\n[filter "evil"]\n\tclean = touch {victim}/clean; cat\n'
    )
    git("-C", bare, "config", "core.hooksPath", str(bare / "hooks"))
    publish_run(run, to(file_url(bare)))
    assert PUBLISHED < set(names(bare))
    assert text(bare, "one/README.md").startswith("# one\n")
    assert not list(victim.iterdir())


def test_a_repository_around_us_is_left_alone(run, bare, tmp_path, monkeypatch):
    """As inside a git hook, where git exports its own repository."""
    around = bare_repository(tmp_path / "around.git")
    before = sorted(path.name for path in around.rglob("*"))
    monkeypatch.setenv("GIT_DIR", str(around))
    monkeypatch.setenv("GIT_INDEX_FILE", str(around / "index"))
    publish_run(run, to(file_url(bare)))
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_INDEX_FILE")
    assert set(names(bare)) == PUBLISHED
    assert sorted(path.name for path in around.rglob("*")) == before


def test_publishing_writes_nothing_into_the_run_directory(run, bare):
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    publish_run(run, to(file_url(bare), max_file_bytes=1))
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before


def test_a_file_above_the_limit_is_stood_for_by_a_pointer(run, bare):
    done = publish_run(run, to(file_url(bare), max_file_bytes=len(WEIGHTS) - 1))
    name = "one/stages/ppo/seed-0/policy.safetensors"
    assert "stages/ppo/seed-0/policy.safetensors" in done.pointers and len(done.pointers) == 3
    assert name not in names(bare)
    assert json.loads(text(bare, f"{name}.pointer.json")) == {
        "path": "stages/ppo/seed-0/policy.safetensors",
        "run_id": "one",
        "sha256": sha256(WEIGHTS).hexdigest(),
        "size_bytes": len(WEIGHTS),
        "store": None,
    }


@needs_lfs
def test_files_that_the_branch_tracks_go_by_lfs(run, bare, tmp_path):
    push_as_somebody(tmp_path, bare, ".gitattributes", "*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    done = publish_run(run, to(file_url(bare), max_file_bytes=len(WEIGHTS) - 1))
    oid = sha256(WEIGHTS).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(WEIGHTS)}\n"
    assert text(bare, "one/stages/ppo/seed-0/policy.safetensors") == pointer
    assert (bare / "lfs/objects" / oid[:2] / oid[2:4] / oid).read_bytes() == WEIGHTS
    assert len(done.lfs_files) == 2 and done.pointers == ("stages/ppo/seed-0/export.zip",)
    assert not publish_run(run, to(file_url(bare), max_file_bytes=len(WEIGHTS) - 1)).new


@needs_lfs
def test_lfs_objects_go_over_http_with_the_token(run, served, tmp_path):
    push_as_somebody(tmp_path, served.repository, ".gitattributes", "*.safetensors filter=lfs\n")
    publish_run(run, to(served.url))
    assert (served.lfs_objects / sha256(WEIGHTS).hexdigest()).read_bytes() == WEIGHTS
    assert all(served.lets_in(header) for header in served.authorizations)


def test_a_push_over_http_with_the_token_is_accepted(run, served):
    publish_run(run, to(served.url))
    assert set(names(served.repository)) == PUBLISHED


def test_the_token_is_in_no_argument_file_or_output_while_git_talks(run, served, tmp_path, capfd):
    """Looked for at every request, when git and its helpers are alive and the temporary files are there."""
    contents: dict[str, bytes] = {}

    def look(_method: str, _path: str) -> None:
        places = [*Path("/proc").glob("[0-9]*/cmdline"), *(path for path in tmp_path.rglob("*") if path.is_file())]
        contents.update((str(place), contents.get(str(place), b"") + read_or_nothing(place)) for place in places)

    served.before = look
    outcome = publish_quietly(run, to(served.url))
    assert outcome.verdict == "ok", outcome
    assert any(b"git-remote-http" in content for content in contents.values())
    assert any(place.endswith("askpass") for place in contents)
    assert not [place for place, content in contents.items() if TOKEN.encode() in content]
    assert TOKEN not in "".join(capfd.readouterr()) and TOKEN not in json.dumps(outcome.to_json())
    everything = subprocess.run(
        ["git", "-C", served.repository, "cat-file", "--batch", "--batch-all-objects"], capture_output=True, check=True
    )
    assert b"verdict  edge" in everything.stdout and TOKEN.encode() not in everything.stdout


def test_the_askpass_script_is_its_owners_alone(run, served, tmp_path):
    modes = set()
    served.before = lambda *_: modes.update(stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("askpass"))
    publish_run(run, to(served.url))
    assert modes == {0o700}


def test_the_token_is_told_to_no_other_host(run, served, tmp_path):
    with git_server(tmp_path / "other.git", token=TOKEN) as other:
        served.redirect_to = other.origin
        with pytest.raises(DeniedError):
            publish_run(run, to(served.url))
        assert other.requests and not other.authorizations


def test_the_users_credential_helpers_do_not_get_to_store_the_token(run, served, own_home):
    sections = ("credential", f'credential "{served.origin}"', f'credential "{served.url}"')
    store = "\n".join(f"[{section}]\n\thelper = store" for section in sections)
    (own_home / ".gitconfig").write_text(store)
    publish_run(run, to(served.url))
    assert not (own_home / ".git-credentials").exists()


def test_without_a_token_the_users_credential_helper_is_asked(run, served, own_home, monkeypatch):
    monkeypatch.delenv("SEQUENCE_GIT_TOKEN")
    (own_home / ".gitconfig").write_text("[credential]\n\thelper = store\n")
    address = served.origin.replace("://", f"://{served.user}:{TOKEN}@")
    (own_home / ".git-credentials").write_text(f"{address}\n")
    publish_run(run, to(served.url))
    assert commits(served.repository) == ["one: edge"]


def test_a_wrong_token_is_refused_and_the_right_one_then_publishes(run, served, monkeypatch):
    monkeypatch.setenv("SEQUENCE_GIT_TOKEN", "wrong-token-000000")
    with pytest.raises(DeniedError, match="SEQUENCE_GIT_TOKEN") as refused:
        publish_run(run, to(served.url))
    assert refused.value.exit_code == ExitCode.MACHINE_UNFIT
    assert "wrong-token" not in str(refused.value)
    assert commits(served.repository) == []
    monkeypatch.setenv("SEQUENCE_GIT_TOKEN", TOKEN)
    publish_run(run, to(served.url))
    assert commits(served.repository) == ["one: edge"]


def test_without_any_credentials_git_does_not_wait_for_an_answer(run, served, monkeypatch):
    monkeypatch.delenv("SEQUENCE_GIT_TOKEN")
    with pytest.raises(DeniedError):
        publish_run(run, to(served.url))


def test_a_push_that_a_hook_rejects_is_a_warning_and_can_be_repeated(run, served):
    refusing = hook(served.repository, "pre-receive", "echo 'no runs on a Friday' >&2; exit 1")
    with pytest.raises(RejectedError, match="no runs on a Friday"):
        publish_run(run, to(served.url))
    outcome = publish_quietly(run, to(served.url))
    assert (outcome.name, outcome.verdict) == ("publish", "warn")
    assert "no runs on a Friday" in outcome.found and f"publish one --git {served.url}" in outcome.remedy
    assert commits(served.repository) == []
    refusing.unlink()
    assert publish_quietly(run, to(served.url)).verdict == "ok"
    assert commits(served.repository) == ["one: edge"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["GET /served.git/info/refs?service=git-receive-pack", "POST /served.git/git-receive-pack"]
)
def test_what_another_pushed_in_between_stays_and_the_run_goes_on_top(run, served, tmp_path, moment):
    """After our fetch: before the server names its branches, and after; the server would let a forced push through."""
    git("-C", served.repository, "config", "receive.denyNonFastForwards", "false")
    push_as_somebody(tmp_path, served.repository, "first.md")
    rivals = iter(["second.md"])

    def somebody_is_faster(method: str, path: str) -> None:
        authorized = len(served.authorizations) > 0
        if f"{method} {path}" == moment and authorized and (name := next(rivals, "")):
            push_as_somebody(tmp_path, served.repository, name)

    served.before = somebody_is_faster
    publish_run(run, to(served.url))
    assert commits(served.repository) == ["one: edge", "add second.md", "add first.md"]
    assert set(names(served.repository)) == PUBLISHED | {"first.md", "second.md"}


@pytest.mark.slow
def test_a_branch_that_never_stands_still_is_given_up(run, served, tmp_path):
    def somebody_is_always_faster(method: str, path: str) -> None:
        if (method, path) == ("POST", "/served.git/git-receive-pack"):
            push_as_somebody(tmp_path, served.repository, f"{len(commits(served.repository))}.md")

    served.before = somebody_is_always_faster
    with pytest.raises(MovedOnError):
        publish_run(run, to(served.url))
    assert len(commits(served.repository)) == ATTEMPTS


def test_a_server_that_never_answers_ends_in_bounded_time(run):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/repo.git"
        with pytest.raises(UnreachableError, match="in time"):
            publish_run(run, to(url), timeout_s=0.5)
    mine = f"{url}".encode()
    wait_for(lambda: not [path for path in Path("/proc").glob("[0-9]*/cmdline") if mine in read_or_nothing(path)])


def read_or_nothing(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_closed_port_and_a_missing_repository_are_told_apart(run, tmp_path):
    with closed_port() as port, pytest.raises(UnreachableError):
        publish_run(run, to(f"http://127.0.0.1:{port}/repo.git"))
    with pytest.raises(NoRepositoryError, match="git init --bare"):
        publish_run(run, to(file_url(tmp_path / "nothing.git")))


def test_a_branch_below_another_branchs_name_is_told_at_once(run, bare):
    publish_run(run, to(file_url(bare)))
    with pytest.raises(RejectedError, match="another --branch"):
        publish_run(run, to(file_url(bare), branch="runs/mine"))


def test_without_git_it_says_so(run, bare, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PublishError, match="git is not installed"):
        publish_run(run, to(file_url(bare)))


def test_the_quiet_form_never_raises(run, bare):
    run.config_yaml.write_text("not: a configuration")
    outcome = publish_quietly(run, to(file_url(bare)))
    assert outcome.verdict == "warn" and "config.yaml" in outcome.found


@pytest.mark.parametrize(
    "url",
    [
        "https://host.example/team/repo.git",
        "http://127.0.0.1:8080/repo",
        "http://[::1]:8080/repo",
        "ssh://git@host.example:2222/repo.git",
        "git@host.example:team/repo.git",
        "file:///path/repo.git",
    ],
)
def test_urls_of_these_forms_are_taken(url):
    assert PublishConfig(git_url=url).git_url == url


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@host.example/repo.git",
        "https://token@host.example/repo.git",
        "https://host.example/repo.git?token=secret",
        "ssh://git:secret@host.example/repo.git",
        "git:secret@host.example:repo.git",
    ],
)
def test_a_url_with_credentials_is_refused_with_advice(url):
    with pytest.raises(ValidationError, match="SEQUENCE_GIT_TOKEN"):
        PublishConfig(git_url=url)


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c id",
        "/path/repo.git",
        "--upload-pack=id",
        "git://host/x",
        "git@host:-x",
        "file://host/x",
        "https://h",
    ],
)
def test_a_url_of_another_form_is_refused(url):
    with pytest.raises(ValidationError, match="expected https"):
        PublishConfig(git_url=url)


@pytest.mark.parametrize(
    "branch", ["-x", "a..b", "a/", "/a", "a.lock", "a.lock/b", "a b", "a/.b", "", "a@{1}", "x~1", "x\n"]
)
def test_a_branch_that_git_would_refuse_is_refused(branch):
    with pytest.raises(ValidationError, match="expected letters"):
        PublishConfig(branch=branch)


def test_the_command_publishes_and_prints_one_object(run, bare):
    runs_dir = run.root.parent
    done = call("publish", "one", "--git", file_url(bare), "--branch", "team/runs", "--runs-dir", runs_dir, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["run_id"], told["exit_code"], told["branch"], told["new"]) == ("one", 0, "team/runs", True)
    assert told["commit"] == git("-C", bare, "rev-parse", "team/runs").strip()
    assert (
        "nothing new"
        in call("publish", "one", "--git", file_url(bare), "--branch", "team/runs", "--runs-dir", runs_dir).stdout
    )


def test_the_command_says_what_is_wrong_by_its_exit_code(run, tmp_path):
    runs_dir = ("--runs-dir", run.root.parent)
    assert call("publish", "one", *runs_dir).returncode == ExitCode.USAGE
    assert (
        call("publish", "one", "--git", file_url(tmp_path / "no.git"), *runs_dir).returncode == ExitCode.MACHINE_UNFIT
    )
    refused = call("publish", "one", "--git", "https://user:hunter22@host/repo.git", *runs_dir)
    assert refused.returncode == ExitCode.BAD_CONFIG
    assert "SEQUENCE_GIT_TOKEN" in refused.stderr and "hunter22" not in refused.stderr


@pytest.mark.slow
def test_a_run_publishes_at_its_end_and_again_from_its_store_alone_while_a_refusal_harms_nothing(tmp_path, bare):
    """Through the whole command line: pre-flight's word, the run's exit code, its events, a fresh machine."""
    store, git_url = file_url(tmp_path / "store"), file_url(bare)
    begin = ("--dataset", "DEMO-USD_1H", "--until", "prepare", "--runs-dir", tmp_path / "runs", "--run-id", "one")
    asked = (*begin, "--offline", "--store", store, "--git", git_url, "--json", *settings("preflight.min_disk_bytes=1"))
    refusing = hook(bare, "pre-receive", "echo 'not today' >&2; exit 1")
    done = cli(*asked)
    assert done.returncode == 0, done.stderr
    checks = {event["name"]: event for event in read_events(tmp_path / "runs/one/events") if event["kind"] == "check"}
    assert checks["publishing"]["verdict"] == "ok" and checks["publish"]["verdict"] == "warn"
    assert "not today" in checks["publish"]["found"] and commits(bare) == []
    refusing.unlink()
    again = cli("publish", "one", "--store", store, "--json", cwd=tmp_path)
    assert (again.returncode, json.loads(again.stdout)["new"]) == (0, True), again.stderr
    assert {"one/run.json", "one/exit.json", "one/stages/prepare/result.json"} < set(names(bare))
    here = cli("publish", "one", "--runs-dir", tmp_path / "runs")
    assert "nothing new" in here.stdout, here.stdout + here.stderr
    quiet = cli(*asked, "--no-push", "--set", "seed=1", "--run-id", "two")
    assert quiet.returncode == 0, quiet.stderr
    checks = {event["name"]: event for event in read_events(tmp_path / "runs/two/events") if event["kind"] == "check"}
    assert checks["publishing"]["verdict"] == "skipped" and "publish" not in checks
    assert commits(bare) == ["one: no verdict"]
