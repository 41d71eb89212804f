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

from entropy_sim.theory.covariance import (
    covariance_lyapunov,
    covariance_sgd,
)
from entropy_sim.theory.density import (
    stationary_density,
)
from entropy_sim.theory.effective_potential import (
    effective_potential_constant_noise,
    effective_potential_curvature_power,
    effective_potential_curvature_proportional,
    effective_potential_thermal,
)
from entropy_sim.theory.forces import (
    drift_sgd,
    mean_force,
    mean_force_covariance,
    mean_force_curvature_power,
    mean_force_curvature_proportional,
    mean_force_general,
    mean_force_thermal,
)
from entropy_sim.theory.stability import (
    effective_temperature,
    stability_limit,
)
from entropy_sim.theory.variance import (
    variance_euler_maruyama,
    variance_leimkuhler_matthews,
    variance_sgd,
    variance_sgd_curvature_proportional,
    variance_sgd_transient,
)

__all__ = [
    "covariance_lyapunov",
    "covariance_sgd",
    "drift_sgd",
    "effective_potential_constant_noise",
    "effective_potential_curvature_power",
    "effective_potential_curvature_proportional",
    "effective_potential_thermal",
    "effective_temperature",
    "mean_force",
    "mean_force_covariance",
    "mean_force_curvature_power",
    "mean_force_curvature_proportional",
    "mean_force_general",
    "mean_force_thermal",
    "stability_limit",
    "stationary_density",
    "variance_euler_maruyama",
    "variance_leimkuhler_matthews",
    "variance_sgd",
    "variance_sgd_curvature_proportional",
    "variance_sgd_transient",
]
