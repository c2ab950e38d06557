"""DLSTM classifier: trend and remainder of the window, one LSTM each, their outputs added.

Source: Bilokon & Qiu 2023, arXiv:2309.11400; the decomposition is DLinear's (Zeng et al. 2022,
arXiv:2205.13504): a moving average whose edges repeat the window's first and last bar.
"""

import torch
from torch import Tensor, nn

from training.predictors.base import Architecture, Predictor, last_hidden, recurrent


class DLSTMPredictor(Predictor):
    """Decomposition LSTM; the head reads the sum of both final hidden states."""

    averaging: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, architecture.units)
        self.trend = recurrent(nn.LSTM, architecture)
        self.remainder = recurrent(nn.LSTM, architecture)
        averaging = moving_average_matrix(architecture.lookback_bars, architecture.trend_kernel)
        self.register_buffer("averaging", averaging, persistent=False)

    def encode(self, window_BLF: Tensor) -> Tensor:
        """(B, H)."""
        # One product over time; the transposes keep the time-major memory that the windows were gathered in.
        window_LBF = window_BLF.transpose(0, 1)
        trend_LBF = torch.tensordot(self.averaging, window_LBF, dims=1)
        trend = last_hidden(self.trend, trend_LBF.transpose(0, 1))
        return trend + last_hidden(self.remainder, (window_LBF - trend_LBF).transpose(0, 1))


def moving_average_matrix(length: int, kernel: int) -> Tensor:
    """(L, L) matrix A with `A @ x` = the moving average of x over `kernel` bars, x's ends repeated as padding."""
    before = (kernel - 1) // 2
    source = torch.arange(length)[:, None] + torch.arange(kernel) - before
    rows = torch.arange(length)[:, None].expand_as(source)
    counts = torch.zeros(length, length)
    counts.index_put_((rows, source.clamp(0, length - 1)), torch.ones(()), accumulate=True)
    return counts / kernel
