"""Traces by Hutchinson's estimator, and the norm correction of scale-invariant blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from entropy_sim.errors import require
from nn_experiments.curvature.estimate import Estimate
from nn_experiments.curvature.operators import HessianOperator, Products
from nn_experiments.objective import Objective


class Traces(NamedTuple):
    """Tr H; Tr(Q H), transverse to the tangent; Σ_l ‖w_l‖² Tr H_ll over the scale-invariant blocks."""

    trace: Estimate
    transverse: Estimate
    normalized: Estimate


def block_norms(objective: Objective, theta: Tensor, names: Sequence[str]) -> Tensor:
    """Diagonal (D,) that holds ‖w_l‖² on every entry of each named parameter w_l and 0 elsewhere.

    Raises UserError for a name that is not one of the module's parameters.
    """
    blocks = objective.blocks()
    unknown = sorted(set(names) - set(blocks))
    require(not unknown, "scale_invariant", f"names among {', '.join(blocks)}", ", ".join(unknown))
    diagonal = torch.zeros_like(theta)
    for name in names:
        diagonal[blocks[name]] = theta[blocks[name]].square().sum()
    return diagonal


class Hutchinson:
    """Traces from a fixed budget of K probes (K, D) with E z zᵀ = 1: Tr(A H) = E zᵀ A H z.

    The full batch is split into `parts` of whole groups, as equal as they can be, and probe k sees part k mod `parts`
    only: at the cost of K/parts products with the full Hessian the estimate is unbiased for the full batch, and its
    standard error contains that of the data. `parts=1` is the plain estimator. K must be a multiple of `parts`.
    operator: `HessianOperator`, or `GaussNewtonOperator` for the traces of G. prepare(theta) is called before the
    matrix at another theta is taken: in evaluation mode it estimates the running statistics anew.
    A Rademacher probe has the variance 2 Σ_{i≠j} H_ij².
    Reference: Hutchinson, Commun. Stat. Simul. Comput. 18 (1989) 1059.
    """

    def __init__(
        self,
        objective: Objective,
        probes: Tensor,
        parts: int = 1,
        *,
        operator: Callable[..., Products] = HessianOperator,
        prepare: Callable[[Tensor], None] | None = None,
        chunk: int = 512,
        kept: int = 2048,
    ) -> None:
        group = objective.group_size or 1
        groups = len(objective.full_batch()) // group
        require(1 <= parts <= groups, "parts", f"1…{groups}, the number of groups of data", parts)
        require(len(probes) % parts == 0, "probes", f"a multiple of the {parts} parts of the data", len(probes))
        self.objective, self.probes, self.prepare = objective, probes, prepare
        self.operator = partial(operator, objective, chunk=chunk, kept=kept)
        split = torch.tensor_split(objective.full_batch().view(groups, group), parts)
        self.parts = [part.reshape(-1) for part in split]
        shares = torch.tensor([len(part) for part in self.parts], dtype=torch.float64) * (parts / (groups * group))
        self._weights = shares.repeat(len(probes) // parts) / len(probes)

    def trace(self, theta: Tensor) -> Estimate:
        """Tr H at theta (D,) alone, from forms zᵀ H z: half the work of `traces`, and the same numbers."""
        (forms,) = self._collect(theta, 1, lambda operator, z: [operator.forms(z)])
        return self._mean(forms)

    def traces(self, theta: Tensor, tangent: Tensor, norms: Tensor) -> Traces:
        """Tr H, Tr(Q H) and Tr(S H) at theta for a unit tangent t and a diagonal S = `norms`, all (D,).

        zᵀ A H z for each of the three A from one product H z.
        """
        t, diagonal = tangent.double(), norms.double()

        def forms(operator: Products, z: Tensor) -> list[Tensor]:
            images, z = operator(z).double(), z.double()
            left = z, _off(t, z), diagonal * z
            return [(a * images).sum(-1) for a in left]

        return Traces(*map(self._mean, self._collect(theta, 3, forms)))

    def slope(self, theta: Tensor, tangent: Tensor, step: float) -> Estimate:
        """Tr(Q ∂_t H), ∂_t H ≈ [H(θ + ε t) − H(θ − ε t)] / 2ε with ε = `step`; both sides see the same probes.

        From forms (Qz)ᵀ H (Qz), Q² = Q. The error of the difference is O(ε²). A finite ε on purpose: with ReLU the
        Hessian jumps where a unit switches, and a third derivative misses the jumps.
        """
        require(step > 0, "slope_step", "a positive number", step)
        t = tangent.double()

        def forms(operator: Products, z: Tensor) -> list[Tensor]:
            return [operator.forms(_off(t, z.double()).to(z))]

        (above,), (below,) = (self._collect(theta + sign * step * tangent, 1, forms) for sign in (1, -1))
        return self._mean((above - below) / (2 * step))

    def _collect(
        self, theta: Tensor, number: int, forms: Callable[[Products, Tensor], Sequence[Tensor]]
    ) -> Sequence[Tensor]:
        """`number` forms of each probe, from the matrix of its part and the probes of that part, float64. Each (K,)."""
        found = [torch.empty(len(self.probes), dtype=torch.float64) for _ in range(number)]
        if self.prepare is not None:
            self.prepare(theta)
        for p, part in enumerate(self.parts):
            each = forms(self.operator(theta, part), self.probes[p :: len(self.parts)])
            for values, new in zip(found, each, strict=True):
                values[p :: len(self.parts)] = new.cpu()
        return found

    def _mean(self, samples: Tensor) -> Estimate:
        mean, number = (self._weights * samples).sum(), len(samples)
        square = (self._weights * (samples - mean)).square().sum()
        stderr = math.sqrt(float(square) * number / (number - 1)) if number > 1 else math.nan
        return Estimate(float(mean), stderr)


def _off(t: Tensor, z: Tensor) -> Tensor:
    """Q z on rows."""
    return z - (z @ t)[:, None] * t
