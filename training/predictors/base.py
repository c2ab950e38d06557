"""What every classifier shares: its shape, the dropout and the linear head.

Shapes: B = windows, L = bars of a window, F = features, H = units, C = 3 classes (fall, stationary, rise).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from configs.schema import ClassifiersConfig

CLASSES = 3


@dataclass(frozen=True)
class Architecture:
    """All that is needed to rebuild a net before its weights are loaded."""

    member: str
    features: int
    lookback_bars: int
    layers: int
    units: int
    dropout: float
    trend_kernel: int

    @classmethod
    def of(cls, member: str, features: int, config: ClassifiersConfig) -> Architecture:
        """The configured net of `member` over `features` columns."""
        return cls(
            member=member,
            features=features,
            lookback_bars=config.lookback_bars,
            layers=config.layers,
            units=config.units,
            dropout=config.dropout,
            trend_kernel=config.trend_kernel,
        )

    def to_json(self) -> dict:
        """Plain values; `Architecture(**value)` reads them back."""
        return asdict(self)


class Predictor(nn.Module):
    """A window encoder under a linear head; a subclass builds `encode`."""

    def __init__(self, architecture: Architecture, width: int) -> None:
        """Build the head over an encoding of `width` numbers."""
        super().__init__()
        self.architecture = architecture
        self.dropout = nn.Dropout(architecture.dropout)
        self.head = nn.Linear(width, CLASSES)

    def encode(self, window_BLF: Tensor) -> Tensor:
        """(B, width): what the head reads of a closed window."""
        raise NotImplementedError

    def forward(self, window_BLF: Tensor) -> Tensor:
        """(B, C) logits."""
        return self.head(self.dropout(self.encode(window_BLF)))


def recurrent(
    kind: type[nn.LSTM] | type[nn.GRU], architecture: Architecture, *, bidirectional: bool = False
) -> nn.RNNBase:
    """The stacked cell of `architecture`; dropout acts between layers only, as torch defines it."""
    return kind(
        architecture.features,
        architecture.units,
        num_layers=architecture.layers,
        dropout=architecture.dropout if architecture.layers > 1 else 0.0,
        batch_first=True,
        bidirectional=bidirectional,
    )


def last_hidden(cell: nn.RNNBase, window_BLF: Tensor) -> Tensor:
    """(B, H x directions): the last layer's final state; each direction has then read the whole window."""
    _, state = cell(window_BLF)
    hidden = state[0] if isinstance(state, tuple) else state
    return torch.cat(list(hidden[-2:]), dim=-1) if cell.bidirectional else hidden[-1]
