"""Closed forms of the physics, vectorised, in plain numpy.

The loss near the path is L(y, x) = U(y) + 1/2 sum_i k_i(y) x_i², y the arc length along the path (`potential` is U,
`potential_slope` is U' = dU/dy), x_i the transverse coordinates, k_i their stiffness (`curvature`, and
`curvature_slope` for dk_i/dy), modes on the last axis. Two kinds of noise:

    Langevin    d theta = -grad L dt + sqrt(2 D) dW  (Itô), discretised with step h
    SGD         v <- beta v - eta (grad L + xi),  theta <- theta + v,  Cov xi = C

One clock, t = h · step for Langevin and t = eta · step / (1 - beta) for SGD, gives both the mobility 1, and SGD the
effective temperature T = eta C / (2 (1 - beta)). A mean force is the force along +s, -<t · grad L>, per arc length.

Every function broadcasts, and raises UserError (a ValueError) where its formula does not hold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from entropy_sim.errors import UserError, require

Floats = npt.NDArray[np.float64]
Values = npt.ArrayLike

# --- stability and temperature --------------------------------------------------------------------------------------


def stability_limit(curvature: Values, momentum: Values = 0.0) -> Floats:
    """Learning rate (or Langevin step, at momentum 0) from which on the iteration diverges, ``2 (1 + beta) / k``.

    curvature: k > 0, the largest curvature where a set of modes is to be stable; any shape.
    Reference: Polyak, USSR Comput. Math. Math. Phys. 4 (1964) 1."""
    k, beta = _curvature(curvature), _momentum(momentum)
    return 2.0 * (1.0 + beta) / k


def effective_temperature(noise: Values, learning_rate: Values, momentum: Values = 0.0) -> Floats:
    """Temperature of SGD on the common clock, ``T = eta C / (2 (1 - beta))``, for small eta k.

    noise: C = Var of the minibatch gradient, loss² / parameter², any shape.
    Reference: Mandt, Hoffman, Blei, JMLR 18 (2017) 134."""
    c, eta, beta = _noise(noise), _positive("learning_rate", learning_rate), _momentum(momentum)
    return eta * c / (2.0 * (1.0 - beta))


# --- variances of one mode ------------------------------------------------------------------------------------------


def variance_euler_maruyama(curvature: Values, temperature: Values, step: Values) -> Floats:
    """Stationary variance of Euler-Maruyama on a quadratic, ``T / (k (1 - h k / 2))``, exact for any stable step.

    curvature: k > 0, loss / parameter², any shape. temperature: T >= 0, loss. step: h > 0, parameter² / loss.
    Raises UserError where h k >= 2: the iteration is unstable there.
    Reference: Leimkuhler, Matthews, Appl. Math. Res. Express 2013 (2013) 34."""
    k, t, h = _curvature(curvature), _noise(temperature, "temperature"), _positive("step", step)
    _stable("step", h, k, 0.0)
    return t / (k * (1.0 - 0.5 * h * k))


def variance_leimkuhler_matthews(curvature: Values, temperature: Values, step: Values) -> Floats:
    """Stationary variance of x <- x - h k x + sqrt(2 T h) (R_n + R_{n+1}) / 2, ``T / k``, exact for any stable step.

    curvature: k > 0, loss / parameter², any shape. temperature: T >= 0, loss. step: h > 0, parameter² / loss.
    Raises UserError where h k >= 2: the iteration is unstable there.
    Reference: Leimkuhler, Matthews, Appl. Math. Res. Express 2013 (2013) 34."""
    k, t, h = _curvature(curvature), _noise(temperature, "temperature"), _positive("step", step)
    _stable("step", h, k, 0.0)
    return t / k + 0.0 * h


def variance_sgd(curvature: Values, noise: Values, learning_rate: Values, momentum: Values = 0.0) -> Floats:
    """Stationary variance of heavy-ball SGD on a quadratic, ``eta C (1+beta) / (k (1-beta) (2(1+beta) - eta k))``.

    curvature: k > 0, loss / parameter², any shape. noise: C = Var of the minibatch gradient, same shape.
    Raises UserError where eta k >= 2(1+beta): the iteration is unstable there.
    Reference: Liu, Ziyin, Ueda, ICML 2021 (arXiv 2012.03636)."""
    k = _curvature(curvature)
    return variance_sgd_curvature_proportional(k, _noise(noise) / k, learning_rate, momentum)


def variance_sgd_curvature_proportional(
    curvature: Values, noise_ratio: Values, learning_rate: Values, momentum: Values = 0.0
) -> Floats:
    """`variance_sgd` for noise ``C = c k``: ``eta c (1+beta) / ((1-beta) (2(1+beta) - eta k))``, finite at k = 0.

    curvature: k >= 0, loss / parameter², any shape (at k = 0 the limit k -> 0). noise_ratio: c >= 0, loss.
    For small eta k every mode has the same variance, eta c / (2 (1-beta)).
    Raises UserError where eta k >= 2(1+beta): the iteration is unstable there."""
    k, c = _not_negative("curvature", curvature), _not_negative("noise_ratio", noise_ratio)
    eta, beta = _positive("learning_rate", learning_rate), _momentum(momentum)
    _stable("learning_rate", eta, k, beta)
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
        _finite("curvature", curvature), _noise(noise), _positive("learning_rate", learning_rate), _momentum(momentum)
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


# --- covariance of many modes ---------------------------------------------------------------------------------------


def covariance_lyapunov(curvature: Values, noise: Values, learning_rate: Values, momentum: Values = 0.0) -> Floats:
    """Small-learning-rate covariance of SGD in the Hessian's eigenbasis: the solution of
    ``H Sigma + Sigma H = eta C / (1 - beta)``, ``Sigma_ij = eta C_ij / ((1 - beta) (k_i + k_j))``.

    curvature: k_i > 0, (…, modes). noise: C_ij in the same basis, (…, modes, modes).
    Off the diagonal it needs eta (k_i - k_j)² / (k_i + k_j) << 2 (1 - beta)², with momentum far sooner violated than
    eta k << 1; `covariance_sgd` is exact.
    Reference: Mandt, Hoffman, Blei, JMLR 18 (2017) 134."""
    k, c = _curvature(curvature), _finite("noise", noise)
    eta, beta = _positive("learning_rate", learning_rate), _momentum(momentum)
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
    k, c = _curvature(curvature), _finite("noise", noise)
    eta, beta = _positive("learning_rate", learning_rate), _momentum(momentum)
    eta, beta = eta[..., None], beta[..., None]
    _stable("learning_rate", eta, k, beta)
    # a = 1 + beta - b. Expanded in b = eta k, because for small eta k the terms above cancel to almost nothing.
    b, d = eta * k, 1.0 - beta
    bi, bj = b[..., :, None], b[..., None, :]
    beta, d = beta[..., None], d[..., None]
    denominator = d**2 * (1.0 + beta) * (bi + bj) - (1.0 + beta**2) * bi * bj + beta * (bi**2 + bj**2)
    return eta[..., None] ** 2 * c * (1.0 - beta**2) / denominator


# --- mean force along the path --------------------------------------------------------------------------------------


def mean_force(curvature_slope: Values, variance: Values, potential_slope: Values = 0.0) -> Floats:
    """Mean force of independent modes, ``-U' - 1/2 sum_i k_i' <x_i²>``, loss / parameter.

    curvature_slope: k_i', (…, modes). variance: <x_i²>, same shape. potential_slope: U', (…)."""
    slope, v = _finite("curvature_slope", curvature_slope), _not_negative("variance", variance)
    return -_finite("potential_slope", potential_slope) - 0.5 * _sum(slope * v)


def mean_force_general(hessian_slope: Values, covariance: Values, potential_slope: Values = 0.0) -> Floats:
    """Mean force of any Gaussian fluctuations, ``-U' - 1/2 Tr(dH/dy Sigma)``, Sigma held fixed.

    hessian_slope: directional derivative of the transverse Hessian along the tangent, (…, modes, modes).
    covariance: Sigma in the same basis, e.g. from `covariance_sgd`."""
    slope, sigma = _finite("hessian_slope", hessian_slope), _finite("covariance", covariance)
    return -_finite("potential_slope", potential_slope) - 0.5 * np.einsum("...ij,...ji->...", slope, sigma)


def mean_force_thermal(
    curvature: Values, curvature_slope: Values, temperature: Values, potential_slope: Values = 0.0
) -> Floats:
    """Mean force of thermal noise, ``-U' - (T/2) sum_i k_i' / k_i``, exact for any T and stiffness.

    curvature, curvature_slope: k_i > 0 and k_i', (…, modes). temperature: T, (…)."""
    return mean_force_curvature_power(curvature, curvature_slope, temperature, 0.0, potential_slope)


