"""How good three-class calls are, and whether they beat rules that need no skill.

Pure numpy. Classes are -1 Fall, 0 Stationary, 1 Rise; probabilities are (n, 3) in that order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

CLASS_NAMES = ("fall", "stationary", "rise")
CLASSES = np.array([-1, 0, 1], dtype=np.int8)
CALIBRATION_BINS = 15
THRESHOLD_STEPS = 100
"""A no-skill rule's thresholds are chosen among this many quantiles of its signal."""
BLOCK_HORIZONS = 2
"""Mean bootstrap block, in label horizons: labels closer than one horizon overlap."""
CONFIDENCE = 0.95
"""Of the lower bound of a skill."""
CHUNK_VALUES = 4_000_000
"""Bootstrap indices held in memory at once."""


def most_likely(probability: np.ndarray) -> np.ndarray:
    """(n,) int8 class with the largest probability; the lower class on a tie."""
    return CLASSES[np.argmax(probability, axis=1)]


def confusion_matrix(truth: np.ndarray, calls: np.ndarray) -> np.ndarray:
    """(3, 3) int64 counts, rows the truth, columns the calls."""
    cells = (truth.astype(np.int64) + 1) * 3 + calls + 1
    return np.bincount(cells, minlength=9).reshape(3, 3)


def accuracy(confusion: np.ndarray) -> float:
    """Share of right calls."""
    return float(np.trace(confusion) / confusion.sum())


