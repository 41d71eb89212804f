"""Effective potentials: the work against the mean force."""

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
    sum_modes,
)


def effective_potential_thermal(curvature: Values, temperature: Values, potential: Values = 0.0) -> Floats:
    """Free energy of thermal noise, ``U + (T/2) sum_i ln k_i``; the marginal exp(-F/T) is exact for any T.

    curvature: k_i > 0, (…, modes). temperature: T, (…). Zero where U = 0 and all k_i = 1."""
    return effective_potential_curvature_power(curvature, temperature, 0.0, potential)


def effective_potential_curvature_power(
    curvature: Values, temperature: Values, exponent: Values, potential: Values = 0.0
) -> Floats:
    """Effective potential of transverse noise D_i = T k_i^alpha, ``U + (T/2) sum_i (k_i^alpha - 1) / alpha``.

    alpha -> 0 is the thermal ``U + (T/2) sum ln k_i``, alpha = 1 ``U + (T/2) sum (k_i - 1)``. Work of minus the mean
    drift of y, fast transverse modes; -ln p differs from it where the noise along y is not T itself.
    curvature: k_i > 0, (…, modes). temperature, exponent: (…)."""
    k, t = positive_curvature(curvature), noise_variance(temperature, "temperature")
    alpha = finite("exponent", exponent)[..., None]
    log = np.log(k)
    safe = np.where(alpha == 0.0, 1.0, alpha)
    power = np.where(alpha == 0.0, log, np.expm1(safe * log) / safe)
    return finite("potential", potential) + 0.5 * t * sum_modes(power)


def effective_potential_curvature_proportional(
    curvature: Values, noise_ratio: Values, learning_rate: Values, momentum: Values = 0.0, potential: Values = 0.0
) -> Floats:
    """Effective potential of SGD with C_i = c k_i at finite learning rate,
    ``U - c (1+beta) / (2 (1-beta)) sum_i ln(1 - eta k_i / (2 (1+beta)))``;
    for small eta k it is ``U + eta c / (4 (1-beta)) sum_i k_i``.

    curvature: k_i >= 0, (…, modes). noise_ratio: c >= 0, loss. Zero where U = 0 and all k_i = 0.
    Raises UserError where eta k >= 2(1+beta); towards that edge the potential diverges, but adiabaticity and the
    quadratic approximation fail first."""
    k, c = not_negative("curvature", curvature), not_negative("noise_ratio", noise_ratio)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    require_stable("learning_rate", eta[..., None], k, beta[..., None])
    logs = sum_modes(np.log1p(-eta[..., None] * k / (2.0 * (1.0 + beta[..., None]))))
    return finite("potential", potential) - c * (1.0 + beta) / (2.0 * (1.0 - beta)) * logs


def effective_potential_constant_noise(
    curvature: Values, noise: Values, learning_rate: Values, momentum: Values = 0.0, potential: Values = 0.0
) -> Floats:
    """Effective potential of SGD whose noise C_i does not depend on y, at finite learning rate,
    ``U + eta / (4 (1-beta)) sum_i C_i ln[k_i / (1 - eta k_i / (2 (1+beta)))]``.

    Euler-Maruyama with step h and temperature T is the case eta = h, C = 2 T / h, beta = 0.
    curvature: k_i > 0, (…, modes). noise: C_i >= 0, same shape. Raises UserError where eta k >= 2(1+beta)."""
    k, c = positive_curvature(curvature), noise_variance(noise)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    require_stable("learning_rate", eta[..., None], k, beta[..., None])
    logs = np.log(k) - np.log1p(-eta[..., None] * k / (2.0 * (1.0 + beta[..., None])))
    return finite("potential", potential) + eta / (4.0 * (1.0 - beta)) * sum_modes(c * logs)
