"""Heights of barriers: of values along a line, and of the potential that a mean force integrates to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from entropy_sim import statistics
from entropy_sim.errors import UserError

Floats = npt.NDArray[np.float64]


def above_ends(values: Floats) -> float:
    """max v − ½ (v₀ + v₋₁) of values v (n,) along a line (Frankle et al. 2020)."""
    v = np.asarray(values, dtype=np.float64)
    return float(v.max() - 0.5 * (v[0] + v[-1]))


@dataclass(frozen=True)
class EntropicHeight:
    """Height and standard error, loss; s of the top that all replicas together choose."""

    value: float
    stderr: float
    top: float


def entropic_barrier(forces: xr.Dataset, arc_length: float) -> EntropicHeight:
    """Height of V(s) = −∫ (f − f₀) dy above the mean of its first and last place, from a group `mean_force`.

    f, `mean_force`, averaged over its windows, R replicas at each s; f₀, `mean_force_control`, one for all replicas or
    one for each; y = s · arc_length; the trapezoidal rule. Replica r contributes V_r(top_r) − ½ (V_r(first) +
    V_r(last)), top_r where the mean of the *other* replicas' V is highest. The standard error is this estimator's,
    its choice of tops included, under Gaussian errors of the replicas' variance at each place (a parametric bootstrap):
    were the replicas' heights taken as independent, it would be too small by up to a third where no place is clearly
    the highest. The error of the trapezoidal rule is not in it. A replica that diverged anywhere is left out.

    Raises UserError if fewer than two replicas are left.
    """
    noisy, quiet = forces["mean_force"].mean("time_window", skipna=False), forces["mean_force_control"]
    control = quiet.mean("time_window", skipna=False).transpose("control_replica", "s").values
    f = noisy.transpose("replica", "s").values - control
    f = f[np.isfinite(f).all(1)]
    if len(f) < 2:
        raise UserError(
            "barrier.mean_force.learning_rate: expected one at which two replicas and their control stay finite at "
            f"every position, found {len(f)} replicas that do"
        )
    s = forces["s"].values
    weights = np.stack([statistics.cumulative_integral(s * arc_length, row).value for row in np.eye(s.size)], axis=1)

    def potentials(force: Floats) -> Floats:
        return -force @ weights.T

    def height(v: Floats) -> Floats:
        """(…, R, places) -> (…)."""
        tops = (v.sum(-2, keepdims=True) - v).argmax(-1)[..., None]
        chosen = np.take_along_axis(v, tops, -1)[..., 0]
        return (chosen - 0.5 * (v[..., 0] + v[..., -1])).mean(-1)

    errors = np.random.default_rng(0).standard_normal((_RESAMPLES, *f.shape)) * f.std(axis=0, ddof=1)
    stderr = height(potentials(f.mean(0) + errors)).std()
    v = potentials(f)
    return EntropicHeight(float(height(v)), float(stderr), float(s[int(np.argmax(v.mean(0)))]))


_RESAMPLES = 400
