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
from entropy_sim.theory.stability import effective_temperature
from entropy_sim.theory.variance import variance_sgd


def mean_force(curvature_slope: Values, variance: Values, potential_slope: Values = 0.0) -> Floats:
    """Mean force of independent modes, ``-U' - 1/2 sum_i k_i' <x_i²>``, loss / parameter.

    curvature_slope: k_i', (…, modes). variance: <x_i²>, same shape. potential_slope: U', (…)."""
    slope, v = finite("curvature_slope", curvature_slope), not_negative("variance", variance)
    return -finite("potential_slope", potential_slope) - 0.5 * sum_modes(slope * v)


def mean_force_general(hessian_slope: Values, covariance: Values, potential_slope: Values = 0.0) -> Floats:
    """Mean force of any Gaussian fluctuations, ``-U' - 1/2 Tr(dH/dy Sigma)``, Sigma held fixed.

    hessian_slope: directional derivative of the transverse Hessian along the tangent, (…, modes, modes).
    covariance: Sigma in the same basis, e.g. from `covariance_sgd`."""
    slope, sigma = finite("hessian_slope", hessian_slope), finite("covariance", covariance)
    return -finite("potential_slope", potential_slope) - 0.5 * np.einsum("...ij,...ji->...", slope, sigma)


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
) -> Floats:
    """Mean force of SGD with noise C_i on each mode, ``-U' - 1/2 sum_i k_i' <x_i²>`` with `variance_sgd`'s
    ``<x_i²> = eta C_i (1+beta) / (k_i (1-beta) (2(1+beta) - eta k_i))``: finite learning rate included.

    noise, curvature, curvature_slope: C_i >= 0, k_i > 0, k_i', (…, modes). learning_rate, momentum: (…).
    Raises UserError where eta k_i >= 2(1+beta): that mode is unstable."""
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
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
    temperature = effective_temperature(not_negative("noise_ratio", noise_ratio), learning_rate, momentum)
    slope = finite("trace_slope", trace_slope)
    return -finite("potential_slope", potential_slope) - 0.5 * temperature * slope


def drift_sgd(
    curvature_slope: Values,
    variance: Values,
    learning_rate: Values,
    momentum: Values = 0.0,
    potential_slope: Values = 0.0,
) -> Floats:
    """Mean change of y per SGD step, ``-eta / (1-beta) · (U' + 1/2 sum_i k_i' <x_i²>)``, fast transverse modes.

    curvature_slope, variance: k_i' and <x_i²>, (…, modes). learning_rate, momentum, potential_slope: (…)."""
    eta, beta = positive("learning_rate", learning_rate), checked_momentum(momentum)
    return eta / (1.0 - beta) * mean_force(curvature_slope, variance, potential_slope)
