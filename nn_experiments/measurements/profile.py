"""Profile: loss, errors, curvature and gradient noise at each point of one or more paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from entropy_sim import path_geometry, schema
from entropy_sim.errors import require
from nn_experiments import curvature
from nn_experiments.cache import Cache
from nn_experiments.experiment import AnyExperiment, evaluate
from nn_experiments.measurements._frames import Frame, frames
from nn_experiments.noise import Minibatch
from nn_experiments.objective import NormalizationMode, generator
from nn_experiments.workers import Workers, memory_errors

_RESIDUALS = {
    f"{name}_stderr"
    for name in (
        *("hessian_eigenvalue", "hessian_max_eigenvalue", "hessian_min_eigenvalue", "fisher_singular_value"),
        *("hessian_max_eigenvalue_normalized", "hessian_min_eigenvalue_normalized"),
    )
}
_RESIDUAL = "Lanczos residual |H v - value v|, a bound of the distance to an eigenvalue; no error of the data subset"
_PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Profile:
    """Loss, errors, curvature and gradient noise along a path, from the same probes and batches at every point.

    Loss and curvature are those of one objective: that of training, in its groups, or (`normalization_mode`
    "evaluation") standard inference, with BatchNorm statistics estimated anew on the training set at each point and
    held fixed for derivatives. The test error is always that of standard inference.
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
    lanczos_steps: int = 60
    """Lanczos steps for them, and for the smallest, at most; what is missing to convergence is in their _stderr."""
    lanczos_tolerance: float = 0.05
    """Residual of each, as a fraction of it, at which the steps end (0: never)."""
    eigenvalue_samples: int | None = 512
    """Size of the fixed subset of the training data (whole groups) whose Hessian they are of; None: all."""
    noise: Minibatch = field(default_factory=Minibatch)
    """Noise whose covariance is measured."""
    noise_batches: int = 64
    """Independent batches for it."""
    alignment: bool = False
    """Whether the noise follows the Hessian, Tr(CH) Tr H / (Tr C Tr H²), and its share along the top eigenvectors."""
    fisher: bool = False
    """Trace and largest singular values of the Fisher matrix (Gauss-Newton matrix of the loss)."""
    normalized: bool = False
    """Norm-corrected extreme eigenvalues and traces of the Fisher matrix and the noise, beside that of the Hessian."""
    spectrum_steps: int = 0
    """Lanczos steps per probe of the spectral density (group `spectrum`); 0: none."""
    spectrum_probes: int = 4
    """Rademacher probes of the spectral density."""
    spectrum_width: float = 0.005
    """Standard deviation of its Gaussian broadening, as a fraction of the range of eigenvalues along all paths."""
    spectrum_points: int = 1024
    """Eigenvalues at which the spectral density is stored."""
    normalization_mode: NormalizationMode = "batch"
    """What BatchNorm does in loss and curvature: batch (as in training) or evaluation (running statistics)."""
    weight_decay: float = 1e-3
    """Weight decay λ of the training; enters `weight_decay_penalty`, λ‖θ‖²/2, alone."""
    precision: Literal["float32", "float64"] = "float32"
    """Type of the numbers; never TensorFloat-32."""
    chunk: int = 512
    """Samples differentiated at a time; lower it where memory is short."""
    kept: int = 2048
    """Samples whose graph is kept between products, which saves time and costs memory."""
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
        require(0 <= self.lanczos_tolerance < 1, "profile.lanczos_tolerance", "in 0…1", self.lanczos_tolerance)
        require(0 < self.slope_step < 1, "profile.slope_step", "a number in 0…1", self.slope_step)
        require(self.noise_batches >= 2, "profile.noise_batches", "at least 2", self.noise_batches)
        require(0 <= self.weight_decay < math.inf, "profile.weight_decay", "a number >= 0", self.weight_decay)
        require(self.precision in _PRECISIONS, "profile.precision", " or ".join(_PRECISIONS), self.precision)
        require(self.spectrum_steps >= 0, "profile.spectrum_steps", "a number >= 0", self.spectrum_steps)
        require(self.spectrum_probes >= 2, "profile.spectrum_probes", "at least 2", self.spectrum_probes)
        require(0 < self.spectrum_width < 1, "profile.spectrum_width", "a number in 0…1", self.spectrum_width)
        require(
            self.spectrum_points * self.spectrum_width >= 2,
            "profile.spectrum_points",
            f"at least {math.ceil(2 / self.spectrum_width)}, two in each spectrum_width",
            self.spectrum_points,
        )
        modes = ("batch", "evaluation")
        require(
            self.normalization_mode in modes, "profile.normalization_mode", " or ".join(modes), self.normalization_mode
        )
        require(self.chunk >= 1, "profile.chunk", "a number >= 1", self.chunk)
        require(self.kept >= 0, "profile.kept", "a number >= 0", self.kept)
        require(self.seed >= 0, "profile.seed", "a number >= 0", self.seed)

    def run(
        self,
        experiment: AnyExperiment,
        paths: Mapping[str, Tensor],
        workers: Workers | None = None,
        device: str = "cpu",
        cache: Path | None = None,
    ) -> xr.Dataset:
        """The group `profile` alone: see `measure`."""
        return self.measure(experiment, paths, workers, device, cache)["profile"]

    def measure(
        self,
        experiment: AnyExperiment,
        paths: Mapping[str, Tensor],
        workers: Workers | None = None,
        device: str = "cpu",
        cache: Path | None = None,
    ) -> dict[str, xr.Dataset]:
        """The group `profile`, with dims path_kind, s and eigenvalue_index, and, if `spectrum_steps` asks for it, the
        group `spectrum` (path_kind, s, eigenvalue). paths: name -> points (P, D).

        Raises UserError if a budget does not fit the data or the memory, or a path is none.
        """
        require(len(paths) > 0, "paths", "at least one path", len(paths))
        objective = experiment.objective(mode=self.normalization_mode)
        self.noise.check(objective)
        samples = len(curvature.subset(objective, self.eigenvalue_samples))
        curvature.Hutchinson(objective, torch.empty(self.probes, 0), self.parts)
        require(
            self.spectrum_steps <= objective.dimension,
            "profile.spectrum_steps",
            f"at most {objective.dimension}, the number of parameters",
            self.spectrum_steps,
        )
        s = np.linspace(0.0, 1.0, self.points)
        units = [
            (self, experiment, frame, float(path_geometry.arc_length(points)[-1]), device)
            for points in paths.values()
            for frame in frames(points, s.tolist())
        ]
        where = Cache.of(cache, paths, profile=self, experiment=experiment)
        results = where.map(workers or Workers(1), _measure_point, units, "profile")
        about = {"normalization_mode": objective.mode, "group_size": objective.group_size or 0}
        along: dict[str, tuple[Any, ...]] = {
            "path_kind": (("path_kind",), np.array(list(paths))),
            "s": (("s",), s),
        }
        spectra = [r.pop("spectrum") for r in results]
        groups = {"profile": self._profile(results, along, about | {"eigenvalue_samples": samples})}
        if self.spectrum_steps:
            groups["spectrum"] = self._spectrum(spectra, along, about | {"samples": samples})
        return groups

    def _profile(
        self, results: Sequence[dict[str, Any]], along: Mapping[str, tuple[Any, ...]], about: dict[str, Any]
    ) -> xr.Dataset:
        shape = tuple(len(values) for _, values in along.values())
        variables = {**along, "eigenvalue_index": (("eigenvalue_index",), np.arange(self.eigenvalues))}
        for name in results[0]:
            values = np.stack([r[name] for r in results])
            extra = ("eigenvalue_index",) * (values.ndim - 1)
            variables[name] = (
                (*along, *extra),
                values.reshape(*shape, *values.shape[1:]),
                {"estimated_as": _RESIDUAL} if name in _RESIDUALS else self._meaning().get(name, {}),
            )
        return schema.make(
            "profile",
            variables,
            {
                **about,
                "batch_size": self.noise.batch_size,
                "probes": self.probes,
                "weight_decay": self.weight_decay,
            },
        )

    def _meaning(self) -> dict[str, dict[str, Any]]:
        standard = {"normalization_mode": "evaluation"}
        fisher = {"definition": "Gauss-Newton matrix of the loss: the Fisher matrix for cross-entropy and (f - y)^2/2"}
        return {
            "hessian_trace_slope": {"difference_step_in_s": self.slope_step},
            "test_loss": standard,
            "test_error": standard,
            "fisher_trace": fisher,
            "fisher_singular_value": fisher,
            "noise_hessian_alignment": {"definition": "Tr(CH) Tr H / (Tr C Tr H^2), H of the eigenvalue_samples"},
        }

    def _spectrum(
        self,
        spectra: Sequence[tuple[Any, Any]],
        along: Mapping[str, tuple[Any, ...]],
        about: dict[str, Any],
    ) -> xr.Dataset:
        quadratures = [curvature.Quadrature(*map(torch.as_tensor, spectrum)) for spectrum in spectra]
        nodes = torch.cat([q.nodes.flatten() for q in quadratures])
        low, high = float(nodes.min()), float(nodes.max())
        width = self.spectrum_width * ((high - low) or 1.0)
        eigenvalues = torch.linspace(low - 4 * width, high + 4 * width, self.spectrum_points, dtype=torch.float64)
        found = [curvature.density(q, eigenvalues, width) for q in quadratures]
        shape = (*(len(values) for _, values in along.values()), len(eigenvalues))
        dims = (*along, "eigenvalue")
        variables = {
            **along,
            "eigenvalue": (("eigenvalue",), eigenvalues.numpy()),
            "density": (dims, torch.stack([d for d, _ in found]).reshape(shape).numpy()),
            "density_stderr": (dims, torch.stack([e for _, e in found]).reshape(shape).numpy()),
        }
        method = {"method": "stochastic Lanczos quadrature", "gaussian_width": width}
        budget = {"lanczos_steps": self.spectrum_steps, "probes": self.spectrum_probes}
        return schema.make("spectrum", variables, {**about, **method, **budget})


