"""Data sets: configurations that load fixed, shuffled train and test tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from entropy_sim.errors import UserError, require


@dataclass(frozen=True)
class Tensors:
    """Loaded data. inputs: (N, channels, height, width); targets: (N,) class numbers (int64)."""

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    channels: int
    classes: int


class DataSet(Protocol):
    """What an experiment needs of its data: a phrase for reports, and the tensors in one fixed shuffled order.

    The order matters under batch-statistics BatchNorm, where the images of a group share their statistics: it must not
    be sorted by class.
    """

    @property
    def name(self) -> str: ...

    def load(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensors: ...


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
        """Raises UserError if scikit-learn is not installed."""
        images, targets = _digits()
        train, test = stratified_split(targets, self.test_fraction, self.seed)
        mean, deviation = images[train].mean(), images[train].std()
        inputs = torch.from_numpy((images - mean) / deviation).unsqueeze(1).to(device, dtype)
        labels = torch.from_numpy(targets).to(device)
        return Tensors(inputs[train], labels[train], inputs[test], labels[test], channels=1, classes=10)


def stratified_split(targets: np.ndarray, test_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled indices (train, test) holding `test_fraction` of each class, rounded, in the test part."""
    generator = np.random.default_rng(seed)
    train, test = [], []
    for label in np.unique(targets):
        members = generator.permutation(np.flatnonzero(targets == label))
        held_out = round(test_fraction * len(members))
        test.append(members[:held_out])
        train.append(members[held_out:])
    return generator.permutation(np.concatenate(train)), generator.permutation(np.concatenate(test))


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError('digits: expected scikit-learn, found none; run: pip install -e ".[nn]"') from error
    digits = load_digits()
    return digits.images.astype(np.float64), digits.target.astype(np.int64)
