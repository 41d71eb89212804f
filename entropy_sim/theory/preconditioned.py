"""Preconditioned updates theta <- theta - eta P g: natural gradient, K-FAC, Shampoo, Adam, sign descent.

P acts on the transverse modes; along y the mobility is 1 throughout, as in the other forms."""

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
from entropy_sim.theory.effective_potential import effective_potential_curvature_power
from entropy_sim.theory.forces import mean_force
from entropy_sim.theory.variance import variance_sgd


def variance_preconditioned(
    curvature: Values, noise: Values, learning_rate: Values, exponent: Values = 1.0, momentum: Values = 0.0
) -> Floats:
    """Stationary variance of SGD preconditioned by P = k^-a,
    ``eta C k^(-1-a) (1+beta) / ((1-beta) (2 (1+beta) - eta k^(1-a)))``, exact: `variance_sgd` of curvature P k, noise
    P² C.

    a = 1, the natural gradient: ``eta C / (k² (2 - eta))`` at beta = 0; the learning rate has a limit, no curvature
    has. curvature: k > 0. noise: C, before preconditioning. exponent: a; any shape.
    Raises UserError where eta k^(1-a) >= 2 (1+beta).
    Reference: Amari, Neural Comput. 10 (1998) 251 (natural gradient); Martens, Grosse, ICML 2015 (K-FAC)."""
    k, a = positive_curvature(curvature), finite("exponent", exponent)
    return variance_sgd(k ** (1.0 - a), noise_variance(noise) * k ** (-2.0 * a), learning_rate, momentum)


def mean_force_preconditioned(
    curvature: Values,
    curvature_slope: Values,
    noise_ratio: Values,
    learning_rate: Values,
    exponent: Values = 1.0,
    noise_exponent: Values = 1.0,
    momentum: Values = 0.0,
    potential_slope: Values = 0.0,
) -> Floats:
    """Mean force of preconditioned SGD, P = k^-a, C_i = c k_i^b, ``-U' - 1/2 sum_i k_i' <x_i²>`` with
    `variance_preconditioned`; for small eta `mean_force_curvature_power` with alpha = b - a, T = eta c / (2 (1-beta)).

    a = b = 1 is the thermal form at any learning rate, unchanged when k is multiplied by a number.
    curvature, curvature_slope: k_i > 0, k_i', (…, modes). noise_ratio: c; the rest: (…). Raises UserError as there.
    Reference: Amari, Neural Comput. 10 (1998) 251."""
    k, c = positive_curvature(curvature), not_negative("noise_ratio", noise_ratio)[..., None]
    eta, beta = positive("learning_rate", learning_rate)[..., None], checked_momentum(momentum)[..., None]
    a, b = finite("exponent", exponent)[..., None], finite("noise_exponent", noise_exponent)[..., None]
    return mean_force(curvature_slope, variance_preconditioned(k, c * k**b, eta, a, beta), potential_slope)


def effective_potential_preconditioned(
    curvature: Values,
    noise_ratio: Values,
    learning_rate: Values,
    exponent: Values = 1.0,
    noise_exponent: Values = 1.0,
    momentum: Values = 0.0,
    potential: Values = 0.0,
) -> Floats:
    """Effective potential of preconditioned SGD at finite learning rate, P = k^-a, C_i = c k_i^b:
    ``U + eta c / (4 (1-beta)) sum_i int_1^{k_i} k^(b-a-1) / (1 - eta k^(1-a) / (2 (1+beta))) dk``.

    a = 1: ``U + eta c (1+beta) / (2 (1-beta) (2 (1+beta) - eta)) sum_i (k_i^(b-1) - 1) / (b-1)``, thermal for b = 1.
    Adaptive quadrature in ln k to 1e-10. Zero where U = 0 and all k_i = 1. Arguments as `mean_force_preconditioned`.
    Raises UserError where eta k^(1-a) >= 2 (1+beta), at the k_i or at 1.
    Derivation: the work 1/2 int <x²> dk of `variance_preconditioned`."""
    k, c = positive_curvature(curvature), not_negative("noise_ratio", noise_ratio)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    a, b = finite("exponent", exponent)[..., None], finite("noise_exponent", noise_exponent)[..., None]
    for end in (k, np.ones_like(k)):
        require_stable("learning_rate", eta[..., None], end ** (1.0 - a), beta[..., None])
    log, edge = np.log(k), eta[..., None] / (2.0 * (1.0 + beta[..., None]))

    def integrand(part: float) -> Floats:
        z = part * log
        return log * np.exp((b - a) * z) / (1.0 - edge * np.exp((1.0 - a) * z))

    from scipy.integrate import quad_vec  # here: it takes half a second to load

    work, _ = quad_vec(integrand, 0.0, 1.0, epsrel=1e-10, epsabs=0.0, norm="max")
    return finite("potential", potential) + eta * c / (4.0 * (1.0 - beta)) * sum_modes(work)


