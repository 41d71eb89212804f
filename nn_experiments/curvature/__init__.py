"""Curvature of an `Objective` at one point: operators, traces, ends of the spectrum, its density, gradient noise.

Everything is matrix-free. Conventions: H is the Hessian of the loss of the full batch (or of one declared subset of
it), t a unit tangent, Q = 1 − t tᵀ. Random probes are drawn once and shared by all points of a path, so that the
curvature of two points is compared with the same random numbers.
"""

from nn_experiments.curvature.eigenvalues import Spectrum, lanczos
from nn_experiments.curvature.estimate import Estimate, rademacher
from nn_experiments.curvature.noise import GradientNoise, gradient_noise
from nn_experiments.curvature.operators import HessianOperator, full_precision, subset
from nn_experiments.curvature.traces import Hutchinson, Traces, block_norms

__all__ = [
    "Estimate",
    "GradientNoise",
    "HessianOperator",
    "Hutchinson",
    "Spectrum",
    "Traces",
    "block_norms",
    "full_precision",
    "gradient_noise",
    "lanczos",
    "rademacher",
    "subset",
]
