"""Stationary covariances of many modes, in the Hessian's eigenbasis and as full matrices."""

from __future__ import annotations

import numpy as np

from entropy_sim.errors import UserError, require
from entropy_sim.theory._checks import (
    Floats,
    Values,
    checked_momentum,
    finite,
    not_negative,
    positive,
    positive_curvature,
    require_stable,
)


def covariance_lyapunov(
    curvature: Values, noise: Values, learning_rate: Values, momentum: Values = 0.0, weight_decay: Values = 0.0
) -> Floats:
    """Small-learning-rate covariance of SGD in the Hessian's eigenbasis: the solution of
    ``H Sigma + Sigma H = eta C / (1 - beta)``, ``Sigma_ij = eta C_ij / ((1 - beta) (k_i + k_j))``.

    curvature: k_i > 0, (…, modes). noise: C_ij in the same basis, (…, modes, modes). weight_decay: added to k, (…).
    Off the diagonal it needs eta (k_i - k_j)² / (k_i + k_j) << 2 (1 - beta)², with momentum far sooner violated than
    eta k << 1; `covariance_sgd` is exact.
    Reference: Mandt, Hoffman, Blei, JMLR 18 (2017) 134."""
    k = _with_decay(positive_curvature(curvature), weight_decay)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    return finite("noise", noise) * _lyapunov_factor(k, eta, beta)


def covariance_sgd(
    curvature: Values, noise: Values, learning_rate: Values, momentum: Values = 0.0, weight_decay: Values = 0.0
) -> Floats:
    """Stationary covariance of heavy-ball SGD in the Hessian's eigenbasis, exact for any stable learning rate:

    ``Sigma_ij = eta² C_ij (1-beta²) / ((1-beta²)² - (1+beta²) a_i a_j + beta (a_i² + a_j²))``
    with ``a = 1 + beta - eta k``.

    Its diagonal is `variance_sgd`; for eta -> 0 it is `covariance_lyapunov`; at beta = 0 the denominator is
    eta (k_i + k_j - eta k_i k_j).

    curvature: k_i > 0, (…, modes). noise: C_ij in the same basis, (…, modes, modes). weight_decay: added to k, (…).
    Raises UserError where eta k >= 2(1+beta): the iteration is unstable there.
    Derivation: each mode is the second-order autoregression x_{n+1} = a x_n - beta x_{n-1} - eta xi_n; its equations
    for <x_i x_j> at lags 0 and ±1 close. See also Liu, Ziyin, Ueda, ICML 2021 (arXiv 2012.03636)."""
    k = _with_decay(positive_curvature(curvature), weight_decay)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    require_stable("learning_rate", eta[..., None], k, beta[..., None])
    return finite("noise", noise) * _exact_factor(k, eta, beta)


def transverse(matrix: Values, tangent: Values) -> Floats:
    """Part of a matrix across the path, ``Q M Q`` with ``Q = 1 - t tᵀ``: H⊥ of H, C⊥ of C, (…, d, d).

    tangent: t, (…, d), of any length. Raises UserError for a tangent of length 0.
    Reference: Ciccotti, Kapral, Vanden-Eijnden, ChemPhysChem 6 (2005) 1809 (constrained averages)."""
    m, q = finite("matrix", matrix), _projector(tangent)
    require(m.shape[-2:] == q.shape[-2:], "tangent", f"{m.shape[-1]} components", q.shape[-1])
    return q @ m @ q


