"""Hessian, Gauss–Newton and Fisher of every family of networks against explicit ones: plain modules, torch's BatchNorm,
group after group, nothing of `Objective`'s machinery; in float64."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from nn_experiments import curvature
from nn_experiments.experiment import AnyNetwork, squared
from nn_experiments.networks.mlp import MLP
from nn_experiments.networks.resnet import ResNet
from nn_experiments.networks.vgg import VGG
from nn_experiments.networks.vision_transformer import VisionTransformer
from nn_experiments.networks.wide_resnet import WideResNet
from nn_experiments.objective import NormalizationMode, Objective, batch_norms, generator

FAMILIES: list[AnyNetwork] = [
    ResNet(8, 2, "batch"),
    ResNet(8, 4, "group"),
    WideResNet(10, 1, 2, "batch"),
    VGG(11, 1, "batch"),
    VisionTransformer(4, 8, 2, 2, 1.5, "layer"),
    MLP((6, 5), "gelu", "batch"),
    MLP((6, 5), "tanh", "none"),
]
SIZE, CLASSES, GROUP = (8, 8), 3, 4


class Plain:
    """One family's loss, twice: as an `Objective`, and by a plain module."""

    def __init__(self, network: AnyNetwork, mode: NormalizationMode = "batch", loss: str = "cross_entropy") -> None:
        draws = generator(21)
        module = network.build(1, CLASSES, generator(20), SIZE).double()
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=draws, dtype=torch.float64))
        self.x = torch.randn(10, 1, *SIZE, generator=draws, dtype=torch.float64)  # two groups and a ragged rest
        self.y = torch.randint(0, CLASSES, (10,), generator=draws)
        if loss == "squared":
            self.y = 3 * torch.randn(10, CLASSES, generator=draws, dtype=torch.float64)
        self.loss = {"cross_entropy": F.cross_entropy, "squared": squared}[loss]
        self.module = copy.deepcopy(module)
        self.mode: NormalizationMode = mode
        for layer in batch_norms(self.module):
            if mode == "batch":
                layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
                layer.train()
        self.objective = Objective(module, self.loss, self.x, self.y, group_size=GROUP, mode=mode)
        self.theta = self.objective.theta()
        self.names = self.objective.names
        size = self.objective.group_size or len(self.x)
        self.groups = [slice(i, i + size) for i in range(0, len(self.x) - size + 1, size)]
        if mode == "evaluation":
            self.module.eval()
            training = Objective(copy.deepcopy(module), self.loss, self.x, self.y, group_size=GROUP)
            self.objective.copy_statistics(training, self.theta)
            for mine, theirs in zip(batch_norms(self.module), batch_norms(self.objective.module), strict=True):
                assert mine.running_mean is not None
                assert theirs.running_mean is not None
                assert float(theirs.running_mean.abs().max()) > 1e-3
                mine.load_state_dict(theirs.state_dict())

    def outputs(self, theta: Tensor) -> Tensor:
        """(n, classes), n the samples in whole groups."""
        pieces = self.objective.unflatten(theta)
        parameters = dict(zip(self.names, pieces, strict=True))
        return torch.cat([functional_call(self.module, parameters, (self.x[g],)) for g in self.groups])

    def value(self, theta: Tensor) -> Tensor:
        outputs = self.outputs(theta)
        return self.loss(outputs, self.y[: len(outputs)])

    @functools.cached_property
    def jacobian(self) -> Tensor:
        """(n, classes, D)."""
        return torch.autograd.functional.jacobian(self.outputs, self.theta).detach()

    def output_hessians(self) -> Tensor:
        """Of each sample's loss, (n, classes, classes): diag(p) − p pᵀ, or 1."""
        outputs = self.outputs(self.theta).detach()
        if self.loss is squared:
            return torch.eye(CLASSES, dtype=torch.float64).expand(len(outputs), -1, -1)
        p = outputs.softmax(-1)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]

    @functools.cached_property
    def gauss_newton(self) -> Tensor:
        j, h = self.jacobian, self.output_hessians()
        weighted = torch.einsum("nab,nbd->nad", h, j)
        return torch.einsum("nad,nae->de", j, weighted) / len(j)

    def empirical_fisher(self) -> Tensor:
        """With the data's labels: what the Fisher matrix must not be."""
        outputs = self.outputs(self.theta).detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.loss(outputs, self.y[: len(outputs)]) * len(outputs), outputs)
        scores = torch.einsum("na,nad->nd", slope, self.jacobian)
        return scores.T @ scores / len(scores)


