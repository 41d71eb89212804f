"""Stability, temperature and time scales."""

from __future__ import annotations

from entropy_sim.theory._checks import Floats, Values, checked_momentum, noise_variance, positive, positive_curvature


def stability_limit(curvature: Values, momentum: Values = 0.0) -> Floats:
    """Learning rate (or Langevin step, at momentum 0) from which on the iteration diverges, ``2 (1 + beta) / k``.

    curvature: k > 0, the largest curvature where a set of modes is to be stable; any shape.
    Reference: Polyak, USSR Comput. Math. Math. Phys. 4 (1964) 1."""
    k, beta = positive_curvature(curvature), checked_momentum(momentum)
    return 2.0 * (1.0 + beta) / k


def effective_temperature(noise: Values, learning_rate: Values, momentum: Values = 0.0) -> Floats:
    """Temperature of SGD on the common clock, ``T = eta C / (2 (1 - beta))``, for small eta k.

    noise: C = Var of the minibatch gradient, loss² / parameter², any shape.
    Reference: Mandt, Hoffman, Blei, JMLR 18 (2017) 134."""
    c, eta, beta = noise_variance(noise), positive("learning_rate", learning_rate), checked_momentum(momentum)
    return eta * c / (2.0 * (1.0 - beta))
