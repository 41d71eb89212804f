"""What is tried out on a user's module, loss and data before they are measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from entropy_sim.errors import UserError, require
from entropy_sim.user_file import one_line
from nn_experiments.objective import Loss, batch_norms, generator

#: Samples on which module and loss are tried out when an experiment is made.
_TRIED = 4
#: Step of the difference that second derivatives are compared with: far too short to meet many kinks of a ReLU.
_STEP = 1e-6


def try_out(module: nn.Module, loss: Loss, data: tuple[Tensor, Tensor]) -> None:
    """Loss, gradient and Hessian-vector product of a few samples, for mistakes to be found at once."""
    module = module.double().eval()
    for layer in batch_norms(module):
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = None
    inputs, targets = (moved(part[:_TRIED], "cpu", torch.float64) for part in data)
    named_parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    require(bool(named_parameters), "module", "at least one parameter that requires a gradient", "none")
    parameters = list(named_parameters.values())
    try:
        outputs = module(inputs)
        require(isinstance(outputs, Tensor), "module", "a tensor as output", kind_of(outputs))
        value, doubled = loss(outputs, targets), loss(torch.cat([outputs, outputs]), torch.cat([targets, targets]))
        require(value.ndim == 0, "loss", "one number", f"shape {tuple(value.shape)}")
        gradients = torch.autograd.grad(value, parameters, allow_unused=True, create_graph=True)
    except UserError:
        raise
    except Exception as error:
        shapes = f"inputs {tuple(inputs.shape)}, targets {tuple(targets.shape)}"
        raise one_line(
            "module", f"expected a network and a loss that take {shapes}, found {type(error).__name__}: {error}"
        ) from error
    once, twice = value.item(), doubled.item()
    mean = math.isclose(twice, once, rel_tol=1e-4, abs_tol=1e-7) or not math.isfinite(once)
    require(mean, "loss", "the mean over its samples", f"{twice:.4g} for samples taken twice, {once:.4g} once")
    unused = [n for n, g in zip(named_parameters, gradients, strict=True) if g is None]
    require(
        not unused,
        "module",
        "that every parameter takes part in the loss (or requires no gradient)",
        f"{', '.join(unused[:3])} without a gradient",
    )
    _try_second_derivative(lambda: loss(module(inputs), targets), parameters, gradients)


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
    ends = []
    for step in (_STEP, -2 * _STEP):
        with torch.no_grad():
            for p, v in zip(parameters, direction, strict=True):
                p.add_(v, alpha=step)
        ends.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(value(), parameters)]))
    difference = ((ends[0] - ends[1]) / (2 * _STEP)).norm().item()
    size = torch.cat([g.detach().reshape(-1) for g in gradients]).norm().item()
    agree = abs(product - difference) <= 0.05 * max(product, difference) + 1e-6 * (1 + size)
    require(
        agree or not math.isfinite(difference),
        "module",
        "second derivatives that agree with differences of the gradient",
        f"|H v| = {product:.3g} against {difference:.3g}",
    )


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
