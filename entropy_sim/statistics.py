"""Error bars of correlated and of few samples: block averages, autocorrelation, bootstrap, z-scores, propagation.

Functions work along one axis of an array and keep the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # its parts load when they are used

from entropy_sim.errors import UserError, require

Floats = npt.NDArray[np.float64]
Values = npt.ArrayLike

#: Fewer blocks than this say nothing about a plateau: the error of an error bar from n blocks is 1 / sqrt(2 (n - 1)).
MINIMUM_BLOCKS = 4


# --- one correlated series ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockAverage:
    """Mean of a correlated series with the standard error from the means of `blocks` blocks of `block_size` samples.

    All fields have the shape of the input without the averaged axis. plateau: whether the standard error had stopped
    growing with the block size; where False the series is too short and stderr, the largest seen, a lower bound.
    The standard error has blocks - 1 degrees of freedom (see `confidence_interval`).
    """

    mean: Floats
    stderr: Floats
    block_size: npt.NDArray[np.int64]
    blocks: npt.NDArray[np.int64]
    plateau: npt.NDArray[np.bool_]


def block_average(series: Values, axis: int = -1, block_size: int | None = None) -> BlockAverage:
    """Mean along `axis` with a standard error that holds for correlated samples.

    Block sizes B = 1, 2, 4, … are tried; the plateau begins at the first ``B³ > 2 n (stderr_B / stderr_1)⁴``, where the
    remaining bias of the error bar and its own noise balance. A given block_size is used as it is.
    Samples that fill no whole block are left out of the error at the beginning of the series, never of the mean.

    Raises UserError with fewer than 4 samples (or blocks).
    Reference: Flyvbjerg, Petersen, J. Chem. Phys. 91 (1989) 461; for the choice of B, Lee, Needs, Towler, Drummond,
    Phys. Rev. E 83 (2011) 066706."""
    x = _moved(series, axis)
    n = x.shape[-1]
    require(n >= MINIMUM_BLOCKS, "series", f"at least {MINIMUM_BLOCKS} samples", n)
    largest = n // MINIMUM_BLOCKS
    require(block_size is None or 1 <= block_size <= largest, "block_size", f"1…{largest}", block_size)
    sizes = [2**i for i in range(largest.bit_length())] if block_size is None else [block_size]
    errors = np.stack([_block_stderr(x, size) for size in sizes])
    if block_size is None:
        with np.errstate(invalid="ignore", divide="ignore"):
            growth = np.where(errors[0] > 0, errors / errors[0], 1.0)
        reached = np.reshape(sizes, (-1,) + (1,) * (x.ndim - 1)) ** 3.0 > 2.0 * n * growth**4
        plateau = reached.any(axis=0)
        chosen = np.where(plateau, reached.argmax(axis=0), errors.argmax(axis=0))
    else:
        chosen, plateau = np.zeros(x.shape[:-1], dtype=np.int64), np.ones(x.shape[:-1], dtype=np.bool_)
    size = np.asarray(sizes)[chosen]
    stderr = np.take_along_axis(errors, np.asarray(chosen)[None], axis=0)[0]
    return BlockAverage(x.mean(axis=-1), stderr, size, n // size, plateau)


def _block_stderr(x: Floats, size: int) -> Floats:
    count = x.shape[-1] // size
    means = x[..., x.shape[-1] - count * size :].reshape(*x.shape[:-1], count, size).mean(axis=-1)
    return means.std(axis=-1, ddof=1) / np.sqrt(count)


def autocorrelation(series: Values, axis: int = -1) -> Floats:
    """Normalised autocorrelation function ``rho(t) = <dx(0) dx(t)> / <dx²>`` at lags 0…n-1, along `axis`."""
    x = _moved(series, axis)
    n = x.shape[-1]
    transform = np.fft.rfft(x - x.mean(axis=-1, keepdims=True), 2 * n, axis=-1)
    covariance = np.fft.irfft(transform * transform.conj(), 2 * n, axis=-1)[..., :n]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.moveaxis(covariance / covariance[..., :1], -1, axis)


def autocorrelation_time(series: Values, axis: int = -1, window: float = 5.0) -> Floats:
    """Integrated autocorrelation time ``tau = 1 + 2 sum_{t >= 1} rho(t)`` in samples: Var(mean) = tau sigma² / n.

    The sum ends at the smallest lag M >= window · tau(M) (Sokal). 1 for independent samples, (1 + a) / (1 - a) for a
    first-order autoregression with coefficient a. Too small where n is not some 50 tau or more; nan for constants.
    Reference: Sokal, Monte Carlo methods in statistical mechanics (Cargèse lectures, 1996), section 3."""
    rho = _moved(autocorrelation(series, axis), axis)
    tau = 2.0 * np.cumsum(rho, axis=-1) - 1.0
    enough = np.arange(rho.shape[-1]) >= window * tau
    end = np.where(enough.any(axis=-1), enough.argmax(axis=-1), rho.shape[-1] - 1)
    return np.take_along_axis(tau, end[..., None], axis=-1)[..., 0]


def effective_sample_size(series: Values, axis: int = -1, window: float = 5.0) -> Floats:
    """Number of independent samples worth as much to the mean as the series, ``n / tau`` (`autocorrelation_time`)."""
    return np.shape(series)[axis] / autocorrelation_time(series, axis, window)


# --- few replicas ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReplicaMean:
    """Mean over independent replicas, its standard error, and the degrees of freedom of the latter (replicas - 1)."""

    mean: Floats
    stderr: Floats
    degrees_of_freedom: int


def replica_mean(values: Values, axis: int = 0) -> ReplicaMean:
    """Mean over independent, equally good replicas: the standard error from their spread alone.

    Few replicas make a poor error bar: take `confidence_interval` or `gaussian_significance` with the degrees of
    freedom. Raises UserError with fewer than two replicas."""
    x = _moved(values, axis)
    n = x.shape[-1]
    require(n >= 2, "replicas", "at least 2", n)
    return ReplicaMean(x.mean(axis=-1), x.std(axis=-1, ddof=1) / np.sqrt(n), n - 1)


def student_quantile(level: float, degrees_of_freedom: Values = np.inf) -> Floats:
    """Half-width, in standard errors, of a two-sided interval of this confidence level (1.96 for 0.95 and many dof)."""
    require(0.0 < level < 1.0, "level", "a number between 0 and 1", level)
    dof = np.asarray(degrees_of_freedom, dtype=np.float64)
    upper = 0.5 * (1.0 + level)
    return np.where(
        np.isinf(dof), scipy.special.ndtri(upper), scipy.special.stdtrit(np.where(np.isinf(dof), 1.0, dof), upper)
    )


def confidence_interval(
    mean: Values, stderr: Values, degrees_of_freedom: Values = np.inf, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Student-t interval (low, high) of a mean whose standard error has few degrees of freedom."""
    half = student_quantile(level, degrees_of_freedom) * np.asarray(stderr, dtype=np.float64)
    return np.asarray(mean) - half, np.asarray(mean) + half


