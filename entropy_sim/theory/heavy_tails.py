"""Quadratics driven by symmetric alpha-stable noise, characteristic function exp(-|scale u|^alpha).

alpha = 2 is Gaussian of variance 2 scale². Below it variances are infinite, and so is the entropic force of an
unbounded quadratic, -1/2 k' <x²>: only scales and laws are finite."""

from __future__ import annotations

import numpy as np

from entropy_sim.errors import require
from entropy_sim.theory._checks import (
    Floats,
    Values,
    finite,
    not_negative,
    positive,
    positive_curvature,
    require_stable,
)


def scale_levy_euler(curvature: Values, noise_scale: Values, step: Values, tail_index: Values) -> Floats:
    """Scale of the stationary law of x <- x - h k x + sigma h^(1/alpha) zeta, zeta symmetric alpha-stable of scale 1:
    ``sigma (h / (1 - |1 - h k|^alpha))^(1/alpha)``, exact; the law is alpha-stable too. h -> 0: sigma / (alpha
    k)^(1/alpha).

    curvature: k > 0. noise_scale: sigma >= 0, of dx = -k x dt + sigma dL. step: h. tail_index: 0 < alpha <= 2; any
    shape. Raises UserError where h k >= 2. At alpha = 2 its variance 2 scale² is `variance_euler_maruyama` with T =
    sigma². Derivation: the logarithms of the characteristic functions of independent terms add.
    Reference: Samorodnitsky, Taqqu, Stable Non-Gaussian Random Processes (1994), chapter 1."""
    k, sigma, h = positive_curvature(curvature), not_negative("noise_scale", noise_scale), positive("step", step)
    alpha = _tail_index(tail_index)
    require_stable("step", h, k, 0.0)
    a = h * k
    with np.errstate(divide="ignore"):  # at a = 1 nothing is remembered
        memory = np.where(a < 1.0, np.log1p(-np.minimum(a, 1.0)), np.log(np.abs(a - 1.0)))
    lost = -np.expm1(alpha * memory)
    return sigma * (h / lost) ** (1.0 / alpha)


def scale_levy_sgd(curvature: Values, noise_scale: Values, learning_rate: Values, tail_index: Values) -> Floats:
    """Scale of the stationary law of SGD (no momentum) whose gradient noise is symmetric alpha-stable of scale sigma,
    ``eta sigma / (1 - |1 - eta k|^alpha)^(1/alpha)``, exact.

    curvature: k > 0. noise_scale: sigma >= 0 of one minibatch gradient. learning_rate: eta. tail_index: alpha; any
    shape. Small eta k: sigma eta^(1 - 1/alpha) / (alpha k)^(1/alpha): a heavier tail forgets the learning rate.
    Raises UserError where eta k >= 2. At alpha = 2 its variance 2 scale² is `variance_sgd` with C = 2 sigma².
    Reference: Simsekli, Sagun, Gurbuzbalaban, ICML 2019 (arXiv 1901.06053), for the noise."""
    eta, alpha = positive("learning_rate", learning_rate), _tail_index(tail_index)
    require_stable("learning_rate", eta, positive_curvature(curvature), 0.0)
    return eta ** (1.0 - 1.0 / alpha) * scale_levy_euler(curvature, noise_scale, eta, alpha)


def stable_characteristic(frequency: Values, scale: Values, tail_index: Values) -> Floats:
    """Characteristic function <exp(i u x)> of a symmetric alpha-stable law, ``exp(-|scale u|^alpha)``, real.

    frequency: u. scale: >= 0. tail_index: 0 < alpha <= 2; any shape. The mean of cos(u x) estimates it.
    Reference: Samorodnitsky, Taqqu, Stable Non-Gaussian Random Processes (1994), chapter 1."""
    u, s = finite("frequency", frequency), not_negative("scale", scale)
    return np.exp(-(np.abs(s * u) ** _tail_index(tail_index)))


def _tail_index(value: Values) -> Floats:
    alpha = positive("tail_index", value)
    require(bool(np.all(alpha <= 2.0)), "tail_index", "0 < alpha <= 2", float(alpha.max()))
    return alpha