def mean_force_curvature_power(
    curvature: Values, curvature_slope: Values, temperature: Values, exponent: Values, potential_slope: Values = 0.0
) -> Floats:
    """Mean force of transverse noise D_i = T k_i^alpha, ``-U' - (T/2) sum_i k_i^(alpha-1) k_i'``.

    alpha = 0 is thermal noise, alpha = 1 noise proportional to the curvature. Continuous time, fast transverse modes.
    curvature, curvature_slope: k_i > 0 and k_i', (…, modes). temperature: T, in loss^(1-alpha) parameter^(2 alpha)."""
    k, t = _curvature(curvature), _noise(temperature, "temperature")
    alpha = _finite("exponent", exponent)
    return mean_force(curvature_slope, t[..., None] * k ** (alpha[..., None] - 1.0), potential_slope)


def mean_force_covariance(
    noise: Values,
    curvature: Values,
    curvature_slope: Values,
    learning_rate: Values,
    momentum: Values = 0.0,
    potential_slope: Values = 0.0,
) -> Floats:
    """Mean force of SGD with noise C_i on each mode, ``-U' - 1/2 sum_i k_i' <x_i²>`` with `variance_sgd`'s
    ``<x_i²> = eta C_i (1+beta) / (k_i (1-beta) (2(1+beta) - eta k_i))``: finite learning rate included.

    noise, curvature, curvature_slope: C_i >= 0, k_i > 0, k_i', (…, modes). learning_rate, momentum: (…).
    Raises UserError where eta k_i >= 2(1+beta): that mode is unstable."""
    eta, beta = _positive("learning_rate", learning_rate), _momentum(momentum)
    variance = variance_sgd(curvature, noise, eta[..., None], beta[..., None])
    return mean_force(curvature_slope, variance, potential_slope)