def z_score(value: Values, stderr: Values, expected: Values, expected_stderr: Values = 0.0) -> Floats:
    """``(value - expected) / sqrt(stderr² + expected_stderr²)``, independent errors; without error ±inf, or 0."""
    difference = np.asarray(value, dtype=np.float64) - np.asarray(expected, dtype=np.float64)
    total = np.hypot(stderr, expected_stderr)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((total == 0) & (difference == 0), 0.0, difference / total)


def gaussian_significance(z: Values, degrees_of_freedom: Values) -> Floats:
    """The z that is as improbable for a Gaussian as this z is for Student's t: what 3 standard errors from so few
    replicas are worth (3 with 2 degrees of freedom: 1.67)."""
    z, dof = np.asarray(z, dtype=np.float64), np.asarray(degrees_of_freedom, dtype=np.float64)
    # On the side of the small tail, where the probability keeps its digits.
    return np.where(
        np.isinf(dof),
        z,
        -np.sign(z) * scipy.special.ndtri(scipy.special.stdtr(np.where(np.isinf(dof), 1, dof), -abs(z))),
    )


# --- combining ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightedMean:
    """Weighted mean, its standard error (from the given errors alone), and how well the values agree with one mean.

    p_value: probability of a chi2 at least this large from the given errors; small means they do not agree (or are too
    small, and so is stderr)."""

    mean: Floats
    stderr: Floats
    chi2: Floats
    degrees_of_freedom: int
    p_value: Floats


def weighted_mean(values: Values, stderr: Values, axis: int = -1) -> WeightedMean:
    """Mean along `axis` with weights 1 / stderr², which minimises chi2 = sum ((x - mean) / stderr)².

    Raises UserError unless every stderr is positive and finite."""
    x = _moved(values, axis)
    e = np.moveaxis(np.broadcast_to(np.asarray(stderr, dtype=np.float64), np.shape(values)), axis, -1)
    require(bool(np.all(np.isfinite(e) & (e > 0))), "stderr", "positive numbers", np.min(e, initial=np.inf))
    weight = e**-2
    mean = (weight * x).sum(axis=-1) / weight.sum(axis=-1)
    chi2 = (weight * (x - mean[..., None]) ** 2).sum(axis=-1)
    dof = x.shape[-1] - 1
    p_value = scipy.special.chdtrc(dof, chi2) if dof > 0 else np.ones_like(chi2)
    return WeightedMean(mean, weight.sum(axis=-1) ** -0.5, chi2, dof, p_value)


@dataclass(frozen=True)
class CumulativeIntegral:
    """Integral from the first point to each, with its standard error and the full covariance between the points."""

    value: Floats
    stderr: Floats
    covariance: Floats

    def between(self, i: int, j: int) -> tuple[float, float]:
        """Integral from point i to point j and its standard error (the shared part of the errors cancels)."""
        c = self.covariance
        variance = c[i, i] + c[j, j] - 2.0 * c[i, j]
        return float(self.value[j] - self.value[i]), float(np.sqrt(max(variance, 0.0)))


