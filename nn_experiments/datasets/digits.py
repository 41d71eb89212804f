"""scikit-learn's handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from entropy_sim.errors import UserError, require
from nn_experiments.datasets.base import Tensors, stratified_split


@dataclass(frozen=True)
class Digits:
    """scikit-learn's handwritten digits: 1797 images of 8x8 grey values in 10 classes (UCI, Alpaydin & Kaynak 1998).

    A stratified split into about 1 − test_fraction and test_fraction, shuffled once by `seed`; grey values are
    standardised by the mean and standard deviation of all training pixels.
    """

    test_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 < self.test_fraction < 1, "data.test_fraction", "a number in 0…1", self.test_fraction)
        require(self.seed >= 0, "data.seed", "a number >= 0", self.seed)

    @property
    def name(self) -> str:
        """One phrase for reports and figures."""
        return "scikit-learn digits"

    def load(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensors:
        """Raises UserError if scikit-learn is not installed, or if a split would be empty."""
        images, targets = _digits()
        train, test = stratified_split(targets, self.test_fraction, self.seed)
        require(len(train) > 0 < len(test), "data.test_fraction", "images in both splits", self.test_fraction)
        mean, deviation = images[train].mean(), images[train].std()
        inputs = torch.from_numpy((images - mean) / deviation).unsqueeze(1).to(device, dtype)
        labels = torch.from_numpy(targets).to(device)
        return Tensors(inputs[train], labels[train], inputs[test], labels[test], channels=1, classes=10)


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError('digits: expected scikit-learn, found none; run: pip install -e ".[nn]"') from error
    digits = load_digits()
    return digits.images.astype(np.float64), digits.target.astype(np.int64)
