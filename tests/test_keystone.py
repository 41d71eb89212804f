"""The keystone: both sides agree where both are exact, on a network whose loss is a quadratic.

The network is linear, f = A w x: a trained layer w (3 numbers) behind inputs x = ±1 and before a fixed
layer A. Its squared loss is the quadratic ½ (w − w*)ᵀ H (w − w*) + L_min with H = Aᵀ A, and since x² = 1 every
minibatch has this same Hessian: the gradient noise is purely additive, its covariance
C = (N − B)/(N − 1) · Cov(Aᵀ x y)/B independent of w. Then mean and covariance of w after any number of steps depend on
the noise through C alone, so that the simulator's Gaussian noise of covariance C must reproduce them exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import Tensor, nn

from entropy_sim.dynamics import SGD
from entropy_sim.landscapes import Quadratic
from entropy_sim.measurements import Relaxation as SimulatorRelaxation
from entropy_sim.noise import GradientCovariance
from nn_experiments.measurements import Relaxation
from nn_experiments.noise import Minibatch
from nn_experiments.objective import Objective

DOUBLE = torch.float64
SAMPLES, BATCH, RATE = 8, 4, 0.1
RECORDS, STRIDE = 4, 12
START = 0.35
LAYER = np.array([[1.6, 0.3, -0.2], [0.2, 1.0, 0.4], [-0.3, 0.1, 0.7], [0.5, -0.4, 0.6]])
X = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0])
Y = np.random.default_rng(0).normal(size=(SAMPLES, 4)) * 0.5 + X[:, None] * np.array([1.0, 0.5, -0.5, 0.2])
DIRECTION = np.array([1.0, 1.0, -0.5]) * 2  # half the path, aslant to the eigenvectors


class Linear(nn.Module):
    """f = A w x for x (N, 1), outputs (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, dtype=DOUBLE))
        self.register_buffer("layer", torch.as_tensor(LAYER))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.layer @ self.w)


@dataclass(frozen=True)
class LinearExperiment:
    """(1/2N) Σ_i |A w x_i − y_i|²."""

    group_size: int | None = None
    system: str = "a linear network"

    def objective(self, split: str = "train", **_: Any) -> Objective:
        x, y = torch.as_tensor(X)[:, None], torch.as_tensor(Y)
        return Objective(Linear(), lambda f, t: 0.5 * (f - t).square().sum(-1).mean(), x, y)

    def scale_invariant(self) -> list[str]:
        return []


@dataclass(frozen=True)
class Exact:
    """The quadratic by explicit formulas: nothing of either package."""

    hessian = LAYER.T @ LAYER
    minimum = np.linalg.solve(LAYER.T @ LAYER, (X[:, None] * Y @ LAYER).mean(0))

    @property
    def lowest_loss(self) -> float:
        return float(0.5 * ((X[:, None] * (LAYER @ self.minimum) - Y) ** 2).sum(1).mean())

    def covariance(self, batch: int) -> np.ndarray:
        per_sample = X[:, None] * Y @ LAYER
        return np.cov(per_sample.T, bias=True) / batch * (SAMPLES - batch) / (SAMPLES - 1)

    @property
    def ends(self) -> np.ndarray:
        return np.stack([self.minimum - DIRECTION, self.minimum + DIRECTION])


EXACT = Exact()


def network(replicas: int, batch: int, seed: int = 0, momentum: float = 0.0, **options: Any) -> xr.Dataset:
    config = Relaxation(
        starts=(START,),
        replicas=replicas,
        learning_rate=RATE,
        momentum=momentum,
        noise=Minibatch(batch),
        duration=RECORDS * STRIDE * RATE / (1 - momentum),
        records=RECORDS,
        search=1.0,
        seed=seed,
        **{"control_starts": (), **options},
    )
    return config.run(LinearExperiment(), torch.as_tensor(EXACT.ends))