def cumulative_integral(
    x: Values, values: Values, stderr: Values | None = None, covariance: Values | None = None
) -> CumulativeIntegral:
    """Cumulative trapezoidal integral of `values` (n,) over increasing `x` (n,), with propagated errors.

    Errors are either independent (`stderr`, (n,)) or given in full (`covariance`, (n, n)); without them, zero. The
    integral is linear, I = W f, so its covariance W C Wᵀ is exact; the error of the trapezoidal rule is not in it.

    Raises UserError for shapes that do not fit or x not increasing."""
    at, f = np.asarray(x, dtype=np.float64), np.asarray(values, dtype=np.float64)
    n = len(at)
    require(
        at.ndim == 1 and n >= 2 and bool(np.all(np.diff(at) > 0)), "x", "two or more increasing values", at.tolist()
    )
    require(f.shape == at.shape, "values", f"the shape {at.shape}", f.shape)
    if stderr is not None and covariance is not None:
        raise UserError("covariance: expected either stderr or covariance, found both")
    if covariance is not None:
        c = np.asarray(covariance, dtype=np.float64)
    else:
        error = np.zeros(n) if stderr is None else np.asarray(stderr, dtype=np.float64)
        require(error.shape == at.shape, "stderr", f"the shape {at.shape}", error.shape)
        c = np.diag(error**2)
    require(c.shape == (n, n), "covariance", f"the shape {(n, n)}", c.shape)
    half = 0.5 * np.diff(at)
    increments = np.zeros((n, n))
    rows = np.arange(1, n)
    increments[rows, rows - 1] = increments[rows, rows] = half
    weights = np.cumsum(increments, axis=0)
    total = weights @ c @ weights.T
    return CumulativeIntegral(weights @ f, np.sqrt(np.maximum(np.diag(total), 0.0)), total)


@dataclass(frozen=True)
class Ratio:
    """A ratio a / b: stderr by the delta method, [low, high] by Fieller's theorem (infinite if b may be zero)."""

    value: Floats
    stderr: Floats
    low: Floats
    high: Floats


def ratio(
    numerator: Values,
    numerator_stderr: Values,
    denominator: Values,
    denominator_stderr: Values,
    covariance: Values = 0.0,
    level: float = 0.95,
    degrees_of_freedom: Values = np.inf,
) -> Ratio:
    """Ratio of two uncertain numbers, element by element.

    stderr is the delta method's, good while the denominator's relative error is small; the interval is Fieller's exact
    one, all r with |a - r b| <= t sqrt(sa² - 2 r cov + r² sb²), and (-inf, inf) where b is not significantly non-zero.
    Reference: Fieller, J. R. Stat. Soc. B 16 (1954) 175."""
    a, sa, b, sb, cov, dof = np.broadcast_arrays(
        *(
            np.asarray(v, dtype=np.float64)
            for v in (
                numerator,
                numerator_stderr,
                denominator,
                denominator_stderr,
                covariance,
                degrees_of_freedom,
            )
        )
    )
    t2 = student_quantile(level, dof) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        value = a / b
        stderr = np.sqrt(np.maximum(sa**2 - 2.0 * value * cov + value**2 * sb**2, 0.0)) / np.abs(b)
        quadratic, linear, constant = b**2 - t2 * sb**2, a * b - t2 * cov, a**2 - t2 * sa**2
        root = np.sqrt(np.maximum(linear**2 - quadratic * constant, 0.0))
        bounded = quadratic > 0
        low = np.where(bounded, (linear - root) / quadratic, -np.inf)
        high = np.where(bounded, (linear + root) / quadratic, np.inf)
    return Ratio(value, stderr, low, high)


@dataclass(frozen=True)
class Bootstrap:
    """Standard error and percentile interval [low, high] of a statistic, from resampling."""

    stderr: Floats
    low: Floats
    high: Floats


def bootstrap(
    samples: Values,
    statistic: Callable[[Floats], Values] = lambda x: x.mean(axis=0),
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> Bootstrap:
    """Bootstrap of `statistic`, a function of independent samples on axis 0, by resampling them with replacement.

    With n samples the interval is too narrow by about sqrt((n - 1) / n) and Student's factor: for fewer than some 10
    take `replica_mean` instead. Reference: Efron, Ann. Stat. 7 (1979) 1."""
    x = np.asarray(samples, dtype=np.float64)
    require(len(x) >= 2, "samples", "at least 2", len(x))
    require(resamples >= 2, "resamples", "at least 2", resamples)
    require(0.0 < level < 1.0, "level", "a number between 0 and 1", level)
    rng = np.random.default_rng(seed)
    found = np.stack([np.asarray(statistic(x[rng.integers(len(x), size=len(x))])) for _ in range(resamples)])
    low, high = np.quantile(found, [0.5 * (1.0 - level), 0.5 * (1.0 + level)], axis=0)
    return Bootstrap(found.std(axis=0, ddof=1), low, high)


def _moved(values: Values, axis: int) -> Floats:
    return np.moveaxis(np.asarray(values, dtype=np.float64), axis, -1)
