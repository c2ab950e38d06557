"""What a run came to: the one JSON object of `--json` and the final block of text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.run_dir import RunDir
from configs.verdicts import FAMILIES, baseline_name
from runner.budget import spent
from runner.container import commands_outside
from runner.forecast import predicted_and_actual
from runner.reuse import current_result

FAMILY_TITLES = {
    "ppo": "Base PPO",
    "lstm_ppo": "LSTM-PPO",
    "multi_asset": "Multi-asset PPO",
    "walk_forward": "Walk-forward PPO",
}
BASELINE_TITLES = {
    "flat": "flat",
    "buy_and_hold": "buy & hold",
    "moving_average": "moving averages",
    "follow_classifier": "follow classifier",
    "random": "random shifts",
}


def run_object(run: RunDir, exit_code: int | None, error: str = "") -> dict[str, Any]:
    """Run id, exit code, verdict, metrics of every agent and baseline, report path; empty where there is none yet."""
    result = current_result(run, "evaluate")
    metrics = result.metrics if result else {}
    exactness = run.load_facts() if run.run_json.exists() else {}
    return {
        "run_id": run.run_id,
        "run_dir": str(run.root.resolve()),
        "exit_code": exit_code,
        "verdict": metrics.get("verdict"),
        "families": metrics.get("families", {}),
        "agents": metrics.get("agents", []),
        "mean": metrics.get("mean", {}),
        "baselines": metrics.get("baselines", {}),
        "detectable_sharpe": metrics.get("detectable_sharpe"),
        "bars_per_year": metrics.get("bars_per_year"),
        "trials": metrics.get("trials"),
        "synthetic": _is_synthetic(run),
        "bit_exact": exactness.get("bit_exact"),
        "bit_exact_reasons": exactness.get("bit_exact_reasons", []),
        "time": predicted_and_actual(run),
        "cost_usd": spent(run.events).cost_usd,
        "report": str(run.report.resolve()) if run.report.exists() else None,
    } | ({"error": error} if error else {})


def family_title(name: str) -> str:
    """A family of agents as a reader knows it."""
    return FAMILY_TITLES.get(name, name)


def family_rows(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every kind of agents as (title, metrics of the mean of its seeds, and its verdict)."""
    families = summary.get("families") or {}
    known = [(family_title(name), families[name]) for name in FAMILIES if name in families]
    return [(title, family["mean"] | {"verdict": family["verdict"]}) for title, family in known]


def rows_of(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Agents, their mean and the baselines as (title, metrics), in the order they are shown."""
    agents = [(f"agent, seed {agent['seed']}", agent) for agent in summary["agents"]]
    mean = [("agents, mean", summary["mean"])] if summary["mean"] else []
    baselines = [
        (BASELINE_TITLES.get(name) or baseline_name(name), metrics) for name, metrics in summary["baselines"].items()
    ]
    return agents + mean + baselines


def next_steps(summary: dict[str, Any], runs_dir: Path) -> list[str]:
    """Commands a reader may want next."""
    if (outside := commands_outside(summary["run_id"], runs_dir)) is not None:
        return outside
    where = "" if runs_dir == Path("runs") else f" --runs-dir {runs_dir}"
    run_id = summary["run_id"]
    return [f"sequence-runner status {run_id}{where}", f"sequence-runner logs {run_id}{where}"]


def _is_synthetic(run: RunDir) -> bool:
    return run.config_yaml.exists() and run.load_config().dataset.synthetic
