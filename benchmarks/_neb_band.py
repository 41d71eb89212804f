"""A step of the nudged elastic band: against as many gradients on the CPU, and in one pass against a loop on a GPU.

The step is AutoNEB's own, minibatch, tangents, projection and redistribution included (per step, from a difference of
two numbers of steps, so that what a run does once is left out); the gradients are the plain module's forward and
backward pass on the same minibatch size, one after the other, each on one thread or on as many as the band has,
whichever is faster in that repeat.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

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
    found = [_on_the_cpu(experiment, batch, repeats)]
    name = f"NEB step of {PIVOTS} pivots on the GPU: loop / one pass"
    if not torch.cuda.is_available():
        return [*found, missing(name, "ratio", "not measured: no CUDA device here", GPU_TARGET)]
    return [*found, _on_the_gpu(experiment, name, batch, repeats)]


def _on_the_cpu(experiment: RandomImages, batch: int, repeats: int) -> Row:
    threads, inner = cores(), PIVOTS - 2
    before = torch.get_num_threads()
    ends = torch.stack([experiment.initial(seed) for seed in (0, 1)])
    points = linear(ends, PIVOTS)[1:-1]
    objective = experiment.objective()
    draws = generator(2)

    def gradients(threads: int) -> None:
        torch.set_num_threads(threads)
        for point in points:
            objective.value_and_gradient(point, objective.draw(batch, draws))

    def fastest() -> float:
        return min(_seconds(partial(gradients, n)) for n in {1, threads})

    with Band(experiment, batch, 0, threads) as band:

        def steps(count: int) -> None:
            torch.set_num_threads(1)
            _run(band, ends, count)

        try:
            ratios, note = _ratios(lambda: _difference(steps), fastest, repeats)
        finally:
            torch.set_num_threads(before)
    name = f"NEB step of {PIVOTS} pivots / {inner} gradients, CPU"
    return of(name, ratios, "ratio", CPU_TARGET, f"{experiment.network.name}, batch {batch}, {threads} threads; {note}")


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
