"""Published data sets of small images, read by torchvision: CIFAR-10 and -100, SVHN, Fashion-MNIST."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from entropy_sim.errors import UserError
from nn_experiments.datasets.base import Bytes, Indices, Tensors, check_counts, normalised, stratified_subset

#: Names the folder of the data sets where no `root` does.
FOLDER_VARIABLE = "ENTROPIC_DATA"


@dataclass(frozen=True)
class Published:
    """A published data set with its own division into training and test images, shuffled once by `seed`.

    Each channel is normalised by mean and standard deviation of the training images that are used. Where the files lie
    is no part of the configuration: a run is the same wherever they do.
    """

    root: str | None = None
    """Folder of the data sets (default: the environment variable ENTROPIC_DATA, or else data/downloads)."""
    download: bool = False
    """Download it to that folder if it is not there."""
    samples: int | None = None
    """Training images, a fixed random subset with each class in proportion; None: all."""
    test_samples: int | None = None
    """Test images, likewise."""
    seed: int = 0
    """Seed of the subsets and of the fixed order."""

    title: ClassVar[str]
    classes: ClassVar[int] = 10
    #: What torchvision's reader looks for in the folder.
    inside: ClassVar[str]

    def __post_init__(self) -> None:
        check_counts(self.samples, self.test_samples, self.seed)

    @property
    def name(self) -> str:
        """One phrase for reports and figures."""
        return self.title if self.samples is None else f"{self.title} ({self.samples} training images)"

    @property
    def folder(self) -> Path:
        """Where the files are expected."""
        return Path(self.root or os.environ.get(FOLDER_VARIABLE) or Path("data", "downloads"))

    def jsonable(self) -> dict[str, Any]:
        """The configuration (see `run_files.to_jsonable`)."""
        kept = (f.name for f in fields(self) if f.name not in ("root", "download"))
        return {"type": type(self).__name__, **{name: getattr(self, name) for name in kept}}

    def load(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensors:
        """Raises UserError if it is not there, not whole or cannot be downloaded, or has fewer images than wanted."""
        splits = []
        for i, (train, wanted, option) in enumerate(
            [(True, self.samples, "data.samples"), (False, self.test_samples, "data.test_samples")]
        ):
            images, targets = self._read(train)
            kept = stratified_subset(targets, wanted, (self.seed, i), option)
            splits.append((_channels_first(images, kept), targets[kept]))
        return normalised(splits[0], splits[1], self.classes, device, dtype)

    def _read(self, train: bool) -> tuple[Bytes, Indices]:
        """All images of one split, (N, H, W[, channels]), and their class numbers (N,)."""
        try:
            found = self._open(train)
        except (OSError, RuntimeError, ValueError, AssertionError, HTTPException) as error:
            if self.download:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise UserError(
                    f"data.download: expected {self.title} in {self.folder}, found it cannot be fetched ({reason})"
                ) from error
            raise UserError(
                f"data.root: expected {self.title} ({self.inside}) in {self.folder}, found none or a damaged one; get "
                f"it with --data.download, or name its folder (--data.root, or the variable {FOLDER_VARIABLE})"
            ) from error
        labels = found.labels if hasattr(found, "labels") else found.targets
        return np.asarray(found.data), np.asarray(labels, dtype=np.int64)

    def _open(self, train: bool) -> Any:
        # torchvision's readers check MD5 sums before reading. CIFAR's official files are pickles, which are only
        # unpickled because they are, byte for byte, the published ones: that check stays on.
        import torchvision.datasets as readers  # half a second and more

        reader = getattr(readers, type(self).__name__)
        return reader(str(self.folder), train=train, download=self.download)


@dataclass(frozen=True)
class CIFAR10(Published):
    """CIFAR-10: 50 000 + 10 000 colour photographs of 32x32 pixels in 10 classes (Krizhevsky 2009)."""

    title = "CIFAR-10"
    inside = "cifar-10-batches-py/"


@dataclass(frozen=True)
class CIFAR100(Published):
    """CIFAR-100: 50 000 + 10 000 colour photographs of 32x32 pixels in 100 classes (Krizhevsky 2009)."""

    title = "CIFAR-100"
    classes = 100
    inside = "cifar-100-python/"


@dataclass(frozen=True)
class SVHN(Published):
    """Street View House Numbers: 73 257 + 26 032 colour digits of 32x32 pixels in 10 classes (Netzer et al. 2011)."""

    title = "SVHN"
    inside = "train_32x32.mat, test_32x32.mat"

    def _open(self, train: bool) -> Any:
        import torchvision.datasets as readers

        return readers.SVHN(str(self.folder), split="train" if train else "test", download=self.download)


@dataclass(frozen=True)
class FashionMNIST(Published):
    """Fashion-MNIST: 60 000 + 10 000 grey pictures of clothes, 28x28 pixels, in 10 classes (Xiao et al. 2017)."""

    title = "Fashion-MNIST"
    inside = "FashionMNIST/raw/"


def _channels_first(images: Bytes, kept: Indices) -> Bytes:
    """(n, channels, H, W) of the images (N, H, W), (N, H, W, channels) or (N, channels, H, W) to keep."""
    chosen = images[kept]
    if chosen.ndim == 3:
        return chosen[:, None]
    return chosen if chosen.shape[1] == 3 else chosen.transpose(0, 3, 1, 2)
