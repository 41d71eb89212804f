"""Fluctuating Hessians: moment recursions over actual samples, Isserlis' theorem, simulation."""

from itertools import product

import numpy as np
import pytest

from entropy_sim import theory
from entropy_sim.errors import UserError


def test_batch_mean_factor_counts_all_batches():
    """Every batch of 3 out of 5 numbers, with and without replacement."""
    values = np.array([0.3, -1.0, 2.0, 0.7, 5.0])
    every = np.array(list(product(range(5), repeat=3)))
    distinct = np.array([len(set(row)) == 3 for row in every])
    means = values[every].mean(1)
    assert theory.batch_mean_factor(3) * values.var() == pytest.approx(means.var(), rel=1e-12)
    assert theory.batch_mean_factor(3, 5) * values.var() == pytest.approx(means[distinct].var(), rel=1e-12)
    with pytest.raises(UserError, match="samples: expected at least the batch size, found 2"):
        theory.batch_mean_factor(3, 2)


@pytest.mark.parametrize("beta", [0.0, 0.6])
def test_fluctuating_curvature_of_one_mode(beta, heavy_ball, kick_covariance):
    """Two equally likely curvatures k ± s: the second moments of (x, v) iterated to their fixed point."""
    k, spread, noise, eta = 2.0, 1.1, 0.8, 0.25
    steps = [heavy_ball(k + sign * spread, eta, beta) for sign in (1, -1)]
    moments = np.zeros((2, 2))
    for _ in range(2000):
        moments = sum(m @ moments @ m.T for m in steps) / 2 + kick_covariance(noise, eta)
    found = theory.variance_sgd_fluctuating_curvature(k, noise, spread**2, eta, beta)
    assert found == pytest.approx(moments[0, 0], rel=1e-11)
    assert abs(theory.variance_sgd(k, noise, eta, beta) / found - 1) > 0.05
    with pytest.raises(UserError, match="learning_rate: expected a bounded second moment"):
        theory.variance_sgd_fluctuating_curvature(k, noise, 40.0, eta, beta)


def test_gaussian_scalar_case():
    eta, batch, ratio, k = 0.4, 4, 0.7, np.array([1.0, 1.8])
    found = theory.variance_sgd_fluctuating_curvature(k, ratio * k, 2 * k**2 / batch, eta)
    assert found == pytest.approx(eta * ratio / (2 - eta * k * (1 + 2 / batch)), rel=1e-13)
    matrix = theory.covariance_sgd_gaussian_features(k[1:], ratio * np.diag(k[1:]), eta, batch)
    assert matrix[0, 0] == pytest.approx(found[1], rel=1e-13)


def test_gaussian_features_solve_the_moment_equation():
    rng = np.random.default_rng(6)
    k, eta, batch = np.array([0.4, 1.0, 2.5]), 0.2, 3
    noise, h = np.cov(rng.normal(size=(3, 9))), np.diag(k)
    sigma = theory.covariance_sgd_gaussian_features(k, noise, eta, batch)
    square = (1 + 1 / batch) * h @ sigma @ h + h * np.trace(h @ sigma) / batch
    assert np.allclose(h @ sigma + sigma @ h, eta * (noise + square), rtol=1e-12)
    # E[h Sigma h] itself, by Gauss-Hermite quadrature over the features
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    a = np.array(list(product(nodes, repeat=3))) * np.sqrt(k)
    w = np.prod(list(product(weights / weights.sum(), repeat=3)), axis=1)
    one = np.einsum("n,ni,nj,n->ij", w, a, a, np.einsum("ni,ij,nj->n", a, sigma, a))
    assert np.allclose(square, h @ sigma @ h * (1 - 1 / batch) + one / batch, rtol=1e-10)
    with pytest.raises(UserError, match="learning_rate: expected a bounded second moment, which batches of 1 drive"):
        theory.covariance_sgd_gaussian_features(np.ones(20), np.eye(20), 0.2, 1)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_minibatch_sgd_on_actual_samples(beta, replacement):
    """Every batch of 2 of 5 samples, second moments of (x, v) iterated; then simulated with sampled batches: 40000
    walkers, relative standard error 0.7 %, rejecting the fixed Hessian."""
    rng = np.random.default_rng(10)
    features = rng.normal(size=(5, 2)) * np.array([1.0, 0.6])
    residual = rng.normal(size=5)
    residual -= features @ np.linalg.lstsq(features, residual, rcond=None)[0]  # the minimum is at 0
    h, g, eta, batch = np.einsum("na,nb->nab", features, features), features * residual[:, None], 0.5, 2
    every = [b for b in product(range(5), repeat=batch) if replacement or len(set(b)) == batch]
    noise = sum(np.outer(*[g[list(b)].mean(0)] * 2) for b in every) / len(every)
    one, zero, moments = np.eye(2), np.zeros((2, 2)), np.zeros((4, 4))
    steps = []
    for b in every:
        a = eta * h[list(b)].mean(0)
        steps.append(np.block([[one - a, beta * one], [zero - a, beta * one]]))
    for _ in range(400):
        moments = sum(m @ moments @ m.T for m in steps) / len(every) + eta**2 * np.kron(np.ones((2, 2)), noise)
    found = theory.covariance_sgd_sampled_hessians(h, noise, eta, batch, beta, replacement=replacement)
    assert np.allclose(found, moments[:2, :2], rtol=1e-8)
    if beta or not replacement:
        return
    walkers, x = 40_000, np.zeros((40_000, 2))
    for _ in range(60):
        rows = rng.integers(5, size=(walkers, batch))
        a = features[rows]
        error = np.einsum("wbi,wi->wb", a, x) + residual[rows]
        x = x - eta * np.einsum("wb,wbi->wi", error, a) / batch
    variance = np.var(x[:, 0])
    stderr = np.std((x[:, 0] - x[:, 0].mean()) ** 2) / np.sqrt(walkers)
    assert stderr / variance < 0.02
    assert abs(variance - found[0, 0]) < 3.5 * stderr
    fixed = theory.covariance_transverse(h.mean(0), noise, eta)[0, 0]
    assert abs(variance - fixed) > 5 * stderr
    with pytest.raises(UserError, match="learning_rate: expected a bounded second moment: a smaller"):
        theory.covariance_sgd_sampled_hessians(h, noise, 4.0, batch)
