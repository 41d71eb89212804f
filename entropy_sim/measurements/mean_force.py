"""The mean force along the path, from dynamics constrained to the planes normal to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from entropy_sim import schema
from entropy_sim._ensemble import Ensemble
from entropy_sim._kernels import observe_function
from entropy_sim.errors import UserError, require
from entropy_sim.measurements.base import (
    Execution,
    Floats,
    Measurement,
    check_counts,
    check_positions,
    check_seed,
    function_of,
    mean_and_stderr,
    steps_for,
)
from entropy_sim.statistics import cumulative_integral


# params: observations per window, number of windows W. out: W sums of the force, W of the curved one, 1 of squares.
@observe_function
def _accumulate(theta, gradient, located, frame, index, out, params):  # type: ignore[no-untyped-def]
    d, walkers = theta.shape
    window, windows = index // int(params[0]), int(params[1])
    if window >= windows:
        return
    force, bend = np.zeros(walkers), np.ones(walkers)
    for i in range(d):
        for w in range(walkers):
            force[w] -= frame[i, w] * gradient[i, w]
            bend[w] -= frame[2 * d + i, w] * (theta[i, w] - frame[d + i, w])
    for w in range(walkers):
        out[window, w] += force[w]
        out[windows + window, w] += force[w] * bend[w]
        out[2 * windows, w] += force[w] * force[w]


@dataclass(frozen=True)
class MeanForce(Measurement):
    """Minus the average tangential gradient, ``-<t·∇L>``, of walkers held on the hyperplane through a path point.

    The final update, momentum included, is projected off the tangent. Thermodynamic integration: the integral of minus
    the mean force along the path is the effective potential (Ciccotti, Kapral, Vanden-Eijnden, ChemPhysChem 6 (2005)
    1809). On a curved path `mean_force_curved` weighs with ``1 - γ''·(θ-γ)``, the stretch of nearby planes.

    Example. On `Channel(Exponential(1, e²), transverse_directions=1)` with temperature T it is -T (finite step: less
    than h k / 2 more), everywhere.
    """

    positions: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Path points s at which to hold the walkers, in rising order."""
    replicas: int = 4
    """Independent ensembles per position, reported one by one."""
    walkers: int = 128
    """Walkers per replica."""
    burn_in: float = 5.0
    """Time before averaging, parameter² / loss (t = h · step, or eta · step / (1 - beta))."""
    duration: float = 20.0
    """Time of averaging, parameter² / loss."""
    time_windows: int = 4
    """Windows into which the averaging time is divided."""
    stride: int = 5
    """Steps between observations."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        check_positions("positions", self.positions, increasing=True)
        check_counts(replicas=self.replicas, walkers=self.walkers, time_windows=self.time_windows, stride=self.stride)
        check_seed(self.seed)
        self.dynamics.check(self.landscape, self.noise, held=True)
        if not self.noise.has_finite_variance:
            raise UserError(
                "noise: expected one of finite variance for mean_force (the force grows as the square of the "
                f"displacement, whose mean does not exist), found {type(self.noise).__name__}"
            )
        self._schedule()

    def _schedule(self) -> tuple[int, int]:
        """Steps before averaging, and observations per window."""
        h = self.dynamics.time_step
        before = 0 if self.burn_in == 0 else steps_for("burn_in", self.burn_in, h)
        steps = steps_for("duration", self.duration, h)
        most = steps // self.stride
        require(self.time_windows <= most, "time_windows", f"at most {most} of duration/stride", self.time_windows)
        per_window = most // self.time_windows
        return before, per_window

    def _relaxation_times(self, time: float) -> float:
        """A time in relaxation times of the slowest stiff mode at any of the positions; NaN where nothing is stiff."""
        if not self.noise.has_finite_variance:
            return float("nan")
        s = np.array(self.positions)
        k = self.landscape.curvature(s)
        with np.errstate(invalid="ignore", divide="ignore"):
            rate = self.dynamics.relaxation_rate(k, self.noise.transverse(self.landscape, s))
        return float(time * rate[k > 0].min()) if (k > 0).any() else float("nan")

    def _averages(self, replicas: int, walkers: int, how: Execution, noisy: bool) -> _Averages:
        landscape, s = self.landscape, np.array(self.positions)
        before, per_window = self._schedule()
        copies = replicas * walkers
        anchors = landscape.path(s)
        frame = np.stack([landscape.tangent(s), anchors, landscape.path_curvature(s)], axis=1)
        ensemble = Ensemble(
            landscape,
            self.noise,
            self.dynamics,
            np.repeat(anchors, copies, axis=0),
            frame=np.repeat(frame, copies, axis=0),
            seed=self.seed,
            threads=how.threads,
            checkpoint=how.checkpoint,
            name="mean_force" if noisy else "control",
            noisy=noisy,
            observer=_accumulate,
            observer_params=np.array([per_window, self.time_windows], dtype=np.float64),
            out_shape=(2 * self.time_windows + 1, -1),
            observe_from=before,
            observe_every=self.stride,
        )
        steps = before + per_window * self.time_windows * self.stride
        ensemble.advance_to(steps, how.progress and noisy, "mean force")
        sums = np.where(ensemble.diverged[:, None], np.nan, ensemble.per_walker) / per_window
        sums = sums.reshape(len(s), replicas, walkers, -1)
        w = self.time_windows
        return _Averages(sums[..., :w], sums[..., w : 2 * w], sums[..., 2 * w] / w, per_window * w)

    def measure(self, how: Execution) -> tuple[dict[str, xr.Dataset], Floats]:
        landscape, s = self.landscape, np.array(self.positions)
        found = self._averages(self.replicas, self.walkers, how, noisy=True)
        control = self._averages(1, 1, how, noisy=False)
        force, force_stderr = mean_and_stderr(found.force, axis=2)
        total, total_stderr = mean_and_stderr(found.force.mean(axis=-1).reshape(len(s), -1), axis=1)
        tau, size = found.autocorrelation()
        dims = ("s", "replica", "time_window")
        before, per_window = self._schedule()
        window = per_window * self.stride * self.dynamics.time_step
        spacing = self.stride * self.dynamics.time_step
        variables: dict[str, Any] = {
            "s": (("s",), s),
            "replica": (("replica",), np.arange(self.replicas)),
            "control_replica": (("control_replica",), np.arange(1)),
            "time_window": (
                ("time_window",),
                before * self.dynamics.time_step + (np.arange(self.time_windows) + 0.5) * window,
            ),
            "mean_force": (dims, force),
            "mean_force_stderr": (dims, force_stderr),
            "mean_force_control": (("s", "control_replica", "time_window"), control.force[:, :, 0]),
            "position_autocorrelation_time": (("s",), tau * spacing),
            "effective_sample_size": (("s",), size),
            "diverged": (("s", "replica"), np.isnan(found.square).mean(axis=2)),
        }
        best = total, total_stderr
        if np.any(landscape.path_curvature(s)):
            curved, curved_stderr = mean_and_stderr(found.curved, axis=2)
            variables |= {"mean_force_curved": (dims, curved), "mean_force_curved_stderr": (dims, curved_stderr)}
            best = mean_and_stderr(found.curved.mean(axis=-1).reshape(len(s), -1), axis=1)
        if len(s) > 1 and np.isfinite(best).all():
            work = cumulative_integral(s * landscape.arc_length, -best[0] - self.noise.drift(landscape, s), best[1])
            variables |= {
                "effective_potential": (("s",), work.value),
                "effective_potential_stderr": (("s",), work.stderr),
            }
        attrs = {
            "effective_potential_zero": f"s = {s[0]:g}",
            "effective_potential_from": "trapezoidal integral of minus the mean over replicas and windows"
            + (" of mean_force_curved" if "mean_force_curved" in variables else "")
            + (" and the noise's own drift" if np.any(self.noise.drift(landscape, s)) else ""),
            "mean_force_stderr_from": "spread over the independent walkers of a replica",
            "diverged_is": "share of walkers",
            "burn_in": before * self.dynamics.time_step,
            "burn_in_relaxation_times": self._relaxation_times(before * self.dynamics.time_step),
            "window": window,
        }
        return {"mean_force": schema.make("mean_force", variables, attrs)}, s


@dataclass(frozen=True)
class _Averages:
    """Time averages per walker: force and curved force (positions, replicas, walkers, windows), force²; samples."""

    force: Floats
    curved: Floats
    square: Floats
    samples: int

    def autocorrelation(self) -> tuple[Floats, Floats]:
        """Integrated autocorrelation time of the force in observations, and effective sample size, per position.

        From the walkers' independence: the variance of their time averages is tau sigma² / samples. NaN where the
        force does not fluctuate."""
        n = len(self.force)
        averages, square = self.force.mean(axis=-1).reshape(n, -1), self.square.reshape(n, -1)
        mean, stderr = mean_and_stderr(averages, axis=1)
        walkers = np.isfinite(averages).sum(axis=1)
        sigma2 = mean_and_stderr(square, axis=1)[0] - mean**2
        with np.errstate(invalid="ignore", divide="ignore"):
            tau = np.where(sigma2 > 1e-12 * mean**2, self.samples * walkers * stderr**2 / sigma2, np.nan)
            return tau, walkers * self.samples / tau


mean_force = function_of(MeanForce)
