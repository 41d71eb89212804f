"""Stationary and transient variances of one mode."""

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
)


def variance_euler_maruyama(curvature: Values, temperature: Values, step: Values) -> Floats:
    """Stationary variance of Euler-Maruyama on a quadratic, ``T / (k (1 - h k / 2))``, exact for any stable step.

    curvature: k > 0, loss / parameter², any shape. temperature: T >= 0, loss. step: h > 0, parameter² / loss.
    Raises UserError where h k >= 2: the iteration is unstable there.
    Reference: Leimkuhler, Matthews, Appl. Math. Res. Express 2013 (2013) 34."""
    k, t, h = positive_curvature(curvature), noise_variance(temperature, "temperature"), positive("step", step)
    require_stable("step", h, k, 0.0)
    return t / (k * (1.0 - 0.5 * h * k))


def variance_leimkuhler_matthews(curvature: Values, temperature: Values, step: Values) -> Floats:
    """Stationary variance of x <- x - h k x + sqrt(2 T h) (R_n + R_{n+1}) / 2, ``T / k``, exact for any stable step.

    curvature: k > 0, loss / parameter², any shape. temperature: T >= 0, loss. step: h > 0, parameter² / loss.
    Raises UserError where h k >= 2: the iteration is unstable there.
    Reference: Leimkuhler, Matthews, Appl. Math. Res. Express 2013 (2013) 34."""
    k, t, h = positive_curvature(curvature), noise_variance(temperature, "temperature"), positive("step", step)
    require_stable("step", h, k, 0.0)
    return t / k + 0.0 * h


def variance_sgd(curvature: Values, noise: Values, learning_rate: Values, momentum: Values = 0.0) -> Floats:
    """Stationary variance of heavy-ball SGD on a quadratic, ``eta C (1+beta) / (k (1-beta) (2(1+beta) - eta k))``.

    curvature: k > 0, loss / parameter², any shape. noise: C = Var of the minibatch gradient, same shape.
    Raises UserError where eta k >= 2(1+beta): the iteration is unstable there.
    Reference: Liu, Ziyin, Ueda, ICML 2021 (arXiv 2012.03636)."""
    k = positive_curvature(curvature)
    return variance_sgd_curvature_proportional(k, noise_variance(noise) / k, learning_rate, momentum)


def variance_sgd_curvature_proportional(
    curvature: Values, noise_ratio: Values, learning_rate: Values, momentum: Values = 0.0
) -> Floats:
    """`variance_sgd` for noise ``C = c k``: ``eta c (1+beta) / ((1-beta) (2(1+beta) - eta k))``, finite at k = 0.

    curvature: k >= 0, loss / parameter², any shape (at k = 0 the limit k -> 0). noise_ratio: c >= 0, loss.
    For small eta k every mode has the same variance, eta c / (2 (1-beta)).
    Raises UserError where eta k >= 2(1+beta): the iteration is unstable there."""
    k, c = not_negative("curvature", curvature), not_negative("noise_ratio", noise_ratio)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    require_stable("learning_rate", eta, k, beta)
    return eta * c * (1.0 + beta) / ((1.0 - beta) * (2.0 * (1.0 + beta) - eta * k))


def variance_sgd_transient(
    curvature: Values, noise: Values, learning_rate: Values, steps: int, momentum: Values = 0.0
) -> Floats:
    """Variance of heavy-ball SGD `steps` steps after a cold start (x = v = 0), for a curvature of any sign.

    The second moments (<x²>, <x v>, <v²>) obey an affine recursion, whose power is taken; without momentum it is
    ``Sigma_inf (1 - (1 - eta k)^(2 n))``, and on a null direction ``eta² C n``. Modes with eta k n <~ 1 are not
    equilibrated: their stationary variance overestimates them.

    curvature: k, loss / parameter², any shape. noise: C >= 0, same shape. steps: n >= 0.
    Raises UserError for negative noise or steps."""
    require(steps >= 0, "steps", "a number of steps >= 0", steps)
    k, c, eta, beta = np.broadcast_arrays(
        finite("curvature", curvature),
        noise_variance(noise),
        positive("learning_rate", learning_rate),
        checked_momentum(momentum),
    )
    # v' = beta v - a x - eta xi and x' = x + v', with a = eta k; the last column is what the noise adds to each moment.
    a, kick = eta * k, eta**2 * c
    x = 1.0 - a
    zero, one = np.zeros_like(a), np.ones_like(a)
    rows = (
        (x * x, 2.0 * x * beta, beta * beta, kick),
        (-a * x, beta * (1.0 - 2.0 * a), beta * beta, kick),
        (a * a, -2.0 * a * beta, beta * beta, kick),
        (zero, zero, zero, one),
    )
    step = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    return np.linalg.matrix_power(step, steps)[..., 0, 3]
