"""Hutchinson's traces against explicit Hessians, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from entropy_sim.errors import UserError
from nn_experiments import curvature
from nn_experiments.objective import generator
from tests.nn_experiments.curvature.cases import DOUBLE, Case, explicit_hessian


def exact_traces(case: Case, norms: torch.Tensor) -> tuple[float, float, float]:
    h, t = case.hessian, case.tangent
    return float(h.trace()), float(h.trace() - t @ h @ t), float((norms * h.diagonal()).sum())


def test_identity_probes_give_the_exact_traces(case: Case) -> None:
    norms = torch.rand(len(case.theta), generator=generator(8), dtype=DOUBLE)
    estimates = curvature.Hutchinson(case.objective, case.identity_probes, chunk=4).traces(
        case.theta, case.tangent, norms
    )
    np.testing.assert_allclose([e.value for e in estimates], exact_traces(case, norms), rtol=1e-9)


def test_the_trace_alone_is_the_same_number(case: Case) -> None:
    """From forms without products, in parts of unequal size, with its error."""
    probes = curvature.rademacher(6, len(case.theta), generator(15), case.theta)
    hutchinson = curvature.Hutchinson(case.objective, probes, 3, chunk=4, kept=8)
    alone = hutchinson.trace(case.theta)
    assert alone == pytest.approx(hutchinson.traces(case.theta, case.tangent, case.tangent).trace, rel=1e-9)
    assert alone.stderr > 0


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
