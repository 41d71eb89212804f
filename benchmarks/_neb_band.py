"""A step of the nudged elastic band: against as many gradients on the CPU, and in one pass against a loop on a GPU.

The step is AutoNEB's own, minibatch, tangents, projection and redistribution included (per step, from a difference of
two numbers of steps, so that what a run does once is left out). The gradients are what one would write without it: the
plain module in training mode, its parameters set, `zero_grad`, forward and backward pass on a minibatch of the same
size, one point after the other, on one thread or on as many as the band has, whichever is faster in that repeat. A row
without target holds the step against the same with channels last in memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks._rows import Row, missing, of
from nn_experiments.networks.resnet import ResNet
from nn_experiments.objective import NormalizationMode, Objective, generator
from nn_experiments.paths.autoneb import AutoNEB
from nn_experiments.paths.band import Band
from nn_experiments.paths.linear import linear
from nn_experiments.workers import cores

PIVOTS = 11
CPU_TARGET, GPU_TARGET = "<= 1", ">= 3"


@dataclass(frozen=True)
class RandomImages:
    """A ResNet on random images in the shape of CIFAR-10: timings do not depend on what is in them."""

    network: ResNet
    samples: int
    size: int

    group_size = 16
    system = "random images"

    def objective(
        self,
        split: str = "train",
        *,
        dtype: torch.dtype = torch.float32,
        mode: NormalizationMode = "batch",
        device: torch.device | str = "cpu",
    ) -> Objective:
        inputs, targets = _images(self.samples, self.size)
        module = self.network.build(3, 10, generator(0)).to(device, dtype)
        inputs, targets = inputs.to(device, dtype), targets.to(device)
        return Objective(module, F.cross_entropy, inputs, targets, group_size=self.group_size, mode=mode)

    def initial(self, seed: int) -> Tensor:
        module = self.network.build(3, 10, generator(seed))
        return torch.cat([p.detach().reshape(-1) for p in module.parameters()])

    def scale_invariant(self) -> list[str]:
        return []


@cache
def _images(samples: int, size: int) -> tuple[Tensor, Tensor]:
    draws = generator(1)
    return torch.randn(samples, 3, size, size, generator=draws), torch.randint(10, (samples,), generator=draws)


def rows(quick: bool) -> list[Row]:
    """The step against its gradients on the CPU; one pass against the loop on a GPU, if there is one."""
    experiment = RandomImages(ResNet(depth=8, width=8), 256, 16) if quick else RandomImages(ResNet(20, 16), 512, 32)
    batch, repeats = (32, 7) if quick else (128, 9)
    found = _on_the_cpu(experiment, batch, repeats)
    name = f"NEB step of {PIVOTS} pivots on the GPU: loop / one pass"
    if not torch.cuda.is_available():
        return [*found, missing(name, "ratio", "not measured: no CUDA device here", GPU_TARGET)]
    return [*found, _on_the_gpu(experiment, name, batch, repeats)]


def _on_the_cpu(experiment: RandomImages, batch: int, repeats: int) -> list[Row]:
    threads, inner = cores(), PIVOTS - 2
    before = torch.get_num_threads()
    ends = torch.stack([experiment.initial(seed) for seed in (0, 1)])
    points = linear(ends, PIVOTS)[1:-1]
    layouts = {"": torch.contiguous_format, ", channels last": torch.channels_last}
    plain = {name: _plain_gradients(experiment, points, batch, layout) for name, layout in layouts.items()}

    def on(threads: int, gradients: Callable[[], None]) -> float:
        torch.set_num_threads(threads)
        return _seconds(gradients)

    with Band(experiment, batch, 0, threads) as band:

        def steps(count: int) -> None:
            torch.set_num_threads(1)
            _run(band, ends, count)

        def one() -> list[float]:
            return [_difference(steps), *(min(on(n, g) for n in {1, threads}) for g in plain.values())]

        try:
            one()
            times = [one() for _ in range(repeats)]
        finally:
            torch.set_num_threads(before)
    found, about = [], f"{experiment.network.name}, batch {batch}, {threads} threads"
    for i, (name, target) in enumerate(zip(plain, (CPU_TARGET, ""), strict=True), start=1):
        medians = [1e3 * statistics.median(t[k] for t in times) for k in (0, i)]
        note = f"{medians[0]:.4g} against {medians[1]:.4g} ms"
        title = f"NEB step of {PIVOTS} pivots / {inner} gradients, CPU{name}"
        found.append(of(title, [t[0] / t[i] for t in times], "ratio", target, f"{about}; {note}"))
    return found


def _plain_gradients(
    experiment: RandomImages, points: Tensor, batch: int, layout: torch.memory_format
) -> Callable[[], None]:
    """Of all points, one after the other."""
    module = experiment.network.build(3, 10, generator(0)).train().to(memory_format=layout)
    images, targets = _images(experiment.samples, experiment.size)
    images, parameters = images.contiguous(memory_format=layout), list(module.parameters())
    draws = generator(2)

    def gradients() -> None:
        for point in points:
            with torch.no_grad():
                for p, value in zip(parameters, point.split([p.numel() for p in parameters]), strict=True):
                    p.copy_(value.view_as(p))
            chosen = torch.randperm(len(images), generator=draws)[:batch]
            module.zero_grad()
            F.cross_entropy(module(images[chosen]), targets[chosen]).backward()

    return gradients


def _on_the_gpu(experiment: RandomImages, name: str, batch: int, repeats: int) -> Row:
    ends = torch.stack([experiment.initial(seed) for seed in (0, 1)]).cuda()
    with (
        Band(experiment, batch, 0, device="cuda", vectorised=False) as loop,
        Band(experiment, batch, 0, device="cuda", vectorised=True) as together,
    ):
        points = linear(ends, PIVOTS)[1:-1]
        same = [band.value_and_gradient(points)[1] for band in (loop, together)]
        error = float((same[0] - same[1]).norm() / same[0].norm())
        ratios, note = _ratios(
            lambda: _difference(lambda count: _run(loop, ends, count)),
            lambda: _difference(lambda count: _run(together, ends, count)),
            repeats,
        )
    note = f"{experiment.network.name}, batch {batch}; {note}; gradients differ by {error:.1g}"
    return of(name, ratios, "ratio", GPU_TARGET, note, valid=error < 1e-2)


def _run(band: Band, ends: Tensor, steps: int) -> None:
    """`steps` steps of AutoNEB and hardly anything else: nothing is evaluated at the start or the end."""
    config = AutoNEB(pivots=PIVOTS, cycles=((1e-4, steps),), insertions=0, samples_between=1)
    zeros = torch.zeros_like(ends)

    def full(points: Tensor) -> tuple[Tensor, Tensor]:
        return points.new_zeros(len(points)), zeros[:1].expand_as(points)

    config.run(band.value_and_gradient, ends, evaluate=lambda points: points.new_zeros(len(points)), full=full)


def _difference(steps: Callable[[int], None]) -> float:
    """Seconds per step: (time of 4 steps − time of 1) / 3."""
    return (_seconds(lambda: steps(4)) - _seconds(lambda: steps(1))) / 3


def _seconds(function: Callable[[], None]) -> float:
    _finish()
    begin = time.perf_counter()
    function()
    _finish()
    return time.perf_counter() - begin


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _ratios(first: Callable[[], float], second: Callable[[], float], repeats: int) -> tuple[list[float], str]:
    """first() / second() of interleaved repeats, after one to warm up, and the medians of both in words."""
    first(), second()
    pairs = [(first(), second()) for _ in range(repeats)]
    medians = [1e3 * statistics.median(each) for each in zip(*pairs, strict=True)]
    return [a / b for a, b in pairs], f"{medians[0]:.4g} against {medians[1]:.4g} ms"
