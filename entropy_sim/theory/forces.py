"""Mean force along the path."""

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
    sum_modes,
)
from entropy_sim.theory.covariance import covariance_transverse, transverse
from entropy_sim.theory.stability import effective_temperature
from entropy_sim.theory.variance import variance_sgd


def mean_force(curvature_slope: Values, variance: Values, potential_slope: Values = 0.0) -> Floats:
    """Mean force of independent modes, ``-U' - 1/2 sum_i k_i' <x_i²>``, loss / parameter.

    curvature_slope: k_i', (…, modes). variance: <x_i²>, same shape. potential_slope: U', (…).
    Reference: Wei, Schwab, arXiv 1910.05929 (2019)."""
    slope, v = finite("curvature_slope", curvature_slope), not_negative("variance", variance)
    return -finite("potential_slope", potential_slope) - 0.5 * sum_modes(slope * v)


def mean_force_general(hessian_slope: Values, covariance: Values, potential_slope: Values = 0.0) -> Floats:
    """Mean force of any Gaussian fluctuations, ``-U' - 1/2 Tr(dH/dy Sigma)``, Sigma held fixed.

    hessian_slope: directional derivative of the transverse Hessian along the tangent, (…, modes, modes).
    covariance: Sigma in the same basis, e.g. from `covariance_sgd` or `covariance_transverse`.
    Reference: Damian, Ma, Lee, NeurIPS 2021 (arXiv 2106.06530); Li, Wang, Arora, ICLR 2022 (arXiv 2110.06914)."""
    slope, sigma = finite("hessian_slope", hessian_slope), finite("covariance", covariance)
    return -finite("potential_slope", potential_slope) - 0.5 * np.einsum("...ij,...ji->...", slope, sigma)


def mean_force_thermal(
    curvature: Values, curvature_slope: Values, temperature: Values, potential_slope: Values = 0.0
) -> Floats:
    """Mean force of thermal noise, ``-U' - (T/2) sum_i k_i' / k_i``, exact for any T and stiffness.

    curvature, curvature_slope: k_i > 0 and k_i', (…, modes). temperature: T, (…).
    Reference: van Kampen, Lodder, Am. J. Phys. 52 (1984) 419."""
    return mean_force_curvature_power(curvature, curvature_slope, temperature, 0.0, potential_slope)


def mean_force_curvature_power(
    curvature: Values, curvature_slope: Values, temperature: Values, exponent: Values, potential_slope: Values = 0.0
) -> Floats:
    """Mean force of transverse noise D_i = T k_i^alpha, ``-U' - (T/2) sum_i k_i^(alpha-1) k_i'``.

    alpha = 0 is thermal noise, alpha = 1 noise proportional to the curvature. Continuous time, fast transverse modes.
    curvature, curvature_slope: k_i > 0 and k_i', (…, modes). temperature: T, in loss^(1-alpha) parameter^(2 alpha).
    Reference: Gardiner, Handbook of Stochastic Methods, chapter 6 (adiabatic elimination)."""
    k, t = positive_curvature(curvature), noise_variance(temperature, "temperature")
    alpha = finite("exponent", exponent)
    return mean_force(curvature_slope, t[..., None] * k ** (alpha[..., None] - 1.0), potential_slope)


def mean_force_covariance(
    noise: Values,
    curvature: Values,
    curvature_slope: Values,
    learning_rate: Values,
    momentum: Values = 0.0,
    potential_slope: Values = 0.0,
    weight_decay: Values = 0.0,
) -> Floats:
    """Mean force of SGD with noise C_i on each mode, ``-U' - 1/2 sum_i k_i' <x_i²>`` with `variance_sgd`'s
    ``<x_i²> = eta C_i (1+beta) / (q_i (1-beta) (2(1+beta) - eta q_i))``, q_i = k_i + lambda: finite learning rate
    included, exact for fast transverse modes. Weight decay narrows the fluctuations; the loss they feel keeps k_i'.
    Its own drift, -lambda t · theta, is not part of the force.

    noise, curvature, curvature_slope: C_i >= 0, k_i > 0, k_i', (…, modes). learning_rate, momentum, weight_decay: (…).
    Raises UserError where eta q_i >= 2(1+beta): that mode is unstable.
    Reference: Liu, Ziyin, Ueda, ICML 2021 (arXiv 2012.03636), for the variance."""
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    decay = not_negative("weight_decay", weight_decay)
    variance = variance_sgd(curvature, noise, eta[..., None], beta[..., None], decay[..., None])
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
    temperature = effective_temperature(not_negative("noise_ratio", noise_ratio), learning_rate, momentum)
    slope = finite("trace_slope", trace_slope)
    return -finite("potential_slope", potential_slope) - 0.5 * temperature * slope


