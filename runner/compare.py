"""Two runs side by side: what differs in configuration and data, and their figures."""

from __future__ import annotations

from typing import Any

from configs.load import differing_keys
from configs.run_dir import RunDir
from runner.summary import family_rows, rows_of, run_object

FIGURES = ("sharpe", "total_return", "max_drawdown", "trades")


def comparison(one: RunDir, other: RunDir) -> dict[str, Any]:
    """`runs`, `differences` (of configuration, data, code, dependencies), `verdicts` and `figures`.

    `figures` has a row per agent, baseline and kind of agents: {"name", "<figure>": [of one, of the other]}.
    """
    identities = [run.load_facts() for run in (one, other)]
    configs = [run.load_config().model_dump(mode="json") for run in (one, other)]
    differences = differing_keys(*configs)
    for key, title in (("dataset_digest", "data"), ("code_digest", "code"), ("lock_digest", "dependencies")):
        left, right = (identity[key][:12] for identity in identities)
        if left != right:
            differences.append(f"digest of the {title}: {left} -> {right}")
    summaries = [run_object(run, 0) for run in (one, other)]
    tables = [dict(rows_of(summary) + family_rows(summary)) for summary in summaries]
    names = list(dict.fromkeys([*tables[0], *tables[1]]))
    return {
        "runs": [one.run_id, other.run_id],
        "differences": differences,
        "verdicts": [summary["verdict"] for summary in summaries],
        "figures": [
            {"name": name} | {figure: [table.get(name, {}).get(figure) for table in tables] for figure in FIGURES}
            for name in names
        ],
    }
