"""Plots of a classifier as PNG bytes; equal numbers give equal bytes.

Figures are built without pyplot, so no global state and no display is needed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANEL_INCHES = 3.6
DOTS_PER_INCH = 110
CLASS_COLORS = {"fall": "#b3402a", "stationary": "#6b7280", "rise": "#1f7a4d"}
TRAIN_COLOR, STOP_COLOR = "#6b7280", "#1f5fa8"


def confusion_plot(title: str, parts: Mapping[str, list[list[int]]]) -> bytes:
    """One confusion matrix per part: rows the truth, columns the calls, shading the share of the truth."""
    figure, axes = _panels(title, len(parts))
    names = list(CLASS_COLORS)
    for axis, (part, counts) in zip(axes, parts.items(), strict=True):
        confusion = np.asarray(counts)
        shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(confusion.shape):
            share = shares[row, column]
            text = f"{confusion[row, column]:,}\n{share:.0%}"
            axis.text(column, row, text, ha="center", va="center", color="white" if share > 0.5 else "black")
        axis.set(title=part.replace("_", " "), xlabel="called", ylabel="truth")
        axis.set_xticks(range(3), names)
        axis.set_yticks(range(3), names)
    return _png(figure)


def roc_plot(title: str, parts: Mapping[str, Mapping[str, dict | None]]) -> bytes:
    """One-against-rest ROC curves per part; a class without a curve (null) is left out."""
    figure, axes = _panels(title, len(parts))
    for axis, (part, curves) in zip(axes, parts.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="#c0c0c0", linewidth=1)
        for name, curve in curves.items():
            if curve is not None:
                axis.plot(curve["false_rate"], curve["true_rate"], color=CLASS_COLORS[name], label=name)
        axis.set(
            title=part.replace("_", " "), xlabel="false positive rate", ylabel="true positive rate", aspect="equal"
        )
        axis.legend(loc="lower right")
    return _png(figure)


def training_plot(title: str, histories: Mapping[str, list[dict]], best_epochs: Mapping[str, int]) -> bytes:
    """Loss per epoch of each model of a chain; the dot is the epoch that was kept."""
    figure, axes = _panels(title, len(histories))
    for axis, (name, history) in zip(axes, histories.items(), strict=True):
        epochs = [row["epoch"] for row in history]
        losses = [row["stop_loss"] for row in history]
        trained = [row for row in history if row["train_loss"] is not None]
        axis.plot(
            [row["epoch"] for row in trained],
            [row["train_loss"] for row in trained],
            color=TRAIN_COLOR,
            label="training",
        )
        axis.plot(epochs, losses, color=STOP_COLOR, label="early stopping")
        best = best_epochs[name]
        axis.plot([best], [losses[epochs.index(best)]], "o", color=STOP_COLOR)
        axis.set(title=name, xlabel="epoch", ylabel="weighted log-loss [nats]")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend()
    return _png(figure)


def _panels(title: str, count: int) -> tuple[Figure, list]:
    figure = Figure(figsize=(PANEL_INCHES * count, PANEL_INCHES), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without this entry matplotlib writes its own version into the file.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