def mean_force_lyapunov(
    hessian: Values,
    noise: Values,
    hessian_slope: Values,
    learning_rate: Values,
    momentum: Values = 0.0,
    tangent: Values | None = None,
    potential_slope: Values = 0.0,
    weight_decay: Values = 0.0,
    *,
    exact: bool = False,
) -> Floats:
    """Mean force of SGD in a rotating eigenframe, ``-U' - 1/2 Tr(d_t H Sigma)``, Sigma from `covariance_transverse`:
    ``H⊥ Sigma + Sigma H⊥ = eta C⊥ / (1 - beta)``, or, with `exact`, its form for any stable learning rate.

    If C⊥ = c H⊥ it is `mean_force_curvature_proportional` with the trace slope Tr(Q d_t H), c = Tr C⊥ / Tr H⊥.
    hessian, noise: H and C, (…, d, d), projected here. hessian_slope: d_t H, the directional derivative of H along the
    tangent, (…, d, d), not a difference between points of the path. tangent: t, (…, d); None if all are projected.
    Raises UserError as `covariance_transverse`.
    Reference: Li, Wang, Arora, ICLR 2022 (arXiv 2110.06914), for the slow flow of general noise."""
    sigma = covariance_transverse(hessian, noise, learning_rate, momentum, tangent, weight_decay, exact=exact)
    return mean_force_general(hessian_slope, sigma, potential_slope)


def transverse_trace_slope(hessian_slope: Values, tangent: Values) -> Floats:
    """Slope of the transverse trace along the tangent, ``Tr(Q d_t H) = Tr d_t H - t · (d_t H) t``, (…).

    It equals the slope of Tr H along the path only on a valley floor. hessian_slope: d_t H, (…, d, d). tangent: (…, d).
    Reference: Damian, Ma, Lee, NeurIPS 2021 (arXiv 2106.06530), for the trace as the regulariser of label noise."""
    return np.trace(transverse(hessian_slope, tangent), axis1=-2, axis2=-1)


def tangent_normal_drift(path_curvature: Values, noise: Values, tangent: Values, learning_rate: Values) -> Floats:
    """Free drift along a curved path per SGD step (no momentum), ``+eta² gamma''ᵀ C t``, arc length.

    A step along t made together with one towards the centre of curvature goes further round the bend. Constrained runs
    miss it; it vanishes for thermal noise and for C = c H. path_curvature: gamma'' per arc length², (…, d).
    noise: C, (…, d, d). tangent: unit t, (…, d). learning_rate: (…).
    Derivation: the position s(theta) has the mixed second derivative gamma'' along tangent and normal; Itô's lemma.
    Reference: Gardiner, Handbook of Stochastic Methods, chapter 4 (Itô's formula)."""
    bend, c, t = finite("path_curvature", path_curvature), finite("noise", noise), finite("tangent", tangent)
    return positive("learning_rate", learning_rate) ** 2 * np.einsum("...i,...ij,...j->...", bend, c, t)


def drift_sgd(
    curvature_slope: Values,
    variance: Values,
    learning_rate: Values,
    momentum: Values = 0.0,
    potential_slope: Values = 0.0,
) -> Floats:
    """Mean change of y per SGD step, ``-eta / (1-beta) · (U' + 1/2 sum_i k_i' <x_i²>)``, fast transverse modes.

    curvature_slope, variance: k_i' and <x_i²>, (…, modes). learning_rate, momentum, potential_slope: (…).
    Derivation: the steps that follow a gradient g add up to -eta g (1 + beta + beta² + …), Nesterov's alike.
    Reference: Mandt, Hoffman, Blei, JMLR 18 (2017) 134."""
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    return eta / (1.0 - beta) * mean_force(curvature_slope, variance, potential_slope)
