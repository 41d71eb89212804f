"""Effective potentials: the work against the mean force."""

from __future__ import annotations

import numpy as np

from entropy_sim.errors import require
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

    curvature: k_i > 0, (…, modes). temperature: T, (…). Zero where U = 0 and all k_i = 1.
    Reference: van Kampen, Lodder, Am. J. Phys. 52 (1984) 419; Di Carlo, Goddard, Schwab, ICLR 2026 (arXiv 2512.06297).
    """
    return effective_potential_curvature_power(curvature, temperature, 0.0, potential)


def effective_potential_curvature_power(
    curvature: Values, temperature: Values, exponent: Values, potential: Values = 0.0
) -> Floats:
    """Effective potential of transverse noise D_i = T k_i^alpha, ``U + (T/2) sum_i (k_i^alpha - 1) / alpha``.

    alpha -> 0 is the thermal ``U + (T/2) sum ln k_i``, alpha = 1 ``U + (T/2) sum (k_i - 1)``. Work of minus the mean
    drift of y, fast transverse modes; -ln p differs from it where the noise along y is not T itself.
    curvature: k_i > 0, (…, modes). temperature, exponent: (…).
    Reference: Di Carlo, Goddard, Schwab, ICLR 2026 (arXiv 2512.06297) for alpha = 0, Damian, Ma, Lee, NeurIPS 2021
    (arXiv 2106.06530) for alpha = 1."""
    k, t = positive_curvature(curvature), noise_variance(temperature, "temperature")
    alpha = finite("exponent", exponent)[..., None]
    log = np.log(k)
    safe = np.where(alpha == 0.0, 1.0, alpha)
    power = np.where(alpha == 0.0, log, np.expm1(safe * log) / safe)
    return finite("potential", potential) + 0.5 * t * sum_modes(power)


def effective_potential_curvature_proportional(
    curvature: Values,
    noise_ratio: Values,
    learning_rate: Values,
    momentum: Values = 0.0,
    potential: Values = 0.0,
    weight_decay: Values = 0.0,
) -> Floats:
    """Effective potential of SGD with C_i = c k_i at finite learning rate,
    ``U - c (1+beta) / (2 (1-beta)) sum_i ln(1 - eta k_i / (2 (1+beta)))``;
    for small eta k it is ``U + eta c / (4 (1-beta)) sum_i k_i``.

    With weight decay, e = eta / (2 (1+beta)) and q = k + lambda:
    ``U - c eta / (4 (1-beta)) sum_i [ln(1 - e q) / e + lambda ln(q / (1 - e q))]``, less its value at k = 0.
    curvature: k_i >= 0, (…, modes). noise_ratio: c >= 0, loss. Zero where U = 0 and all k_i = 0.
    Raises UserError where eta q >= 2(1+beta); towards that edge the potential diverges, but adiabaticity and the
    quadratic approximation fail first.
    Derivation: the work 1/2 int <x²> dk of `variance_sgd_curvature_proportional`."""
    k, c = not_negative("curvature", curvature), not_negative("noise_ratio", noise_ratio)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    decay = not_negative("weight_decay", weight_decay)[..., None]
    require_stable("learning_rate", eta[..., None], k + decay, beta[..., None])
    e = eta[..., None] / (2.0 * (1.0 + beta[..., None]))
    # 1 - e q = (1 - e lambda)(1 - e k / (1 - e lambda)): the value at k = 0 drops out without cancellation.
    gap = np.log1p(-e * k / (1.0 - e * decay))
    stretch = decay * (np.log1p(k / np.where(decay > 0.0, decay, 1.0)) - gap)
    work = -(gap / e + stretch)
    return finite("potential", potential) + eta * c / (4.0 * (1.0 - beta)) * sum_modes(work)


def effective_potential_constant_noise(
    curvature: Values,
    noise: Values,
    learning_rate: Values,
    momentum: Values = 0.0,
    potential: Values = 0.0,
    weight_decay: Values = 0.0,
) -> Floats:
    """Effective potential of SGD whose noise C_i does not depend on y, at finite learning rate,
    ``U + eta / (4 (1-beta)) sum_i C_i ln[q_i / (1 - eta q_i / (2 (1+beta)))]``, q_i = k_i + lambda.

    Euler-Maruyama with step h and temperature T is the case eta = h, C = 2 T / h, beta = 0.
    curvature: k_i > 0, (…, modes). noise: C_i >= 0, same shape. Raises UserError where eta q >= 2(1+beta).
    Derivation: the work 1/2 int <x²> dk of `variance_sgd`."""
    k, c = positive_curvature(curvature), noise_variance(noise)
    k = k + not_negative("weight_decay", weight_decay)[..., None]
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    require_stable("learning_rate", eta[..., None], k, beta[..., None])
    logs = np.log(k) - np.log1p(-eta[..., None] * k / (2.0 * (1.0 + beta[..., None])))
    return finite("potential", potential) + eta / (4.0 * (1.0 - beta)) * sum_modes(c * logs)


def barrier_height_thermal(
    curvature_top: Values, curvature_end: Values, temperature: Values, potential_difference: Values = 0.0
) -> Floats:
    """Free-energy barrier of thermal noise, ``Delta F = Delta U + (T/2) sum_i ln(k_i(top) / k_i(end))``: without
    Delta U proportional to T, and for modes alike to their number.

    curvature_top, curvature_end: k_i > 0, (…, modes). temperature: T, (…). potential_difference: U(top) - U(end).
    Reference: van Kampen, Lodder, Am. J. Phys. 52 (1984) 419; entropic barriers: Zwanzig, J. Phys. Chem. 96 (1992)
    3926."""
    top, end = positive_curvature(curvature_top), positive_curvature(curvature_end)
    t = noise_variance(temperature, "temperature")
    return finite("potential_difference", potential_difference) + 0.5 * t * sum_modes(np.log(top / end))


def mean_force_work(position: Values, force: Values) -> Floats:
    """Effective potential from a force along the path, ``-int f dy``, 0 at the first point; trapezoidal rule.

    It is a free energy only where the noise is thermal, or Sigma a fixed function of H; else it depends on the path.
    position: y increasing, (n,). force: f, (…, n). Reference: Kirkwood, J. Chem. Phys. 3 (1935) 300."""
    y, f = finite("position", position), finite("force", force)
    require(y.ndim == 1 and bool(np.all(np.diff(y) > 0)), "position", "increasing values", y.tolist()[:5])
    require(f.shape[-1:] == y.shape, "force", f"{y.size} values along its last axis", f.shape)
    from scipy.integrate import cumulative_trapezoid  # here: it takes half a second to load

    return -cumulative_trapezoid(f, y, axis=-1, initial=0)