def name(network: AnyNetwork) -> str:
    return f"{type(network).__name__}-{getattr(network, 'normalization', '')}"


@pytest.fixture(scope="module", params=FAMILIES, ids=name)
def plain(request: pytest.FixtureRequest) -> Plain:
    return Plain(request.param)


def test_hessian_products_are_those_of_plain_double_backward(plain: Plain) -> None:
    vectors = torch.randn(2, len(plain.theta), generator=generator(22), dtype=torch.float64)
    operator = curvature.HessianOperator(plain.objective, plain.theta)
    for vector, found in zip(vectors, operator(vectors), strict=True):
        exact = torch.autograd.functional.vhp(plain.value, plain.theta, vector)[1]
        torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-9 * float(exact.abs().max()))


def test_forms_are_those_of_plain_double_backward(plain: Plain) -> None:
    """Along a vector in all parameters, and along others that touch only one of the first, middle and last blocks."""
    vectors = torch.randn(4, len(plain.theta), generator=generator(32), dtype=torch.float64)
    blocks = list(plain.objective.blocks().values())
    for row, block in zip(vectors[1:], (blocks[0], blocks[len(blocks) // 2], blocks[-1]), strict=True):
        row[: block.start], row[block.stop :] = 0.0, 0.0
    exact = torch.stack([v @ torch.autograd.functional.vhp(plain.value, plain.theta, v)[1] for v in vectors])
    for kept in (2048, 0):
        found = curvature.HessianOperator(plain.objective, plain.theta, chunk=GROUP, kept=kept).forms(vectors)
        torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-9 * float(exact.abs().max()))
        found = curvature.GaussNewtonOperator(plain.objective, plain.theta, chunk=GROUP, kept=kept).forms(vectors)
        torch.testing.assert_close(found, ((vectors @ plain.gauss_newton) * vectors).sum(1), rtol=1e-8, atol=1e-10)


def test_gauss_newton_products_are_those_of_the_explicit_jacobian(plain: Plain) -> None:
    vectors = torch.randn(2, len(plain.theta), generator=generator(23), dtype=torch.float64)
    exact = vectors @ plain.gauss_newton
    for kept in (2048, 0):
        operator = curvature.GaussNewtonOperator(plain.objective, plain.theta, chunk=GROUP, kept=kept)
        torch.testing.assert_close(operator(vectors), exact, rtol=1e-8, atol=1e-9 * float(exact.abs().max()))


@pytest.mark.parametrize("network", [ResNet(8, 2, "batch"), MLP((6, 5), "gelu", "batch")], ids=name)
def test_evaluation_mode_is_another_function_with_another_hessian(network: AnyNetwork) -> None:
    """Trap: batch-statistics and evaluation mode have different Hessians; each operator gives its own mode's."""
    found = []
    for mode in ("batch", "evaluation"):
        case = Plain(network, mode)  # type: ignore[arg-type]
        vector = torch.randn(len(case.theta), generator=generator(24), dtype=torch.float64)
        exact = torch.autograd.functional.vhp(case.value, case.theta, vector)[1]
        operator = curvature.HessianOperator(case.objective, case.theta)
        product = operator(vector)
        torch.testing.assert_close(product, exact, rtol=1e-8, atol=1e-9 * float(exact.abs().max()))
        assert float(operator.forms(vector[None])) == pytest.approx(float(vector @ exact), rel=1e-8)
        gauss_newton = curvature.GaussNewtonOperator(case.objective, case.theta)(vector)
        torch.testing.assert_close(gauss_newton, vector @ case.gauss_newton, rtol=1e-8, atol=1e-9)
        found.append(product)
    assert float((found[0] - found[1]).norm()) > 0.05 * float(found[0].norm())


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_fisher_trace_by_sampled_labels(loss: str) -> None:
    """Tr F within 4 standard errors, whose relative size is 5 %; the empirical Fisher's trace is rejected."""
    case = Plain(FAMILIES[0], loss=loss)
    sampler = {"cross_entropy": curvature.categorical, "squared": curvature.gaussian}[loss]
    found = curvature.fisher_trace(case.objective, case.theta, sampler, 300, generator(25), chunk=GROUP)
    exact, mutant = float(case.gauss_newton.trace()), float(case.empirical_fisher().trace())
    assert found.stderr < 0.06 * exact
    assert abs(found.value - exact) < 4 * found.stderr
    assert abs(found.value - mutant) > 5 * found.stderr


def test_fisher_is_not_the_covariance_of_minibatches() -> None:
    """Trap: F, the empirical Fisher and B C are three matrices. C itself falls as 1/B; F knows no batch."""
    case = Plain(MLP((6, 5), "tanh", "none"))
    case.y.zero_()  # one class: the gradient is far from zero
    objective, theta = case.objective, case.theta
    samples = torch.stack([objective.value_and_gradient(theta, torch.tensor([i]))[1].clone() for i in range(10)])
    empirical = samples.T @ samples / 10
    torch.testing.assert_close(case.empirical_fisher(), empirical)
    covariance = torch.cov(samples.T, correction=0)
    traces = [float(m.trace()) for m in (case.gauss_newton, empirical, covariance)]
    differences = np.abs(np.subtract.outer(traces, traces))[np.triu_indices(3, 1)]
    assert (differences > 0.02 * traces[0]).all()
    mean = samples.mean(0)
    torch.testing.assert_close(covariance, empirical - torch.outer(mean, mean))


def test_gauss_newton_is_positive_and_equals_the_hessian_for_linear_outputs() -> None:
    case = Plain(MLP((), "linear", "none"))
    hessian = torch.autograd.functional.hessian(case.value, case.theta)
    torch.testing.assert_close(case.gauss_newton, hessian, rtol=1e-8, atol=1e-10)
    rows = torch.eye(len(case.theta), dtype=torch.float64)
    found = curvature.GaussNewtonOperator(case.objective, case.theta)(rows)
    torch.testing.assert_close(found, hessian, rtol=1e-8, atol=1e-10)
    assert float(torch.linalg.eigvalsh(found)[0]) > -1e-12


@pytest.mark.slow
@pytest.mark.parametrize("network", [f for f in FAMILIES if f != ResNet(8, 4, "group")], ids=name)
def test_every_estimator_on_every_family(network: AnyNetwork) -> None:
    """Traces with exact probes, ends of the spectrum and Fisher singular values against the explicit matrices."""
    plain = Plain(network)
    theta, dimension = plain.theta, len(plain.theta)
    hessian = torch.autograd.functional.hessian(plain.value, theta)
    tangent = F.normalize(torch.randn(dimension, generator=generator(26), dtype=torch.float64), dim=0)
    norms = torch.rand(dimension, generator=generator(27), dtype=torch.float64)
    probes = dimension**0.5 * torch.eye(dimension, dtype=torch.float64)
    for operator, matrix in (
        (curvature.HessianOperator, hessian),
        (curvature.GaussNewtonOperator, plain.gauss_newton),
    ):
        hutchinson = curvature.Hutchinson(plain.objective, probes, operator=operator)
        found = hutchinson.traces(theta, tangent, norms)
        assert hutchinson.trace(theta).value == pytest.approx(found.trace.value, rel=1e-9)
        exact = [matrix.trace(), matrix.trace() - tangent @ matrix @ tangent, norms @ matrix.diagonal()]
        np.testing.assert_allclose([e.value for e in found], [float(e) for e in exact], rtol=1e-8)
        values = torch.linalg.eigvalsh(matrix)
        start = torch.randn(dimension, generator=generator(28), dtype=torch.float64)
        ends = curvature.lanczos(operator(plain.objective, theta), start, min(200, dimension), 3, 1e-6)
        np.testing.assert_allclose(ends.eigenvalues, values.flip(0)[:3], rtol=1e-6)
        assert abs(ends.min_eigenvalue - float(values[0])) <= ends.min_residual + 1e-9


@functools.cache
def resnet_20() -> tuple[Objective, nn.Module, tuple[Tensor, Tensor]]:
    """ResNet-20 in float64 as an objective, as others take it, and the batch that both are of."""
    module = ResNet(20, 16).build(3, 10, generator(0)).double()
    draws = generator(29)
    x = torch.randn(16, 3, 8, 8, generator=draws, dtype=torch.float64)
    y = torch.randint(0, 10, (16,), generator=draws)
    theirs = copy.deepcopy(module).train()
    for layer in batch_norms(theirs):
        layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    return Objective(module, F.cross_entropy, x, y, group_size=16), theirs, (x, y)


def test_curvlinops_agrees_on_resnet_20() -> None:
    """Products with the Hessian and with the Gauss-Newton matrix."""
    curvlinops = pytest.importorskip("curvlinops")
    objective, theirs, batch = resnet_20()
    theta = objective.theta()
    probes = curvature.rademacher(2, len(theta), generator(30), theta)
    operator = curvature.HessianOperator(objective, theta)
    images = operator(probes)
    torch.testing.assert_close(operator.forms(probes), (probes * images).sum(1), rtol=1e-9, atol=0.0)
    probe, image = probes[0], images[0]
    parameters = list(theirs.parameters())
    loss = nn.CrossEntropyLoss()
    other = curvlinops.HessianLinearOperator(theirs, loss, parameters, [batch], check_deterministic=False)
    # Version 3.0 deviates for the 688 weights of BatchNorm, from torch's double backward and its jvp of grad too.
    gains = [i for n, s in objective.blocks().items() if "norm" in n and "weight" in n for i in range(s.start, s.stop)]
    kept = torch.ones(len(theta), dtype=torch.bool)
    kept[gains] = False
    torch.testing.assert_close((other @ probe)[kept], image[kept], rtol=1e-6, atol=1e-7 * float(image.abs().max()))
    ggn = curvlinops.GGNLinearOperator(theirs, loss, parameters, [batch], check_deterministic=False)
    found = curvature.GaussNewtonOperator(objective, theta)(probe)
    torch.testing.assert_close(ggn @ probe, found, rtol=1e-6, atol=1e-7 * float(found.abs().max()))


def test_pyhessian_agrees_on_resnet_20() -> None:
    """Products with the Hessian, and the eigenvalue of largest modulus, in float64."""
    pyhessian = pytest.importorskip("pyhessian")
    from pyhessian.utils import hessian_vector_product

    objective, theirs, batch = resnet_20()
    theta = objective.theta()
    probe = curvature.rademacher(1, len(theta), generator(30), theta)[0]
    operator = curvature.HessianOperator(objective, theta)
    image = operator(probe)
    peer = pyhessian.hessian(theirs, nn.CrossEntropyLoss(), data=batch, cuda=False)
    vector = [p.clone() for p in objective.unflatten(probe)]
    flat = torch.cat([p.reshape(-1) for p in hessian_vector_product(peer.gradsH, peer.params, vector)])
    torch.testing.assert_close(flat, image, rtol=1e-6, atol=1e-7 * float(image.abs().max()))
    start = torch.randn(len(theta), generator=generator(31), dtype=torch.float64)
    ends = curvature.lanczos(operator, start, 40, 1, 1e-3)
    largest = max(peer.eigenvalues(maxIter=200, tol=1e-4, top_n=1)[0], key=abs)
    assert abs(largest) == pytest.approx(max(ends.eigenvalues[0].item(), -ends.min_eigenvalue), rel=1e-2)
