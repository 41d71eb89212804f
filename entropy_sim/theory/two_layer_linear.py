"""The smallest network, f(x) = u w x, with L = 1/2 E (u w x - t)²: everything about its valley u w = a is exact.

S = E x² (`second_moment`), a = E[x t] / S (`product`), sigma² the variance of the residuals at the minimum (label noise
or irreducible), B the batch size. b = u² - w² (`balance`) labels the points of the valley; it is conserved by gradient
flow, and only minibatch noise moves it, towards u² = w². Flattest, too: Tr H = (u² + w²) S there."""

from __future__ import annotations

import numpy as np

from entropy_sim.theory._checks import Floats, Values, finite, not_negative, positive
from entropy_sim.theory.minibatch import batch_mean_factor, variance_sgd_fluctuating_curvature


def two_layer_gradient(u: Values, w: Values, second_moment: Values, product: Values) -> Floats:
    """Gradient ``S (u w - a) (w, u)``, (…, 2). u, w: (…). Reference: Saxe, McClelland, Ganguli, ICLR 2014
    (arXiv 1312.6120)."""
    u, w, s, a = finite("u", u), finite("w", w), positive("second_moment", second_moment), finite("product", product)
    residual = s * (u * w - a)
    return np.stack(np.broadcast_arrays(residual * w, residual * u), axis=-1)


def two_layer_hessian(u: Values, w: Values, second_moment: Values, product: Values) -> Floats:
    """Hessian ``S [[w², 2 u w - a], [2 u w - a, u²]]``, (…, 2, 2); on the valley its trace S (u² + w²) is the
    transverse stiffness and the other eigenvalue is 0.

    Reference: Saxe, McClelland, Ganguli, ICLR 2014 (arXiv 1312.6120)."""
    u, w, s, a = finite("u", u), finite("w", w), positive("second_moment", second_moment), finite("product", product)
    cross = s * (2.0 * u * w - a)
    return np.stack(
        [np.stack(np.broadcast_arrays(s * w * w, cross), -1), np.stack(np.broadcast_arrays(cross, s * u * u), -1)], -2
    )


def balance_after_step(u: Values, w: Values, batch_gradient: Values, learning_rate: Values) -> Floats:
    """b = u² - w² after one step of SGD, ``b (1 - eta² g²)``, exact, g the batch mean of x (u w x - t).

    It never changes sign while eta |g| < 1, and shrinks at every step, whatever the noise: no Gaussian assumption.
    Reference: Ziyin, Li, Mori, Ueda, arXiv 2202.04825 (2022), for the law of balance in continuous time."""
    u, w, g = finite("u", u), finite("w", w), finite("batch_gradient", batch_gradient)
    return (u * u - w * w) * (1.0 - (positive("learning_rate", learning_rate) * g) ** 2)


def two_layer_variance(
    u: Values,
    w: Values,
    second_moment: Values,
    residual_variance: Values,
    learning_rate: Values,
    batch_size: Values,
    fourth_moment: Values | None = None,
) -> Floats:
    """Quasi-stationary variance across the valley at (u, w): stiffness K = S (u² + w²), noise C = (sigma²/B) K,
    ``eta C / (2 K - eta (K² + S_K))``, S_K = (u² + w²)² (E x⁴ - S²) / B the variance of the minibatch stiffness.

    fourth_moment: E x⁴; None for Gaussian x, 3 S². Batches are drawn with replacement. Valid where the quadratic
    approximation is, variance << u² + w², and b changes slowly. Raises UserError where the second moment diverges.
    Reference: Blanc, Gupta, Valiant, Valiant, COLT 2020 (arXiv 1904.09080); `variance_sgd_fluctuating_curvature`."""
    s, sigma2 = positive("second_moment", second_moment), not_negative("residual_variance", residual_variance)
    m4 = 3.0 * s**2 if fourth_moment is None else positive("fourth_moment", fourth_moment)
    share = batch_mean_factor(batch_size)
    norm = finite("u", u) ** 2 + finite("w", w) ** 2
    spread = share * norm**2 * np.maximum(m4 - s**2, 0.0)
    return variance_sgd_fluctuating_curvature(s * norm, share * sigma2 * s * norm, spread, learning_rate)


def balance_rate(second_moment: Values, residual_variance: Values, learning_rate: Values, batch_size: Values) -> Floats:
    """Leading relative change of b = u² - w² per step, ``-eta² sigma² S / B``: <g²> = sigma² S / B on the valley.

    The same for every point of the valley: the entropic force of `balance_potential`. Zero for realisable noiseless
    data. second_moment: S = E x². residual_variance: sigma². batch_size: B, drawn with replacement; any shape.
    Reference: Ziyin, Li, Mori, Ueda, arXiv 2202.04825 (2022)."""
    s, sigma2 = positive("second_moment", second_moment), not_negative("residual_variance", residual_variance)
    return -(positive("learning_rate", learning_rate) ** 2) * sigma2 * s * batch_mean_factor(batch_size)


def balance_rate_with_width(
    u: Values,
    w: Values,
    second_moment: Values,
    residual_variance: Values,
    learning_rate: Values,
    batch_size: Values,
    fourth_moment: Values | None = None,
) -> Floats:
    """`balance_rate` with the width of the valley in it,
    ``-eta² (sigma² S / B + (S² + (E x⁴ - S²) / B) (u² + w²) V)``, V = `two_layer_variance`, the next order in eta.

    Arguments as `two_layer_variance`. Derivation: g = x²_B (u w - a) - (x eps)_B with <(u w - a)²> = (u² + w²) V.
    Reference: Ziyin, Li, Mori, Ueda, arXiv 2202.04825 (2022), for the leading order."""
    s = positive("second_moment", second_moment)
    m4 = 3.0 * s**2 if fourth_moment is None else positive("fourth_moment", fourth_moment)
    variance = two_layer_variance(u, w, s, residual_variance, learning_rate, batch_size, m4)
    norm = finite("u", u) ** 2 + finite("w", w) ** 2
    square = s**2 + np.maximum(m4 - s**2, 0.0) * batch_mean_factor(batch_size)
    leading = balance_rate(s, residual_variance, learning_rate, batch_size)
    return leading - positive("learning_rate", learning_rate) ** 2 * square * norm * variance


def balance_potential(
    u: Values,
    w: Values,
    second_moment: Values,
    residual_variance: Values,
    learning_rate: Values,
    batch_size: Values,
) -> Floats:
    """Entropic potential on the valley, ``(eta sigma² / (4 B)) S (u² + w²)``, the curvature-proportional form with
    c = sigma² / B, small eta; lowest where u² = w². Its gradient flow along the valley gives `balance_rate` exactly.

    Arguments as `balance_rate`; u, w on the valley. Reference: Damian, Ma, Lee, NeurIPS 2021 (arXiv 2106.06530)."""
    s, sigma2 = positive("second_moment", second_moment), not_negative("residual_variance", residual_variance)
    norm = finite("u", u) ** 2 + finite("w", w) ** 2
    return 0.25 * positive("learning_rate", learning_rate) * sigma2 * batch_mean_factor(batch_size) * s * norm
