"""Bidirectional LSTM classifier: both directions run inside the closed window, so no later bar is read."""

from torch import Tensor, nn

from training.predictors.base import Architecture, Predictor, last_hidden, recurrent


class BiLSTMPredictor(Predictor):
    """Stacked bidirectional LSTM; the head reads the final state of both directions."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, 2 * architecture.units)
        self.cell = recurrent(nn.LSTM, architecture, bidirectional=True)

    def encode(self, window_BLF: Tensor) -> Tensor:
        """(B, 2 H)."""
        return last_hidden(self.cell, window_BLF)
