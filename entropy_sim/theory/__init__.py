"""Closed forms of the physics, vectorised, in numpy and scipy alone: one file per subject, all names here.

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
    covariance_transverse,
    transverse,
)
from entropy_sim.theory.curved_path import (
    Annulus,
    annulus,
    free_energy_of_position,
)
from entropy_sim.theory.density import (
    Interpretation,
    free_energy,
    interpretation_drift,
    stationary_density,
)
from entropy_sim.theory.effective_potential import (
    barrier_height_thermal,
    effective_potential_constant_noise,
    effective_potential_curvature_power,
    effective_potential_curvature_proportional,
    effective_potential_thermal,
    mean_force_work,
)
from entropy_sim.theory.first_passage import (
    Absorbing,
    PassageTime,
    Profile,
    kramers_time,
    mean_first_passage_time,
)
from entropy_sim.theory.forces import (
    drift_sgd,
    mean_force,
    mean_force_covariance,
    mean_force_curvature_power,
    mean_force_curvature_proportional,
    mean_force_general,
    mean_force_lyapunov,
    mean_force_thermal,
    tangent_normal_drift,
    transverse_trace_slope,
)
from entropy_sim.theory.heavy_tails import (
    scale_levy_euler,
    scale_levy_sgd,
    stable_characteristic,
)
from entropy_sim.theory.integrators import (
    variance_baoab,
    velocity_variance_baoab,
)
from entropy_sim.theory.minibatch import (
    batch_mean_factor,
    covariance_sgd_gaussian_features,
    covariance_sgd_sampled_hessians,
    variance_sgd_fluctuating_curvature,
)
from entropy_sim.theory.preconditioned import (
    effective_potential_preconditioned,
    effective_potential_square_root,
    mean_force_preconditioned,
    variance_adam,
    variance_preconditioned,
    variance_sign_descent,
)
from entropy_sim.theory.stability import (
    DISCRETE_BARRIER_CONSTANT,
    absorbing_level_shift,
    edge_enhancement,
    effective_temperature,
    relaxation_steps,
    stability_limit,
    timescale_ratio,
)
from entropy_sim.theory.two_layer_linear import (
    balance_after_step,
    balance_potential,
    balance_rate,
    balance_rate_with_width,
    two_layer_gradient,
    two_layer_hessian,
    two_layer_variance,
)
from entropy_sim.theory.variance import (
    heating_ratio,
    variance_euler_maruyama,
    variance_leimkuhler_matthews,
    variance_sgd,
    variance_sgd_curvature_proportional,
    variance_sgd_nesterov,
    variance_sgd_transient,
    velocity_variance_sgd,
)

__all__ = [
    "DISCRETE_BARRIER_CONSTANT",
    "Absorbing",
    "Annulus",
    "Interpretation",
    "PassageTime",
    "Profile",
    "absorbing_level_shift",
    "annulus",
    "balance_after_step",
    "balance_potential",
    "balance_rate",
    "balance_rate_with_width",
    "barrier_height_thermal",
    "batch_mean_factor",
    "covariance_lyapunov",
    "covariance_sgd",
    "covariance_sgd_gaussian_features",
    "covariance_sgd_sampled_hessians",
    "covariance_transverse",
    "drift_sgd",
    "edge_enhancement",
    "effective_potential_constant_noise",
    "effective_potential_curvature_power",
    "effective_potential_curvature_proportional",
    "effective_potential_preconditioned",
    "effective_potential_square_root",
    "effective_potential_thermal",
    "effective_temperature",
    "free_energy",
    "free_energy_of_position",
    "heating_ratio",
    "interpretation_drift",
    "kramers_time",
    "mean_first_passage_time",
    "mean_force",
    "mean_force_covariance",
    "mean_force_curvature_power",
    "mean_force_curvature_proportional",
    "mean_force_general",
    "mean_force_lyapunov",
    "mean_force_preconditioned",
    "mean_force_thermal",
    "mean_force_work",
    "relaxation_steps",
    "scale_levy_euler",
    "scale_levy_sgd",
    "stability_limit",
    "stable_characteristic",
    "stationary_density",
    "tangent_normal_drift",
    "timescale_ratio",
    "transverse",
    "transverse_trace_slope",
    "two_layer_gradient",
    "two_layer_hessian",
    "two_layer_variance",
    "variance_adam",
    "variance_baoab",
    "variance_euler_maruyama",
    "variance_leimkuhler_matthews",
    "variance_preconditioned",
    "variance_sgd",
    "variance_sgd_curvature_proportional",
    "variance_sgd_fluctuating_curvature",
    "variance_sgd_nesterov",
    "variance_sgd_transient",
    "variance_sign_descent",
    "velocity_variance_baoab",
    "velocity_variance_sgd",
]
