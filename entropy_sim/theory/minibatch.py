"""Minibatches make the Hessian fluctuate with the gradient: stationary covariances on a quadratic, exact."""

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
from entropy_sim.theory._checks import noise_variance as checked_noise
from entropy_sim.theory.variance import variance_sgd


def batch_mean_factor(batch_size: Values, samples: Values | None = None) -> Floats:
    """Variance of the mean of a batch over that of one sample: ``1 / B``, or ``(N-B) / (B (N-1))`` without replacement.

    batch_size: B >= 1. samples: N >= B, of which each batch is drawn without replacement; None: with replacement (or
    fresh samples). The variance of one sample is the population's, divided by N.
    Reference: Cochran, Sampling Techniques, Wiley (1977), theorem 2.2."""
    b = positive("batch_size", batch_size)
    require(bool(np.all(b >= 1)), "batch_size", "a number of samples >= 1", float(b.min()))
    if samples is None:
        return 1.0 / b
    n = positive("samples", samples)
    require(bool(np.all(n >= b)), "samples", "at least the batch size", float(n.min()))
    return (n - b) / (b * np.maximum(n - 1.0, 1.0))


def variance_sgd_fluctuating_curvature(
    curvature: Values, noise: Values, curvature_variance: Values, learning_rate: Values, momentum: Values = 0.0
) -> Floats:
    """Stationary variance of heavy-ball SGD when the minibatch curvature fluctuates too,
    ``1 / (1 / V - S / C)`` with V from `variance_sgd`; at beta = 0 ``eta C / (2 k - eta (k² + S))``.

    For Gaussian features, S = 2 k² / B, and noise C = c k it is ``eta c / (2 - eta k (1 + 2/B))``.
    curvature: k > 0. noise: C, variance of the minibatch gradient at the minimum. curvature_variance: S >= 0, variance
    of the minibatch curvature; all of any shape. Raises UserError where the second moment diverges.
    Derivation: g_B = (k + dk_B) x + xi with a batch independent of x and <x> = 0 adds S <x²> to the noise.
    Reference: Ziyin, Liu, Mori, Ueda, ICLR 2022 (arXiv 2102.05375)."""
    c, s = checked_noise(noise), not_negative("curvature_variance", curvature_variance)
    unit = variance_sgd(curvature, 1.0, learning_rate, momentum)
    if np.any(s * unit >= 1.0):
        raise UserError(
            "learning_rate: expected a bounded second moment, which these curvature fluctuations drive to infinity, "
            f"found {float(np.max(np.asarray(learning_rate))):g}"
        )
    return unit * c / (1.0 - s * unit)


def covariance_sgd_gaussian_features(
    curvature: Values, noise: Values, learning_rate: Values, batch_size: Values
) -> Floats:
    """Stationary covariance of minibatch SGD (no momentum) on linear regression with Gaussian features of covariance H,
    in the eigenbasis of H, any stable learning rate: the solution of

    ``H Sigma + Sigma H = eta (C + (1 + 1/B) H Sigma H + H Tr(H Sigma) / B)``.

    curvature: k_i > 0, the spectrum of H, (…, modes). noise: C of a minibatch at the minimum, same basis,
    (…, modes, modes). batch_size: B, (…), samples fresh at each step. One mode: `variance_sgd_fluctuating_curvature`.
    Raises UserError where the second moment diverges.
    Derivation: Isserlis' theorem for E[h Sigma h], h = a aᵀ. Reference: Défossez, Bach, AISTATS 2015
    (arXiv 1412.0156)."""
    k, c = positive_curvature(curvature), finite("noise", noise)
    eta = positive("learning_rate", learning_rate)[..., None, None]
    b = 1.0 / batch_mean_factor(batch_size)[..., None, None]
    require_stable("learning_rate", eta[..., 0] * (1.0 + 1.0 / b[..., 0]), k, 0.0)
    ki, kj = k[..., :, None], k[..., None, :]
    inverse = eta / (ki + kj - eta * ki * kj * (1.0 + 1.0 / b))
    # Tr(H Sigma) = base + gain Tr(H Sigma)
    own = np.diagonal(inverse, axis1=-2, axis2=-1) * k
    base = np.sum(own * np.diagonal(c, axis1=-2, axis2=-1), axis=-1)
    gain = np.sum(own * k, axis=-1) / b[..., 0, 0]
    if np.any(gain >= 1.0):
        raise UserError(
            "learning_rate: expected a bounded second moment, which batches of "
            f"{float(b.min()):g} drive to infinity, found {float(eta.max()):g}"
        )
    trace = (base / (1.0 - gain))[..., None, None]
    return inverse * (c + trace / b * ki * np.eye(k.shape[-1]))


def covariance_sgd_sampled_hessians(
    hessians: Values,
    noise: Values,
    learning_rate: float,
    batch_size: int,
    momentum: float = 0.0,
    *,
    replacement: bool = True,
) -> Floats:
    """Stationary covariance of heavy-ball SGD on sum_n L_n, L_n quadratic with Hessian h_n and a minimum in common
    up to the noise: exact for any data set. At beta = 0 it solves ``H Sigma + Sigma H = eta (C + E[H_B Sigma H_B])``,
    ``E[H_B Sigma H_B] = H Sigma H + f (mean_n h_n Sigma h_n - H Sigma H)``, f = `batch_mean_factor`.

    hessians: h_n, (samples, d, d). noise: C of a minibatch at the minimum, (d, d). batch_size: B.
    replacement: within a batch; batches are independent. Cost (4 d²)³: for d up to 10 or so.
    Raises UserError where the second moment diverges.
    Derivation: the moment equations of (x, v), whose matrix the independent batches make random; residual gradients
    are uncorrelated with x. Reference: Défossez, Bach, AISTATS 2015 (arXiv 1412.0156)."""
    h, c = finite("hessians", hessians), finite("noise", noise)
    require(h.ndim == 3 and h.shape[1] == h.shape[2], "hessians", "an array (samples, d, d)", h.shape)
    d = h.shape[1]
    require(c.shape == (d, d), "noise", f"the shape {(d, d)}", c.shape)
    eta, beta = float(positive("learning_rate", learning_rate)), float(checked_momentum(momentum))
    factor = batch_mean_factor(batch_size, None if replacement else len(h))
    one, zero = np.eye(d), np.zeros((d, d))
    # (x, v)' = M (x, v) - eta N h (x, v) with the batch's h; both lines take the same step.
    free = np.block([[one, beta * one], [zero, beta * one]])
    push = [-eta * np.block([[a, zero], [a, zero]]) for a in (h.mean(0), *(h - h.mean(0)))]
    mean = free + push[0]
    operator = np.kron(mean, mean)
    for part in push[1:]:
        operator = operator + factor / len(h) * np.kron(part, part)
    radius = float(np.max(np.abs(np.linalg.eigvals(operator))))
    require(radius < 1.0, "learning_rate", "a bounded second moment: a smaller learning rate or larger batch", eta)
    kick = eta**2 * np.kron(np.ones((2, 2)), c)
    return np.linalg.solve(np.eye(4 * d * d) - operator, kick.ravel()).reshape(2 * d, 2 * d)[:d, :d]
