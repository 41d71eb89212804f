"""Profile: loss, errors, curvature and gradient noise at each point of one or more paths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from entropy_sim import path_geometry, schema
from entropy_sim.errors import require
from nn_experiments import curvature
from nn_experiments.experiment import AnyExperiment, evaluate
from nn_experiments.measurements._frames import Frame, frames
from nn_experiments.noise import Minibatch
from nn_experiments.objective import generator
from nn_experiments.workers import Workers

_EIGENVALUES = ("eigenvalue", "max_eigenvalue", "min_eigenvalue")
_RESIDUAL = "Lanczos residual |H v - value v|, a bound of the distance to an eigenvalue; no error of the data subset"
_PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Profile:
    """Loss, errors, curvature and gradient noise along a path, from the same probes and batches at every point.

    Curvature is that of the batch-statistics objective in its groups; the test error is that of standard inference.
    """

    points: int = 11
    """Points along the path, equally spaced in s."""
    probes: int = 16
    """Rademacher probes of each trace."""
    parts: int = 16
    """Parts of the data of which each probe sees one (a divisor of the probes; see `curvature.Hutchinson`)."""
    slope_step: float = 0.01
    """Step of the central difference Tr(Q dH/dt), as a fraction of the path's length."""
    eigenvalues: int = 5
    """How many of the largest Hessian eigenvalues."""
    lanczos_steps: int = 20
    """Lanczos steps for them, and for the smallest; what is missing to convergence is in their _stderr."""
    eigenvalue_samples: int | None = 512
    """Size of the fixed subset of the training data (whole groups) whose Hessian they are of; None: all."""
    noise: Minibatch = field(default_factory=Minibatch)
    """Noise whose covariance is measured."""
    noise_batches: int = 64
    """Independent batches for it."""
    weight_decay: float = 1e-3
    """Weight decay λ of the training; enters `weight_decay_penalty`, λ‖θ‖²/2, alone."""
    precision: Literal["float32", "float64"] = "float32"
    """Type of the numbers; never TensorFloat-32."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        require(self.points >= 2, "profile.points", "at least 2", self.points)
        require(self.probes >= 2, "profile.probes", "at least 2 (for a standard error)", self.probes)
        require(
            self.parts >= 1 and self.probes % self.parts == 0,
            "profile.parts",
            f"a divisor of the {self.probes} probes",
            self.parts,
        )
        require(self.eigenvalues >= 1, "profile.eigenvalues", "a number >= 1", self.eigenvalues)
        require(
            self.lanczos_steps >= self.eigenvalues,
            "profile.lanczos_steps",
            f"at least {self.eigenvalues}, the number of eigenvalues",
            self.lanczos_steps,
        )
        require(
            self.eigenvalue_samples is None or self.eigenvalue_samples >= 1,
            "profile.eigenvalue_samples",
            "a number >= 1",
            self.eigenvalue_samples,
        )
        require(0 < self.slope_step < 1, "profile.slope_step", "a number in 0…1", self.slope_step)
        require(self.noise_batches >= 2, "profile.noise_batches", "at least 2", self.noise_batches)
        require(0 <= self.weight_decay < math.inf, "profile.weight_decay", "a number >= 0", self.weight_decay)
        require(self.precision in _PRECISIONS, "profile.precision", " or ".join(_PRECISIONS), self.precision)
        require(self.seed >= 0, "profile.seed", "a number >= 0", self.seed)

    def run(
        self,
        experiment: AnyExperiment,
        paths: Mapping[str, Tensor],
        workers: Workers | None = None,
        device: str = "cpu",
    ) -> xr.Dataset:
        """The group `profile`, with dims path_kind, s and eigenvalue_index. paths: name -> points (P, D).

        Loss, training error and curvature are those of the batch-statistics objective, in its groups; test loss and
        error those of standard inference, with BatchNorm statistics estimated anew on the training set at each point.
        Raises UserError if a budget does not fit the data or a path is none.
        """
        require(len(paths) > 0, "paths", "at least one path", len(paths))
        objective = experiment.objective()
        self.noise.check(objective)
        curvature.subset(objective, self.eigenvalue_samples)
        curvature.Hutchinson(objective, torch.empty(self.probes, 0), self.parts)
        s = np.linspace(0.0, 1.0, self.points)
        units = [
            (self, experiment, frame, float(path_geometry.arc_length(points)[-1]), device)
            for points in paths.values()
            for frame in frames(points, s.tolist())
        ]
        results = (workers or Workers(1)).map(_measure_point, units, "profile")
        shape = (len(paths), self.points)
        dims = ("path_kind", "s")
        variables: dict[str, tuple[Any, ...]] = {
            "path_kind": (("path_kind",), np.array(list(paths))),
            "s": (("s",), s),
            "eigenvalue_index": (("eigenvalue_index",), np.arange(self.eigenvalues)),
        }
        attrs = {
            **{f"hessian_{name}_stderr": {"estimated_as": _RESIDUAL} for name in _EIGENVALUES},
            "hessian_trace_slope": {"difference_step_in_s": self.slope_step},
            "test_loss": {"normalization_mode": "evaluation"},
            "test_error": {"normalization_mode": "evaluation"},
        }
        for name in results[0]:
            values = np.stack([r[name] for r in results])
            extra = ("eigenvalue_index",) * (values.ndim - 1)
            variables[name] = ((*dims, *extra), values.reshape(*shape, *values.shape[1:]), attrs.get(name, {}))
        return schema.make(
            "profile",
            variables,
            {
                "normalization_mode": objective.mode,
                "group_size": objective.group_size or 0,
                "eigenvalue_samples": len(curvature.subset(objective, self.eigenvalue_samples)),
                "batch_size": self.noise.batch_size,
                "probes": self.probes,
                "weight_decay": self.weight_decay,
            },
        )


def _measure_point(unit: tuple[Profile, AnyExperiment, Frame, float, str]) -> dict[str, Any]:
    profile, experiment, frame, length, device = unit
    with curvature.full_precision():
        return _measure(profile, experiment, frame, length, device)


def _measure(profile: Profile, experiment: AnyExperiment, frame: Frame, length: float, device: str) -> dict[str, Any]:
    objective = experiment.objective(dtype=_PRECISIONS[profile.precision], device=device)
    theta, tangent = (torch.as_tensor(a).to(objective.device, objective.dtype) for a in frame[:2])
    train, test = objective.evaluate(theta), evaluate(experiment, theta.cpu(), "test", "evaluation")
    gradient = objective.full_value_and_gradient(theta)[1].clone()

    probes = curvature.rademacher(profile.probes, len(theta), generator(profile.seed, 0), theta)
    hutchinson = curvature.Hutchinson(objective, probes, profile.parts)
    norms = curvature.block_norms(objective, theta, experiment.scale_invariant())
    traces = hutchinson.traces(theta, tangent, norms)
    slope = hutchinson.slope(theta, tangent, profile.slope_step * length)

    start = torch.randn(len(theta), generator=generator(profile.seed, 1)).to(theta)
    operator = curvature.HessianOperator(objective, theta, curvature.subset(objective, profile.eigenvalue_samples))
    spectrum = curvature.lanczos(operator, start, min(profile.lanczos_steps, len(theta)), profile.eigenvalues)

    draws = generator(profile.seed, 2)
    noise = curvature.gradient_noise(
        (profile.noise.gradient(objective, theta, draws)[1] for _ in range(profile.noise_batches)),
        gradient,
        tangent,
        spectrum.eigenvectors,
    )
    return {
        "loss": train.loss,
        "train_error": train.error,
        "test_loss": test.loss,
        "test_error": test.error,
        "weight_decay_penalty": 0.5 * profile.weight_decay * float(theta.square().sum()),
        "hessian_trace": traces.trace.value,
        "hessian_trace_stderr": traces.trace.stderr,
        "hessian_trace_transverse": traces.transverse.value,
        "hessian_trace_transverse_stderr": traces.transverse.stderr,
        "hessian_trace_slope": slope.value,
        "hessian_trace_slope_stderr": slope.stderr,
        "hessian_trace_normalized": traces.normalized.value,
        "hessian_trace_normalized_stderr": traces.normalized.stderr,
        "hessian_max_eigenvalue": float(spectrum.eigenvalues[0]),
        "hessian_max_eigenvalue_stderr": float(spectrum.residuals[0]),
        "hessian_min_eigenvalue": spectrum.min_eigenvalue,
        "hessian_min_eigenvalue_stderr": spectrum.min_residual,
        "hessian_eigenvalue": spectrum.eigenvalues.numpy(),
        "hessian_eigenvalue_stderr": spectrum.residuals.numpy(),
        "noise_trace": noise.trace.value,
        "noise_trace_stderr": noise.trace.stderr,
        "noise_trace_transverse": noise.transverse.value,
        "noise_trace_transverse_stderr": noise.transverse.stderr,
        "noise_eigenvalue": noise.eigenvalues.numpy(),
        "noise_eigenvalue_stderr": noise.eigenvalue_stderrs.numpy(),
        "parameter_norm": float(theta.norm()),
        "gradient_norm": float(gradient.norm()),
    }
