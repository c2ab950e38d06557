"""GRU classifier (Cho et al. 2014, arXiv:1406.1078)."""

from torch import Tensor, nn

from training.predictors.base import Architecture, Predictor, last_hidden, recurrent


class GRUPredictor(Predictor):
    """Stacked GRU; the head reads the final hidden state."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, architecture.units)
        self.cell = recurrent(nn.GRU, architecture)

    def encode(self, window_BLF: Tensor) -> Tensor:
        """(B, H)."""
        return last_hidden(self.cell, window_BLF)
