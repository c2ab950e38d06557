"""What was found in a dataset: the object `data check` prints and a run keeps beside its bars."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np

from training.market import Bars, segment_bounds
from training.sources.stamps import day_name

LISTED_GAPS = 5
LISTED_OUTLIERS = 10
OUTLIER_SIGMAS = 10.0
MAD_TO_SIGMA = 1.4826
"""Median absolute deviation of a normal variable to its standard deviation."""


@dataclass
class DataReport:
    """Facts about one dataset; plain JSON values only."""

    name: str
    path: str
    """The file read, '' for generated bars."""
    asset_class: str
    timeframe_s: int
    source_format: str = ""
    timezone: str = ""
    digest: str = ""
    rows: int = 0
    first_t: int = 0
    last_t: int = 0
    file_rows: int = 0
    """Data rows of the file, before anything was dropped, built or cut."""
    order: str = "oldest first"
    out_of_order: int = 0
    """Rows that stood against the file's order and were sorted."""
    duplicates: int = 0
    """Exact duplicates left out."""
    zero_volume: int = 0
    segments: list[dict] = field(default_factory=list)
    gaps: dict = field(default_factory=dict)
    outlier_moves: list[dict] = field(default_factory=list)
    outlier_count: int = 0
    dropped: list[dict] = field(default_factory=list)
    """Faulty rows that `--repair drop` left out."""
    notes: list[str] = field(default_factory=list)
    synthetic: bool = False

    def as_json(self) -> dict:
        """The report as plain values."""
        return asdict(self)


def facts_of(bars: Bars, report: DataReport) -> None:
    """Fill in what the bars themselves tell."""
    report.digest = bars.digest()
    report.rows, report.first_t, report.last_t = len(bars), int(bars.t[0]), int(bars.t[-1])
    report.zero_volume = int((bars.volume == 0).sum())
    report.segments = [
        {"first_t": int(bars.t[start]), "last_t": int(bars.t[stop - 1]), "rows": stop - start}
        for start, stop in segment_bounds(bars.segment)
    ]
    report.gaps = _gaps(bars)
    report.outlier_moves, report.outlier_count = _outliers(bars)


def _gaps(bars: Bars) -> dict:
    """Steps longer than one bar: how many, how long, the first and the longest few."""
    missing = np.diff(bars.t) // bars.timeframe_s - 1
    after = np.flatnonzero(missing > 0)
    longest = after[np.argsort(-missing[after], kind="stable")][:LISTED_GAPS]

    def described(places: np.ndarray) -> list[dict]:
        return [{"t": int(bars.t[place + 1]), "missing_bars": int(missing[place])} for place in places]

    return {
        "count": len(after),
        "missing_bars": int(missing.sum()),
        "longest_bars": int(missing.max(initial=0)),
        "first": described(after[:LISTED_GAPS]),
        "longest": described(longest),
    }


def _outliers(bars: Bars) -> tuple[list[dict], int]:
    """Moves between neighbouring bars of more than ten robust sigmas: the largest few, and how many."""
    moves = np.diff(np.log(bars.close))
    adjacent = np.diff(bars.t) == bars.timeframe_s
    sample = moves[adjacent & (moves != 0)]  # unchanged prices of a thin market would make sigma zero
    if not len(sample):
        return [], 0
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(sample - np.median(sample))))
    large = np.flatnonzero(adjacent & (np.abs(moves) > OUTLIER_SIGMAS * sigma)) if sigma > 0 else np.empty(0, int)
    largest = large[np.argsort(-np.abs(moves[large]), kind="stable")][:LISTED_OUTLIERS]
    listed = [
        {
            "t": int(bars.t[place + 1]),
            "move_frac": float(np.expm1(moves[place])),
            "sigmas": float(abs(moves[place]) / sigma),
        }
        for place in largest.tolist()
    ]
    return listed, len(large)


def as_text(report: DataReport) -> str:
    """The report for a person, plain text."""
    gaps = report.gaps
    lines = [
        f"{report.name}: {report.rows:,} bars of {report.timeframe_s:,} s, {report.asset_class}"
        + (", SYNTHETIC" if report.synthetic else ""),
        f"  file         {report.path or '(generated)'}",
        f"  format       {report.source_format}",
        f"  time zone    {report.timezone}",
        f"  range        {day_name(report.first_t)} .. {day_name(report.last_t)} (open of first and last bar)",
        f"  digest       {report.digest}",
        f"  segments     {len(report.segments)}, longest {max(s['rows'] for s in report.segments):,} bars",
        f"  gaps         {gaps['count']:,} with {gaps['missing_bars']:,} missing bars, longest {gaps['longest_bars']:,}"
        + _listed([f"{gap['missing_bars']:,} before {day_name(gap['t'])}" for gap in gaps["longest"]]),
        f"  order        {report.order}, {report.out_of_order:,} out of order, {report.duplicates:,} exact duplicates",
        f"  zero volume  {report.zero_volume:,} bars",
        f"  outliers     {report.outlier_count:,} moves above {OUTLIER_SIGMAS:g} robust sigmas"
        + _listed(
            [f"{move['move_frac']:+.1%} at {day_name(move['t'])}" for move in report.outlier_moves[:LISTED_GAPS]]
        ),
        f"  dropped      {len(report.dropped):,} faulty rows",
        *(f"    row {dropped['row']}: {dropped['reason']}" for dropped in report.dropped),
        *(f"  note         {note}" for note in report.notes),
    ]
    return "\n".join(lines)


def _listed(items: list[str]) -> str:
    return f": {', '.join(items)}" if items else ""
