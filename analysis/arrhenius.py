"""Whether escape times are Arrhenius: what an energy barrier does when it is cooled, and an entropic one does not.

An entropic barrier scales with the temperature, so that τ D_y does not depend on it (as T/(k ℓ²) → 0). What is excluded
is therefore not "a barrier of height 0" but an *energy* barrier that looks the same at one temperature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis import predict, summaries
from analysis.agreement import number, plus_minus
from analysis.comparisons.barrier import heights, scan_of
from analysis.runs import over_runs
from analysis.uncertainty import SIGMAS, Array, straight_line
from entropy_sim import theory
from entropy_sim.errors import UserError, require


@dataclass(frozen=True)
class Climb:
    """The way out of a well, under thermal noise: ``V(y) = U(y) + T S(y)`` from y[0] to y[-1]."""

    y: Array
    """arc length (n,), rising; an end that does not absorb reflects"""
    energy: Array
    """U (n,), loss"""
    entropy: Array
    """S = ½ Σ ln k_i (n,), up to a constant"""
    start: float
    """where walkers are released, arc length"""
    absorbing: str = "right"
    """left, right or both"""

    def height(self, temperature: float = 0.0) -> float:
        """Highest point of V above the start, up to the absorbing end; that of U at temperature 0."""
        v = self.energy + temperature * self.entropy
        ways = {"left": self.y <= self.start, "right": self.y >= self.start}
        sides = ways.values() if self.absorbing == "both" else [ways[self.absorbing]]
        return float(min(v[side].max() for side in sides) - np.interp(self.start, self.y, v))

    def log_times(self, temperature: Array, frozen: float | None = None) -> Array:
        """``ln(τ D_y)``, D_y = T, of the reduced dynamics at temperatures (m,): in V, or in V at the temperature
        `frozen`, as if it were all energy. NaN where the quadrature fails."""
        found = []
        for t in np.asarray(temperature, float):
            potential = self.energy + (t if frozen is None else frozen) * self.entropy
            passage = theory.mean_first_passage_time(
                self.start, (self.y[0], self.y[-1]), (self.y, potential - potential[0]), float(t), self.absorbing,  # type: ignore[arg-type]
            )  # fmt: skip
            found.append(float(passage.log_time) + np.log(t))
        return np.array(found)


def climb(tree: xr.DataTree) -> Climb | None:
    """The way out that an `escape` group had to take, from the profile of the same run; None if the run does not tell
    U, ln det K, the length of the path, and where walkers were released and absorbed, or the noise is not thermal."""
    profile, length = summaries.measurement(tree, "profile"), summaries.arc_length(tree)
    config = summaries.configuration(tree["escape"].attrs if "config" in tree["escape"].attrs else tree.attrs)
    if profile is None or length is None or not isinstance(config, dict):
        return None
    config = config.get("escape", config)
    kinds = {str(v.get("type")) for n, v in summaries.walk(config) if n == "noise" and isinstance(v, dict)}
    curve = predict.path_profile(profile)
    if "log_determinant" not in curve or kinds != {"Thermal"} or config.get("start") is None:
        return None
    start, lower, upper = float(config["start"]), config.get("lower"), config.get("upper")
    if config.get("level") is not None:
        lower, upper = (None, config["level"]) if config["level"] > start else (config["level"], None)
    absorbing = {(True, True): "both", (True, False): "left", (False, True): "right"}.get(
        (lower is not None, upper is not None)
    )
    s, u, half = curve["s"].values, curve["loss"].values, 0.5 * curve["log_determinant"].values
    good = np.isfinite(u) & np.isfinite(half)
    if absorbing is None or good.sum() < 3:
        return None
    low, high = s[good][0] if lower is None else float(lower), s[good][-1] if upper is None else float(upper)
    if not s[good][0] <= low <= start <= high <= s[good][-1] or low == high:
        return None
    fine = np.unique(np.concatenate([np.linspace(low, high, 401), [start]]))
    onto = predict.spline_matrix(s[good], fine)
    return Climb(fine * length, onto @ u[good], onto @ half[good], start * length, absorbing)


def arrhenius(
    escape: xr.Dataset, energy_barrier: float | None = None, *, way: Climb | None = None, heights_from: str = "given"
) -> xr.Dataset:
    """Slope of ln τ against 1/T over an `escape` scan of the temperature, and whether it is that of an energy barrier.

    With the diffusion along the path D_y taken out, ln(τ D_y): slope 0 for an entropic barrier (as T/(k ℓ²) → 0). What
    it would be for an energetic one that looks the same, `energetic_slope`, is that of the same straight line (the same
    weights) through ``ln(τ D_y)`` in the effective potential of `way`, frozen at T₀, the harmonic mean of the
    temperatures; or, with a height ΔU alone, through ``ΔU/T + ln T``, its asymptotic form.

    Variables: `slope` (+ `_stderr`, loss) of ln(τ D_y), `slope_log_time` of ln τ, `chi_squared` of the straight line,
    `energetic_slope`, `predicted_slope` (of the reduced dynamics, with `way`; + `predicted_z`) and `fraction` = slope /
    energetic_slope (+ `_stderr`), 0 for an entropic and 1 for an energetic barrier. `verdict`: "not Arrhenius" where 1
    is excluded by 3 standard errors and less than half is left, "Arrhenius" where 0 is and more than half is left; else
    not determined, as for barriers below 2 T₀, which are none. Without a height: whether the slope is 0. heights_from:
    said in the result. Raises UserError for a scan of something else, or without the times' errors.
    """
    escape = over_runs("escape", escape)
    scan = scan_of(escape, "rate")
    if scan != "temperature" or escape.sizes["temperature"] < 2:
        raise UserError(f"escape: expected a scan of two or more temperatures, found {scan or 'no scan'}")
    require(energy_barrier is None or energy_barrier > 0, "energy_barrier", "a positive height", energy_barrier)
    temperature = escape["temperature"].values.astype(float)
    time = escape["mean_first_passage_time"].values.astype(float)
    stderr = escape["mean_first_passage_time_stderr"].values.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        log, error = np.log(time), stderr / time
    along = escape["diffusion_along_path"].values if "diffusion_along_path" in escape else temperature
    good = np.isfinite(log) & np.isfinite(error) & (error > 0) & np.isfinite(along)
    t, inverse, error = temperature[good], 1 / temperature[good], error[good]
    scaled = straight_line(inverse, log[good] + np.log(along[good]), error)
    plain = straight_line(inverse, log[good], error)
    slope, slope_stderr = scaled["slope"], scaled["slope_stderr"]
    variables = {
        "slope": (slope, "loss", "slope of ln(τ D) against 1/T"),
        "slope_stderr": (slope_stderr, "loss", "standard error of the slope of ln(τ D) against 1/T"),
        "slope_log_time": (plain["slope"], "loss", "slope of ln τ against 1/T"),
        "slope_log_time_stderr": (plain["slope_stderr"], "loss", "standard error of the slope of ln τ against 1/T"),
        "intercept": (scaled["intercept"], "1", "ln(τ D) at infinite temperature"),
        "chi_squared": (scaled["chi_squared"], "1", "χ² of the straight line in ln(τ D)"),
        "degrees_of_freedom": (scaled["degrees_of_freedom"], "1", "degrees of freedom"),
    }
    words = f"ln(τ D) has slope {plus_minus(slope, slope_stderr)} in 1/T"
    attrs: dict[str, float | str] = {}
    if not np.isfinite(slope):
        verdict = "not determined"
    elif way is None and energy_barrier is None:
        verdict = "no slope" if abs(slope) <= SIGMAS * slope_stderr else "a slope"
    else:
        middle = float(1 / inverse.mean())
        if way is not None:
            height = way.height(middle)
            energetic = straight_line(inverse, way.log_times(t, middle), error)["slope"]
            predicted = straight_line(inverse, way.log_times(t), error)["slope"]
            predicted = 0.0 if abs(predicted) < 1e-9 * middle else predicted  # rounding
            variables["predicted_slope"] = (predicted, "loss", "slope of ln(τ D) of the reduced dynamics")
            variables["predicted_z"] = ((slope - predicted) / slope_stderr, "1", "(measured − predicted) / error")
            words += f" (reduced dynamics: {number(predicted)}, z = {(slope - predicted) / slope_stderr:.1f})"
            attrs |= {"energy_barrier": way.height()}
        else:
            assert energy_barrier is not None
            height = energy_barrier
            energetic = straight_line(inverse, height * inverse + np.log(t), error)["slope"]
        fraction, spread = slope / energetic, abs(slope_stderr / energetic)
        verdict = "not determined"
        attrs |= {"effective_barrier": height, "at_temperature": middle, "heights_from": heights_from}
        words += f"; an energy barrier of the effective height {number(height)} at T = {number(middle)}"
        if height < 2 * middle:
            words += " is none to speak of: it is below 2 T"
        else:
            variables["energetic_slope"] = (energetic, "loss", "slope for an energy barrier of the effective height")
            variables["fraction"] = (fraction, "1", "slope / that of an energy barrier of the effective height")
            variables["fraction_stderr"] = (spread, "1", "standard error of the fraction")
            words += f" has {number(energetic)}: measured {plus_minus(fraction, spread)} of that"
            if 1 - fraction > SIGMAS * spread and fraction < 0.5:
                verdict = "not Arrhenius"
            elif fraction > SIGMAS * spread and fraction > 0.5:
                verdict = "Arrhenius"
    data = {n: ((), v, {"units": u, "long_name": text}) for n, (v, u, text) in variables.items()}
    return xr.Dataset(data, attrs={"verdict": verdict, "statement": f"{verdict}: {words}", **attrs})


def measured_height(barrier: xr.Dataset, temperature: float) -> float | None:
    """Energetic and entropic height of a `barrier` group together, at one temperature: of its scan, between the values
    it has; None where it does not reach there."""
    both = [heights(barrier, name).value for name in ("energy_barrier", "entropic_barrier")]
    scan = scan_of(barrier, "entropic_barrier")
    total = both[0] + both[1]
    if scan is None:
        return float(total[0]) if np.isfinite(total[0]) and total[0] > 0 else None
    if scan != "temperature":
        return None
    x = barrier[scan].values.astype(float)
    if not x[0] <= temperature <= x[-1]:
        return None
    found = float(np.interp(temperature, x, total))
    return found if np.isfinite(found) and found > 0 else None


def of_run(tree: xr.DataTree) -> xr.Dataset:
    """`arrhenius` of a run's escapes, against the height that the same run knows: from its profile, else as measured in
    its `barrier` group, else none."""
    escape = tree["escape"].to_dataset()
    way = climb(tree)
    if way is not None:
        return arrhenius(escape, way=way, heights_from="the profile")
    height = None
    if "barrier" in tree.children and "temperature" in escape.dims:
        middle = float(1 / np.mean(1 / escape["temperature"].values))
        height = measured_height(tree["barrier"].to_dataset(), middle)
    return arrhenius(escape, height, heights_from="given" if height is None else "the measured barriers")
