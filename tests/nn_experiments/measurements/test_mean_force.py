"""Constrained SGD on f = u w x, whose transverse stiffness along the valley u w = a is known in closed form."""

from __future__ import annotations

import math
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
from nn_experiments.experiment import squared
from nn_experiments.measurements import MeanForce
from nn_experiments.noise import Label, Minibatch, Thermal
from nn_experiments.objective import Objective

DOUBLE = torch.float64
SAMPLES, BATCH, RATE = 8, 4, 0.1
RESIDUAL = 0.15


class TwoLayer(nn.Module):
    """f = u w x with theta = (u, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.w = (nn.Parameter(torch.ones((), dtype=DOUBLE)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.u * self.w * x


@dataclass(frozen=True)
class TwoLayerExperiment:
    """L = ½ E (u w x − y)², x = ±1, y = x + irreducible residuals ±RESIDUAL uncorrelated with x: minima at u w = 1."""

    residual: float = RESIDUAL
    group_size: int | None = None
    system: str = "two layers"

    def objective(self, split: str = "train", **_: Any) -> Objective:
        x = torch.tensor([1.0, -1.0] * (SAMPLES // 2), dtype=DOUBLE)
        y = x + self.residual * torch.tensor([1.0, 1.0, -1.0, -1.0] * (SAMPLES // 4), dtype=DOUBLE)
        return Objective(TwoLayer(), lambda f, t: 0.5 * (f - t).square().mean(), x, y)

    def scale_invariant(self) -> list[str]:
        return []


def valley(points: int = 201) -> Tensor:
    """u w = 1 from u = 1/2 to u = 2, finely."""
    u = torch.exp(torch.linspace(-math.log(2), math.log(2), points, dtype=DOUBLE))
    return torch.stack([u, 1 / u], dim=1)


class Backwards:
    """Workers that do the units in the wrong order."""

    def map(self, function: Callable[[Any], Any], units: Iterable[Any], label: str = "") -> list[Any]:
        return [function(u) for u in reversed(list(units))][::-1]


def run(config: MeanForce, experiment: Any = None, points: Tensor | None = None, workers: Any = None) -> xr.Dataset:
    return config.run(experiment or TwoLayerExperiment(), valley() if points is None else points, workers)


LONG = MeanForce(
    positions=(0.25,),
    replicas=2,
    learning_rate=RATE,
    noise=Minibatch(BATCH),
    burn_in=5.0,
    duration=600.0,
    time_windows=3,
    control=False,
    control_step=None,
    seed=3,
)


@pytest.fixture(scope="module")
def long_run() -> xr.Dataset:
    return run(LONG)


@pytest.fixture(scope="module")
def point() -> tuple[float, float, float]:
    """u, w and the stiffness k = u² + w² (E x² = 1) at s = 0.25."""
    u, w = path_geometry.interpolate(valley(), 0.25).tolist()
    return u, w, u * u + w * w


def transverse_variance(k: float, factor: float = (SAMPLES - BATCH) / (SAMPLES - 1)) -> float:
    """η C/(k (2 − η k)), C = (N − B)/(N − 1) · residual² k/B: the noise of the batch gradient across the valley."""
    return RATE * factor * RESIDUAL**2 * k / BATCH / (k * (2 - RATE * k))


def test_force_is_the_entropic_one(long_run: xr.Dataset, point: tuple[float, float, float]) -> None:
    """−½ ∂_t k ⟨q²⟩ with ∂_t k = 2 (u² − w²)/√k towards larger u; next orders in the noise are below 1 %.

    Rejected: no finite-population factor, Tr(∂_t H) Σ without the ½, the sign, the stiffness of small ηk.
    """
    u, w, k = point
    slope = 2 * (u * u - w * w) / math.sqrt(k)
    expected = -0.5 * slope * transverse_variance(k)
    mean = float(long_run["mean_force"].mean())
    stderr = float(np.sqrt((long_run["mean_force_stderr"] ** 2).sum()) / long_run["mean_force"].size)
    assert stderr < 0.03 * abs(expected)
    assert abs(mean - expected) < 4 * stderr
    mutants = {
        "no factor": expected * (SAMPLES - 1) / (SAMPLES - BATCH),
        "no half": 2 * expected,
        "sign": -expected,
        "small step": expected * (1 - RATE * k / 2),
    }
    for name, mutant in mutants.items():
        assert abs(mean - mutant) > 5 * stderr, name


def test_error_bars_cover_the_scatter_of_windows_and_replicas(long_run: xr.Dataset) -> None:
    force, stderr = long_run["mean_force"].values, long_run["mean_force_stderr"].values
    z = (force - force.mean()) / stderr
    assert np.sum(z**2) < 20.5  # chi² with 5 degrees of freedom exceeds this once in a thousand
    assert np.all(stderr > 0)


def test_distance_loss_and_heating(long_run: xr.Dataset, point: tuple[float, float, float]) -> None:
    k = point[2]
    variance = transverse_variance(k)
    assert float(long_run["distance"].mean()) == pytest.approx(math.sqrt(2 * variance / math.pi), rel=0.1)
    assert float(long_run["transverse_loss"].mean()) == pytest.approx(0.5 * RESIDUAL**2 + 0.5 * k * variance, rel=0.05)
    left, right = (float(long_run[f"heating_{side}"].mean()) for side in ("left", "right"))
    assert right == pytest.approx(2 * k * variance, rel=0.1)  # 2⟨q k q⟩, exact for stationary SGD
    assert left == pytest.approx(right, rel=0.1)


def test_samples_are_counted(long_run: xr.Dataset) -> None:
    time, number = float(long_run["position_autocorrelation_time"][0]), float(long_run["effective_sample_size"][0])
    assert RATE * 0.1 < time < RATE * 10
    assert number == pytest.approx(2 * LONG.duration / time, rel=0.02)


def test_valley_floor_has_no_force_without_noise(long_run: xr.Dataset) -> None:
    control = run(replace(LONG, duration=6.0, control=True))["mean_force_control"]
    assert control.dims == ("s", "control_replica", "time_window")
    assert np.abs(control.values).max() < 1e-3 * abs(float(long_run["mean_force"].mean()))


def schur_force(s: float) -> tuple[Tensor, dict[str, Any], float]:
    """A straight path through an anisotropic quadratic: the force on the plane once the rest has relaxed."""
    hessian = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=DOUBLE)
    start, end = torch.tensor([1.0, 0.5], dtype=DOUBLE), torch.tensor([-1.0, 1.0], dtype=DOUBLE)
    t = (end - start) / (end - start).norm()
    n = torch.stack([-t[1], t[0]])
    gamma = start + s * (end - start)
    q = -(n @ hessian @ gamma) / (n @ hessian @ n)
    return torch.stack([start, end]), {"root": torch.linalg.cholesky(hessian)}, -float(t @ hessian @ (gamma + q * n))


@dataclass(frozen=True)
class QuadraticExperiment:
    """½ thetaᵀ H theta as the mean square of a linear map, rows of √2 · chol(H)ᵀ as the two samples."""

    root: Any = None
    group_size: int | None = None
    system: str = "a quadratic"

    def objective(self, split: str = "train", **_: Any) -> Objective:
        x = math.sqrt(2) * self.root.T
        module = nn.Linear(2, 1, bias=False).double()
        return Objective(module, lambda f, y: 0.5 * (f - y).square().sum(-1).mean(), x, torch.zeros(2, 1).double())


@pytest.mark.parametrize("control_step", [None, 2.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_noise_free_force_is_that_of_the_relaxed_plane(control_step: float | None, momentum: float) -> None:
    """Full batches, and the control: −t·H(γ + q n) with q at its minimum, on the clock η · step/(1 − β)."""
    points, options, expected = schur_force(0.2)
    config = MeanForce(
        positions=(0.2,),
        learning_rate=0.05 * (1 - momentum),
        momentum=momentum,
        noise=Minibatch(2),
        burn_in=20.0,
        duration=8.0,
        time_windows=2,
        control_step=control_step,
    )
    found = run(config, QuadraticExperiment(**options), points)
    np.testing.assert_allclose(found["time_window"], [22.0, 26.0])
    np.testing.assert_allclose(found["mean_force"], expected, rtol=1e-8)
    np.testing.assert_allclose(found["mean_force_control"], expected, rtol=1e-8 if control_step is None else 1e-4)
    assert ("heating_left" in found) == (momentum == 0)


@pytest.mark.parametrize("burn_in", [0.0, 0.2, 0.5, 0.7])
def test_the_control_is_averaged_over_the_times_of_the_windows(burn_in: float) -> None:
    """Steps of the flow take 1 - h dt here, h the stiffness across, those of the burn-in too, which have a length of
    their own. Rejected: a burn-in rounded to whole steps of those in the windows."""
    points, options, rest = schur_force(0.2)
    config = MeanForce(
        (0.2,), learning_rate=0.05, noise=Minibatch(2), burn_in=burn_in, duration=8.0, time_windows=2, control_step=0.5
    )
    found = run(config, QuadraticExperiment(**options), points)["mean_force_control"].values[0, 0]
    hessian, t = (options["root"] @ options["root"].T).numpy(), (points[1] - points[0]).numpy()
    t /= np.linalg.norm(t)
    n = np.array([-t[1], t[0]])
    h, gamma = n @ hessian @ n, points[0].numpy() + 0.2 * (points[1] - points[0]).numpy()
    start = -t @ hessian @ gamma
    steps = math.ceil(burn_in / 0.5)
    decayed = (1 - h * burn_in / max(steps, 1)) ** steps * (1 - 0.5 * h) ** np.arange(17)
    average = np.array([np.trapezoid(d) / 8 for d in (decayed[:9], decayed[8:])])
    np.testing.assert_allclose(found, rest + (start - rest) * average, rtol=1e-9)


def heavy_ball_forces(root: Tensor, points: Tensor, rate: float, momentum: float, steps: int) -> np.ndarray:
    """−t·∇L before each of so many constrained steps from s = 0.2, (steps,)."""
    hessian, (start, end) = (root @ root.T).numpy(), points.numpy()
    t = (end - start) / np.linalg.norm(end - start)
    theta, velocity, forces = start + 0.2 * (end - start), np.zeros(2), []
    for _ in range(steps):
        gradient = hessian @ theta
        forces.append(-t @ gradient)
        velocity = momentum * velocity - rate * gradient
        theta = theta + velocity - t * (t @ velocity)
    return np.array(forces)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_windows_are_averages_over_their_steps(momentum: float) -> None:
    """A cold start without noise: ten steps of burn-in and forty per window, on the clock η · step/(1 − β)."""
    points, options, _ = schur_force(0.2)
    config = MeanForce(
        positions=(0.2,),
        learning_rate=0.05 * (1 - momentum),
        momentum=momentum,
        noise=Minibatch(2),
        burn_in=0.5,
        duration=4.0,
        time_windows=2,
        control_step=None,
    )
    forces = heavy_ball_forces(options["root"], points, config.learning_rate, momentum, 91)
    found = run(config, QuadraticExperiment(**options), points)
    for name in ("mean_force", "mean_force_control"):
        np.testing.assert_allclose(found[name][0, 0], forces[10:90].reshape(2, 40).mean(1), rtol=1e-10)
    # The control's few large steps are averaged by the trapezoidal rule; this short a step takes one stage.
    flow = run(replace(config, control_step=0.2, burn_in=0.2), QuadraticExperiment(**options), points)
    forces = heavy_ball_forces(options["root"], points, 0.2, 0.0, 22)
    windows = [np.trapezoid(forces[1 + 10 * w : 12 + 10 * w]) / 10 for w in range(2)]
    np.testing.assert_allclose(flow["mean_force_control"][0, 0], windows, rtol=1e-10)


def test_path_curvature_weighs_the_second_average() -> None:
    """On a circle of radius 2 the relaxed plane is one point γ + q n; γ'' = −n/2, so its force weighs 1 + q/2."""
    angle, centre = torch.linspace(0, 1, 401, dtype=DOUBLE), torch.tensor([0.5, -0.3], dtype=DOUBLE)
    circle = centre + 2 * torch.stack([angle.cos(), angle.sin()], dim=1)
    _, options, _ = schur_force(0.2)
    config = MeanForce(
        positions=(0.5,),
        learning_rate=0.1,
        noise=Minibatch(2),
        burn_in=40.0,
        duration=2.0,
        time_windows=1,
        control=False,
        control_step=None,
    )
    found = run(config, QuadraticExperiment(**options), circle)
    hessian, gamma = options["root"] @ options["root"].T, circle[200]
    n = (gamma - centre) / 2
    t = torch.stack([-n[1], n[0]])
    q = -float(n @ hessian @ gamma) / float(n @ hessian @ n)
    force = -float(t @ hessian @ (gamma + q * n))
    np.testing.assert_allclose(found["distance"], abs(q), rtol=1e-6)
    np.testing.assert_allclose(found["mean_force"], force, rtol=1e-6)
    np.testing.assert_allclose(found["mean_force_curved"], force * (1 + q / 2), rtol=1e-4)
    np.testing.assert_allclose(found["heating_right"], 0, atol=1e-12)  # no gradient is left in the plane,
    assert abs(force) > 0.1  # but there is one normal to it,
    assert abs(q) > 0.1  # and the weight is not 1


SHORT = replace(LONG, positions=(0.25, 0.75), duration=4.0, time_windows=2, burn_in=1.0, control=True)


def test_results_do_not_depend_on_the_order_of_the_units() -> None:
    xr.testing.assert_identical(run(SHORT), run(SHORT, workers=Backwards()))


def test_every_replica_has_its_own_noise_and_every_seed_another() -> None:
    a, b = run(SHORT), run(replace(SHORT, seed=4))
    forces = np.concatenate([a["mean_force"].values.ravel(), b["mean_force"].values.ravel()])
    assert len(np.unique(forces)) == forces.size == 16


def test_a_diverging_replica_is_flagged_and_masked() -> None:
    """η k > 2 at the start: the first window of the noisy runs may still be finite, the last is not."""
    found = run(replace(SHORT, learning_rate=1.5, burn_in=0.0, duration=300.0, control=False))
    assert found["diverged"].values.tolist() == [[1, 1], [1, 1]]
    assert np.isnan(found["mean_force"].values[..., -1]).all()
    assert "mean_force_control" not in found


def test_attributes_say_what_was_done() -> None:
    found = run(SHORT)
    assert found.attrs["learning_rate"] == RATE
    assert found.attrs["batch_size"] == BATCH
    assert found.attrs["control"] == "full batch of 8 samples, SGD's own steps"
    assert found.attrs["arc_length"] == pytest.approx(2.264, abs=0.001)
    assert run(replace(SHORT, control_step=0.9)).attrs["control"].endswith("gradient flow in time steps of 0.666667")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": ()}, "positions: expected increasing numbers"),
        ({"positions": (0.5, 0.4)}, "positions: expected increasing numbers"),
        ({"positions": (0.5, 1.1)}, "positions: expected increasing numbers"),
        ({"replicas": 1}, "replicas: expected at least 2, found 1"),
        ({"learning_rate": -1.0}, "learning_rate: expected a positive number"),
        ({"burn_in": -1.0}, "burn_in: expected a number >= 0"),
        ({"time_windows": 0}, "time_windows: expected a number >= 1"),
        ({"duration": 2.3}, r"duration: expected at least 8 steps a window \(a time of 2.4\)"),
        ({"control_step": 101.0}, "control_step: expected a positive number up to 100"),
        ({"seed": -1}, "seed: expected a number >= 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(LONG, **options)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size: expected at most 8 samples, found 16"):
        run(replace(SHORT, noise=Minibatch(16)))


# --- noise that is added --------------------------------------------------------------------------------------------


class TwoLayerColumn(TwoLayer):
    """With outputs (batch, 1), as label noise wants them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, None]


