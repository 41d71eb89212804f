"""The profile of a small network with BatchNorm against what its parts give when called by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from entropy_sim import path_geometry
from entropy_sim.errors import UserError
from entropy_sim.schema import group_faults
from nn_experiments import curvature
from nn_experiments.experiment import evaluate
from nn_experiments.measurements import Profile
from nn_experiments.noise import Minibatch
from nn_experiments.objective import NormalizationMode, Objective, generator

GROUP = 4


@dataclass(frozen=True)
class SmallExperiment:
    """Two classes of random vectors through a linear map, BatchNorm and another linear map: 28 parameters."""

    group_size: int | None = GROUP
    system: str = "a small network"

    def objective(
        self,
        split: str = "train",
        *,
        dtype: torch.dtype = torch.float32,
        mode: NormalizationMode = "batch",
        device: str = "cpu",
    ) -> Objective:
        draws = generator(0 if split == "train" else 1)
        x = torch.randn(26, 3, generator=draws, dtype=torch.float64).to(dtype)
        y = (x[:, 0] * x[:, 1] > 0).long()
        module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)
        return Objective(module, nn.functional.cross_entropy, x, y, group_size=self.group_size, mode=mode)

    def scale_invariant(self) -> list[str]:
        return ["0.weight"]


class Backwards:
    """Workers that do the units in the wrong order."""

    def map(self, function: Callable[[Any], Any], units: Iterable[Any], label: str = "") -> list[Any]:
        return [function(u) for u in reversed(list(units))][::-1]


@pytest.fixture(scope="module")
def paths() -> dict[str, Tensor]:
    draws = generator(2)
    dimension = SmallExperiment().objective().dimension
    ends = torch.randn(2, dimension, generator=draws) * 0.5 + 0.5
    bent = torch.stack([ends[0], ends.mean(0) + 0.3 * torch.randn(dimension, generator=draws), ends[1]])
    return {"neb": bent, "line": ends}


SMALL = Profile(
    points=3,
    probes=12,
    parts=3,
    eigenvalues=2,
    lanczos_steps=20,
    lanczos_tolerance=1e-6,
    eigenvalue_samples=None,
    noise=Minibatch(8),
    noise_batches=50,
    weight_decay=0.1,
    precision="float64",
)


@pytest.fixture(scope="module")
def profile(paths: dict[str, Tensor]) -> xr.Dataset:
    return SMALL.run(SmallExperiment(), paths)


def test_every_variable_is_there_finite_and_valid(profile: xr.Dataset) -> None:
    assert group_faults("profile", profile) == []
    assert profile["path_kind"].values.tolist() == ["neb", "line"]
    np.testing.assert_allclose(profile["s"], [0, 0.5, 1])
    names = "loss train_error test_loss test_error weight_decay_penalty hessian_trace hessian_trace_transverse "
    names += "hessian_trace_slope hessian_trace_normalized hessian_max_eigenvalue hessian_min_eigenvalue "
    names += "hessian_max_eigenvalue_stderr hessian_min_eigenvalue_stderr hessian_eigenvalue_stderr "
    names += "hessian_eigenvalue noise_trace noise_trace_transverse noise_eigenvalue parameter_norm gradient_norm"
    assert set(names.split()) <= set(profile.data_vars)
    for name, variable in profile.data_vars.items():
        assert np.isfinite(variable.values).all(), name
    assert profile.attrs["normalization_mode"] == "batch"
    assert profile.attrs["group_size"] == GROUP
    assert profile["test_error"].attrs["normalization_mode"] == "evaluation"


def hessian(objective: Objective, theta: Tensor) -> Tensor:
    operator = curvature.HessianOperator(objective, theta)
    return operator(torch.eye(len(theta), dtype=theta.dtype))


@pytest.mark.parametrize(("kind", "i"), [("neb", 0), ("neb", 1), ("line", 1)])
def test_values_are_those_of_the_point(profile: xr.Dataset, paths: dict[str, Tensor], kind: str, i: int) -> None:
    """Exact ones to rounding, estimates within 4.5 of their standard errors."""
    experiment, points = SmallExperiment(), paths[kind].double()
    objective = experiment.objective(dtype=torch.float64)
    s = (0.0, 0.5, 1.0)[i]
    theta = path_geometry.interpolate(points, s)
    tangent = path_geometry.interpolate_at(
        path_geometry.tangents(points), path_geometry.normalised_arc_length(points), s
    )
    tangent = tangent / tangent.norm()
    h = hessian(objective, theta)
    values = torch.linalg.eigvalsh(h)
    loss, gradient = objective.full_value_and_gradient(theta)
    test = evaluate(experiment, theta.float(), "test", "evaluation")
    found = profile.sel(path_kind=kind).isel(s=i)
    exact = {
        "loss": loss,
        "train_error": objective.evaluate(theta).error,
        "test_error": test.error,
        "test_loss": test.loss,
        "weight_decay_penalty": 0.05 * theta.square().sum(),
        "hessian_max_eigenvalue": values[-1],
        "hessian_min_eigenvalue": values[0],
        "parameter_norm": theta.norm(),
        "gradient_norm": gradient.norm(),
    }
    for name, value in exact.items():
        assert float(found[name]) == pytest.approx(float(value), rel=2e-5, abs=1e-9), name
    np.testing.assert_allclose(found["hessian_eigenvalue"], values.flip(0)[:2], rtol=1e-5)
    block = objective.blocks()["0.weight"]
    estimates = {
        "hessian_trace": h.trace(),
        "hessian_trace_transverse": h.trace() - tangent @ h @ tangent,
        "hessian_trace_normalized": theta[block].square().sum() * h.diagonal()[block].sum(),
    }
    step = 1e-4
    above, below = (hessian(objective, theta + sign * step * tangent) for sign in (1, -1))
    change = (above - below) / (2 * step)
    estimates["hessian_trace_slope"] = change.trace() - tangent @ change @ tangent
    draws = generator(9)
    many = torch.stack([SMALL.noise.gradient(objective, theta, draws)[1].clone() for _ in range(800)])
    covariance = torch.cov(many.T)
    estimates["noise_trace"] = covariance.trace()
    estimates["noise_trace_transverse"] = covariance.trace() - tangent @ covariance @ tangent
    for name, value in estimates.items():
        assert abs(float(found[name]) - float(value)) < 4.5 * float(found[f"{name}_stderr"]), name


def test_standard_errors_of_eigenvalues_bound_the_distance_to_one(paths: dict[str, Tensor]) -> None:
    """Stopped early, no eigenvalue is exact: each is within its residual of one of the exact Hessian's."""
    found = replace(SMALL, lanczos_steps=5).run(SmallExperiment(), {"neb": paths["neb"]}).isel(path_kind=0, s=0)
    exact = torch.linalg.eigvalsh(hessian(SmallExperiment().objective(dtype=torch.float64), paths["neb"][0].double()))
    for name in ("hessian_eigenvalue", "hessian_max_eigenvalue", "hessian_min_eigenvalue"):
        assert "bound" in found[f"{name}_stderr"].attrs["estimated_as"]
        values, errors = np.atleast_1d(found[name]), np.atleast_1d(found[f"{name}_stderr"])
        distances = np.abs(values[:, None] - exact.numpy()).min(axis=1)
        assert (distances <= errors * (1 + 1e-6)).all()
    assert float(found["hessian_eigenvalue_stderr"][1]) > 1e-4 * float(found["hessian_eigenvalue"][1])
    assert found["hessian_max_eigenvalue_stderr"] == found["hessian_eigenvalue_stderr"][0]


