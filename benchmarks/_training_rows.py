"""Training epochs of ResNet-20 on random images: our training options against a standard DataLoader loop.

The standard loop is torch's tutorial: a DataLoader with workers where there are processors for them, a module in the
default layout, float32, `torch.optim.SGD`. Ours is the same number of SGD steps on the `Objective`, data held on the
device, channels last, bfloat16 autocast. Both do forward, backward and update on the same images per step.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import _rows
from benchmarks._rows import Row
from nn_experiments.networks.resnet import ResNet
from nn_experiments.objective import Objective, generator
from nn_experiments.workers import cores

BATCH, CPU_TARGET, GPU_TARGET = 128, ">= 1.4", ">= 5"


def images(count: int, size: int = 32) -> tuple[Tensor, Tensor]:
    draws = generator(5)
    return torch.randn(count, 3, size, size, generator=draws), torch.randint(0, 10, (count,), generator=draws)


def standard(inputs: Tensor, targets: Tensor, device: str) -> Callable[[], object]:
    """An epoch of the standard loop."""
    module = ResNet(20, 16).build(3, 10, generator(0)).to(device).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    workers = 0 if device == "cpu" else max(1, min(4, cores() - 1))
    loader = DataLoader(
        TensorDataset(inputs, targets),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device != "cpu",
        persistent_workers=workers > 0,
    )

    def epoch() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(module(x.to(device, non_blocking=True)), y.to(device, non_blocking=True)).backward()
            optimizer.step()

    return epoch


def ours(inputs: Tensor, targets: Tensor, device: str) -> Callable[[], object]:
    """An epoch on the `Objective` with the options of `Training` that are for speed."""
    module = ResNet(20, 16).build(3, 10, generator(0)).to(device)
    held = inputs.to(device).contiguous(memory_format=torch.channels_last)
    objective = Objective(module, F.cross_entropy, held, targets.to(device), group_size=BATCH)
    theta = objective.theta()
    velocity, draws = torch.zeros_like(theta), generator(6)

    def epoch() -> None:
        order = torch.randperm(objective.size, generator=draws).to(device)
        for start in range(0, objective.size - BATCH + 1, BATCH):
            with torch.autocast(device.partition(":")[0], torch.bfloat16):
                gradient = objective.value_and_gradient(theta, order[start : start + BATCH])[1]
            velocity.mul_(0.9).sub_(gradient.add_(theta, alpha=5e-4), alpha=0.01)
            theta.add_(velocity)

    return epoch


def _ratios(device: str, count: int, repeats: int) -> list[float]:
    """Standard / ours, epoch by epoch in turn, after one epoch of each to warm up."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    data = images(count)
    epochs = standard(*data, device), ours(*data, device)
    ratios = []
    for i in range(repeats + 1):
        seconds = []
        for epoch in epochs:
            begin = clock()
            epoch()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(clock() - begin)
        if i:
            ratios.append(seconds[0] / seconds[1])
    return ratios


def rows(quick: bool) -> list[Row]:
    """The CPU, and the GPU where there is one. An epoch has a few batches of images on the CPU, 50 000 on a GPU."""
    count, repeats = (2 * BATCH, 2) if quick else (8 * BATCH, 5)
    name = "epoch of ResNet-20: standard loop / ours"
    note = f"channels last, bfloat16, batches of {BATCH}"
    found = [_rows.of(f"{name}, CPU", _ratios("cpu", count, repeats), "ratio", CPU_TARGET, note)]
    if not torch.cuda.is_available():
        return [*found, _rows.missing(f"{name}, GPU", "ratio", "not measured: no CUDA device", GPU_TARGET)]
    count, repeats = (100 * BATCH, 2) if quick else (50_000, 3)
    return [*found, _rows.of(f"{name}, GPU", _ratios("cuda", count, repeats), "ratio", GPU_TARGET, note)]