def mean_force_curvature_proportional(
    trace_slope: Values,
    noise_ratio: Values,
    learning_rate: Values,
    momentum: Values = 0.0,
    potential_slope: Values = 0.0,
) -> Floats:
    """Mean force of SGD whose transverse noise is C = c H, ``-U' - eta c / (4 (1-beta)) Tr(Q dH/dy)``, small eta k.

    trace_slope: Tr(Q dH/dy), the directional derivative of the transverse trace along the tangent, (…).
    noise_ratio: c = Tr C / Tr H, both transverse (for label noise of strength sigma, c = sigma² / B).
    Exact Sigma = (eta c / (2 (1-beta))) · (projector on the range of H) for eta -> 0; no eigenbasis is needed.
    Reference: Blanc, Gupta, Valiant, Valiant, COLT 2020; Damian, Ma, Lee, NeurIPS 2021 (arXiv 2106.06530)."""
    temperature = effective_temperature(_not_negative("noise_ratio", noise_ratio), learning_rate, momentum)
    slope = _finite("trace_slope", trace_slope)
    return -_finite("potential_slope", potential_slope) - 0.5 * temperature * slope


def drift_sgd(
    curvature_slope: Values,
    variance: Values,
    learning_rate: Values,
    momentum: Values = 0.0,
    potential_slope: Values = 0.0,
) -> Floats:
    """Mean change of y per SGD step, ``-eta / (1-beta) · (U' + 1/2 sum_i k_i' <x_i²>)``, fast transverse modes.

    curvature_slope, variance: k_i' and <x_i²>, (…, modes). learning_rate, momentum, potential_slope: (…)."""
    eta, beta = _positive("learning_rate", learning_rate), _momentum(momentum)
    return eta / (1.0 - beta) * mean_force(curvature_slope, variance, potential_slope)


# --- effective potential --------------------------------------------------------------------------------------------


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
    k, t = _curvature(curvature), _noise(temperature, "temperature")
    alpha = _finite("exponent", exponent)[..., None]
    log = np.log(k)
    safe = np.where(alpha == 0.0, 1.0, alpha)
    power = np.where(alpha == 0.0, log, np.expm1(safe * log) / safe)
    return _finite("potential", potential) + 0.5 * t * _sum(power)


def effective_potential_curvature_proportional(
    curvature: Values, noise_ratio: Values, learning_rate: Values, momentum: Values = 0.0, potential: Values = 0.0
) -> Floats:
    """Effective potential of SGD with C_i = c k_i at finite learning rate,
    ``U - c (1+beta) / (2 (1-beta)) sum_i ln(1 - eta k_i / (2 (1+beta)))``;
    for small eta k it is ``U + eta c / (4 (1-beta)) sum_i k_i``.

    curvature: k_i >= 0, (…, modes). noise_ratio: c >= 0, loss. Zero where U = 0 and all k_i = 0.
    Raises UserError where eta k >= 2(1+beta); towards that edge the potential diverges, but adiabaticity and the
    quadratic approximation fail first."""
    k, c = _not_negative("curvature", curvature), _not_negative("noise_ratio", noise_ratio)
    eta, beta = _positive("learning_rate", learning_rate), _momentum(momentum)
    _stable("learning_rate", eta[..., None], k, beta[..., None])
    logs = _sum(np.log1p(-eta[..., None] * k / (2.0 * (1.0 + beta[..., None]))))
    return _finite("potential", potential) - c * (1.0 + beta) / (2.0 * (1.0 - beta)) * logs


