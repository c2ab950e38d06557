"""The recurrent classifiers behind one interface: windows (B, L, F) in, logits (B, 3) out."""

from __future__ import annotations

from collections.abc import Callable

import torch

from training.predictors.base import Architecture, Predictor
from training.predictors.bilstm import BiLSTMPredictor
from training.predictors.dlstm import DLSTMPredictor
from training.predictors.gru import GRUPredictor
from training.predictors.lstm import LSTMPredictor

PREDICTORS: dict[str, Callable[[Architecture], Predictor]] = {
    "lstm": LSTMPredictor,
    "gru": GRUPredictor,
    "bilstm": BiLSTMPredictor,
    "dlstm": DLSTMPredictor,
}

__all__ = ["PREDICTORS", "Architecture", "Predictor", "build_predictor"]


def build_predictor(architecture: Architecture, seed: int) -> Predictor:
    """A fresh net on the CPU; its weights depend on `seed` alone, the caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PREDICTORS[architecture.member](architecture)