def covariance_transverse(
    hessian: Values,
    noise: Values,
    learning_rate: Values,
    momentum: Values = 0.0,
    tangent: Values | None = None,
    weight_decay: Values = 0.0,
    *,
    exact: bool = True,
) -> Floats:
    """Covariance of SGD confined to the hyperplane normal to the tangent, from full matrices in any basis.

    exact: `covariance_sgd`'s form for any stable learning rate; otherwise the small-learning-rate Lyapunov equation
    ``H⊥ Sigma + Sigma H⊥ = eta C⊥ / (1 - beta)``. Solved in the eigenbasis of H⊥, which may be singular, along t and
    elsewhere: on its null space Sigma is 0, the minimum-norm solution, and C⊥ must vanish there.

    hessian, noise: H and C, symmetric, (…, d, d). tangent: t, (…, d); None where H and C are projected already.
    weight_decay: lambda >= 0, added to H off the tangent: no direction but t is then null.
    Raises UserError for a negative eigenvalue of H⊥, for noise along a null direction (it diffuses without bound:
    `variance_sgd_transient`), and where eta k >= 2(1+beta).
    Reference: Mandt, Hoffman, Blei, JMLR 18 (2017) 134; Liu, Ziyin, Ueda, ICML 2021 (arXiv 2012.03636)."""
    h, c = _symmetric("hessian", hessian), _symmetric("noise", noise)
    require(h.shape[-1] == c.shape[-1], "noise", f"a matrix of {h.shape[-1]} rows, as the Hessian", c.shape[-1])
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    decay = not_negative("weight_decay", weight_decay)[..., None, None]
    if tangent is None:
        h = h + decay * np.eye(h.shape[-1])
    else:
        h, c = transverse(h, tangent) + decay * _projector(tangent), transverse(c, tangent)
    k, modes = np.linalg.eigh(h)
    rounding = 1e-9 * np.max(np.abs(k), axis=-1, keepdims=True, initial=0.0)
    if np.any(k < -rounding):
        raise UserError(f"hessian: expected no negative curvature across the path, found an eigenvalue {k.min():g}")
    null = k <= rounding
    k = np.where(null, 0.0, k)
    require_stable("learning_rate", eta[..., None], k, beta[..., None])
    in_modes = np.swapaxes(modes, -1, -2) @ c @ modes
    along_null = np.where(null, np.abs(np.diagonal(in_modes, axis1=-2, axis2=-1)), 0.0)
    if np.any(along_null > 1e-7 * np.max(np.abs(c), axis=(-1, -2), initial=0.0)[..., None]):
        raise UserError(f"noise: expected none along null directions of the Hessian, found {along_null.max():g}")
    both = null[..., :, None] & null[..., None, :]
    # Any number does where both are null: the noise there is 0.
    with np.errstate(divide="ignore"):
        factor = (_exact_factor if exact else _lyapunov_factor)(k, eta, beta)
    factor = np.where(both, 0.0, factor)
    return modes @ (in_modes * factor) @ np.swapaxes(modes, -1, -2)


def _lyapunov_factor(k: Floats, eta: Floats, beta: Floats) -> Floats:
    """Sigma_ij / C_ij for small learning rates."""
    return (eta / (1.0 - beta))[..., None, None] / (k[..., :, None] + k[..., None, :])


def _exact_factor(k: Floats, eta: Floats, beta: Floats) -> Floats:
    """Sigma_ij / C_ij for any learning rate."""
    eta, beta = eta[..., None, None], beta[..., None, None]
    # a = 1 + beta - b. Expanded in b = eta k, because for small eta k the terms above cancel to almost nothing.
    bi, bj = eta * k[..., :, None], eta * k[..., None, :]
    denominator = (1.0 - beta) ** 2 * (1.0 + beta) * (bi + bj) - (1.0 + beta**2) * bi * bj + beta * (bi**2 + bj**2)
    return eta**2 * (1.0 - beta**2) / denominator


def _with_decay(k: Floats, weight_decay: Values) -> Floats:
    return k + not_negative("weight_decay", weight_decay)[..., None]


def _projector(tangent: Values) -> Floats:
    t = finite("tangent", tangent)
    length = np.linalg.norm(t, axis=-1, keepdims=True)
    require(t.ndim > 0 and bool(np.all(length > 0.0)), "tangent", "a vector longer than 0", t.tolist())
    t = t / length
    return np.eye(t.shape[-1]) - t[..., :, None] * t[..., None, :]


def _symmetric(option: str, matrix: Values) -> Floats:
    m = finite(option, matrix)
    require(m.ndim >= 2 and m.shape[-1] == m.shape[-2], option, "a square matrix", m.shape)
    transposed = np.swapaxes(m, -1, -2)
    asymmetry = np.max(np.abs(m - transposed), initial=0.0)
    require(bool(asymmetry <= 1e-6 * np.max(np.abs(m), initial=0.0)), option, "a symmetric matrix", "one that is not")
    return 0.5 * (m + transposed)
