"""What every data set is: a configuration that loads fixed, shuffled train and test tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropy_sim.errors import require

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


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


def stratified_subset(targets: npt.ArrayLike, count: int | None, key: tuple[int, ...], option: str) -> Indices:
    """Shuffled indices (count,) with each class in proportion (largest remainders), fixed by `key`; None: all of them.

    Raises UserError naming `option` unless there is an image for every class, and no more than there are.
    """
    labels = np.asarray(targets)
    generator = np.random.default_rng(key)
    if count is None:
        return generator.permutation(len(labels))
    names, sizes = np.unique(labels, return_counts=True)
    require(len(names) <= count <= len(labels), option, f"a number in {len(names)}…{len(labels)}", count)
    shares = count * sizes / len(labels)
    wanted = np.floor(shares).astype(int)
    wanted[np.argsort(wanted - shares, kind="stable")[: count - wanted.sum()]] += 1
    members = [generator.permutation(np.flatnonzero(labels == name)) for name in names]
    return generator.permutation(np.concatenate([m[:n] for m, n in zip(members, wanted, strict=True)]))


def check_counts(samples: int | None, test_samples: int | None, seed: int) -> None:
    """Raises UserError unless the sizes of subsets, where given, and the seed can be used."""
    for name, value in (("samples", samples), ("test_samples", test_samples)):
        require(value is None or value >= 1, f"data.{name}", "a number >= 1", value)
    require(seed >= 0, "data.seed", "a number >= 0", seed)


def normalised(
    train: tuple[Bytes, npt.ArrayLike],
    test: tuple[Bytes, npt.ArrayLike],
    classes: int,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Tensors:
    """Bytes (N, channels, H, W) and class numbers (N,) of both splits as tensors on the device.

    Both are normalised by mean and standard deviation of each channel of the training images, (x − mean)/deviation. The
    bytes are moved first and become numbers there: on the device there is one copy.
    """
    images, held_out = (torch.from_numpy(np.ascontiguousarray(split[0])) for split in (train, test))
    channels = images.shape[1]
    value = torch.arange(256, dtype=torch.float64)
    # Exact, and without a copy of all images as numbers.
    share = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(channels)]).double()
    share /= share.sum(1, keepdim=True)
    mean = share @ value
    deviation = (share * (value - mean[:, None]).square()).sum(1).sqrt()
    deviation = torch.where(deviation > 0, deviation, 1.0)  # a channel of one value everywhere

    def prepared(pixels: Tensor) -> Tensor:
        shape = (1, channels, 1, 1)
        moved = pixels.to(device).to(dtype)
        moved -= mean.to(device, dtype).view(shape)
        moved /= deviation.to(device, dtype).view(shape)
        return moved

    labels = [torch.as_tensor(np.asarray(split[1]), dtype=torch.int64).to(device) for split in (train, test)]
    return Tensors(prepared(images), labels[0], prepared(held_out), labels[1], channels=channels, classes=classes)
