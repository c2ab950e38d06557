"""Per-column standardisation, fitted on the rows a model may see, then frozen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from configs.errors import BadDataError

CONSTANT_STD = 1e-12
"""A column that deviates by no more than this share of its mean (of 1 where the mean is smaller) is constant."""
CLIP = 10.0


@dataclass(frozen=True)
class Scaler:
    """Mean and population standard deviation of each column; a constant column has std 0 and scales to 0."""

    mean: np.ndarray
    std: np.ndarray
    clip: float = CLIP

    @classmethod
    def fit(cls, x: np.ndarray, clip: float = CLIP) -> Scaler:
        """Fit on the rows of `x` (n, F).

        Raises:
            BadDataError: there is no row, or a value is not finite.
        """
        if x.shape[0] == 0 or not np.isfinite(x).all():
            raise BadDataError(
                f"a scaler needs rows of finite values, got {x.shape[0]} rows with "
                f"{np.count_nonzero(~np.isfinite(x))} values that are not; leave out the warm-up rows"
            )
        columns = np.ascontiguousarray(x.T, dtype=np.float64)  # the order of summation is the column's own
        mean, std = columns.mean(axis=1), columns.std(axis=1)
        std[std <= CONSTANT_STD * np.maximum(1.0, np.abs(mean))] = 0.0
        return cls(mean, std, clip)

    def transform(self, x: np.ndarray) -> np.ndarray:
        """(x - mean) / std clipped to +- `clip`, float32, C order; NaN stays NaN outside constant columns."""
        inverse = np.divide(1.0, self.std, out=np.zeros_like(self.std), where=self.std > 0)
        scaled = (x - self.mean) * inverse
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32, order="C")

    def to_json(self) -> dict:
        """Plain values; floats survive the round trip exactly."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "clip": self.clip}

    @classmethod
    def from_json(cls, value: dict) -> Scaler:
        """The scaler that `to_json` wrote."""
        return cls(np.array(value["mean"], dtype=np.float64), np.array(value["std"], dtype=np.float64), value["clip"])