def simulator(
    covariance: np.ndarray, replicas: int, rate: float = RATE, momentum: float = 0.0, steps: int = STRIDE
) -> xr.Dataset:
    landscape = Quadratic(
        hessian=tuple(map(tuple, EXACT.hessian.tolist())),
        centre=tuple(EXACT.minimum.tolist()),
        start=tuple(EXACT.ends[0].tolist()),
        end=tuple(EXACT.ends[1].tolist()),
    )
    dynamics = SGD(learning_rate=rate, momentum=momentum)
    tree = SimulatorRelaxation(
        landscape,
        GradientCovariance(tuple(map(tuple, covariance.tolist()))),
        dynamics,
        starts=(START,),
        replicas=replicas,
        duration=RECORDS * steps * dynamics.time_step,
        records=RECORDS,
        control=False,
        seed=11,
    ).run()
    return tree["relaxation"].to_dataset()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_full_batch_relaxation_equals_the_noiseless_simulator(momentum: float) -> None:
    """To rounding, both as SGD with the full batch and as the network's control; another learning rate does not."""
    found = network(1, SAMPLES, momentum=momentum, control_starts=(START,), control_step=None)
    expected = simulator(np.zeros((3, 3)), 1, momentum=momentum)
    mutant = simulator(np.zeros((3, 3)), 1, rate=1.001 * RATE, momentum=momentum)
    np.testing.assert_allclose(found["time"], expected["time"], rtol=1e-12)
    for control in (0, 1):
        # The squared distance, because the root of a rounding error is not one.
        for name, power, shift in (("position", 1, 0.0), ("distance", 2, 0.0), ("loss", 1, EXACT.lowest_loss)):
            values = found[name].values[control, 0, 0] ** power
            np.testing.assert_allclose(values, expected[name].values[0, 0] ** power + shift, rtol=1e-10, atol=1e-13)
            assert np.abs(values - mutant[name].values[0, 0] ** power - shift)[1:].max() > 1e-7
    moved = found["position"].values[0, 0, 0]
    assert abs(moved[-1] - 0.5) < 0.5 * abs(moved[0] - 0.5)


def observables(dataset: xr.Dataset, centre: np.ndarray, lowest_loss: float) -> np.ndarray:
    """Position, its squared deviation from `centre`, squared distance and loss at each record, (replicas, 4 records).

    The last three are quadratic in w: their means are fixed by mean and covariance of w."""
    position, distance, loss = (
        dataset[name].values.reshape(-1, RECORDS + 1)[:, 1:] for name in ("position", "distance", "loss")
    )
    return np.concatenate([position, (position - centre) ** 2, distance**2, loss - lowest_loss], axis=1)


def probability(found: xr.Dataset, expected: xr.Dataset) -> float:
    """p-value of χ² between the means of all observables, with their full covariance from the larger ensemble."""
    centre = expected["position"].values.reshape(-1, RECORDS + 1)[:, 1:].mean(0)
    a = observables(found, centre, EXACT.lowest_loss)
    b = observables(expected, centre, 0.0)
    difference = a.mean(0) - b.mean(0)
    covariance = np.cov(b.T) * (1 / len(a) + 1 / len(b))
    return float(stats.chi2.sf(difference @ np.linalg.solve(covariance, difference), len(difference)))


FIVE_SIGMA = 2 * stats.norm.sf(5)


@pytest.fixture(scope="module")
def minibatches() -> xr.Dataset:
    found = network(200, BATCH, seed=5)
    assert np.all((found["position"] > 0) & (found["position"] < 1))  # never beyond the ends, where projection clips
    return found


def test_minibatch_relaxation_is_the_simulators(minibatches: xr.Dataset) -> None:
    assert probability(minibatches, simulator(EXACT.covariance(BATCH), 20000)) > 1e-3


@pytest.mark.parametrize(
    ("name", "covariance", "rate"),
    [
        ("without 1/B", BATCH * EXACT.covariance(BATCH), RATE),
        (
            "without the factor (N - B)/(N - 1)",
            (SAMPLES - 1) / (SAMPLES - BATCH) * EXACT.covariance(BATCH),
            RATE,
        ),
        ("learning rate 15 % too large", EXACT.covariance(BATCH), 1.15 * RATE),
    ],
)
def test_wrong_simulators_are_told_from_the_network(
    minibatches: xr.Dataset, name: str, covariance: np.ndarray, rate: float
) -> None:
    assert probability(minibatches, simulator(covariance, 20000, rate=rate)) < FIVE_SIGMA, name


def test_minibatches_do_not_change_the_hessian() -> None:
    """What makes the comparison exact: every minibatch gradient is H (w − w*) plus noise that does not know w."""
    objective = LinearExperiment().objective()
    batch = torch.tensor([0, 2, 5, 7])
    noise = []
    for w in (np.zeros(3), np.array([1.0, -2.0, 3.0])):
        gradient = objective.value_and_gradient(torch.as_tensor(w), batch)[1].numpy()
        noise.append(gradient - EXACT.hessian @ (w - EXACT.minimum))
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-13)
    assert np.abs(noise[0]).max() > 0.01