def test_slope_step_is_a_fraction_of_the_length(paths: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def spy(self: curvature.Hutchinson, theta: Tensor, tangent: Tensor, step: float) -> curvature.Estimate:
        steps.append(step)
        return curvature.Estimate(0.0, 0.0)

    monkeypatch.setattr(curvature.Hutchinson, "slope", spy)
    replace(SMALL, slope_step=0.02).run(SmallExperiment(), {"neb": paths["neb"]})
    np.testing.assert_allclose(steps, 0.02 * path_geometry.arc_length(paths["neb"])[-1])


def test_both_kinds_share_their_ends(profile: xr.Dataset) -> None:
    for name in ("loss", "hessian_trace", "hessian_max_eigenvalue", "noise_trace", "test_error"):
        for i in (0, 2):
            assert float(profile[name][0, i]) == pytest.approx(float(profile[name][1, i]), rel=1e-9), name


def test_points_share_probes_and_batches_and_the_seed_changes_them(paths: dict[str, Tensor]) -> None:
    same = {"neb": paths["neb"]}
    once = SMALL.run(SmallExperiment(), same)
    xr.testing.assert_identical(once, SMALL.run(SmallExperiment(), same, Backwards()))  # type: ignore[arg-type]
    other = replace(SMALL, seed=1).run(SmallExperiment(), same)
    assert not np.allclose(once["hessian_trace"], other["hessian_trace"])
    assert not np.allclose(once["noise_trace"], other["noise_trace"])
    np.testing.assert_allclose(once["loss"], other["loss"])


def test_single_precision_agrees(profile: xr.Dataset, paths: dict[str, Tensor]) -> None:
    found = replace(SMALL, precision="float32").run(SmallExperiment(), paths)
    for name in ("loss", "hessian_trace", "hessian_max_eigenvalue", "noise_trace", "parameter_norm"):
        np.testing.assert_allclose(found[name], profile[name], rtol=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 1}, "points: expected at least 2, found 1"),
        ({"probes": 1}, "probes: expected at least 2"),
        ({"parts": 5}, "parts: expected a divisor of the 12 probes, found 5"),
        ({"eigenvalues": 0}, "eigenvalues: expected a number >= 1"),
        ({"lanczos_steps": 1}, "lanczos_steps: expected at least 2"),
        ({"eigenvalue_samples": 0}, "eigenvalue_samples: expected a number >= 1"),
        ({"lanczos_tolerance": 1.0}, "lanczos_tolerance: expected in 0…1"),
        ({"spectrum_steps": -1}, "spectrum_steps: expected a number >= 0"),
        ({"spectrum_probes": 1}, "spectrum_probes: expected at least 2"),
        ({"spectrum_width": 0.0}, "spectrum_width: expected a number in"),
        ({"spectrum_points": 100}, "spectrum_points: expected at least 400, two in each spectrum_width, found 100"),
        ({"normalization_mode": "train"}, "normalization_mode: expected batch or evaluation"),
        ({"chunk": 0}, "chunk: expected a number >= 1"),
        ({"kept": -1}, "kept: expected a number >= 0"),
        ({"slope_step": 0.0}, "slope_step: expected a number in"),
        ({"noise_batches": 1}, "noise_batches: expected at least 2"),
        ({"weight_decay": -1.0}, "weight_decay: expected a number >= 0"),
        ({"precision": "bfloat16"}, "precision: expected float32 or float64"),
        ({"seed": -1}, "seed: expected a number >= 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SMALL, **options)


EVERYTHING = replace(
    SMALL, alignment=True, fisher=True, normalized=True, spectrum_steps=15, spectrum_probes=8, lanczos_steps=28
)


@pytest.mark.parametrize("mode", ["batch", "evaluation"])
def test_everything_that_can_be_asked_for(paths: dict[str, Tensor], mode: NormalizationMode) -> None:
    """Against explicit matrices at one point, in both normalisation modes, which differ (trap: one taken for the
    other); evaluation mode with the running statistics of *this* point (trap: those of another, or interpolated)."""
    found = replace(EVERYTHING, normalization_mode=mode).measure(SmallExperiment(), {"neb": paths["neb"]})
    assert sorted(found) == ["profile", "spectrum"]
    for name, group in found.items():
        assert group_faults(name, group) == []
        assert group.attrs["normalization_mode"] == mode
    at = found["profile"].isel(path_kind=0, s=1)
    experiment, points = SmallExperiment(), paths["neb"].double()
    theta = path_geometry.interpolate(points, 0.5)
    training = experiment.objective(dtype=torch.float64)
    objective = experiment.objective(dtype=torch.float64, mode=mode)
    if mode == "evaluation":
        objective.copy_statistics(training, theta)
    assert float(at["loss"]) == pytest.approx(objective.evaluate(theta).loss, rel=1e-5)
    h = hessian(objective, theta)
    values = torch.linalg.eigvalsh(h)
    assert float(at["hessian_max_eigenvalue"]) == pytest.approx(float(values[-1]), rel=1e-5)
    other = hessian(training, theta) if mode == "evaluation" else None
    if other is not None:
        assert abs(float(torch.linalg.eigvalsh(other)[-1]) / float(values[-1]) - 1) > 1e-3
        stale = experiment.objective(dtype=torch.float64, mode=mode)
        stale.copy_statistics(training, points[0])
        assert abs(float(torch.linalg.eigvalsh(hessian(stale, theta))[-1]) / float(values[-1]) - 1) > 1e-3
    norms = curvature.block_norms(objective, theta, ["0.weight"])
    block = objective.blocks()["0.weight"]
    ends = torch.linalg.eigvalsh((norms.sqrt()[:, None] * h * norms.sqrt())[block, block])
    assert float(at["hessian_max_eigenvalue_normalized"]) == pytest.approx(float(ends[-1]), rel=1e-4)
    fisher = curvature.GaussNewtonOperator(objective, theta)(torch.eye(len(theta), dtype=torch.float64))
    singular = torch.linalg.svdvals(fisher)
    np.testing.assert_allclose(at["fisher_singular_value"], singular[:2], rtol=1e-5)
    draws = generator(9)
    covariance = torch.cov(
        torch.stack([SMALL.noise.gradient(objective, theta, draws)[1].clone() for _ in range(800)]).T
    )
    estimates = {
        "fisher_trace": fisher.trace(),
        "fisher_trace_normalized": (norms * fisher.diagonal()).sum(),
        "noise_trace_normalized": (norms * covariance.diagonal()).sum(),
        "noise_hessian_trace": (covariance * h).sum(),
        "hessian_square_trace": h.square().sum(),
        "noise_hessian_alignment": (covariance * h).sum() * h.trace() / (covariance.trace() * h.square().sum()),
    }
    for name, value in estimates.items():
        assert abs(float(at[name]) - float(value)) < 4.5 * float(at[f"{name}_stderr"]), name
        assert float(at[f"{name}_stderr"]) > 0
    spectrum = found["spectrum"].isel(path_kind=0)
    spacing = float(spectrum["eigenvalue"][1] - spectrum["eigenvalue"][0])
    np.testing.assert_allclose(spectrum["density"].sum("eigenvalue") * spacing, 1, rtol=1e-4)
    mean = float((spectrum["density"][1] * spectrum["eigenvalue"]).sum()) * spacing
    # The first moment is Tr H/D; its error is that of eight Rademacher probes, sqrt(2 Σ_{i≠j} H_ij² / 8)/D.
    error = (float(h.square().sum() - h.diagonal().square().sum()) / 4) ** 0.5 / len(theta)
    assert abs(mean - float(h.trace()) / len(theta)) < 4.5 * error
    assert 0 < spectrum.attrs["gaussian_width"] < float(values[-1] - values[0])


def test_slope_in_evaluation_mode_follows_the_statistics(
    paths: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tr(Q dH/dt) along the path, where each point has running statistics of its own: exact with the probes √D e_i;
    with those of the middle held fixed it would be another number."""

    def exact(count: int, dimension: int, draws: torch.Generator, like: Tensor) -> Tensor:
        return dimension**0.5 * torch.eye(dimension).to(like)

    monkeypatch.setattr(curvature, "rademacher", exact)
    experiment, points = SmallExperiment(), paths["neb"].double()
    training, objective = (experiment.objective(dtype=torch.float64, mode=m) for m in ("batch", "evaluation"))
    profile = replace(SMALL, probes=len(points[0]), parts=1, normalization_mode="evaluation", slope_step=1e-4)
    at = profile.run(SmallExperiment(), {"neb": paths["neb"]}).isel(path_kind=0, s=1)
    theta = path_geometry.interpolate(points, 0.5)
    t = path_geometry.interpolate_at(path_geometry.tangents(points), path_geometry.normalised_arc_length(points), 0.5)
    t, step = t / t.norm(), 1e-4

    def change(follow: bool) -> float:
        objective.copy_statistics(training, theta)
        sides = []
        for sign in (1, -1):
            if follow:
                objective.copy_statistics(training, theta + sign * step * t)
            sides.append(hessian(objective, theta + sign * step * t))
        difference = (sides[0] - sides[1]) / (2 * step)
        return float(difference.trace() - t @ difference @ t)

    assert float(at["hessian_trace_slope"]) == pytest.approx(change(True), rel=2e-4)
    assert abs(change(False) / change(True) - 1) > 1e-3


def test_memory_that_runs_out_says_what_to_lower(paths: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(curvature, "lanczos", full)
    with pytest.raises(UserError, match=r"memory: .*found CUDA out of memory.*2 GiB\.; lower profile\.chunk, profile"):
        SMALL.run(SmallExperiment(), {"neb": paths["neb"]})


def test_budgets_that_do_not_fit_the_data_are_refused_before_any_work(paths: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match="paths: expected at least one path, found 0"):
        SMALL.run(SmallExperiment(), {})
    with pytest.raises(UserError, match="batch_size: expected a multiple of the group size 4, found 6"):
        replace(SMALL, noise=Minibatch(6)).run(SmallExperiment(), paths)
    with pytest.raises(UserError, match="parts: expected 1…6, the number of groups of data, found 12"):
        replace(SMALL, parts=12).run(SmallExperiment(), paths)
