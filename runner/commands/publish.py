"""`publish`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from configs.errors import ExitCode
from configs.load import lay_over
from configs.run_dir import RunDir
from runner.commands.options import json_option, runs_dir_option, store_option
from runner.locate import find_run


@click.command()
@click.argument("run")
@click.option("--git", metavar="URL", help="The repository.  [default: the run's publish.git_url]")
@click.option(
    "--branch", metavar="NAME", help="The branch, made if missing.  [default: the run's publish.branch, runs]"
)
@runs_dir_option
@store_option
@json_option
def publish(run: str, git: str | None, branch: str | None, runs_dir: Path, store: str, as_json: bool) -> ExitCode:
    """Publish a run to a git branch. One commit has report, metrics, configuration and small weights.

    \b
    URL is one of
      https://host/repo.git      with a token in SEQUENCE_GIT_TOKEN (its user in SEQUENCE_GIT_USER,
                                 if the host minds), or your own credential helper
      git@host:path, ssh://...   with your ssh agent or key
      file:///path/repo.git      offline; make it by `git init --bare /path/repo.git`

    Nothing is checked out and nothing is forced: what others pushed stays. Publishing the same content again makes
    no new commit. Files above publish.max_file_bytes go by Git LFS where the branch's .gitattributes tracks them
    and git-lfs is installed; else a pointer file says where they are kept.
    """
    if not store:
        return _publish(find_run(run, runs_dir).run, git, branch, as_json)
    from runner.publish.content import is_published
    from runner.remote import fetched

    with fetched(store, run, is_published) as remote:
        return _publish(remote.run, git, branch, as_json)


def _publish(run: RunDir, git: str | None, branch: str | None, as_json: bool) -> ExitCode:
    from runner.publish import publish_run

    given = {"publish.git_url": git, "publish.branch": branch}
    settings = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    config = lay_over(run.load_config(), os.environ, settings).publish
    if not config.git_url:
        raise click.UsageError("missing option '--git', for example --git file:///path/repo.git")
    done = publish_run(run, config)
    click.echo(json.dumps({"run_id": run.run_id, "exit_code": 0} | done.to_json()) if as_json else done.summary())
    return ExitCode.DONE