def effective_potential_constant_noise(
    curvature: Values, noise: Values, learning_rate: Values, momentum: Values = 0.0, potential: Values = 0.0
) -> Floats:
    """Effective potential of SGD whose noise C_i does not depend on y, at finite learning rate,
    ``U + eta / (4 (1-beta)) sum_i C_i ln[k_i / (1 - eta k_i / (2 (1+beta)))]``.

    Euler-Maruyama with step h and temperature T is the case eta = h, C = 2 T / h, beta = 0.
    curvature: k_i > 0, (…, modes). noise: C_i >= 0, same shape. Raises UserError where eta k >= 2(1+beta)."""
    k, c = _curvature(curvature), _noise(noise)
    eta, beta = _positive("learning_rate", learning_rate), _momentum(momentum)
    _stable("learning_rate", eta[..., None], k, beta[..., None])
    logs = np.log(k) - np.log1p(-eta[..., None] * k / (2.0 * (1.0 + beta[..., None])))
    return _finite("potential", potential) + eta / (4.0 * (1.0 - beta)) * _sum(c * logs)


# --- the marginal of the slow coordinate ----------------------------------------------------------------------------


def stationary_density(position: Values, force: Values, diffusion: Values) -> Floats:
    """Stationary density of dy = f dt + sqrt(2 D_y) dW (Itô), no flux: ``p ∝ exp(int f / D_y dy) / D_y``.

    position: y increasing, (n,). force: f = -dV/dy, (n,), or any drift. diffusion: D_y > 0, (n,) or a number.
    Integrals by the trapezoidal rule on the given points; normalised to 1 over them, per unit of y.
    Reference: Gardiner, Handbook of Stochastic Methods, chapter 5."""
    y, f = _finite("position", position), _finite("force", force)
    d = np.broadcast_to(_positive("diffusion", diffusion), y.shape)
    require(y.ndim == 1 and bool(np.all(np.diff(y) > 0)), "position", "increasing values", y.tolist()[:5])
    require(f.shape == y.shape, "force", f"the shape {y.shape}", f.shape)
    slope = f / d
    exponent = np.concatenate([[0.0], np.cumsum(0.5 * (slope[1:] + slope[:-1]) * np.diff(y))])
    density = np.exp(exponent - exponent.max()) / d
    return density / np.trapezoid(density, y)


# --- checks ---------------------------------------------------------------------------------------------------------


def _sum(modes: Floats) -> Floats:
    """Sum over the last axis; a lone number is one mode."""
    return np.sum(np.atleast_1d(modes), axis=-1)


def _checked(option: str, value: Values, expected: str, good: np.ufunc | None) -> Floats:
    found = np.asarray(value, dtype=np.float64)
    ok = np.isfinite(found) if good is None else np.isfinite(found) & good(found, 0.0)
    if not np.all(ok):
        raise UserError(f"{option}: expected {expected}, found {float(found[~ok].flat[0]):g}")
    return found


def _finite(option: str, value: Values) -> Floats:
    return _checked(option, value, "a finite number", None)


def _positive(option: str, value: Values) -> Floats:
    return _checked(option, value, "a number > 0", np.greater)


def _not_negative(option: str, value: Values) -> Floats:
    return _checked(option, value, "a number >= 0", np.greater_equal)


def _curvature(value: Values) -> Floats:
    return _checked("curvature", value, "a curvature k > 0", np.greater)


def _noise(value: Values, option: str = "noise") -> Floats:
    return _not_negative(option, value)


def _momentum(value: Values) -> Floats:
    beta = _not_negative("momentum", value)
    require(bool(np.all(beta < 1.0)), "momentum", "0 <= beta < 1", float(np.max(beta, initial=0.0)))
    return beta


def _stable(option: str, rate: Values, curvature: Floats, momentum: Values) -> None:
    """Raise UserError naming the limit unless rate · k < 2 (1 + beta) everywhere."""
    rate, limit = np.asarray(rate), 2.0 * (1.0 + np.asarray(momentum))
    bad = ~(rate * curvature < limit)
    if np.any(bad):
        r, k, l = (float(np.broadcast_to(a, bad.shape)[bad].flat[0]) for a in (rate, curvature, limit))
        raise UserError(f"{option}: expected less than {l / k:g}, the stability limit at curvature {k:g}, found {r:g}")
