"""Curvature estimators against explicitly built Hessians, in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from entropy_sim.errors import UserError
from nn_experiments import curvature
from nn_experiments.noise import Minibatch
from nn_experiments.objective import Objective, generator

DOUBLE = torch.float64
GROUP = 4


def mlp_objective(samples: int = 12) -> Objective:
    draws = generator(1)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=draws, dtype=DOUBLE) * 0.7)
    x = torch.randn(samples, 3, generator=draws, dtype=DOUBLE)
    y = torch.randint(0, 2, (samples,), generator=draws)
    return Objective(module, nn.functional.cross_entropy, x, y)


class Residual(nn.Module):
    """One residual block with BatchNorm between a stem and a linear map: 111 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.conv1, self.conv2 = (nn.Conv2d(2, 2, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.linear = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        return self.linear(x.mean(dim=(-2, -1)))


def resnet_objective() -> Objective:
    """18 samples of 4 x 4 pixels: four groups of 4 and a ragged rest."""
    draws = generator(2)
    module = Residual().double()
    with torch.no_grad():
        for p in module.parameters():
            scale = 0.4 if p.ndim > 1 else 0.2
            p.copy_(torch.randn(p.shape, generator=draws, dtype=DOUBLE) * scale + (p.ndim == 1))
    x = torch.randn(18, 1, 4, 4, generator=draws, dtype=DOUBLE)
    y = torch.randint(0, 3, (18,), generator=draws)
    return Objective(module, nn.functional.cross_entropy, x, y, group_size=GROUP)


def plain_loss(objective: Objective, theta: torch.Tensor) -> torch.Tensor:
    """The same loss, group after group through torch's own BatchNorm: nothing of `Objective`'s machinery."""
    if objective.group_size is None:
        module, size = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), len(objective.inputs)
    else:
        module, size = Residual(), GROUP
    module.double().train()
    parameters = dict(zip(objective.names, objective.unflatten(theta), strict=True))
    groups = [slice(i, i + size) for i in range(0, len(objective.inputs) - size + 1, size)]
    losses = [
        nn.functional.cross_entropy(functional_call(module, parameters, (objective.inputs[g],)), objective.targets[g])
        for g in groups
    ]
    return torch.stack(losses).mean()


def explicit_hessian(objective: Objective, theta: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.hessian(lambda p: plain_loss(objective, p), theta)


class Case:
    def __init__(self, objective: Objective) -> None:
        self.objective, self.theta = objective, objective.theta()
        self.hessian = explicit_hessian(objective, self.theta)
        direction = torch.randn(len(self.theta), generator=generator(3), dtype=DOUBLE)
        self.tangent = direction / direction.norm()

    @property
    def identity_probes(self) -> torch.Tensor:
        """√D e_i: their mean of z zᵀ is exactly 1, so that estimates are exact."""
        return math.sqrt(len(self.theta)) * torch.eye(len(self.theta), dtype=DOUBLE)


@pytest.fixture(scope="module")
def mlp() -> Case:
    return Case(mlp_objective())


@pytest.fixture(scope="module")
def resnet() -> Case:
    return Case(resnet_objective())


@pytest.fixture(scope="module", params=["mlp", "resnet"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


# --- Hessian-vector products ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chunk", "kept"), [(512, 2048), (4, 2048), (8, 8), (4, 0)])
def test_products_equal_those_of_the_explicit_hessian(case: Case, chunk: int, kept: int) -> None:
    vectors = torch.randn(3, len(case.theta), generator=generator(4), dtype=DOUBLE)
    operator = curvature.HessianOperator(case.objective, case.theta, chunk=chunk, kept=kept)
    torch.testing.assert_close(operator(vectors), vectors @ case.hessian, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(operator(vectors[0]), case.hessian @ vectors[0], rtol=1e-9, atol=1e-11)


def test_gradient_and_loss_come_with_the_operator(case: Case) -> None:
    theta = case.theta.clone().requires_grad_()
    loss = plain_loss(case.objective, theta)
    (gradient,) = torch.autograd.grad(loss, theta)
    operator = curvature.HessianOperator(case.objective, case.theta, chunk=4, kept=8)
    assert operator.loss == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(operator.gradient, gradient, rtol=1e-9, atol=1e-12)


def test_products_survive_a_move_of_the_objective(case: Case) -> None:
    operator = curvature.HessianOperator(case.objective, case.theta)
    case.objective.value_and_gradient(case.theta + 1.0, torch.arange(GROUP))
    torch.testing.assert_close(operator(case.tangent), case.hessian @ case.tangent, rtol=1e-9, atol=1e-11)


def test_subset_is_made_of_whole_groups(resnet: Case, mlp: Case) -> None:
    assert curvature.subset(resnet.objective, 11).tolist() == list(range(8))
    assert curvature.subset(resnet.objective, None).tolist() == list(range(16))
    assert curvature.subset(mlp.objective, 11).tolist() == list(range(11))
    with pytest.raises(UserError, match="samples: expected at least one group of 4, found 3"):
        curvature.subset(resnet.objective, 3)


def test_full_precision_is_switched_on_and_back() -> None:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [b.allow_tf32 for b in backends]
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with curvature.full_precision():
            assert not any(b.allow_tf32 for b in backends)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before[0]
    assert [b.allow_tf32 for b in backends] == before


# --- eigenvalues ----------------------------------------------------------------------------------------------------


def test_lanczos_finds_both_ends_with_their_signs() -> None:
    """Power iteration would return −5, the eigenvalue of largest modulus, for λ_max."""
    values = torch.cat([torch.tensor([-5.0, 3.0, 2.5]), torch.linspace(-1, 1, 37)]).double()
    frame, _ = torch.linalg.qr(torch.randn(40, 40, generator=generator(5), dtype=DOUBLE))
    matrix = frame @ torch.diag(values) @ frame.T
    start = torch.randn(40, generator=generator(6), dtype=DOUBLE)
    found = curvature.lanczos(lambda v: matrix @ v, start, 25, 2)
    np.testing.assert_allclose(found.eigenvalues, [3.0, 2.5], atol=1e-6)
    assert found.min_eigenvalue == pytest.approx(-5.0, abs=1e-6)
    for value, vector, residual in zip(found.eigenvalues, found.eigenvectors, found.residuals, strict=True):
        assert float((matrix @ vector - value * vector).norm()) == pytest.approx(float(residual), abs=1e-9)
    assert found.residuals.max() < 1e-3


def test_an_early_lanczos_states_its_error() -> None:
    values = torch.linspace(0, 1, 200, dtype=DOUBLE) ** 2
    found = curvature.lanczos(lambda v: values * v, torch.ones(200, dtype=DOUBLE), 8, 3)
    for value, residual in zip(found.eigenvalues, found.residuals, strict=True):
        assert residual > 1e-4
        assert float((values - value).abs().min()) <= float(residual)


def test_lanczos_ends_at_an_invariant_subspace() -> None:
    values = torch.tensor([2.0, 2.0, -1.0, -1.0, -1.0], dtype=DOUBLE)
    found = curvature.lanczos(lambda v: values * v, torch.ones(5, dtype=DOUBLE), 5, 4)
    np.testing.assert_allclose(found.eigenvalues, [2.0, -1.0], atol=1e-12)
    zero = curvature.lanczos(torch.zeros_like, torch.ones(5, dtype=DOUBLE), 3, 1)
    assert zero.eigenvalues.tolist() == [0.0]


def test_lanczos_on_networks(case: Case) -> None:
    exact = torch.linalg.eigvalsh(case.hessian)
    assert exact[0] < -1e-4  # negative curvature, or the sign would not be tested
    operator = curvature.HessianOperator(case.objective, case.theta)
    start = torch.randn(len(case.theta), generator=generator(7), dtype=DOUBLE)
    found = curvature.lanczos(operator, start, min(60, len(case.theta)), 3)
    np.testing.assert_allclose(found.eigenvalues, exact.flip(0)[:3], rtol=1e-6)
    assert found.min_eigenvalue == pytest.approx(float(exact[0]), rel=1e-5)


def test_lanczos_refuses_more_than_there_is() -> None:
    with pytest.raises(UserError, match="lanczos_steps: expected 1…3, found 4"):
        curvature.lanczos(torch.clone, torch.ones(3), 4, 1)
    with pytest.raises(UserError, match="eigenvalues: expected 1…2, found 3"):
        curvature.lanczos(torch.clone, torch.ones(3), 2, 3)


# --- traces ---------------------------------------------------------------------------------------------------------


def exact_traces(case: Case, norms: torch.Tensor) -> tuple[float, float, float]:
    h, t = case.hessian, case.tangent
    return float(h.trace()), float(h.trace() - t @ h @ t), float((norms * h.diagonal()).sum())


def test_identity_probes_give_the_exact_traces(case: Case) -> None:
    norms = torch.rand(len(case.theta), generator=generator(8), dtype=DOUBLE)
    estimates = curvature.Hutchinson(case.objective, case.identity_probes, chunk=4).traces(
        case.theta, case.tangent, norms
    )
    np.testing.assert_allclose([e.value for e in estimates], exact_traces(case, norms), rtol=1e-9)


def test_parts_of_unequal_size_are_weighted_to_the_exact_trace(resnet: Case) -> None:
    """Four groups in three parts (2, 1, 1 groups), every basis vector on every part."""
    probes = resnet.identity_probes.repeat_interleave(3, dim=0)
    found = curvature.Hutchinson(resnet.objective, probes, 3).traces(resnet.theta, resnet.tangent, resnet.tangent)
    trace, transverse, _ = exact_traces(resnet, resnet.tangent)
    assert found.trace.value == pytest.approx(trace, rel=1e-9)
    assert found.transverse.value == pytest.approx(transverse, rel=1e-9)


def test_rademacher_probes_scatter_as_predicted(mlp: Case) -> None:
    """Variance 2 Σ_{i≠j} H_ij² per probe; the mutant 2 ‖H‖_F², that of Gaussian probes, is rejected."""
    count = 4000
    probes = curvature.rademacher(count, len(mlp.theta), generator(9), mlp.theta)
    found = curvature.Hutchinson(mlp.objective, probes).traces(mlp.theta, mlp.tangent, mlp.tangent).trace
    off_diagonal = mlp.hessian - torch.diag(mlp.hessian.diagonal())
    predicted = math.sqrt(2 * float(off_diagonal.square().sum()) / count)
    assert abs(found.value - float(mlp.hessian.trace())) < 4 * found.stderr
    forms = torch.einsum("ki,ij,kj->k", probes, mlp.hessian, probes)
    fourth = float(((forms - forms.mean()) / forms.std()).pow(4).mean())
    relative = math.sqrt((fourth - 1) / count) / 2  # relative standard error of a standard deviation
    mutant = math.sqrt(2 * float(mlp.hessian.square().sum()) / count)
    assert abs(found.stderr / predicted - 1) < 4 * relative
    assert abs(found.stderr / mutant - 1) > 5 * relative


def test_standard_error_of_few_probes(mlp: Case) -> None:
    probes = curvature.rademacher(3, len(mlp.theta), generator(14), mlp.theta)
    found = curvature.Hutchinson(mlp.objective, probes).traces(mlp.theta, mlp.tangent, mlp.tangent).trace
    forms = torch.einsum("ki,ij,kj->k", probes, mlp.hessian, probes)
    assert found.stderr == pytest.approx(float(forms.std()) / math.sqrt(3), rel=1e-9)


def test_the_standard_error_contains_that_of_the_data(resnet: Case) -> None:
    """One probe per part: over independent sets of probes the estimate is unbiased, and its error honest."""
    exact = float(resnet.hessian.trace())
    estimates = [
        curvature.Hutchinson(
            resnet.objective, curvature.rademacher(8, len(resnet.theta), generator(10, i), resnet.theta), 4
        )
        .traces(resnet.theta, resnet.tangent, resnet.tangent)
        .trace
        for i in range(60)
    ]
    values = np.array([e.value for e in estimates])
    assert abs(values.mean() - exact) < 4 * values.std(ddof=1) / math.sqrt(60)
    stated = math.sqrt(np.mean([e.stderr**2 for e in estimates]))
    # Parts that differ are seen in every set alike, which makes the stated error the larger one.
    assert 0.8 < stated / values.std(ddof=1) < 2.0


def test_probes_are_signs_and_reproducible() -> None:
    like = torch.zeros(1)
    probes = curvature.rademacher(50, 400, generator(11), like)
    assert probes.dtype == torch.float32
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(probes.mean())) < 5 / math.sqrt(50 * 400)
    assert torch.equal(probes, curvature.rademacher(50, 400, generator(11), like))


def test_hutchinson_refuses_budgets_that_do_not_fit(resnet: Case) -> None:
    with pytest.raises(UserError, match="parts: expected 1…4, the number of groups of data, found 5"):
        curvature.Hutchinson(resnet.objective, resnet.identity_probes, 5)
    with pytest.raises(UserError, match="probes: expected a multiple of the 2 parts of the data, found 3"):
        curvature.Hutchinson(resnet.objective, resnet.identity_probes[:3], 2)


def test_slope_equals_the_difference_of_explicit_traces(case: Case) -> None:
    step = 1e-3
    found = curvature.Hutchinson(case.objective, case.identity_probes).slope(case.theta, case.tangent, step)
    above, below = (explicit_hessian(case.objective, case.theta + sign * step * case.tangent) for sign in (1, -1))
    change, t = (above - below) / (2 * step), case.tangent
    exact = float(change.trace() - t @ change @ t)
    assert found.value == pytest.approx(exact, rel=1e-6)
    assert abs(float(t @ change @ t)) > 1e-3 * abs(exact)  # or Q would not be tested


def test_slope_converges_as_the_square_of_the_step(mlp: Case) -> None:
    hutchinson = curvature.Hutchinson(mlp.objective, mlp.identity_probes)
    a, b, c = (hutchinson.slope(mlp.theta, mlp.tangent, step).value for step in (0.08, 0.04, 0.02))
    assert (a - b) / (b - c) == pytest.approx(4, rel=0.05)


def test_norm_correction_takes_out_the_scale_of_the_weights(resnet: Case) -> None:
    """w → w/2 in one normalised convolution: same function, 4 times the Hessian block. The raw trace changes
    and so does the mutant ‖θ‖² Tr H; Σ ‖w_l‖² Tr H_ll does not (up to BatchNorm's ε)."""
    names = [f"{n}.weight" for n, m in resnet.objective.module.named_modules() if isinstance(m, nn.Conv2d)]
    block = resnet.objective.blocks()["stem.weight"]
    scaled = resnet.theta.clone()
    scaled[block] /= 2
    hutchinson = curvature.Hutchinson(resnet.objective, resnet.identity_probes)
    found = []
    for theta in (resnet.theta, scaled):
        norms = curvature.block_norms(resnet.objective, theta, names)
        traces = hutchinson.traces(theta, resnet.tangent, norms)
        found.append((traces.normalized.value, traces.trace.value, float(theta.square().sum()) * traces.trace.value))
    before, after = found
    assert after[0] == pytest.approx(before[0], rel=2e-3)
    assert abs(after[1] / before[1] - 1) > 0.02
    assert abs(after[2] / before[2] - 1) > 0.02


def test_block_norms_hold_the_square_of_each_block(resnet: Case) -> None:
    norms = curvature.block_norms(resnet.objective, resnet.theta, ["stem.weight"])
    block = resnet.objective.blocks()["stem.weight"]
    assert norms[block].unique().tolist() == [float(resnet.theta[block].square().sum())]
    assert float(norms.sum()) == pytest.approx(float(norms[block].sum()))
    with pytest.raises(UserError, match=r"scale_invariant: expected names among stem\.weight.*found 'head'"):
        curvature.block_norms(resnet.objective, resnet.theta, ["head"])


# --- gradient noise -------------------------------------------------------------------------------------------------


def enumerated(objective: Objective, theta: torch.Tensor, size: int) -> torch.Tensor:
    """The gradient of every batch of `size` samples, (batches, D)."""
    batches = itertools.combinations(range(objective.size), size)
    return torch.stack([objective.value_and_gradient(theta, torch.tensor(b))[1].clone() for b in batches])


def test_noise_is_the_covariance_of_all_batches_with_the_finite_population_factor() -> None:
    objective = mlp_objective(8)
    theta, size, number = objective.theta(), 3, objective.size
    every = enumerated(objective, theta, size)
    covariance = torch.cov(every.T, correction=0)
    per_sample = torch.cov(enumerated(objective, theta, 1).T, correction=0)
    factor = (number - size) / (number - 1)
    torch.testing.assert_close(covariance, factor * per_sample / size)

    tangent = torch.nn.functional.normalize(torch.ones_like(theta), dim=0)
    vectors = torch.linalg.eigh(covariance).eigenvectors.T[-3:]
    centre = objective.full_value_and_gradient(theta)[1].clone()
    everything = curvature.gradient_noise(iter(every), centre + 0.3, tangent, vectors)
    unbiased = len(every) / (len(every) - 1)
    assert everything.trace.value == pytest.approx(unbiased * float(covariance.trace()), rel=1e-9)
    transverse = float(covariance.trace() - tangent @ covariance @ tangent)
    assert everything.transverse.value == pytest.approx(unbiased * transverse, rel=1e-9)
    along = torch.einsum("ki,ij,kj->k", vectors, covariance, vectors)
    torch.testing.assert_close(everything.eigenvalues, unbiased * along)

    draws, noise = generator(12), Minibatch(size)
    drawn = curvature.gradient_noise(
        (noise.gradient(objective, theta, draws)[1] for _ in range(3000)), centre, tangent, vectors
    )
    exact = float(covariance.trace())
    assert abs(drawn.trace.value - exact) < 4 * drawn.trace.stderr
    assert abs(drawn.trace.value - exact / factor) > 5 * drawn.trace.stderr  # mutant: without (N − B)/(N − 1)
    assert abs(drawn.transverse.value - transverse) < 4 * drawn.transverse.stderr
    assert torch.all((drawn.eigenvalues - along).abs() < 4 * drawn.eigenvalue_stderrs)


def test_noise_error_bars_are_those_of_independent_repeats() -> None:
    draws = generator(13)
    scale = torch.tensor([3.0, 1.0, 0.5, 0.1], dtype=DOUBLE)
    tangent, vectors = torch.eye(4, dtype=DOUBLE)[1], torch.eye(4, dtype=DOUBLE)[:1]
    found = []
    for _ in range(300):
        sample = torch.randn(25, 4, generator=draws, dtype=DOUBLE) * scale + 7.0
        found.append(curvature.gradient_noise(iter(sample), torch.full((4,), 6.5).double(), tangent, vectors))
    for values, stderrs, exact in (
        ([n.trace.value for n in found], [n.trace.stderr for n in found], 10.26),
        ([n.transverse.value for n in found], [n.transverse.stderr for n in found], 9.26),
        ([float(n.eigenvalues[0]) for n in found], [float(n.eigenvalue_stderrs[0]) for n in found], 9.0),
    ):
        scatter = np.std(values, ddof=1)
        assert abs(np.mean(values) - exact) < 4 * scatter / math.sqrt(300)
        assert math.sqrt(np.mean(np.square(stderrs))) == pytest.approx(scatter, rel=0.15)


def test_noise_needs_two_batches() -> None:
    zero = torch.zeros(3)
    with pytest.raises(UserError, match="noise_batches: expected at least 2, found 1"):
        curvature.gradient_noise(iter([zero]), zero, zero, zero[None])