def _measure_point(unit: tuple[Profile, AnyExperiment, Frame, float, str]) -> dict[str, Any]:
    profile, experiment, frame, length, device = unit
    what = "profile.chunk, profile.kept, profile.lanczos_steps or profile.eigenvalue_samples"
    with curvature.full_precision(), memory_errors(what):
        return _measure(profile, experiment, frame, length, device)


def _measure(profile: Profile, experiment: AnyExperiment, frame: Frame, length: float, device: str) -> dict[str, Any]:
    dtype = _PRECISIONS[profile.precision]
    training = experiment.objective(dtype=dtype, device=device)
    objective, prepare = training, None
    if profile.normalization_mode == "evaluation":
        objective = experiment.objective(dtype=dtype, mode="evaluation", device=device)

        def prepare(theta: Tensor) -> None:
            objective.copy_statistics(training, theta)

    theta, tangent = (torch.as_tensor(a).to(objective.device, objective.dtype) for a in frame[:2])
    if prepare is not None:
        prepare(theta)
    train, test = objective.evaluate(theta), evaluate(experiment, theta, "test", "evaluation", device)
    gradient = objective.full_value_and_gradient(theta, profile.chunk)[1].clone()
    found: dict[str, Any] = {
        "loss": train.loss,
        "train_error": train.error,
        "test_loss": test.loss,
        "test_error": test.error,
        "weight_decay_penalty": 0.5 * profile.weight_decay * float(theta.square().sum()),
        "parameter_norm": float(theta.norm()),
        "gradient_norm": float(gradient.norm()),
    }

    def store(name: str, estimate: curvature.Estimate) -> None:
        found[name], found[f"{name}_stderr"] = estimate

    budget: dict[str, Any] = {"chunk": profile.chunk, "kept": profile.kept}
    probes = curvature.rademacher(profile.probes, len(theta), generator(profile.seed, 0), theta)
    norms = curvature.block_norms(objective, theta, experiment.scale_invariant())
    hutchinson = partial(curvature.Hutchinson, objective, probes, profile.parts, **budget)
    traces = hutchinson().traces(theta, tangent, norms)
    store("hessian_trace", traces.trace)
    store("hessian_trace_transverse", traces.transverse)
    store("hessian_trace_normalized", traces.normalized)
    store("hessian_trace_slope", hutchinson(prepare=prepare).slope(theta, tangent, profile.slope_step * length))
    if prepare is not None:
        prepare(theta)

    start = torch.randn(len(theta), generator=generator(profile.seed, 1)).to(theta)
    steps, top = min(profile.lanczos_steps, len(theta)), profile.eigenvalues

    def ends(operator: curvature.Operator, start: Tensor = start) -> curvature.Spectrum:
        return curvature.lanczos(operator, start, steps, top, profile.lanczos_tolerance)

    part = curvature.subset(objective, profile.eigenvalue_samples)
    operator = curvature.HessianOperator(objective, theta, part, **budget)
    spectrum = ends(operator)
    _store_ends(found, "hessian", spectrum)
    found["hessian_eigenvalue"] = spectrum.eigenvalues.numpy()
    found["hessian_eigenvalue_stderr"] = spectrum.residuals.numpy()
    found["lanczos_steps"] = spectrum.steps
    if profile.normalized and bool(norms.any()):
        # Within the scale-invariant blocks: outside them S^½ H S^½ is 0.
        _store_ends(found, "hessian", ends(curvature.scaled(operator, norms), start * (norms > 0)), "_normalized")

    draws = generator(profile.seed, 2)
    noise = curvature.gradient_noise(
        (profile.noise.gradient(objective, theta, draws)[1] for _ in range(profile.noise_batches)),
        gradient,
        tangent,
        spectrum.eigenvectors,
        norms=norms if profile.normalized else None,
        hessian=operator if profile.alignment else None,
    )
    store("noise_trace", noise.trace)
    store("noise_trace_transverse", noise.transverse)
    found["noise_eigenvalue"] = noise.eigenvalues.numpy()
    found["noise_eigenvalue_stderr"] = noise.eigenvalue_stderrs.numpy()
    if noise.normalized is not None:
        store("noise_trace_normalized", noise.normalized)
    if noise.hessian is not None:
        store("noise_hessian_trace", noise.hessian)
        store("noise_top_share", noise.top_share)
        aligned = curvature.alignment(noise, operator, probes)
        store("noise_hessian_alignment", aligned.alignment)
        store("hessian_square_trace", aligned.square_trace)

    found["spectrum"] = None
    if profile.spectrum_steps:
        signs = curvature.rademacher(profile.spectrum_probes, len(theta), generator(profile.seed, 3), theta)
        quadrature = curvature.quadrature(operator, signs, profile.spectrum_steps)
        found["spectrum"] = tuple(part.cpu().numpy() for part in quadrature)

    if profile.fisher:
        del operator  # its graphs are as large as those of the next one
        fisher = hutchinson(operator=curvature.GaussNewtonOperator).traces(theta, tangent, norms)
        store("fisher_trace", fisher.trace)
        store("fisher_trace_transverse", fisher.transverse)
        if profile.normalized:
            store("fisher_trace_normalized", fisher.normalized)
        largest = ends(curvature.GaussNewtonOperator(objective, theta, part, **budget))
        found["fisher_singular_value"] = largest.eigenvalues.numpy()
        found["fisher_singular_value_stderr"] = largest.residuals.numpy()
    return found


def _store_ends(found: dict[str, Any], matrix: str, spectrum: curvature.Spectrum, suffix: str = "") -> None:
    largest, smallest = f"{matrix}_max_eigenvalue{suffix}", f"{matrix}_min_eigenvalue{suffix}"
    found[largest], found[f"{largest}_stderr"] = float(spectrum.eigenvalues[0]), float(spectrum.residuals[0])
    found[smallest], found[f"{smallest}_stderr"] = spectrum.min_eigenvalue, spectrum.min_residual