@dataclass(frozen=True)
class Realisable:
    """L = ½ E (u w x − x)², x = ±1: zero on the whole valley u w = 1."""

    group_size: int | None = None
    system: str = "two layers"

    def objective(self, split: str = "train", **_: Any) -> Objective:
        x = torch.tensor([1.0, -1.0] * (SAMPLES // 2), dtype=DOUBLE)
        return Objective(TwoLayerColumn(), squared, x, x[:, None])


SIGMA, TEMPERATURE, RESTRAINT = 0.2, 2e-3, 1.5


@pytest.mark.parametrize("noise", [Label(SIGMA), Thermal(TEMPERATURE, RESTRAINT)], ids=["label", "thermal"])
def test_added_noise_leaves_its_entropic_force(noise: Label | Thermal, point: tuple[float, float, float]) -> None:
    """−½ ∂_t k ⟨q²⟩, ⟨q²⟩ = η C/(κ (2 − ηκ)): label noise C = σ² k/N, κ = k; thermal C = 2T/η, κ = k + restraint.

    Relative standard error below 8 %. Rejected: no ½, the sign, a restraint that is not there, C of a single sample.
    """
    u, w, k = point
    slope = 2 * (u * u - w * w) / math.sqrt(k)

    def force(c: float, kappa: float) -> float:
        return -0.5 * slope * RATE * c / (kappa * (2 - RATE * kappa))

    found = run(replace(LONG, noise=noise, duration=100.0), Realisable())
    mean = float(found["mean_force"].mean())
    stderr = float(np.sqrt((found["mean_force_stderr"] ** 2).sum()) / found["mean_force"].size)
    if isinstance(noise, Label):
        expected = force(SIGMA**2 * k / SAMPLES, k)
        mutants = [force(SIGMA**2 * k, k)]
    else:
        expected = force(2 * TEMPERATURE / RATE, k + RESTRAINT)
        mutants = [force(2 * TEMPERATURE / RATE, k)]
    assert stderr < 0.08 * abs(expected)
    assert abs(mean - expected) < 4 * stderr
    for mutant in (*mutants, 2 * expected, -expected):
        assert abs(mean - mutant) > 5 * stderr
    if isinstance(noise, Label):
        # The balance 2⟨δ·Q∇L⟩ = η⟨|Q g|²⟩ holds with the clean gradient on the left, the noisy one on the right.
        left, right = (float(found[f"heating_{side}"].mean()) for side in ("left", "right"))
        assert left == pytest.approx(right, rel=0.1)
        assert right == pytest.approx(RATE * SIGMA**2 * k / SAMPLES * 2 / (2 - RATE * k), rel=0.1)


def test_the_pull_of_a_restraint_counts_in_the_balance() -> None:
    """2⟨δ·(Q∇L + κ δ)⟩ = η⟨|Q g|²⟩ in a plane of ½ h q² whose restraint is a good part of the stiffness."""
    points, options, _ = schur_force(0.2)
    noise = Thermal(1e-3, restraint=1.0)
    config = MeanForce(
        (0.2,), replicas=4, learning_rate=0.4, noise=noise, burn_in=20.0, duration=240.0, time_windows=1, control=False
    )
    found = run(config, QuadraticExperiment(**options), points)
    ratio = (found["heating_left"] / found["heating_right"]).values
    assert ratio.mean() == pytest.approx(1.0, abs=4 * ratio.std(ddof=1) / math.sqrt(ratio.size))
    assert ratio.std(ddof=1) / math.sqrt(ratio.size) < 0.05  # without the restraint's: 0.57


def test_label_noise_in_batches_is_controlled_by_the_same_batches() -> None:
    """With tiny label noise the antithetic pair is its control, whatever the minibatches do."""
    config = replace(SHORT, noise=Label(1e-5, BATCH))
    points = torch.stack([valley()[0] + 0.2, valley()[-1] + 0.2])  # off the floor, where batches differ from each other
    found = run(config, TwoLayerNoisy(), points)
    control = found["mean_force_control"]
    assert control.dims == ("s", "control_replica", "time_window")
    assert control.sizes["control_replica"] == config.replicas
    np.testing.assert_allclose(found["mean_force"], control, rtol=1e-6)
    assert len(np.unique(control)) == control.size
    assert found.attrs["control"] == "the same minibatches without label noise"
    full = run(replace(config, noise=Label(1e-5)), TwoLayerNoisy(), points)
    assert full["mean_force_control"].sizes["control_replica"] == 1
    np.testing.assert_allclose(full["mean_force"][:, 0], full["mean_force_control"][:, 0], rtol=1e-6)


@dataclass(frozen=True)
class TwoLayerNoisy(Realisable):
    """With irreducible residuals."""

    def objective(self, split: str = "train", **_: Any) -> Objective:
        x = torch.linspace(-1.5, 1.0, SAMPLES, dtype=DOUBLE)
        return Objective(TwoLayerColumn(), squared, x, x[:, None] + RESIDUAL * torch.cos(7 * x)[:, None])


def test_thermal_noise_without_a_restraint_is_refused() -> None:
    with pytest.raises(UserError, match="noise.restraint: expected a positive number"):
        replace(SHORT, noise=Thermal(0.1))
    replace(SHORT, noise=Thermal(0.1), weight_decay=1e-3)
