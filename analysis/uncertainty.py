"""Errors carried along: linear propagation, ratios with errors on both sides, and what may be said about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Array = NDArray[np.float64]
Verdict = Literal["agrees", "disagrees", "not determined"]

#: Agreement and disagreement are declared at this many standard errors, fixed here and nowhere else.
SIGMAS = 3.0
#: Of confidence intervals: one standard error.
LEVEL = 0.6827
#: Eigenvalues of a matrix of correlations below this part of the largest are rounding.
ROUNDING = 1e-10


@dataclass(frozen=True)
class Estimate:
    """Values (n,) with their covariance (n, n), in the units of the values and their square."""

    value: Array
    covariance: Array

    @property
    def stderr(self) -> Array:
        """Standard errors (n,)."""
        return np.sqrt(np.clip(np.diag(self.covariance), 0.0, None))

    @classmethod
    def independent(cls, value: Array, stderr: Array) -> Estimate:
        """Values whose errors are independent of one another."""
        return cls(np.asarray(value, float), np.diag(np.square(np.asarray(stderr, float))))

    def select(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> Estimate:
        """The marked (or numbered) values and their part of the covariance."""
        return Estimate(self.value[keep], self.covariance[np.ix_(keep, keep)])

    def transform(self, matrix: Array) -> Estimate:
        """``M v`` with covariance ``M C M^T``, exact for a linear map M (m, n). A NaN goes where its coefficient is
        not 0, no further."""
        matrix = np.asarray(matrix, float)
        value, known = np.isfinite(self.value), np.isfinite(np.diag(self.covariance))
        found = matrix @ np.where(value, self.value, 0.0)
        covariance = matrix @ np.where(known[:, None] & known, self.covariance, 0.0) @ matrix.T
        found[(matrix[:, ~value] != 0).any(1)] = np.nan
        unknown = (matrix[:, ~known] != 0).any(1)
        covariance[unknown], covariance[:, unknown] = np.nan, np.nan
        return Estimate(found, covariance)

    def minus(self, other: Estimate) -> Estimate:
        """The difference of two independent estimates of the same shape."""
        return Estimate(self.value - other.value, self.covariance + other.covariance)

    def determined(self) -> NDArray[np.bool_]:
        """Which values are finite and have a finite, positive standard error."""
        stderr = self.stderr
        return np.isfinite(self.value) & np.isfinite(stderr) & (stderr > 0)


def propagate(
    function: Callable[[Mapping[str, Array]], Array], values: Mapping[str, Array], errors: Mapping[str, Array]
) -> Estimate:
    """First-order error propagation ``C_f = J diag(sigma^2) J^T`` of independent input errors through `function`.

    function: takes the dictionary of inputs, returns (n,). errors: standard errors in the shape of their input; an
    input that is missing here, and every entry that is not finite and positive, counts as exact. The Jacobian is taken
    by central differences of a hundredth of each standard error.
    """
    inputs = {name: np.array(value, float) for name, value in values.items()}
    result = np.asarray(function(inputs), float)
    covariance = np.zeros((result.size, result.size))
    for name, error in errors.items():
        error = np.broadcast_to(np.asarray(error, float), inputs[name].shape)
        for index in zip(*np.nonzero(np.isfinite(error) & (error > 0)), strict=True):
            centre, step = inputs[name][index], 0.01 * error[index]
            inputs[name][index] = centre + step
            above = np.asarray(function(inputs), float)
            inputs[name][index] = centre - step
            below = np.asarray(function(inputs), float)
            inputs[name][index] = centre
            sensitivity = (above - below) * (0.5 * error[index] / step)
            # An input of one point leaves the NaN of another alone.
            sensitivity[~np.isfinite(sensitivity)] = 0.0
            covariance += np.outer(sensitivity, sensitivity)
    return Estimate(result, covariance)


@dataclass(frozen=True)
class Ratio:
    """measured / predicted with its confidence interval; unbounded intervals are infinite, unknown ones NaN."""

    value: float
    low: float
    high: float
    chi_squared: float
    degrees_of_freedom: int

    @property
    def stderr(self) -> float:
        """Half the width of the interval."""
        return 0.5 * (self.high - self.low)


UNKNOWN_RATIO = Ratio(np.nan, np.nan, np.nan, np.nan, 0)


def _usable(measured: Estimate, predicted: Estimate) -> NDArray[np.bool_]:
    return measured.determined() & np.isfinite(predicted.value) & np.isfinite(predicted.stderr)


def ratio(measured: Estimate, predicted: Estimate) -> Ratio:
    """The factor r in ``measured = r · predicted``, both with errors, by least squares through the origin.

    Minimises ``chi2(r) = d^T (C_m + r^2 C_p)^-1 d``, ``d = m − r p``: the maximum-likelihood slope with Gaussian errors
    on both sides, not attenuated by the errors of the prediction. The interval is where chi2 has risen by 1 (for one
    point this is Fieller's interval), or by chi2 per degree of freedom where that is larger (Birge's scale factor: the
    points scatter more than their errors). Points without a finite value and a positive error are left out; with none
    left everything is NaN. With fewer than ``r = ∞`` excluded, the interval is infinite.
    Reference: Fieller (1954), J. R. Stat. Soc. B 16, 175; Birge (1932), Phys. Rev. 40, 207.
    """
    keep = _usable(measured, predicted)
    if not keep.any() or not np.any(predicted.value[keep] != 0):
        return UNKNOWN_RATIO
    m, p = measured.select(keep), predicted.select(keep)
    # r = tan(phi) / scale makes infinity an ordinary point, and scale the two axes comparable.
    scale = float(np.sqrt(np.mean(p.value**2) / max(np.mean(m.value**2), np.mean(m.stderr**2))))

    def chi2(phi: float) -> float:
        c, s = np.cos(phi), np.sin(phi) / scale
        difference = c * m.value - s * p.value
        covariance = c * c * m.covariance + s * s * p.covariance
        # An exact prediction has no covariance: a hair of the measured one keeps r = infinity finite but excluded.
        covariance = covariance + 1e-12 * np.diag(np.diag(m.covariance))
        return float(difference @ np.linalg.solve(covariance, difference))

    grid = np.linspace(-np.pi / 2, np.pi / 2, 181)
    values = np.array([chi2(phi) for phi in grid])
    best = int(np.argmin(values))
    spacing = grid[1] - grid[0]
    found = optimize.minimize_scalar(
        chi2,
        bounds=(max(grid[best] - spacing, grid[0]), min(grid[best] + spacing, grid[-1])),
        method="bounded",
        options={"xatol": 1e-10},
    )
    centre, minimum = float(found.x), float(found.fun)
    freedom = int(keep.sum()) - 1
    level = minimum + max(1.0, minimum / freedom if freedom else 1.0)
    limits = [_crossing(chi2, centre, direction, level) for direction in (-1.0, 1.0)]
    low, high = (np.tan(limit) / scale if abs(limit) < np.pi / 2 else np.copysign(np.inf, limit) for limit in limits)
    return Ratio(float(np.tan(centre) / scale), float(low), float(high), minimum, freedom)


def _crossing(chi2: Callable[[float], float], centre: float, direction: float, level: float) -> float:
    """The angle at which chi2 first exceeds `level`, going from `centre`; ±pi/2 if it does not before infinity."""
    step, inside = 1e-6, centre
    while True:
        outside = centre + direction * step
        if abs(outside) >= np.pi / 2:
            outside = direction * np.pi / 2
            if chi2(outside) <= level:
                return outside
        if chi2(outside) > level:
            return float(optimize.brentq(lambda phi: chi2(phi) - level, min(inside, outside), max(inside, outside)))
        inside, step = outside, step * 1.3


@dataclass(frozen=True)
class Agreement:
    """chi2 of measured − predicted, its degrees of freedom, the p-value and the equivalent two-sided z."""

    chi_squared: float
    degrees_of_freedom: int
    p_value: float
    z: float


def agreement(
    measured: Estimate, predicted: Estimate, *, constraints: int = 0, independent: float | None = None
) -> Agreement:
    """``chi2 = d^T C^-1 d`` of the difference d with the summed covariance C, over the points that have an error; its
    degrees of freedom are the rank of C (an integral over a place without an error is known as well as the one before).

    constraints: degrees of freedom already used up (1 for a normalised histogram). independent: how many of the n
    points are, where their errors are correlated in a way that only this number is known of (``n² / Σ r_ij²``): then
    ``chi2 = Σ d²/σ²`` has the mean n and the spread of ``(n / f) χ²_f``, from which p is taken (Brown, Biometrics 31
    (1975) 987). All NaN where nothing is left.
    """
    keep = _usable(measured, predicted)
    freedom = int(keep.sum()) - constraints
    if freedom < 1:
        return Agreement(np.nan, 0, np.nan, np.nan)
    difference = measured.minus(predicted).select(keep)
    if independent is not None and np.isfinite(independent):
        effective = float(np.clip(independent, 1.0, freedom))
        chi2 = float((difference.value**2 / np.diag(difference.covariance)).sum())
        p, z = _tail(chi2 * effective / int(keep.sum()), effective)
        return Agreement(chi2, freedom, p, z)
    # In units of their errors, in which an eigenvalue of nearly 0 is rounding: values that others determine.
    error = difference.stderr
    size, modes = np.linalg.eigh(difference.covariance / np.outer(error, error))
    free = size > ROUNDING * size[-1]
    chi2 = float(((modes.T @ (difference.value / error))[free] ** 2 / size[free]).sum())
    freedom = int(free.sum()) - constraints
    if freedom < 1:
        return Agreement(np.nan, 0, np.nan, np.nan)
    p, z = _tail(chi2, freedom)
    return Agreement(chi2, freedom, p, z)


def _tail(chi2: float, freedom: float) -> tuple[float, float]:
    """p-value of a chi2 and its two-sided z."""
    p = float(special.chdtrc(freedom, chi2))
    return p, float(abs(special.ndtri(p / 2))) if p > 1e-300 else _far_z(chi2, freedom)


def _far_z(chi2: float, freedom: float) -> float:
    """Two-sided z of a chi2 whose p-value underflows, from the leading asymptotics of both tails."""
    half = freedom / 2
    log_p = (half - 1) * np.log(chi2 / 2) - chi2 / 2 - special.gammaln(half)
    z = np.sqrt(-2 * log_p)
    for _ in range(5):  # p = sqrt(2 / pi) exp(-z²/2) / z
        z = np.sqrt(-2 * (log_p + np.log(z * np.sqrt(np.pi / 2))))
    return float(z)


def straight_line(x: Array, y: Array, stderr: Array) -> dict[str, float]:
    """Weighted straight line through y (n,): slope (+ _stderr), intercept, chi_squared, degrees_of_freedom; NaN with
    fewer than two points."""
    if len(x) < 2 or np.ptp(x) == 0:
        nothing = ("slope", "slope_stderr", "intercept", "chi_squared")
        return {**dict.fromkeys(nothing, np.nan), "degrees_of_freedom": 0}
    w = stderr**-2.0
    mean_x, mean_y = (w * x).sum() / w.sum(), (w * y).sum() / w.sum()
    spread = (w * (x - mean_x) ** 2).sum()
    slope = (w * (x - mean_x) * y).sum() / spread
    chi2 = (w * (y - mean_y - slope * (x - mean_x)) ** 2).sum()
    return {
        "slope": float(slope),
        "slope_stderr": float(spread**-0.5),
        "intercept": float(mean_y - slope * mean_x),
        "chi_squared": float(chi2),
        "degrees_of_freedom": len(x) - 2,
    }


#: Largest factor from 1 that the one-standard-error interval of a ratio may reach in an agreement.
CLOSE = 2.0


def ratio_verdict(found: Ratio, test: Agreement | None = None) -> Verdict:
    """What a ratio says. It disagrees if 1 lies beyond 3 standard errors, or if the prediction at its own size is
    rejected point by point (`test`, see `chi2_verdict`). It agrees if neither is so, 0 lies beyond 3 standard errors
    (the data can tell the prediction from no force at all), and one standard error stays within a factor of two of 1:
    9 ± 3 is no agreement. Otherwise nothing is determined."""
    if test is not None and chi2_verdict(test) == "disagrees":
        return "disagrees"
    if not np.isfinite(found.value) or not np.isfinite(found.stderr) or found.stderr <= 0:
        return "not determined"
    below, above = SIGMAS * (found.value - found.low), SIGMAS * (found.high - found.value)
    if not found.value - below <= 1 <= found.value + above:
        return "disagrees"
    close = found.low >= 1 / CLOSE and found.high <= CLOSE
    return "agrees" if close and found.value - below > 0 else "not determined"


def chi2_verdict(found: Agreement) -> Verdict:
    """Disagreement where the p-value is below that of 3 standard errors."""
    if not np.isfinite(found.p_value):
        return "not determined"
    return "agrees" if found.p_value >= 2 * special.ndtr(-SIGMAS) else "disagrees"