def effective_potential_square_root(
    curvature: Values, noise_ratio: Values, learning_rate: Values, potential: Values = 0.0
) -> Floats:
    """Effective potential of updates normalised by the root mean square gradient, P = (E g gᵀ)^(-1/2), with C = c H:
    ``U + (eta sqrt(c) / 2) sum_i (sqrt(k_i) - 1)``, small eta, c dominating E g gᵀ.

    Standard Shampoo (exponent -1/4 per side), and Adam where the modes are its coordinates; a heavy-ball or Adam
    momentum does not change it (their learning rate already is per unit of time).
    curvature: k_i > 0, (…, modes). noise_ratio: c, loss. Zero where U = 0 and all k_i = 1.
    Reference: Gupta, Koren, Singer, ICML 2018 (Shampoo); Kingma, Ba, ICLR 2015 (Adam)."""
    c, eta = not_negative("noise_ratio", noise_ratio), positive("learning_rate", learning_rate)
    return effective_potential_curvature_power(curvature, 0.5 * eta * np.sqrt(c), 0.5, potential)


def variance_adam(curvature: Values, noise: Values, learning_rate: Values, momentum: Values = 0.0) -> Floats:
    """Stationary variance of Adam on a quadratic in its own coordinate, with slow second moments (beta2 -> 1, epsilon =
    0), any stable learning rate: the positive solution V of

    ``2 (1+beta1) k V G = eta ((1+beta1) C + (1-beta1) k² V)``, ``G² = E g_B² = C + k² V``.

    ``eta sqrt(C) / (2 k)`` for small eta k / sqrt(C); ``eta²/8 + sqrt(eta⁴/64 + eta² C / (4 k²))`` at beta1 = 0
    (RMSprop). Gradient noise need not be Gaussian; its variance C must not vary over the fluctuations.
    curvature: k > 0. noise: C > 0. momentum: beta1; any shape. It is stable for every learning rate: G grows with V.
    Derivation: heavy ball with learning rate (1-beta1) eta / G and G constant, made consistent.
    Reference: Kingma, Ba, ICLR 2015 (the update)."""
    k, c = positive_curvature(curvature), positive("noise", noise)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    # In w = k² V / C and e = eta k / sqrt(C): 2 (1+beta) w sqrt(1+w) = e (1 + beta + (1-beta) w), convex, Newton from
    # above.
    e = eta * k / np.sqrt(c)
    w = e + e**2
    for _ in range(60):
        root = np.sqrt(1.0 + w)
        value = 2.0 * (1.0 + beta) * w * root - e * (1.0 + beta + (1.0 - beta) * w)
        slope = 2.0 * (1.0 + beta) * (root + 0.5 * w / root) - e * (1.0 - beta)
        w = w - value / slope
    return c * w / k**2


def variance_sign_descent(curvature: Values, noise: Values, learning_rate: Values) -> Floats:
    """Stationary variance of theta <- theta - eta sign(g_B), Gaussian gradient noise, small eta k / sqrt(C):
    ``eta sqrt(pi C / 2) / (2 k)``, the limit beta1 = beta2 = 0 of Adam.

    curvature: k > 0. noise: C >= 0; any shape. Derivation: <sign g> = sqrt(2/pi) k x / sqrt(C), sign² = 1.
    Reference: Bernstein et al., ICML 2018 (arXiv 1802.04434)."""
    k, c, eta = positive_curvature(curvature), noise_variance(noise), positive("learning_rate", learning_rate)
    return eta * np.sqrt(0.5 * np.pi * c) / (2.0 * k)
