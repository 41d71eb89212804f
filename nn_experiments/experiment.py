"""An experiment: data, network, loss and group size, which together fix the one objective that is trained, joined by a
path and measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim.errors import require
from nn_experiments.datasets import CIFAR10, CIFAR100, SVHN, Digits, FashionMNIST, ImageFolder, Tensors
from nn_experiments.networks.mlp import MLP
from nn_experiments.networks.resnet import ResNet
from nn_experiments.networks.torchvision_model import Torchvision
from nn_experiments.networks.vgg import VGG
from nn_experiments.networks.vision_transformer import VisionTransformer
from nn_experiments.networks.wide_resnet import WideResNet
from nn_experiments.objective import Evaluation, Loss, NormalizationMode, Objective, batch_norms, generator

Split = Literal["train", "test"]


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """(1/2N) Σ_i Σ_c (f_ic − y_ic)², targets (N,) class numbers (taken one-hot) or (N, classes) values.

    With this convention the Gauss–Newton Hessian is (1/N) Σ JᵀJ and label noise σ gives C = (σ²/B) H_GN.
    """
    if not targets.is_floating_point():
        targets = F.one_hot(targets, outputs.shape[-1]).to(outputs.dtype)
    return 0.5 * (outputs - targets).square().sum(dim=-1).mean()


LOSSES: Mapping[str, Loss] = {"cross_entropy": F.cross_entropy, "squared": squared}


class Network(Protocol):
    """What an experiment needs of an architecture."""

    @property
    def name(self) -> str: ...

    def build(
        self, channels: int, classes: int, generator: torch.Generator | None = None, size: tuple[int, ...] = ()
    ) -> nn.Module: ...

    def scale_invariant(self, module: nn.Module) -> list[str]: ...


#: What the command line offers; in Python any object with the methods of `DataSet` and `Network` will do.
AnyData = Digits | CIFAR10 | CIFAR100 | SVHN | FashionMNIST | ImageFolder
AnyNetwork = ResNet | WideResNet | VGG | VisionTransformer | MLP | Torchvision


class AnyExperiment(Protocol):
    """What training, path finding and measuring need: `Experiment`, or a user's own picklable class like it."""

    @property
    def system(self) -> str: ...

    @property
    def group_size(self) -> int | None: ...

    def objective(
        self,
        split: Split = "train",
        *,
        dtype: torch.dtype = torch.float32,
        mode: NormalizationMode = "batch",
        device: torch.device | str = "cpu",
    ) -> Objective: ...

    def initial(self, seed: int) -> Tensor: ...

    def scale_invariant(self) -> list[str]: ...


@dataclass(frozen=True)
class Experiment:
    """Data, network, loss ("cross_entropy" or "squared") and the group size of batch-statistics BatchNorm.

    Picklable: worker processes rebuild objective and data from it. A user's own network joins as a picklable object
    with the methods of `Network`, own data as one with those of `DataSet`.
    """

    data: AnyData = field(default_factory=Digits)
    network: AnyNetwork = field(default_factory=ResNet)
    group_size: int = 16
    loss: Literal["cross_entropy", "squared"] = "cross_entropy"

    def __post_init__(self) -> None:
        require(self.loss in LOSSES, "loss", " or ".join(LOSSES), self.loss)
        require(self.group_size >= 2, "group_size", "a number >= 2", self.group_size)

    @property
    def system(self) -> str:
        """The `system` attribute of datasets: one phrase."""
        return f"{self.network.name} on {self.data.name}, {self.loss.replace('_', ' ')} loss"

    def objective(
        self,
        split: Split = "train",
        *,
        dtype: torch.dtype = torch.float32,
        mode: NormalizationMode = "batch",
        device: torch.device | str = "cpu",
    ) -> Objective:
        """The loss on one split as a function of flat parameters; "evaluation" mode wants `copy_statistics`."""
        data = _load(self.data, str(device), dtype)
        module = self._module(generator(0)).to(device, dtype)
        inputs, targets = (
            (data.train_inputs, data.train_targets) if split == "train" else (data.test_inputs, data.test_targets)
        )
        return Objective(module, LOSSES[self.loss], inputs, targets, group_size=self.group_size, mode=mode)

    def initial(self, seed: int) -> Tensor:
        """Seeded initial parameters (D,), float32, on the CPU."""
        module = self._module(generator(seed))
        return torch.cat([p.detach().reshape(-1) for p in module.parameters() if p.requires_grad])

    def scale_invariant(self) -> list[str]:
        """Names of the parameters on whose scale the outputs do not depend."""
        return self.network.scale_invariant(self._module(generator(0)))

    def _module(self, generator: torch.Generator) -> nn.Module:
        data = _load(self.data, "cpu", torch.float32)
        return self.network.build(data.channels, data.classes, generator, tuple(data.train_inputs.shape[2:]))


@lru_cache(maxsize=4)
def _load(data: AnyData, device: str, dtype: torch.dtype) -> Tensors:
    if torch.device(device).type == "cpu":
        return data.load(device, dtype)
    host = _load(data, "cpu", dtype)  # files are read once: networks are built by what is there
    names = ("train_inputs", "train_targets", "test_inputs", "test_targets")
    return replace(host, **{name: getattr(host, name).to(device) for name in names})


def evaluate(
    experiment: AnyExperiment,
    theta: Tensor,
    split: Split = "test",
    mode: NormalizationMode = "batch",
    device: torch.device | str | None = None,
) -> Evaluation:
    """Loss and error of `theta` (D,) on one split, in float32; device: where, None for the experiment's own.

    mode "batch": normalised in groups, as trained and measured (whole groups only). mode "evaluation": standard
    inference, the running statistics estimated anew on the training set at this theta. A split for which the
    experiment has no data (one that names its `splits`), or test data that are less than a group, give nan.
    """
    if split not in getattr(experiment, "splits", (split,)):
        return Evaluation(math.nan, math.nan)
    where: dict[str, Any] = {} if device is None else {"device": device}
    if split == "test" and mode == "batch" and _less_than_a_group(experiment, where):
        return Evaluation(math.nan, math.nan)
    objective = experiment.objective(split, mode=mode, **where)
    if mode == "evaluation":
        train = experiment.objective("train", mode="batch", **where)
        objective.copy_statistics(train, theta.to(train.device, train.dtype))
    return objective.evaluate(theta.to(objective.device, objective.dtype))


def _less_than_a_group(experiment: AnyExperiment, where: Mapping[str, Any]) -> bool:
    test = experiment.objective("test", mode="evaluation", **where)
    return bool(batch_norms(test.module)) and test.size < (experiment.group_size or 0)
