"""What every data set is: a configuration that loads fixed, shuffled train and test tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


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
