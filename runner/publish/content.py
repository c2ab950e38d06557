"""What of a run is published: which files, in which form, and the words beside them.

Report, plan, configuration, results, evaluation, trades and the weights one
would trade with. Not: checkpoints, TensorBoard, events, market data,
predictions, plots (the report has them), the folds' models (only the final ones
predict new bars) and agents on the way to a result: those of pre-training, of
past windows and of the ablation. Texts pass the filter of secrets; links are left out.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.files import sha256_file, write_json
from configs.run_dir import RunDir
from configs.secrets import redact
from runner.identity import shell_line
from runner.publish.exchange import Source
from runner.summary import family_rows, rows_of, run_object

TOP_FILES = ("run.json", "config.yaml", "plan.json", "exit.json", "report/index.html")
TEXT_SUFFIXES = frozenset({".json", ".csv", ".html", ".yaml", ".md"})
WEIGHT_SUFFIXES = frozenset({".safetensors", ".zip"})
FOLD_PREFIX = "fold-"
WITHOUT_WEIGHTS = frozenset({"pretrain", "walk_forward", "ablation"})
"""Stages whose agents nobody would trade with: 48 windows of large nets are gigabytes."""
NOT_PUBLISHED = frozenset({"checkpoints", "tensorboard", "unit.json"})
README = "README.md"
IN_MESSAGE = ("agents, mean", "buy & hold", "flat")
CONTENTS = (
    ("report/index.html", "the whole report, one file, works offline"),
    ("config.yaml, run.json", "every setting; data, code and machine the run was made with"),
    ("stages/evaluate/<family>/", "evaluation.json, every trade of every agent"),
    ("stages/evaluate/", "targets, trials, scores of the classifiers"),
    ("stages/{ppo,lstm_ppo,multi_asset}/seed-*/", "the policies; of ppo exports for Stable-Baselines3"),
    ("stages/classifiers/*/", "metrics and the final models"),
    ("*.pointer.json", "a file too large for this repository: its sha256 and where it is kept"),
)


@dataclass
class Content:
    """Everything one commit holds of a run."""

    directory: str
    """Directory on the branch: the run's id."""
    message: str
    files: dict[str, Source] = field(default_factory=dict)
    """Path below `directory` -> its bytes."""

    @property
    def pointers(self) -> list[str]:
        """Files that a pointer stands for, where Git LFS does not take them."""
        return [name for name, source in self.files.items() if source.stand_in]


def collect(run: RunDir, folder: Path, max_file_bytes: int) -> Content:
    """Put together what is published of a run, in copies below `folder`.

    Args:
        run: the run; a unit without a readable result is left out.
        folder: an empty place for copies.
        max_file_bytes: larger files get a pointer to stand in for them.

    Raises:
        ConfigError: the run has no readable configuration.
    """
    folder.mkdir()
    facts, summary = run.load_facts(), run_object(run, None) | {"report": None, "cost_usd": None}
    kept = {"run_id": run.run_id, "store": redact(run.load_config().store.url) or None}
    content = Content(run.run_id, redact(_message(run, facts, summary)))
    for number, path in enumerate(sorted(_published(run))):
        source = _copy(path, folder / f"{number:06d}", max_file_bytes)
        if source.path.stat().st_size > max_file_bytes:
            stand_in = folder / f"{number:06d}.pointer.json"
            write_json(stand_in, _pointer(path.relative_to(run.root), source.path) | kept)
            source = Source(source.path, stand_in)
        content.files[path.relative_to(run.root).as_posix()] = source
    readme = folder / README
    readme.write_text(redact(_readme(run, facts, summary)))
    content.files[README] = Source(readme)
    return content


def is_published(path: str) -> bool:
    """Whether a file of a run, by its path below the run directory, is one to publish."""
    parts = path.split("/")
    left_out = any(part.startswith((".", FOLD_PREFIX)) or part in NOT_PUBLISHED for part in parts)
    suffixes = TEXT_SUFFIXES if WITHOUT_WEIGHTS & set(parts[1:2]) else TEXT_SUFFIXES | WEIGHT_SUFFIXES
    wanted = parts[0] == "stages" and Path(path).suffix in suffixes
    return path in TOP_FILES or (wanted and not left_out)


def _published(run: RunDir) -> Iterator[Path]:
    root = run.root.resolve()
    units = [path.parent for path in run.stages.rglob("result.json")]
    done = [unit for unit in units if run.result(unit.relative_to(run.stages).as_posix())]
    candidates = [run.root / name for name in TOP_FILES] + [path for unit in done for path in unit.rglob("*")]
    for path in candidates:
        name = path.relative_to(run.root)
        if is_published(name.as_posix()) and path.is_file() and path.resolve() == root / name:
            yield path


def _copy(path: Path, copy: Path, max_file_bytes: int) -> Source:
    """The bytes as they will be published; a copy, so that nothing changes on the way."""
    if path.suffix in TEXT_SUFFIXES:
        copy.write_text(redact(path.read_text(errors="surrogateescape")), errors="surrogateescape", newline="")
    elif path.stat().st_size > max_file_bytes:
        return Source(path)
    else:
        shutil.copyfile(path, copy)
    return Source(copy)


def _pointer(name: Path, content: Path) -> dict[str, Any]:
    return {"path": name.as_posix(), "sha256": sha256_file(content), "size_bytes": content.stat().st_size}


def _message(run: RunDir, facts: dict[str, Any], summary: dict[str, Any]) -> str:
    rows = dict(rows_of(summary))
    figures = [f"{title:<14}{_figures(rows[title])}" for title in IN_MESSAGE if title in rows]
    prepared = run.result("prepare")
    bars = prepared.metrics.get("bars") if prepared else None
    about = [
        f"data     {run.load_config().dataset.name}{' (synthetic)' if summary['synthetic'] else ''}",
        *([f"bars     {bars:,}"] if isinstance(bars, int) else []),
        f"profile  {run.load_config().profile}",
        f"command  {shell_line(facts['command'])}",
    ]
    families = family_rows(summary) if len(summary["families"]) > 1 else []
    kinds = [f"{title:<18}{mean['verdict']}, {_figures(mean)}" for title, mean in families]
    headline = f"{run.run_id}: {summary['verdict'] or 'no verdict'}"
    blocks = [headline, "\n".join(kinds), "\n".join(figures), "\n".join(about)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _figures(metrics: dict[str, Any]) -> str:
    sharpe, total_return = metrics.get("sharpe"), metrics.get("total_return")
    parts = [
        f"Sharpe {sharpe:.2f}" if isinstance(sharpe, int | float) else "",
        f"return {total_return:+.1%}" if isinstance(total_return, int | float) else "",
    ]
    return ", ".join(part for part in parts if part) or "-"


def _readme(run: RunDir, facts: dict[str, Any], summary: dict[str, Any]) -> str:
    from rich.console import Console  # heavy

    from runner.console import render_final

    text = io.StringIO()
    Console(file=text, width=120, color_system=None, highlight=False).print(render_final(summary, ()), soft_wrap=True)
    table = [f"    {line}".rstrip() for line in text.getvalue().splitlines()]
    names = [f"- `{name}`: {what}" for name, what in CONTENTS]
    command = f"    {shell_line(facts['command'])}"
    return "\n".join([f"# {run.run_id}", "", *table, "", "Made by", "", command, "", *names, ""])
