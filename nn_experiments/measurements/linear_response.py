"""Label noise near the valley floor, exactly to second order in the noise: the theory that a ladder is held against.

Where all N·C outputs fit their targets the loss is L = ½ |r|²/N with r = 0, its Hessian is H = JᵀJ/N, and label noise
moves parameters by η Jᵀε/N a step. Then δ = θ − γ = Jᵀβ/N to first order, and everything happens among the outputs:

    β ← β − η (K β)_b N/B + η (N/B) ε_b   (all outputs, b those of the batch),   K = J Jᵀ/N,
    −t·∇L = −½ δᵀ(∂_t H)δ = −(1/N) (G β)·(K β),                                  G = (∂_t J) Jᵀ/N,

for a tangent t of the floor, J t = 0: no term of first order, and none from the mean displacement in the plane, which
for any other t contributes −tᵀH⟨θ − γ⟩ at the same order in the noise. K is N·C × N·C: a problem of a few hundred
samples, for which expectations need no probes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from entropy_sim.errors import UserError, require
from nn_experiments.noise import require_squared
from nn_experiments.objective import Objective

Floats = npt.NDArray[np.float64]

#: Numbers in the Jacobian (samples · outputs · parameters) beyond which it is refused: 8 GiB.
MOST_ENTRIES = 2**30
#: Steps towards the floor at most.
_MOST_STEPS = 60
#: The smallest damping of a step towards the floor, in units of the largest curvature.
_LEAST_DAMPING = 1e-11


class Residuals:
    """Outputs minus targets of all samples, (N·C,), and their Jacobian (N·C, D), at any theta, in theta's precision.

    Raises UserError for another loss than the squared one, outputs that depend on the other samples of a batch
    (BatchNorm), or a Jacobian of more than 2³⁰ numbers.
    """

    def __init__(self, objective: Objective, chunk: int = 32) -> None:
        require_squared(objective)
        if objective.group_size is not None:
            raise UserError("network.normalization: expected group, layer or none, found batch statistics")
        self.objective, self.chunk = objective, chunk
        with torch.no_grad():
            outputs = torch.cat([objective.forward(x) for x in objective.inputs.split(512)])
        self.samples, self.outputs = outputs.shape
        entries = self.samples * self.outputs * objective.dimension
        require(
            entries <= MOST_ENTRIES,
            "data",
            f"samples x outputs x parameters up to {MOST_ENTRIES} (fewer samples, or a smaller network)",
            entries,
        )

    @torch.no_grad()
    def at(self, theta: Tensor) -> Tensor:
        """f − y, (N·C,)."""
        objective = self.objective
        objective.load(theta)
        outputs = torch.cat([objective.forward(x) for x in objective.inputs.split(512)])
        targets = objective.targets
        if not targets.is_floating_point():
            targets = torch.nn.functional.one_hot(targets, self.outputs).to(outputs)
        return (outputs - targets).reshape(-1)

    def jacobian(self, theta: Tensor, samples: slice = slice(None)) -> Tensor:
        """∂f/∂θ of some samples, (samples · C, D)."""
        objective = self.objective
        parameters = dict(zip(objective.names, objective.unflatten(theta.detach()), strict=True))

        def outputs(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(objective.module, parameters, (x[None],))[0]

        rows = []
        for inputs in objective.inputs[samples].split(self.chunk):
            pieces = vmap(jacrev(outputs), (None, 0))(parameters, inputs)
            rows.append(torch.cat([pieces[name].flatten(2) for name in objective.names], dim=2).detach())
        return torch.cat(rows).flatten(0, 1)


class OnFloor(NamedTuple):
    """A point where the outputs fit their targets, a unit tangent of the floor there, and what moving there cost.

    loss: what is left of it. displacement: distance from where the search began. alignment: cosine between the tangent
    and the one given.
    """

    point: Tensor
    tangent: Tensor
    loss: float
    displacement: float
    alignment: float
    jacobian: Tensor


def valley_floor(residuals: Residuals, point: Tensor, tangent: Tensor, loss: float = 1e-10) -> OnFloor:
    """The floor L = 0 near `point`, in the hyperplane normal to `tangent`, and the floor's own tangent closest to it.

    Levenberg–Marquardt among the outputs, δ = −QJᵀ (J Q Jᵀ + N μ)⁻¹ r with Q = 1 − t tᵀ, until the loss is below
    `loss`; then t is projected off the rows of J and normalised, so that H t = 0.

    Raises UserError if the loss stays above: too few parameters, or a path point far from the floor.
    Reference: Marquardt, J. Soc. Ind. Appl. Math. 11 (1963) 431.
    """
    theta, samples = point.clone(), residuals.samples
    r = residuals.at(theta)
    damping: float | None = None
    for _ in range(_MOST_STEPS):
        if _loss(r, samples) <= loss:
            break
        across = residuals.jacobian(theta)
        across -= (across @ tangent)[:, None] * tangent
        kernel = across @ across.T / samples
        top = float(torch.linalg.matrix_norm(kernel, float("inf")))
        damping = 1e-4 * top if damping is None else max(damping / 10, _LEAST_DAMPING * top)
        while damping < top:
            step = across.T @ _solve(kernel, r, damping) / samples
            rest = residuals.at(theta - step)
            if _loss(rest, samples) < 0.99 * _loss(r, samples):
                theta, r = theta - step, rest
                break
            damping *= 10
        else:
            break
    found = _loss(r, samples)
    if not found <= loss:
        raise UserError(f"experiment: expected a loss below {loss:g} on the valley floor, found {found:.2g} at best")
    jacobian = residuals.jacobian(theta)
    floor = tangent.clone()
    kernel = jacobian @ jacobian.T / samples
    for _ in range(3):  # what the damping leaves of the first projection
        least = 1e-14 * float(torch.linalg.matrix_norm(kernel, float("inf")))
        floor -= jacobian.T @ _solve(kernel, jacobian @ floor, least) / samples
    floor /= floor.norm()
    return OnFloor(theta, floor, found, float((theta - point).norm()), float(floor @ tangent), jacobian)


def _loss(r: Tensor, samples: int) -> float:
    return float(r @ r) / (2 * samples)


def _solve(kernel: Tensor, right: Tensor, damping: float) -> Tensor:
    """(K + μ)⁻¹ r."""
    damped = kernel.clone()
    damped.diagonal().add_(damping)
    factor = torch.linalg.cholesky(damped)
    return torch.cholesky_solve(right[:, None], factor)[:, 0]


@dataclass(frozen=True)
class LinearResponse:
    """K and G of the module's docstring (N·C, N·C), the eigenvalues k_i of K (those of H), and G's diagonal g_i in K's
    eigenvectors: ∂_t k_i = 2 g_i, so Tr(Q ∂_t H) = 2 Σ g_i. Arrays, since processes exchange them.
    """

    kernel: npt.NDArray[np.float32]
    slope_kernel: npt.NDArray[np.float32]
    stiffness: Floats
    slopes: Floats
    samples: int
    outputs: int

    @classmethod
    def at(cls, residuals: Residuals, floor: OnFloor, step: float = 0.01) -> LinearResponse:
        """∂_t J by central differences of ± `step` along the tangent, off by O(step²)."""
        require(step > 0, "slope_step", "a positive number", step)
        samples, jacobian, tangent = residuals.samples, floor.jacobian, floor.tangent
        kernel = jacobian @ jacobian.T / samples
        rows = []
        for start in range(0, samples, residuals.chunk):
            part = slice(start, start + residuals.chunk)
            difference = residuals.jacobian(floor.point + step * tangent, part)
            difference -= residuals.jacobian(floor.point - step * tangent, part)
            rows.append(difference @ jacobian.T / (2 * step * samples))
        slope = torch.cat(rows)
        stiffness, vectors = torch.linalg.eigh(kernel)
        return cls(
            kernel=kernel.float().cpu().numpy(),
            slope_kernel=slope.float().cpu().numpy(),
            stiffness=stiffness.double().cpu().numpy(),
            slopes=((slope @ vectors) * vectors).sum(0).double().cpu().numpy(),
            samples=samples,
            outputs=residuals.outputs,
        )

    @property
    def trace_slope(self) -> float:
        """Tr(Q ∂_t H), loss / parameter³."""
        return float(2 * self.slopes.sum())

    def label_noise(self, strength: float, learning_rate: float, momentum: float, steps: int) -> Floats:
        """Expected −t·∇L before each of `steps` steps from the floor (steps,), at order σ² exactly.

        −(1/N) Σ_i g_i k_i ⟨β_i²⟩_n, all samples in a batch; at β = 0, k ⟨β²⟩_n = η σ² (1 − (1 − ηk)^2n)/(2 − ηk), and
        for n → ∞ and small ηk the force is −(η σ²/4N) Tr(Q ∂_t H). A batch of B < N has the σ²/B of it to leading order
        in η Tr H/B.
        """
        variance = _variances(self.stiffness, strength, learning_rate, momentum, steps)
        return -(variance * self.stiffness) @ self.slopes / self.samples

    def thermal(
        self, temperature: float, learning_rate: float, momentum: float, steps: int, restraint: float
    ) -> Floats:
        """The same for C = 2T(1 − β)/η on the gradient, with a restraint of so much stiffness: −Σ_i g_i ⟨q_i²⟩_n,
        q_i along the unit eigenvectors of H. Directions in which H is 0 have no diagonal in ∂_t H and add nothing."""
        noise = math.sqrt(2 * temperature * (1 - momentum) / learning_rate)
        return -_variances(self.stiffness + restraint, noise, learning_rate, momentum, steps) @ self.slopes


def _variances(stiffness: Floats, noise: float, learning_rate: float, momentum: float, steps: int) -> Floats:
    """⟨x²⟩ before each step of v ← β v − η (k x + noise ζ), x ← x + v, from x = v = 0: (steps, modes)."""
    found = np.empty((steps, len(stiffness)))
    a, source = learning_rate * stiffness, (learning_rate * noise) ** 2
    xx = xv = vv = np.zeros_like(stiffness)
    for n in range(steps):
        found[n] = xx
        # The new velocity w = βv − a x + noise, and x + w.
        xw = momentum * xv - a * xx
        ww = momentum**2 * vv - 2 * momentum * a * xv + a**2 * xx + source
        xx, xv, vv = xx + 2 * xw + ww, xw + ww, ww
    return found


class LinearisedDynamics:
    """The dynamics of β for one replica, on one device: `step` with the noise of the network's own step."""

    def __init__(self, response: LinearResponse, learning_rate: float, momentum: float, like: Tensor) -> None:
        # Copies: products round differently where an array from elsewhere lies askew in memory.
        self.kernel, self.slope = (torch.tensor(a).to(like) for a in (response.kernel, response.slope_kernel))
        self.samples, self.outputs = response.samples, response.outputs
        self.learning_rate, self.momentum = learning_rate, momentum
        self.beta = torch.zeros(len(self.kernel), dtype=like.dtype, device=like.device)
        self.velocity = torch.zeros_like(self.beta)

    def force(self) -> Tensor:
        """−½ δᵀ(∂_t H)δ, a scalar; the same for both signs of the noise."""
        return -(self.slope @ self.beta) @ (self.kernel @ self.beta) / self.samples

    def step(self, noise: Tensor, indices: Tensor | None = None) -> None:
        """One step with the label noise `noise` (B, C) of the samples `indices` (None: all, in their order)."""
        if indices is None:
            pull = noise.reshape(-1) - self.kernel @ self.beta
        else:
            rows = (indices[:, None] * self.outputs + torch.arange(self.outputs, device=noise.device)).reshape(-1)
            share = self.samples / len(indices)
            pull = torch.zeros_like(self.beta)
            pull.index_add_(0, rows, share * (noise.reshape(-1) - self.kernel[rows] @ self.beta))
        self.velocity.mul_(self.momentum).add_(pull, alpha=self.learning_rate)
        self.beta.add_(self.velocity)
