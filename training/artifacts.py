"""A fitted classifier on disk: safetensors weights, and JSON for all else; nothing is unpickled."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from configs.errors import BadDataError
from configs.files import read_json, write_atomic, write_json
from training.predictors import PREDICTORS, Architecture, Predictor
from training.scaling import Scaler


@dataclass(frozen=True)
class FittedModel:
    """One model of a forward chain, with everything it was fitted with."""

    model: Predictor
    scaler: Scaler
    metadata: dict
    """JSON values: name, fold, predict_start, predict_stop, fitted_until, delta, class_weights, ..."""
    history: list[dict] = field(default_factory=list)
    """How it was fitted, one row per epoch; not stored with the model."""

    @property
    def name(self) -> str:
        """`fold-<n>` or `final`."""
        return self.metadata["name"]

    def predicted_rows(self, ready: np.ndarray) -> np.ndarray:
        """The rows that this model predicts: those of its range that end a window."""
        start, stop = self.metadata["predict_start"], self.metadata["predict_stop"]
        return start + np.flatnonzero(ready[start:stop])

    def weights(self) -> dict[str, Tensor]:
        """The net's weights on the CPU."""
        return {key: value.detach().cpu().contiguous() for key, value in self.model.state_dict().items()}

    def to_json(self) -> dict:
        """All but the weights and the history."""
        return self.metadata | {"architecture": self.model.architecture.to_json(), "scaler": self.scaler.to_json()}

    @classmethod
    def from_json(cls, value: dict, weights: dict[str, Tensor], history: list[dict] | None = None) -> FittedModel:
        """Build it again from `to_json()` and `weights()`; the model is on the CPU."""
        metadata = dict(value)
        architecture = Architecture(**metadata.pop("architecture"))
        scaler = Scaler.from_json(metadata.pop("scaler"))
        model = PREDICTORS[architecture.member](architecture)
        model.load_state_dict(weights)
        return cls(model, scaler, metadata, history or [])


def save_model(fitted: FittedModel, directory: Path) -> None:
    """Write `weights.safetensors` and `model.json` under `directory`."""
    write_atomic(directory / "weights.safetensors", save(fitted.weights()))
    write_json(directory / "model.json", fitted.to_json())


def load_model(directory: Path) -> FittedModel:
    """Read what `save_model` wrote; the model is on the CPU.

    Raises:
        BadDataError: a file is missing, damaged or does not fit the others.
    """
    try:
        weights = load((directory / "weights.safetensors").read_bytes())
        return FittedModel.from_json(read_json(directory / "model.json"), weights)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BadDataError(f"{directory} does not hold a whole classifier: {error}; run its unit again") from error
