"""Plots: PNG files with equal bytes for equal numbers."""

import io

import matplotlib.image
import numpy as np
import pytest

from training.plots import DOTS_PER_INCH, PANEL_INCHES, confusion_plot, roc_plot, training_plot

CONFUSION = [[30, 5, 1], [4, 20, 6], [0, 2, 12]]
CURVE = {"false_rate": [0.0, 0.2, 1.0], "true_rate": [0.0, 0.7, 1.0]}
HISTORY = [
    {"epoch": 0, "train_loss": None, "stop_loss": 1.10, "stop_accuracy": 0.3},
    {"epoch": 1, "train_loss": 1.09, "stop_loss": 1.05, "stop_accuracy": 0.4},
    {"epoch": 2, "train_loss": 1.01, "stop_loss": 1.07, "stop_accuracy": 0.4},
]
PLOTS = {
    "confusion": lambda factor=1: confusion_plot("lstm", {"validation": (np.array(CONFUSION) * factor).tolist()}),
    "roc": lambda factor=1: roc_plot(
        "lstm", {"validation": {"fall": {**CURVE, "true_rate": [0, 0.7 / factor, 1]}, "rise": CURVE}}
    ),
    "training": lambda factor=1: training_plot("lstm", {"final": HISTORY}, {"final": factor}),
}


def pixels(png):
    return matplotlib.image.imread(io.BytesIO(png))


@pytest.mark.parametrize("name", PLOTS)
def test_equal_numbers_give_equal_bytes_and_others_do_not(name):
    assert PLOTS[name]() == PLOTS[name]()
    assert PLOTS[name](2) != PLOTS[name]()


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_a_png_without_a_stamp_of_its_maker(name):
    png = PLOTS[name]()
    assert png.startswith(b"\x89PNG\r\n")
    assert b"tEXt" not in png


def test_there_is_one_panel_per_part():
    one = confusion_plot("lstm", {"validation": CONFUSION})
    two = confusion_plot("lstm", {"out_of_fold": CONFUSION, "validation": CONFUSION})
    assert pixels(one).shape[:2] == (PANEL_INCHES * DOTS_PER_INCH, PANEL_INCHES * DOTS_PER_INCH)
    assert pixels(two).shape[1] == 2 * pixels(one).shape[1]


def test_a_class_without_a_curve_is_left_out():
    with_one, without = {"fall": CURVE, "rise": CURVE}, {"fall": CURVE, "rise": None}
    assert roc_plot("lstm", {"test": with_one}) != roc_plot("lstm", {"test": without})


def test_a_part_without_a_class_can_be_drawn():
    assert confusion_plot("lstm", {"validation": [[3, 1, 0], [0, 0, 0], [1, 0, 2]]})
