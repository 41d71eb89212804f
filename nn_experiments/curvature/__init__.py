"""Curvature of an `Objective` at one point: operators, traces, ends of the spectrum, its density, gradient noise.

Everything is matrix-free. Conventions: H is the Hessian of the loss of the full batch (or of one declared subset of
it), t a unit tangent, Q = 1 − t tᵀ. Random probes are drawn once and shared by all points of a path, so that the
curvature of two points is compared with the same random numbers.
"""

from nn_experiments.curvature.eigenvalues import Quadrature, Spectrum, density, lanczos, quadrature
from nn_experiments.curvature.estimate import Estimate, rademacher
from nn_experiments.curvature.fisher import categorical, fisher_trace, gaussian
from nn_experiments.curvature.noise import Alignment, GradientNoise, alignment, gradient_noise
from nn_experiments.curvature.operators import (
    GaussNewtonOperator,
    HessianOperator,
    Operator,
    full_precision,
    scaled,
    subset,
)
from nn_experiments.curvature.traces import Hutchinson, Traces, block_norms

__all__ = [
    "Alignment",
    "Estimate",
    "GaussNewtonOperator",
    "GradientNoise",
    "HessianOperator",
    "Hutchinson",
    "Operator",
    "Quadrature",
    "Spectrum",
    "Traces",
    "alignment",
    "block_norms",
    "categorical",
    "density",
    "fisher_trace",
    "full_precision",
    "gaussian",
    "gradient_noise",
    "lanczos",
    "quadrature",
    "rademacher",
    "scaled",
    "subset",
]
