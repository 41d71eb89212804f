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


def variance_sgd(
    curvature: Values, noise: Values, learning_rate: Values, momentum: Values = 0.0, weight_decay: Values = 0.0
) -> Floats:
    """Stationary variance of heavy-ball SGD on a quadratic, ``eta C (1+beta) / (q (1-beta) (2(1+beta) - eta q))``,
    q = k + lambda.

    curvature: k > 0, loss / parameter², any shape. noise: C = Var of the minibatch gradient, same shape.
    weight_decay: lambda >= 0; the update follows g + lambda theta.
    Raises UserError where eta q >= 2(1+beta): the iteration is unstable there.
    Reference: Liu, Ziyin, Ueda, ICML 2021 (arXiv 2012.03636)."""
    k = positive_curvature(curvature) + not_negative("weight_decay", weight_decay)
    return variance_sgd_curvature_proportional(k, noise_variance(noise) / k, learning_rate, momentum)


def variance_sgd_curvature_proportional(
    curvature: Values, noise_ratio: Values, learning_rate: Values, momentum: Values = 0.0, weight_decay: Values = 0.0
) -> Floats:
    """`variance_sgd` for noise ``C = c k``: ``eta c (k/q) (1+beta) / ((1-beta) (2(1+beta) - eta q))``, q = k + lambda;
    without weight decay finite at k = 0.

    curvature: k >= 0, loss / parameter², any shape (at k = lambda = 0 the limit k -> 0). noise_ratio: c >= 0, loss.
    For small eta k every mode has the same variance, eta c / (2 (1-beta)).
    Raises UserError where eta q >= 2(1+beta): the iteration is unstable there.
    Reference: Liu, Ziyin, Ueda, ICML 2021 (arXiv 2012.03636)."""
    k, c = not_negative("curvature", curvature), not_negative("noise_ratio", noise_ratio)
    decay = not_negative("weight_decay", weight_decay)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    q = k + decay
    require_stable("learning_rate", eta, q, beta)
    share = np.where(decay > 0.0, k / np.where(q > 0.0, q, 1.0), 1.0)
    return eta * c * share * (1.0 + beta) / ((1.0 - beta) * (2.0 * (1.0 + beta) - eta * q))


def variance_sgd_nesterov(
    curvature: Values, noise: Values, learning_rate: Values, momentum: Values, weight_decay: Values = 0.0
) -> Floats:
    """Stationary variance of SGD with Nesterov momentum, v <- beta v + g, theta <- theta - eta (g + beta v), g taken at
    the stored theta:

    ``eta² C (1 + beta + beta (1+2 beta) a) / (a (1 - beta + beta a) (2 (1+beta) - (1+2 beta) a))``,
    a = eta (k + lambda).

    curvature: k > 0, loss / parameter², any shape. noise: C = Var of the minibatch gradient, same shape.
    Small a: T / k with `effective_temperature`, as heavy ball. Raises UserError where a >= 2 (1+beta) / (1+2 beta).
    Derivation: x_{n+1} = (1+beta)(1-a) x_n - beta (1-a) x_{n-1} - eta ((1+beta) xi_n - beta xi_{n-1}), a second-order
    autoregression driven by a moving average; the equations of its lag-0, 1 and 2 covariances close.
    Reference for the update: Sutskever et al., ICML 2013."""
    k, c = positive_curvature(curvature) + not_negative("weight_decay", weight_decay), noise_variance(noise)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    require_stable("learning_rate", eta, k, beta, 1.0 + 2.0 * beta)
    a = eta * k
    b = 1.0 + 2.0 * beta
    return eta**2 * c * (1.0 + beta + beta * b * a) / (a * (1.0 - beta + beta * a) * (2.0 * (1.0 + beta) - b * a))


def velocity_variance_sgd(
    curvature: Values, noise: Values, learning_rate: Values, momentum: Values = 0.0, weight_decay: Values = 0.0
) -> Floats:
    """Stationary variance of heavy ball's step v on a quadratic, ``2 eta² C / ((1-beta) (2(1+beta) - eta q))``,
    q = k + lambda: `heating_ratio` = 1.

    curvature: k >= 0, any shape. noise: C, same shape. Raises UserError where eta q >= 2(1+beta).
    Reference: Liu, Ziyin, Ueda, ICML 2021 (arXiv 2012.03636)."""
    q = not_negative("curvature", curvature) + not_negative("weight_decay", weight_decay)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    ratio = variance_sgd_curvature_proportional(q, noise_variance(noise), eta, beta)
    return 2.0 * eta / (1.0 + beta) * ratio


def heating_ratio(
    displacement_force: Values, step_square: Values, learning_rate: Values, momentum: Values = 0.0
) -> Floats:
    """``(1+beta) <|v|²> / (2 eta <x · grad L>)``, exactly 1 in any stationary state, quadratic or not, with independent
    batches: what the noise heats, the gradient takes away. ``eta <|g_B|²> / (2 <x · grad L>)`` at beta = 0, where
    v = -eta g_B.

    Not 1: not equilibrated. 1 with an unexpected force: anharmonic.
    displacement_force: <x · grad L>, x the displacement from any fixed point, weight decay included in the gradient;
    all three vectors projected on the (transverse) space that the dynamics is confined to. step_square: <|v|²>, v the
    step as applied. Derivation: stationarity of <|x|²> gives 2 <x · v'> + <|v'|²> = 0 for the next step v' = beta v -
    eta g_B, that of x = x_before + v gives <x · v> = <|v|²> / 2. Reference (beta = 0): Yaida, ICLR 2019 (arXiv
    1810.00004)."""
    work = finite("displacement_force", displacement_force)
    square = not_negative("step_square", step_square)
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    return (1.0 + beta) * square / (2.0 * eta * work)


def variance_sgd_transient(
    curvature: Values,
    noise: Values,
    learning_rate: Values,
    steps: int,
    momentum: Values = 0.0,
    weight_decay: Values = 0.0,
) -> Floats:
    """Variance of heavy-ball SGD `steps` steps after a cold start (x = v = 0), for a curvature of any sign.

    The second moments (<x²>, <x v>, <v²>) obey an affine recursion, whose power is taken; without momentum it is
    ``Sigma_inf (1 - (1 - eta k)^(2 n))``, and on a null direction ``eta² C n``. Modes with eta k n <~ 1 are not
    equilibrated: their stationary variance overestimates them.

    curvature: k, loss / parameter², any shape. noise: C >= 0, same shape. steps: n >= 0. weight_decay: added to k.
    Raises UserError for negative noise or steps.
    Reference: Mandt, Hoffman, Blei, JMLR 18 (2017) 134 (the stationary limit)."""
    require(steps >= 0, "steps", "a number of steps >= 0", steps)
    k, c, eta, beta = np.broadcast_arrays(
        finite("curvature", curvature) + not_negative("weight_decay", weight_decay),
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
