"""What is tried out on a user's module, loss and data before they are measured, and what tells them from others."""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from entropy_sim.errors import UserError, require
from entropy_sim.user_file import one_line
from nn_experiments.objective import Loss, Objective, batch_norms, generator

#: Samples on which module and loss are tried out when an experiment is made.
_TRIED = 4
#: Samples of the numbers that tell two networks or losses apart.
_COMPUTED = 8
#: Step of the difference that second derivatives are compared with: far too short to meet many kinks of a ReLU.
_STEP = 1e-6


def try_out(module: nn.Module, loss: Loss, data: tuple[Tensor, Tensor]) -> None:
    """Loss, gradient and Hessian-vector product of a few samples, for mistakes to be found at once."""
    for layer in batch_norms(module.eval()):
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = None
    named_parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    require(bool(named_parameters), "module", "at least one parameter that requires a gradient", "none")
    parameters = list(named_parameters.values())
    few = data[0][:_TRIED], data[1][:_TRIED]
    shapes = f"inputs {tuple(few[0].shape)}, targets {tuple(few[1].shape)}"
    _try_once(module, loss, few, parameters, torch.float32, f"a network and a loss that take {shapes}")
    _try_mean(module, loss, data)
    value, gradients = _try_once(
        module,
        loss,
        few,
        parameters,
        torch.float64,
        "a network and a loss that work in float64 too, which curvature is checked in (constants made in the dtype of "
        "the inputs, such as inputs.new_zeros(…))",
    )
    unused = [n for n, g in zip(named_parameters, gradients, strict=True) if g is None]
    require(
        not unused,
        "module",
        "that every parameter takes part in the loss (or requires no gradient)",
        f"{', '.join(unused[:3])} without a gradient",
    )
    _try_second_derivative(value, parameters, gradients)


def _try_once(
    module: nn.Module,
    loss: Loss,
    data: tuple[Tensor, Tensor],
    parameters: Sequence[Tensor],
    dtype: torch.dtype,
    expected: str,
) -> tuple[Callable[[], Tensor], Sequence[Tensor]]:
    """The loss of `data`, as a function, and its gradient, in `dtype`; what fails is not what was expected."""
    inputs, targets = (moved(part, "cpu", dtype) for part in data)
    module, loss = module.to("cpu", dtype), moved_loss(loss, "cpu", dtype)
    try:
        outputs = module(inputs)
        require(isinstance(outputs, Tensor), "module", "a tensor as output", kind_of(outputs))
        value = loss(outputs, targets)
        require(value.ndim == 0, "loss", "one number", f"shape {tuple(value.shape)}")
        gradients = torch.autograd.grad(value, parameters, allow_unused=True, create_graph=True)
    except UserError:
        raise
    except Exception as error:
        raise one_line("module", f"expected {expected}, found {type(error).__name__}: {error}") from error
    return lambda: loss(module(inputs), targets), gradients


