"""LSTM classifier (Hochreiter & Schmidhuber 1997)."""

from torch import Tensor, nn

from training.predictors.base import Architecture, Predictor, last_hidden, recurrent


class LSTMPredictor(Predictor):
    """Stacked LSTM; the head reads the final hidden state."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, architecture.units)
        self.cell = recurrent(nn.LSTM, architecture)

    def encode(self, window_BLF: Tensor) -> Tensor:
        """(B, H)."""
        return last_hidden(self.cell, window_BLF)
