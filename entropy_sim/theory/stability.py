"""Stability, temperature and time scales."""

from __future__ import annotations

import numpy as np

from entropy_sim.theory._checks import (
    Floats,
    Values,
    checked_momentum,
    finite,
    noise_variance,
    not_negative,
    positive,
    positive_curvature,
    require_stable,
)


def stability_limit(
    curvature: Values, momentum: Values = 0.0, weight_decay: Values = 0.0, *, nesterov: bool = False
) -> Floats:
    """Learning rate (or Langevin step, at momentum 0) from which on the iteration diverges: ``2 (1+beta) / (k+lambda)``
    for heavy ball, ``2 (1+beta) / ((1+2 beta) (k+lambda))`` for Nesterov momentum (`variance_sgd_nesterov`).

    curvature: k > 0, the largest curvature where a set of modes is to be stable; any shape.
    weight_decay: lambda >= 0, as in g + lambda theta.
    Reference: Polyak, USSR Comput. Math. Math. Phys. 4 (1964) 1; Cohen et al., ICLR 2021 (arXiv 2103.00065)."""
    k, beta = positive_curvature(curvature), checked_momentum(momentum)
    return 2.0 * (1.0 + beta) / (k + not_negative("weight_decay", weight_decay)) / (1.0 + 2.0 * beta * nesterov)


def effective_temperature(noise: Values, learning_rate: Values, momentum: Values = 0.0) -> Floats:
    """Temperature of SGD on the common clock, ``T = eta C / (2 (1 - beta))``, for small eta k.

    noise: C = Var of the minibatch gradient, loss² / parameter², any shape.
    Reference: Mandt, Hoffman, Blei, JMLR 18 (2017) 134."""
    c, eta, beta = noise_variance(noise), positive("learning_rate", learning_rate), checked_momentum(momentum)
    return eta * c / (2.0 * (1.0 - beta))


def edge_enhancement(
    curvature: Values, learning_rate: Values, momentum: Values = 0.0, weight_decay: Values = 0.0
) -> Floats:
    """Factor by which a finite learning rate enlarges variance and entropic force of a mode over their small-eta form,
    ``1 / (1 - eta (k+lambda) / (2 (1+beta)))``, exact for heavy ball at any beta; it diverges at the edge of stability.

    `variance_sgd` is ``T / (k+lambda)`` times it. The slowest transient diverges with it (`relaxation_steps` tends to
    ``(1-beta) / (2 (1+beta) - eta (k+lambda))`` steps), so adiabaticity fails before the force does.
    curvature: k >= 0, any shape. Raises UserError at and beyond the edge.
    Reference: Liu, Ziyin, Ueda, ICML 2021 (arXiv 2012.03636)."""
    k = not_negative("curvature", curvature) + not_negative("weight_decay", weight_decay)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    require_stable("learning_rate", eta, k, beta)
    return 1.0 / (1.0 - eta * k / (2.0 * (1.0 + beta)))


def relaxation_steps(
    curvature: Values,
    learning_rate: Values,
    momentum: Values = 0.0,
    weight_decay: Values = 0.0,
    *,
    nesterov: bool = False,
) -> Floats:
    """Steps in which the slowest transient of a mode falls by e, ``-1 / ln |z|``, z the largest root of
    ``z² - (1+beta-a) z + beta`` (heavy ball) or ``z² - (1+beta)(1-a) z + beta (1-a)`` (Nesterov), a = eta (k+lambda).

    For Euler-Maruyama take the step as learning rate. Small a: ``(1-beta) / a``; variances relax twice as fast.
    curvature: k > 0, any shape. Times eta / (1-beta) it is a time on the common clock, 1 / k for small a.
    Raises UserError at and beyond the edge of stability.
    Reference: Polyak, USSR Comput. Math. Math. Phys. 4 (1964) 1."""
    k = positive_curvature(curvature) + not_negative("weight_decay", weight_decay)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    require_stable("learning_rate", eta, k, beta, 1.0 + 2.0 * beta * nesterov)
    a, b = np.broadcast_arrays(eta * k, beta)
    # 1 - z rather than z, because z -> 1 for small a: w = 1 - z solves w² - linear · w + a = 0.
    last = b * (1.0 - a) if nesterov else b
    linear = 1.0 - last + a
    root = np.sqrt(linear**2 - 4.0 * a + 0j)
    large = 0.5 * (linear + np.where(linear < 0.0, -root, root))
    with np.errstate(divide="ignore"):
        decay = [-0.5 * np.log1p(np.abs(w) ** 2 - 2.0 * w.real) for w in (large, a / large)]
    return 1.0 / np.minimum(*decay)


def timescale_ratio(
    curvature: Values, curvature_slope: Values, diffusion: Values, relaxation_time: Values | None = None
) -> Floats:
    """Time of a transverse mode over the time in which y diffuses across the length on which its stiffness changes,
    ``D_y (k'/k)² tau`` with tau = 1/k: adiabatic results hold where it is << 1.

    curvature, curvature_slope: k_i > 0 and k_i', (…, modes). diffusion: D_y >= 0, the (effective) temperature along y,
    (…). relaxation_time: tau on the common clock instead of 1/k, e.g. `relaxation_steps` · eta / (1-beta), (…, modes).
    Returns one number per mode, (…, modes); state the largest.
    Reference: Gardiner, Handbook of Stochastic Methods, chapter 6 (adiabatic elimination)."""
    k, slope = positive_curvature(curvature), finite("curvature_slope", curvature_slope)
    tau = 1.0 / k if relaxation_time is None else positive("relaxation_time", relaxation_time)
    return not_negative("diffusion", diffusion)[..., None] * (slope / k) ** 2 * tau


def absorbing_level_shift(diffusion: Values, step: Values) -> Floats:
    """Distance by which discrete steps see an absorbing level shifted outwards, ``0.5826 sqrt(2 D h)``, small steps.

    The constant is `DISCRETE_BARRIER_CONSTANT`, the mean overshoot of a Gaussian random walk in units of its step.
    diffusion: D >= 0 along y at the level. step: h > 0 (eta for SGD without momentum, D = eta C / 2); any shape.
    Reference: Siegmund, Sequential Analysis, Springer (1985); Broadie, Glasserman, Kou, Math. Finance 7 (1997) 325."""
    return DISCRETE_BARRIER_CONSTANT * np.sqrt(2.0 * not_negative("diffusion", diffusion) * positive("step", step))


DISCRETE_BARRIER_CONSTANT = 0.5825971579390106
"""-zeta(1/2) / sqrt(2 pi), zeta Riemann's."""