def _try_mean(module: nn.Module, loss: Loss, data: tuple[Tensor, Tensor]) -> None:
    """Refuse a loss that is no mean over samples: the full batch is read in parts, each weighed by its samples.

    The parts hold different targets, so that weights of classes and targets that are left out show."""
    chosen = _different(data[1])
    inputs, targets = (moved(part[chosen], "cpu", torch.float32) for part in data)
    loss = moved_loss(loss, "cpu", torch.float32)
    count = len(chosen)
    try:
        outputs = _generic_outputs(module, inputs)
        whole = float(loss(outputs, targets))
        parts = [
            (float(loss(outputs[:cut], targets[:cut])), float(loss(outputs[cut:], targets[cut:])), cut / count)
            for cut in (count // 3, count // 2)
            if cut >= 2
        ]
    except Exception as error:
        shapes = f"inputs {tuple(inputs.shape)}, targets {tuple(targets.shape)}"
        raise one_line(
            "module", f"expected a network and a loss that take {shapes}, found {type(error).__name__}: {error}"
        ) from error
    for first, second, share in parts:
        mean = share * first + (1 - share) * second
        require(
            math.isclose(mean, whole, rel_tol=1e-4, abs_tol=1e-6) or not math.isfinite(whole),
            "loss",
            "the mean over its samples (class weights, ignored targets and sums make it another)",
            f"{mean:.4g} for the mean over two parts of them, {whole:.4g} for all",
        )


@torch.no_grad()
def _generic_outputs(module: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs at other parameters than the module's, whose last layer may be zero: every sample then has one loss.

    At its own if it has no numbers for others."""
    own = [p.clone() for p in module.parameters()]
    set_generic([p for p in module.parameters() if p.requires_grad])
    outputs = None
    with suppress(Exception):
        outputs = module(inputs)
    for p, value in zip(module.parameters(), own, strict=True):
        p.copy_(value)
    return outputs if outputs is not None and bool(outputs.isfinite().all()) else module(inputs)


def _different(targets: Tensor) -> Tensor:
    """Indices of up to 64 samples of as many different targets as there are, by their order."""
    key = targets.reshape(len(targets), -1).amin(1)
    order = key.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = key[order][1:] != key[order][:-1]
    spread = torch.linspace(0, len(key) - 1, 32).long()
    return order[torch.cat([first.nonzero()[:32, 0], spread]).unique()]


def _try_second_derivative(
    value: Callable[[], Tensor], parameters: Sequence[Tensor], gradients: Sequence[Tensor]
) -> None:
    """Compare H v with a difference of gradients: some operations differentiate once and then give silent zeros."""
    generator_ = generator(0)
    direction = [torch.randn(p.shape, generator=generator_, dtype=p.dtype) for p in parameters]
    along = sum(((g * v).sum() for g, v in zip(gradients, direction, strict=True)), torch.zeros(()))
    try:
        pieces = torch.autograd.grad(along, parameters, allow_unused=True) if along.requires_grad else []
    except RuntimeError as error:
        raise one_line("module", f"expected operations that can be differentiated twice, found {error}") from error
    product = torch.cat([torch.zeros(1).double(), *(x.reshape(-1) for x in pieces if x is not None)]).norm().item()
    size = torch.cat([g.detach().reshape(-1) for g in gradients]).norm().item()
    length = math.sqrt(sum(p.numel() for p in parameters))
    differences = []
    # The longer step is for networks that compute in single precision inside, the shorter for those with many kinks.
    for step in (_STEP, _STEP / length):
        difference = _difference(value, parameters, direction, step)
        differences.append(f"{difference:.3g}")
        agree = abs(product - difference) <= 0.05 * max(product, difference) + 1e-6 * (1 + size)
        if agree or not math.isfinite(difference):
            return
    raise UserError(
        "module: expected second derivatives that agree with differences of the gradient, found "
        f"|H v| = {product:.3g} against {' and '.join(differences)}"
    )


def _difference(
    value: Callable[[], Tensor], parameters: Sequence[Tensor], direction: Sequence[Tensor], step: float
) -> float:
    """Size of the central difference of the gradient along a direction."""
    ends = []
    for change in (step, -2 * step):
        with torch.no_grad():
            for p, v in zip(parameters, direction, strict=True):
                p.add_(v, alpha=change)
        ends.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(value(), parameters)]))
    with torch.no_grad():
        for p, v in zip(parameters, direction, strict=True):
            p.add_(v, alpha=step)
    return ((ends[0] - ends[1]) / (2 * step)).norm().item()


def kind_of(found: Any) -> str:
    """What was found, in words."""
    if isinstance(found, (tuple, list)):
        return f"a {type(found).__name__} of {', '.join(kind_of(f) for f in found) or 'nothing'}"
    if isinstance(found, Mapping):
        return f"a {type(found).__name__} with {', '.join(map(str, found))}"
    return type(found).__name__


def moved(tensor: Tensor, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """On a device, in a floating type if it is of one."""
    return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)


def moved_loss(loss: Loss, device: torch.device | str, dtype: torch.dtype) -> Loss:
    """A copy on a device, in a floating type, of a loss that holds tensors: a module, or a partial of a function."""
    if isinstance(loss, nn.Module):
        return copy.deepcopy(loss).to(device, dtype)
    if not isinstance(loss, partial):
        return loss

    def move(part: Any) -> Any:
        return moved(part, device, dtype) if isinstance(part, Tensor) else part

    positional = map(move, loss.args)
    named = {name: move(part) for name, part in loss.keywords.items()}
    return partial(moved_loss(loss.func, device, dtype), *positional, **named)


@torch.no_grad()
def set_generic(parameters: Sequence[Tensor]) -> None:
    """Random values, always the same, that let a signal through; weights count their inputs."""
    random = generator(0)
    for p in parameters:
        value = torch.randn(p.shape, generator=random, dtype=torch.float64)
        p.copy_(value / math.sqrt(p[0].numel() if p.ndim > 1 else 1))


# --- telling two apart ----------------------------------------------------------------------------------------------


def tensors_sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of names, types, shapes and the very bytes."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        bytes_: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(bytes_)
    return digest.hexdigest()


def described(part: Any) -> str:
    """A module or function as text: its layers, its name, the arguments of a partial."""
    if isinstance(part, partial):
        arguments = [*map(repr, part.args), *(f"{name}={value!r}" for name, value in sorted(part.keywords.items()))]
        text = f"{described(part.func)}({', '.join(arguments)})"
    else:
        text = repr(part) if isinstance(part, nn.Module) else getattr(part, "__qualname__", type(part).__name__)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def computed(module: nn.Module, loss: Loss, data: tuple[Tensor, Tensor], group_size: int) -> dict[str, Any]:
    """What a network and a loss compute and hold: differs between two that are not the same function of theta.

    `stored_sha256`: the bytes of frozen parameters, buffers (without BatchNorm's running statistics) and the loss's
    tensors. `computed`: loss, outputs and gradient of the first samples at fixed parameters (the module's own if it has
    no numbers there), each as its size and its part along a fixed random direction. Whatever the code, it shows there:
    nothing is read of it, so that comments and notebooks do not matter. What these samples never reach, such as a
    threshold far off, is not seen. The numbers are of float64 and keep four digits, far from the rounding of any
    processor. module: taken over.
    """
    inputs, targets = (moved(part[:_COMPUTED], "cpu", torch.float64) for part in data)
    module, loss = module.to("cpu", torch.float64), moved_loss(loss, "cpu", torch.float64)
    objective = Objective(module, loss, inputs, targets, group_size=min(group_size, len(inputs)))
    frozen = [(n, p) for n, p in module.named_parameters() if not p.requires_grad]
    stored = tensors_sha256([*frozen, *module.named_buffers(), *_held(loss)])
    own = objective.theta()
    set_generic(objective.parameters)
    numbers = ["nan"]
    with suppress(Exception):
        numbers = _numbers(objective, objective.theta())
    return {"stored_sha256": stored, "computed": numbers if _finite(numbers) else _numbers(objective, own)}


def _numbers(objective: Objective, theta: Tensor) -> list[str]:
    value, gradient = objective.value_and_gradient(theta, torch.arange(objective.size))
    with torch.no_grad():
        outputs = objective.forward(objective.inputs)
    return [f"{value:.4g}", *coarse(outputs), *coarse(gradient)]


def _finite(numbers: Iterable[str]) -> bool:
    return all(math.isfinite(float(number)) for number in numbers)


def _held(loss: Loss) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a loss that `moved_loss` moves."""
    if isinstance(loss, nn.Module):
        yield from loss.state_dict().items()
    elif isinstance(loss, partial):
        yield from _held(loss.func)
        given = [*enumerate(loss.args), *sorted(loss.keywords.items())]
        yield from ((str(name), value) for name, value in given if isinstance(value, Tensor))


def coarse(values: Tensor) -> tuple[str, str]:
    """Size of `values`, and their part along a fixed random direction in units of it, in four and three digits."""
    flat = values.detach().double().reshape(-1)
    size = float(flat.norm())
    along = float(flat @ torch.randn(len(flat), generator=generator(1), dtype=torch.float64)) / (size or 1.0)
    return f"{size:.4g}", f"{round(along, 3) + 0.0:.3f}"  # no minus before a zero
