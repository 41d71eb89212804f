"""Statistics of waiting times, some of them censored: still running when observation ended.

`time` (n,) is how long each of n independent walkers was observed, `event` (n,) whether it ended by the event (an
escape) or was censored. A censored time is a lower bound, and censoring must not depend on what would have happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts load when they are used

from entropy_sim.errors import require

Floats = npt.NDArray[np.float64]
Values = npt.ArrayLike

#: Points of the survival curve in `summary`, and the probability with which its interval contains the rate.
CURVE_POINTS, INTERVAL = 201, 0.95


@dataclass(frozen=True)
class Survival:
    """Kaplan–Meier curve: a step function that falls at `time` (m,), the distinct times of events, to `survival` (m,).

    stderr: Greenwood's, (m,). at_risk: walkers under observation just before each time, (m,).
    """

    time: Floats
    survival: Floats
    stderr: Floats
    at_risk: npt.NDArray[np.int64]

    def at(self, time: Values) -> tuple[Floats, Floats]:
        """S(t) and its standard error at any times; 1 ± 0 before the first event."""
        i = np.searchsorted(self.time, np.asarray(time, dtype=np.float64), side="right")
        return np.append(1.0, self.survival)[i], np.append(0.0, self.stderr)[i]


def kaplan_meier(time: Values, event: Values) -> Survival:
    """Product-limit estimate ``S(t) = prod_{t_j <= t} (1 - d_j / n_j)`` of the share still waiting at t.

    Standard errors are Greenwood's, ``S sqrt(sum d_j / (n_j (n_j - d_j)))``, 0 where S is 0. A walker censored at the
    time of an event counts as at risk there.
    Reference: Kaplan, Meier, J. Am. Stat. Assoc. 53 (1958) 457; Greenwood (1926)."""
    t, e = _checked(time, event)
    at, died = np.unique(t[e], return_counts=True)
    at_risk = t.size - np.searchsorted(np.sort(t), at, side="left")
    survival = np.cumprod(1.0 - died / at_risk).astype(np.float64)
    left = at_risk - died
    variance: Floats = np.cumsum(np.where(left > 0, died / (at_risk * np.maximum(left, 1)), 0.0))
    return Survival(at, survival, survival * np.sqrt(variance), at_risk)


@dataclass(frozen=True)
class Rate:
    """Rate of an exponential waiting time: maximum likelihood, its standard error rate / sqrt(events), and [low, high],
    which contains the true rate with the given probability or more."""

    rate: float
    stderr: float
    low: float
    high: float
    events: int
    exposure: float


def exponential_rate(time: Values, event: Values, level: float = 0.95, after: float = 0.0) -> Rate:
    """Maximum-likelihood rate of censored exponential times, ``n_events / sum t``, with its χ² interval
    ``[χ²(2n), χ²(2n)] / (2 sum t)``: exact without censoring. With it the upper end has 2n + 2 degrees of freedom,
    which errs on the wide side, and without any event it is 0 … -ln((1 - level)/2) / sum t.

    after: leave out this much time at the beginning (and who escaped in it), as an exponential's lack of memory allows.
    NaN without exposure. Reference: Lawless, Statistical Models and Methods for Lifetime Data (2003), section 4.1."""
    require(0.0 < level < 1.0, "level", "a number between 0 and 1", level)
    t, e = _later(time, event, after)
    n, exposure = int(e.sum()), float(t.sum())
    if exposure <= 0.0:
        return Rate(np.nan, np.nan, np.nan, np.nan, n, exposure)
    tail = 0.5 * (1.0 - level)
    low = float(scipy.special.chdtri(2 * n, 1.0 - tail)) / (2.0 * exposure) if n else 0.0
    high = float(scipy.special.chdtri(2 * n + (0 if e.all() else 2), tail)) / (2.0 * exposure)
    return Rate(n / exposure, np.sqrt(n) / exposure if n else np.nan, low, high, n, exposure)


def exponentiality(time: Values, event: Values, after: float = 0.0) -> float:
    """Score test of the exponential against Weibull times of shape γ ≠ 1, a standard normal z if they are exponential:
    positive where the hazard rises (nobody escapes at once: a transient), negative where it falls.

    With x = rate · t: ``z = U / sqrt(I)``, ``U = n + sum_events ln x - sum x ln x``,
    ``I = n + sum x ln² x - (sum x ln x)² / n``. NaN with fewer than 2 events.
    Reference: Cox, Oakes, Analysis of Survival Data (1984), section 3.7."""
    t, e = _later(time, event, after)
    n = int(e.sum())
    if n < 2:
        return np.nan
    x = t * n / t.sum()
    log = np.log(np.where(x > 0, x, 1.0))
    score = n + log[e].sum() - (x * log).sum()
    information = n + (x * log**2).sum() - (x * log).sum() ** 2 / n
    return float(score / np.sqrt(information)) if information > 0 else np.nan


@dataclass(frozen=True)
class MeanTime:
    """Means of waiting times with standard errors: `restricted`, of min(t, end of observation), which needs no
    assumption, and `mean`, which adds an exponential tail for those who were still waiting."""

    restricted: float
    restricted_stderr: float
    mean: float
    mean_stderr: float


def mean_time(time: Values, event: Values, after: float = 0.0) -> MeanTime:
    """``<min(t, end)>`` and ``<t> = <min(t, end)> + S(end) / rate``, rate that of `exponential_rate(…, after)`.

    All censored times must be equal, `end`. Where nobody was censored the mean is that of the sample; with after = 0 it
    is 1 / rate. The standard error is that of the estimate's influence function, so that what the two terms share is
    counted once. NaN where somebody was censored and nobody escaped later than `after`.
    Reference: Royston, Parmar, Stat. Med. 30 (2011) 2409 (restricted mean)."""
    t, e = _checked(time, event)
    end = float(t.max())
    require(bool(np.all(t[~e] == end)), "time", f"censored times all {end:g}, the last one", t[~e].min(initial=end))
    n = t.size
    restricted, restricted_stderr = float(t.mean()), _stderr(t)
    if e.all():
        return MeanTime(restricted, restricted_stderr, restricted, restricted_stderr)
    late = np.maximum(t - after, 0.0)
    counted = e & (t > after)
    if not counted.any() or late.sum() == 0.0:
        return MeanTime(restricted, restricted_stderr, np.nan, np.nan)
    waiting = 1.0 - e.mean()
    tail = float(late.sum() / counted.sum())
    influence = t + ~e * tail + waiting * (late - counted * tail) / counted.mean()
    return MeanTime(restricted, restricted_stderr, restricted + waiting * tail, _stderr(influence) if n > 1 else np.nan)


def summary(time: Values, event: Values, transient: float = 0.0) -> dict[str, Any]:
    """Rate, means and survival curve by their names in the group `escape`: numbers, and (CURVE_POINTS,) of the curve.

    transient: left out of the fit of the rate and of the test for exponential times. Censored times must all be equal.
    """
    t, e = _checked(time, event)
    rate = exponential_rate(t, e, INTERVAL, after=transient)
    mean = mean_time(t, e, after=transient)
    at = np.linspace(0.0, t.max(), CURVE_POINTS)
    survival, survival_stderr = kaplan_meier(t, e).at(at)
    return {
        "rate": rate.rate,
        "rate_stderr": rate.stderr,
        "rate_low": rate.low,
        "rate_high": rate.high,
        "mean_first_passage_time": mean.mean,
        "mean_first_passage_time_stderr": mean.mean_stderr,
        "restricted_mean_time": mean.restricted,
        "restricted_mean_time_stderr": mean.restricted_stderr,
        "exponentiality_z": exponentiality(t, e, after=transient),
        "survival_time": at,
        "survival": survival,
        "survival_stderr": survival_stderr,
    }


def _stderr(values: Floats) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else np.nan


def _checked(time: Values, event: Values) -> tuple[Floats, npt.NDArray[np.bool_]]:
    t, e = np.asarray(time, dtype=np.float64), np.asarray(event, dtype=np.bool_)
    require(t.ndim == 1 and t.size > 0, "time", "one or more times, (n,)", t.shape)
    require(e.shape == t.shape, "event", f"the shape {t.shape}", e.shape)
    require(bool(np.all(np.isfinite(t) & (t >= 0.0))), "time", "finite times >= 0", float(t.min()))
    return t, e


def _later(time: Values, event: Values, after: float) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Times counted from `after`, of those who were still waiting then."""
    t, e = _checked(time, event)
    kept = t > after if after > 0.0 else np.ones_like(e)
    return t[kept] - after if after > 0.0 else t, e[kept]
