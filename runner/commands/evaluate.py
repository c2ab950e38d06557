"""`evaluate RUN --dataset OTHER`: a finished run's agents on data that they never saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from configs.errors import ExitCode
from runner.commands.inspect import find_and_say
from runner.commands.options import data_dir_option, json_option, runs_dir_option
from runner.data_dirs import searched
from runner.dataset_url import bring, is_url
from runner.process import ask
from runner.session import dataset_name

MODULE = "ppo.stages.evaluate_other"


@click.command()
@click.argument("run")
@click.option("--dataset", required=True, help="The other dataset: a name, a file, or a URL of one.")
@data_dir_option
@click.option("--asset-class", default="", help="crypto, fx or commodity, where the symbol is not in the table.")
@runs_dir_option
@json_option
def evaluate(
    run: str, dataset: str, data_dirs: tuple[Path, ...], asset_class: str, runs_dir: Path, as_json: bool
) -> ExitCode:
    """Score the agents of a finished run on another dataset."""
    from runner.summary import run_object

    found = find_and_say(run, runs_dir).run
    if is_url(dataset):
        dataset = str(bring(dataset, runs_dir))
    out = found.root / "other" / dataset_name(dataset)
    command = [sys.executable, "-m", MODULE, "--run-dir", str(found.root), "--dataset", dataset, "--out", str(out)]
    command += [part for path in searched(data_dirs, runs_dir) for part in ("--data-dir", str(path))]
    command += ["--asset-class", asset_class] if asset_class else []
    answer = ask(command, threads=found.load_config().compute.threads_per_unit)
    if as_json:
        click.echo(json.dumps({"run_id": found.run_id, "exit_code": 0} | answer))
        return ExitCode.DONE
    from runner.console import print_final

    summary = (
        run_object(found, 0) | answer | {"synthetic": answer["dataset"]["synthetic"], "report": None, "families": {}}
    )
    click.echo(f"agents of run {found.run_id} on {answer['dataset']['name']}, {_scope_text(answer)}")
    print_final(summary, ())
    return ExitCode.DONE


def _scope_text(answer: dict) -> str:
    scope, scored = answer["scope"], answer["test_range"]
    if scope["same_market"]:
        return f"{scored['bars']:,} bars later than all that the run learnt from"
    return f"{scored['bars']:,} bars, {scope['bars_in_fit_period']:,} of them no later than what the run learnt from"
