"""Traces of the Hessian of ResNet-20: ours, PyHessian's and curvlinops', taking turns in one process.

Every contestant takes zᵀHz of the same probes with one Hessian, that of a batch of 256 images under batch-statistics
BatchNorm, in float32 on the same threads, and is checked against the others. Ours needs no product for it; the whole
product stands beside it. PyHessian has its graph built beforehand, as ours; for curvlinops the product of one vector is
its fastest form (a matrix costs more per column). Others run in both layouts; the faster counts, in each
round. Times are those of the process's processors, which other processes disturb less than the clock; ratios are taken
round by round.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import _rows
from benchmarks._rows import Row
from nn_experiments import curvature
from nn_experiments.networks.resnet import ResNet
from nn_experiments.objective import Objective, batch_norms, generator

#: Largest difference between two contestants' traces of one probe, relative to Σ|z_i (Hz)_i|: float32 rounding.
AGREEMENT = 1e-3


@dataclass(frozen=True)
class Problem:
    """One batch of random images in the shape of CIFAR-10."""

    depth: int = 20
    width: int = 16
    batch: int = 256
    size: int = 32
    seed: int = 0
    channels_last: bool = False
    """How the plain module and its images lie in memory; ours chooses for itself."""

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def data(self) -> tuple[Tensor, Tensor]:
        """Timings do not depend on what is in the images."""
        draws = generator(self.seed, 1)
        shape = (self.batch, 3, self.size, self.size)
        images = torch.randn(shape, generator=draws).contiguous(memory_format=self.layout)
        return images, torch.randint(0, 10, (self.batch,), generator=draws)

    def module(self) -> nn.Module:
        return ResNet(self.depth, self.width).build(3, 10, generator(self.seed))

    def objective(self, group: int) -> Objective:
        return Objective(self.module(), F.cross_entropy, *self.data(), group_size=group)

    def plain(self) -> nn.Module:
        """The module as others use it, with batch statistics and no running ones."""
        module = self.module().train().to(memory_format=self.layout)
        for layer in batch_norms(module):
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
        return module


Product = Callable[[Tensor], Tensor]


def ours(problem: Problem, group: int) -> Product:
    objective = problem.objective(group)
    return curvature.HessianOperator(objective, objective.theta())


def form(problem: Problem) -> Callable[[Tensor], Tensor]:
    objective = problem.objective(problem.batch)
    operator = curvature.HessianOperator(objective, objective.theta())
    return lambda probe: operator.forms(probe[None])[0]


def pyhessian(problem: Problem) -> Product:
    import pyhessian as peer
    from pyhessian.utils import hessian_vector_product

    made = peer.hessian(problem.plain(), nn.CrossEntropyLoss(), data=problem.data(), cuda=False)
    shapes = [p.shape for p in made.params]

    def product(vector: Tensor) -> Tensor:
        pieces = torch.split(vector, [s.numel() for s in shapes])
        rows = hessian_vector_product(
            made.gradsH, made.params, [p.view(s) for p, s in zip(pieces, shapes, strict=True)]
        )
        return torch.cat([r.reshape(-1) for r in rows])

    return product


def curvlinops(problem: Problem) -> Product:
    import curvlinops as peer

    module = problem.plain()
    operator = peer.HessianLinearOperator(
        module, nn.CrossEntropyLoss(), list(module.parameters()), [problem.data()], check_deterministic=False
    )
    return lambda vector: operator @ vector


def gradient(problem: Problem) -> Callable[[Tensor], object]:
    """One gradient of the plain module."""
    module, (inputs, targets) = problem.plain(), problem.data()
    parameters = list(module.parameters())
    return lambda _: torch.autograd.grad(F.cross_entropy(module(inputs), targets), parameters)


PRODUCT = "ours, whole product"
GROUPS = "ours, groups of 16, whole product"


def rows(quick: bool, problem: Problem | None = None) -> list[Row]:
    """Time per probe of each, the ratios with their targets, and how well the traces agree."""
    problem = problem or Problem()
    last = replace(problem, channels_last=True)
    repeats, warm = (3, 1) if quick else (9, 2)
    makers: dict[str, Callable[[], Callable[[Tensor], object]]] = {
        "ours": lambda: form(problem),
        PRODUCT: lambda: ours(problem, problem.batch),
        GROUPS: lambda: ours(problem, 16),
        "gradient": lambda: gradient(problem),
        _last("gradient"): lambda: gradient(last),
        "PyHessian": lambda: pyhessian(problem),
        _last("PyHessian"): lambda: pyhessian(last),
        "curvlinops": lambda: curvlinops(problem),
        _last("curvlinops"): lambda: curvlinops(last),
    }
    absent = {n for n in ("PyHessian", "curvlinops") if find_spec(n.lower()) is None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        running = {name: make() for name, make in makers.items() if not absent & {name, name.split(",")[0]}}
    dimension = sum(p.numel() for p in problem.module().parameters())
    draws = generator(problem.seed, 2)
    times: dict[str, list[float]] = {name: [] for name in running}
    forms: dict[str, list[float]] = {name: [] for name in running}
    scale = 0.0
    for i in range(warm + repeats):
        probe = curvature.rademacher(1, dimension, draws, torch.empty(0))[0]
        for name, product in running.items():
            begin = time.process_time()
            image = product(probe)
            seconds = time.process_time() - begin
            if i >= warm:
                times[name].append(seconds)
            if isinstance(image, Tensor):
                each = probe.double() * image.double() if image.ndim else image.double()
                forms[name].append(float(each.sum()))
                scale = max(scale, float(each.abs().sum()))
    return _table(times, forms, scale, absent)


def _last(name: str) -> str:
    return f"{name}, channels last"


def _table(times: dict[str, list[float]], forms: dict[str, list[float]], scale: float, absent: set[str]) -> list[Row]:
    found = []
    threads = torch.get_num_threads()
    valid: dict[str, bool] = {}
    for name, values in times.items():
        if name.startswith("gradient"):
            title, note = name.replace("gradient", "one gradient, plain module"), f"processor time, {threads} threads"
            valid[name] = True
        else:
            error = max(abs(a - b) for a, b in zip(forms[name], forms["ours"], strict=True)) / scale
            # Groups of 16 are another function: nothing to compare its trace with.
            valid[name] = name == GROUPS or error <= AGREEMENT
            title = f"Hessian trace per probe, {name}"
            note = "" if name in ("ours", GROUPS) else f"its traces differ from ours by {error:.1g} of Σ|z Hz|"
        found.append(_rows.of(title, values, "s", note=note, valid=valid[name]))
    for above, below, target in (
        ("ours", "PyHessian", "<= 1.05"),
        ("ours", "curvlinops", "<= 0.6"),
        ("ours", "gradient", "<= 1.4"),
        (PRODUCT, "PyHessian", ""),
        (PRODUCT, "gradient", ""),
        (GROUPS, "PyHessian", ""),
        (GROUPS, "gradient", ""),
        ("PyHessian", "gradient", ""),
        ("curvlinops", "gradient", ""),
    ):
        title = f"Hessian trace per probe: {above} / {below}"
        if missing := {above, below} & absent:
            found.append(_rows.missing(title, "ratio", f"{missing.pop()} is not installed (extra bench)", target))
            continue
        ratios = [a / b for a, b in zip(_fastest(times, above), _fastest(times, below), strict=True)]
        checked = all(v for name, v in valid.items() if {name, name.removesuffix(_last(""))} & {above, below})
        found.append(_rows.of(title, ratios, "ratio", target, "the faster layout of each round", valid=checked))
    return found


def _fastest(times: dict[str, list[float]], name: str) -> list[float]:
    """Of its layouts, in each round."""
    return [min(each) for each in zip(*(times[n] for n in (name, _last(name)) if n in times), strict=True)]