def precision_recall_f1(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class; 0 where nothing was called or nothing was there."""
    right = np.diag(confusion).astype(np.float64)
    called, there = confusion.sum(axis=0), confusion.sum(axis=1)
    return _share(right, called), _share(right, there), _share(2 * right, called + there)


def matthews_correlation(confusion: np.ndarray) -> float:
    """Multi-class MCC (Gorodkin 2004, R_K); 0 where one side has a single class."""
    counts = confusion.astype(np.float64)
    total, right = counts.sum(), np.trace(counts)
    called, there = counts.sum(axis=0), counts.sum(axis=1)
    spread = (total**2 - called @ called) * (total**2 - there @ there)
    return float((right * total - called @ there) / np.sqrt(spread)) if spread > 0 else 0.0


def log_loss(truth: np.ndarray, probability: np.ndarray) -> float:
    """Mean -log P(truth) in nats; probabilities of 0 count as the smallest normal step, 2.2e-16."""
    own = probability[np.arange(truth.size), truth.astype(np.int64) + 1].astype(np.float64)
    return float(-np.log(np.maximum(own, np.finfo(np.float64).eps)).mean())


def calibration_error(truth: np.ndarray, probability: np.ndarray) -> float:
    """Expected calibration error of the called class over equal-width bins (Guo et al. 2017, arXiv:1706.04599)."""
    confidence = probability.max(axis=1).astype(np.float64)
    right = most_likely(probability) == truth
    cell = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(cell, weights=right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / truth.size)


def roc(truth: np.ndarray, score: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates of "class is `label`" as the threshold on `score` falls, from (0, 0) to (1, 1).

    One point per distinct score. Rates of a class that never or always occurs are NaN.
    """
    order = np.argsort(-score, kind="stable")
    positive = (truth == label)[order]
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits = np.concatenate([[0], np.cumsum(positive)[last]]).astype(np.float64)
    alarms = np.concatenate([[0], last + 1]) - hits
    missing = np.full(hits.size, np.nan)
    return (alarms / alarms[-1] if alarms[-1] else missing, hits / hits[-1] if hits[-1] else missing)


def area_under(false_rate: np.ndarray, true_rate: np.ndarray) -> float:
    """Area under a ROC curve by trapezes."""
    return float(np.trapezoid(true_rate, false_rate))


def classification_report(truth: np.ndarray, probability: np.ndarray) -> dict:
    """All classification metrics as JSON values; the AUC of a class that never occurs is null."""
    confusion = confusion_matrix(truth, most_likely(probability))
    precision, recall, f1 = precision_recall_f1(confusion)
    areas = [area_under(*roc(truth, probability[:, column], label)) for column, label in enumerate((-1, 0, 1))]
    return {
        "bars": int(truth.size),
        "accuracy": accuracy(confusion),
        "macro_f1": float(f1.mean()),
        "mcc": matthews_correlation(confusion),
        "log_loss": log_loss(truth, probability),
        "calibration_error": calibration_error(truth, probability),
        "classes": {
            name: {
                "precision": float(precision[row]),
                "recall": float(recall[row]),
                "f1": float(f1[row]),
                "auc": None if np.isnan(areas[row]) else areas[row],
                "bars": int(confusion[row].sum()),
            }
            for row, name in enumerate(CLASS_NAMES)
        },
        "confusion": confusion.tolist(),
    }


@dataclass(frozen=True)
class ThresholdRule:
    """Calls one class below, one between and one above two thresholds on a signal."""

    low: float
    high: float
    below: int
    between: int
    above: int
    unknown: int
    """The class called where the signal is NaN: the training majority."""

    @classmethod
    def fit(cls, signal: np.ndarray, truth: np.ndarray) -> ThresholdRule:
        """The rule with most right calls on these rows, thresholds among the signal's quantiles."""
        majority = int(CLASSES[np.argmax(np.bincount(truth.astype(np.int64) + 1, minlength=3))])
        known = ~np.isnan(signal)
        if not known.any():
            return cls(np.inf, np.inf, majority, majority, majority, majority)
        edges = np.unique(np.quantile(signal[known], np.linspace(0, 1, THRESHOLD_STEPS + 1)))
        cell = np.searchsorted(edges, signal[known], side="right")
        hits = np.array([np.bincount(cell[truth[known] == label], minlength=edges.size + 1) for label in CLASSES])
        below = hits.cumsum(axis=1)[:, :-1]
        total = hits.sum(axis=1)
        between = below[:, None, :] - below[:, :, None]
        above = total[:, None] - below
        score = below.max(axis=0)[:, None] + between.max(axis=0) + above.max(axis=0)[None, :]
        low, high = np.unravel_index(np.argmax(np.triu(score)), score.shape)
        counts = np.array([below[:, low], between[:, low, high], above[:, high]])
        under, middle, over = CLASSES[counts.argmax(axis=1)].tolist()
        return cls(float(edges[low]), float(edges[high]), under, middle, over, majority)

    def calls(self, signal: np.ndarray) -> np.ndarray:
        """(n,) int8."""
        called = np.where(signal < self.low, self.below, np.where(signal < self.high, self.between, self.above))
        return np.where(np.isnan(signal), self.unknown, called).astype(np.int8)


def no_skill_calls(
    truth: np.ndarray, signals: Mapping[str, np.ndarray], fitted: np.ndarray, scored: np.ndarray
) -> dict[str, np.ndarray]:
    """Calls on the rows `scored` of the rules that need no skill, fitted on the rows `fitted`.

    Args:
        truth: (N,) classes.
        signals: (N,) arrays by name; market-rules has `known_part` (training.labels) and `volatility`.
        fitted: the training rows of the model that is compared.
        scored: the rows it is scored on.

    Returns:
        `majority` and one entry per signal, each (len(scored),) int8.
    """
    everywhere = {"majority": np.zeros(truth.size), **signals}
    return {
        name: ThresholdRule.fit(signal[fitted], truth[fitted]).calls(signal[scored])
        for name, signal in everywhere.items()
    }


@dataclass(frozen=True)
class Skill:
    """Calls against the best no-skill rule on the same bars."""

    bars: int
    accuracy: float
    best_rule: str
    best_rule_accuracy: float
    difference: float
    lower: float
    """One-sided bootstrap bound of the difference, with `CONFIDENCE`."""
    skilled: bool
    """`lower` is above 0."""


def skill(
    right: np.ndarray,
    rules_right: Mapping[str, np.ndarray],
    horizon: int,
    rng: np.random.Generator,
    *,
    samples: int = 2_000,
) -> Skill:
    """Whether right calls exceed those of the best rule: paired difference, stationary bootstrap, block 2k.

    Args:
        right: (n,) bool in time order, the call was right.
        rules_right: the same of each no-skill rule; the one with most right calls here is the rival.
        horizon: k of the labels, in bars.
        rng: source of the resampling.
        samples: bootstrap samples.
    """
    best = max(rules_right, key=lambda name: rules_right[name].sum())
    difference = right.astype(np.float64) - rules_right[best]
    means = bootstrap_means(difference, BLOCK_HORIZONS * horizon, samples, rng)
    lower = float(np.quantile(means, 1 - CONFIDENCE))
    return Skill(
        bars=int(right.size),
        accuracy=float(right.mean()),
        best_rule=best,
        best_rule_accuracy=float(rules_right[best].mean()),
        difference=float(difference.mean()),
        lower=lower,
        skilled=lower > 0,
    )


@dataclass(frozen=True)
class Scoring:
    """Bars that are scored, and how the one model that predicted them sees the world."""

    truth: np.ndarray
    """(N,) classes of all bars, by the model's own threshold."""
    fitted: np.ndarray
    """The model's own training rows."""
    scored: np.ndarray
    """Rows in time order."""

    def moved(self) -> Scoring:
        """The same without Stationary bars."""
        fitted, scored = (rows[self.truth[rows] != 0] for rows in (self.fitted, self.scored))
        return Scoring(self.truth, fitted, scored)


def skill_report(
    scorings: Sequence[Scoring],
    probability: np.ndarray,
    signals: Mapping[str, np.ndarray],
    horizon: int,
    rng: np.random.Generator,
) -> dict:
    """Skill over all classes, and directional skill on Rise and Fall bars alone, as JSON values.

    Args:
        scorings: one per model, in time order; its rivals are fitted on its own training rows.
        probability: (N, 3); only scored rows are read.
        signals: see `no_skill_calls`.
        horizon: k.
        rng: source of the resampling.

    Returns:
        "no_skill" (accuracy of each rule), "skill" and "directional"; "directional" is null without such bars.
    """
    calls = most_likely(probability)
    rising = np.where(probability[:, 2] >= probability[:, 0], 1, -1)
    rules = _rules_right(scorings, signals)
    moved = [part for part in (scoring.moved() for scoring in scorings) if part.fitted.size and part.scored.size]
    directional = None
    if moved:
        directional = asdict(skill(_right(moved, rising), _rules_right(moved, signals), horizon, rng))
    return {
        "no_skill": {name: float(rule.mean()) for name, rule in rules.items()},
        "skill": asdict(skill(_right(scorings, calls), rules, horizon, rng)),
        "directional": directional,
    }


def stationary_bootstrap_indices(n: int, mean_block: float, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(samples, n) int64 resampled positions: blocks of geometric length, joined in a circle.

    Source: Politis & Romano 1994, "The stationary bootstrap".
    """
    restart = rng.random((samples, n)) < 1 / mean_block
    restart[:, 0] = True
    starts = rng.integers(n, size=(samples, n))
    position = np.arange(n)
    began = np.maximum.accumulate(np.where(restart, position, 0), axis=1)
    return (np.take_along_axis(starts, began, axis=1) + position - began) % n


def bootstrap_means(x: np.ndarray, mean_block: float, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(samples,) means of stationary-bootstrap samples of `x`."""
    chunk = max(1, CHUNK_VALUES // x.size)
    return np.concatenate(
        [
            x[stationary_bootstrap_indices(x.size, mean_block, min(chunk, samples - done), rng)].mean(axis=1)
            for done in range(0, samples, chunk)
        ]
    )


def _right(scorings: Sequence[Scoring], calls: np.ndarray) -> np.ndarray:
    return np.concatenate([calls[part.scored] == part.truth[part.scored] for part in scorings])


def _rules_right(scorings: Sequence[Scoring], signals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    called = [no_skill_calls(part.truth, signals, part.fitted, part.scored) for part in scorings]
    return {
        name: np.concatenate(
            [calls[name] == part.truth[part.scored] for calls, part in zip(called, scorings, strict=True)]
        )
        for name in called[0]
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
