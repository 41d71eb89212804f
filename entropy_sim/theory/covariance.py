"""Stationary covariances of many modes, in the Hessian's eigenbasis."""

from __future__ import annotations

from entropy_sim.theory._checks import (
    Floats,
    Values,
    checked_momentum,
    finite,
    positive,
    positive_curvature,
    require_stable,
)


def covariance_lyapunov(curvature: Values, noise: Values, learning_rate: Values, momentum: Values = 0.0) -> Floats:
    """Small-learning-rate covariance of SGD in the Hessian's eigenbasis: the solution of
    ``H Sigma + Sigma H = eta C / (1 - beta)``, ``Sigma_ij = eta C_ij / ((1 - beta) (k_i + k_j))``.

    curvature: k_i > 0, (…, modes). noise: C_ij in the same basis, (…, modes, modes).
    Off the diagonal it needs eta (k_i - k_j)² / (k_i + k_j) << 2 (1 - beta)², with momentum far sooner violated than
    eta k << 1; `covariance_sgd` is exact.
    Reference: Mandt, Hoffman, Blei, JMLR 18 (2017) 134."""
    k, c = positive_curvature(curvature), finite("noise", noise)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    return (eta / (1.0 - beta))[..., None, None] * c / (k[..., :, None] + k[..., None, :])


def covariance_sgd(curvature: Values, noise: Values, learning_rate: Values, momentum: Values = 0.0) -> Floats:
    """Stationary covariance of heavy-ball SGD in the Hessian's eigenbasis, exact for any stable learning rate:

    ``Sigma_ij = eta² C_ij (1-beta²) / ((1-beta²)² - (1+beta²) a_i a_j + beta (a_i² + a_j²))``
    with ``a = 1 + beta - eta k``.

    Its diagonal is `variance_sgd`; for eta -> 0 it is `covariance_lyapunov`; at beta = 0 the denominator is
    eta (k_i + k_j - eta k_i k_j).

    curvature: k_i > 0, (…, modes). noise: C_ij in the same basis, (…, modes, modes).
    Raises UserError where eta k >= 2(1+beta): the iteration is unstable there.
    Derivation: each mode is the second-order autoregression x_{n+1} = a x_n - beta x_{n-1} - eta xi_n; its equations
    for <x_i x_j> at lags 0 and ±1 close. See also Liu, Ziyin, Ueda, ICML 2021 (arXiv 2012.03636)."""
    k, c = positive_curvature(curvature), finite("noise", noise)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    eta, beta = eta[..., None], beta[..., None]
    require_stable("learning_rate", eta, k, beta)
    # a = 1 + beta - b. Expanded in b = eta k, because for small eta k the terms above cancel to almost nothing.
    b, d = eta * k, 1.0 - beta
    bi, bj = b[..., :, None], b[..., None, :]
    beta, d = beta[..., None], d[..., None]
    denominator = d**2 * (1.0 + beta) * (bi + bj) - (1.0 + beta**2) * bi * bj + beta * (bi**2 + bj**2)
    return eta[..., None] ** 2 * c * (1.0 - beta**2) / denominator
