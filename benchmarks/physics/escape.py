"""Escape times: entropic barriers are not Arrhenius, energetic ones are, and steps see levels shifted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.physics._rows import Row
from entropy_sim import theory
from entropy_sim.dynamics import Overdamped
from entropy_sim.fokker_planck import FokkerPlanck
from entropy_sim.landscapes import Barrier, Bump, Channel
from entropy_sim.measurements import Escape
from entropy_sim.measurements.base import timescale_ratio
from entropy_sim.noise import CurvaturePower, Thermal

TITLE = "τ D is independent of T for an entropic barrier, Arrhenius for an energetic one; levels shift by 0.58 √(2Dh)"

Floats = NDArray[np.float64]

#: Stiffness 1 at the ends and 16 in the middle, along an arc of 3: ΔF = (T/2) ln 16 at the level s = 1/2.
BUMP = Bump(1.0, 16.0)
LENGTH = 3.0


def rows(quick: bool) -> list[Row]:
    """All claims."""
    return [*entropic(quick), *fast_modes(quick), *energetic(quick), *slow_path(quick), *shifted_levels(quick)]


def measured(setting: Escape) -> tuple[float, float]:
    """Mean first-passage time and its standard error."""
    group = setting.run()["escape"]
    return float(group["mean_first_passage_time"]), float(group["mean_first_passage_time_stderr"])


def predicted(setting: Escape, *, shifted: bool = True) -> float:
    """The quadrature of the reduced dynamics."""
    found = setting.reduced(shifted=shifted)
    assert not isinstance(found, str), found
    return found[0]


def oracle(channel: Channel, noise: Any, step: float, diffusion_x: Callable[[Any], Any]) -> tuple[float, float]:
    """Mean first-passage time from the path at s = 0 to s = 1/2 by the Fokker-Planck equation in both dimensions, in
    continuous time with the level shifted as the steps see it; and its error."""

    def stiffness(y: Any) -> Any:
        return channel.curvature(np.ravel(y) / channel.arc_length)[:, 0].reshape(np.shape(y))

    along = float(noise.along(channel, 0.0)[0])
    level = 0.5 * channel.arc_length + float(theory.absorbing_level_shift(along, step))
    found = FokkerPlanck.channel(stiffness, (0.0, level), along, diffusion_x).escape_time(0.0)
    return float(found.time), float(found.error)


def _row(name: str, setting: Escape, expected: float, bias: float, factor: float = 1.0, **options: Any) -> Row:
    """Measured time × factor beside the expected one; `bias` is relative."""
    mean, stderr = measured(setting)
    return Row(
        name, mean * factor, stderr * factor, expected * factor, "parameter²", bias * expected * factor, **options
    )


def entropic(quick: bool) -> list[Row]:
    """Thermal noise: nothing but T / (k l²) can matter. Where it is small τ D does not know T any more."""
    found = []
    channel = Channel(BUMP, transverse_directions=1, length=LENGTH)
    # A barrier whose height did not scale with T: that of T = 0.3, at other temperatures.
    fixed = 0.15 * np.log(16.0)
    for seed, (t, step) in enumerate(((0.03, 0.004 if quick else 0.002), (0.3, 0.002), (3.0, 2e-4))):
        noise = Thermal(t)
        n = 500 if quick else 4000
        setting = Escape(channel, noise, Overdamped(step), replicas=n, duration=40.0 / t, seed=seed)
        expected, error = oracle(channel, noise, step, _constant(t))
        bias = error / expected + 4 * step  # h k_mid / 4 in F / T
        wrong = expected * t * np.exp(fixed / t - 0.5 * np.log(16.0))
        note = f"quadrature {predicted(setting) * t:.4g}, T/(k l²) = {t / LENGTH**2:.2g}"
        name = f"entropic barrier, T = {t}: τ D"
        options = {"rejected": wrong, "rejected_name": "height as at T = 0.3"} if t != 0.3 else {}
        found.append(_row(name, setting, expected, bias, t, note=note, **options))
    first, last = found[0], found[-1]
    ratio = last.measured / first.measured
    error = ratio * np.hypot(first.stderr / first.measured, last.stderr / last.measured)
    assert first.expected is not None
    assert last.expected is not None
    found.append(
        Row(
            "entropic barrier: τ D at T = 3 over that at 0.03", ratio, error, last.expected / first.expected,
            bias=0.01, rejected=100.0, rejected_name="τ independent of T",
        )
    )  # fmt: skip
    return found


def fast_modes(quick: bool) -> list[Row]:
    """Noise D_x = T k, D_y apart: the same V_eff = T k / 2 and slow dynamics, with modes 4, 16 and 64 times as fast."""
    found, ratios, along = [], [], 0.1
    scales = (4, 16) if quick else (1, 4, 16, 64)
    for seed, scale in enumerate(scales):
        channel = Channel(Bump(1.0, 6.0), transverse_directions=1, amplitudes=(float(scale),))
        noise, step = CurvaturePower(0.1 / scale, 1.0, along), min(5e-4, 0.02 / (6.0 * scale))
        n = 1200 if quick else 4000
        setting = Escape(channel, noise, Overdamped(step), replicas=n, duration=30.0, seed=10 + seed)
        expected, error = oracle(channel, noise, step, partial(_across, channel, noise))
        bias = error / expected + 0.5 * step * 6.0 * scale  # of V_eff, h k / 4 of 2.5 D
        adiabatic = predicted(setting)
        note = f"timescale ratio {_ratio(setting):.2g}, quadrature {adiabatic * along:.4g}"
        row = _row(f"D ∝ k, modes {scale} times as fast: τ D", setting, expected, bias, along, note=note)
        found.append(row)
        ratios.append(np.array([row.measured, row.stderr, expected * along]) / (adiabatic * along))
    # Linear in 1/scale, so that the next order remains: how much, the Fokker-Planck equation says.
    (m, e, o), (m4, e4, o4) = ratios[-2:]
    found.append(
        Row(
            "D ∝ k: τ over the quadrature, to infinitely fast modes", (4 * m4 - m) / 3, np.hypot(4 * e4, e) / 3, 1.0,
            bias=abs((4 * o4 - o) / 3 - 1), rejected=0.5**2 / (2 * along) / adiabatic,
            rejected_name="no entropic force",
        )
    )  # fmt: skip
    return found


def _ratio(setting: Escape) -> float:
    return timescale_ratio(setting.landscape, setting.noise, setting.dynamics)


def _across(channel: Channel, noise: CurvaturePower, y: Any) -> Any:
    return noise.transverse(channel, np.ravel(y) / channel.arc_length)[:, 0].reshape(np.shape(y))


def _slope(settings: list[Escape], x: list[float]) -> tuple[float, float]:
    """Slope of ln τ between two settings, and its standard error."""
    (first, first_error), (last, last_error) = measured(settings[0]), measured(settings[1])
    span = x[1] - x[0]
    return float(np.log(last / first) / span), float(np.hypot(first_error / first, last_error / last) / span)


def energetic(quick: bool) -> list[Row]:
    """U = ΔU (1 - u²)², ΔU = 1, uniform stiffness: ln τ against 1/T."""
    channel = Channel(Bump(1.0, 1.0), Barrier(1.0), transverse_directions=1)
    inverse = [3.0, 5.0] if quick else [4.0, 6.0]
    n, step = (1500, 1e-3) if quick else (4000, 4e-4)
    settings = [
        Escape(channel, Thermal(1 / x), Overdamped(step), replicas=n, duration=60.0 * np.exp(x - 5.0), seed=20 + i)
        for i, x in enumerate(inverse)
    ]
    slope, error = _slope(settings, inverse)
    expected = np.log(predicted(settings[1]) / predicted(settings[0])) / (inverse[1] - inverse[0])
    t = 2.0 / sum(inverse)
    name = f"energy barrier 1: slope of ln τ in 1/T, 1/T = {inverse[0]:g} … {inverse[1]:g}"
    bias = 16 * step / (inverse[1] - inverse[0])  # relative, h k / 2 of either time, k = 32 at the bottom
    return [
        Row(name, slope, error, expected, "loss", bias, 0.0, "as an entropic one", f"ln(τ D): {slope - t:.3g}"),
    ]


def _constant(value: float) -> Callable[[Floats], Floats]:
    return lambda y: np.full(np.shape(y), value)


def slow_path(quick: bool) -> list[Row]:
    """The entropic V_eff = (T/2) ln k held fixed while D_y alone changes: Arrhenius in 1/D_y."""
    channel = Channel(BUMP, transverse_directions=1, amplitudes=(16.0,))
    t, step = 0.2, 1e-3 if quick else 4e-4
    height = 0.5 * t * np.log(16.0)
    inverse = [2.0 / height, 4.0 / height] if quick else [3.0 / height, 5.0 / height]
    settings, times, errors = [], [], []
    for i, x in enumerate(inverse):
        noise = CurvaturePower(t, 0.0, 1.0 / x)
        replicas = 800 if quick else 2500
        settings.append(Escape(channel, noise, Overdamped(step), replicas=replicas, duration=300.0, seed=30 + i))
        time, error = oracle(channel, noise, step, _constant(t))
        times.append(time)
        errors.append(error / time)
    slope, error = _slope(settings, inverse)
    span = inverse[1] - inverse[0]
    adiabatic = np.log(predicted(settings[1]) / predicted(settings[0])) / span
    note = f"ΔV = {height:.4g}, quadrature {adiabatic:.4g}, timescale ratio {_ratio(settings[0]):.2g}"
    name = "entropic barrier, D_y alone varied: slope of ln τ in 1/D_y"
    expected = np.log(times[1] / times[0]) / span
    # h k / 4 of F / T, times T / D_y, whose difference counts.
    bias = (sum(errors) + 256 * step / 4 * t * span) / span
    return [Row(name, slope, error, expected, "loss", bias, 0.0, "as with T varied", note)]


def shifted_levels(quick: bool) -> list[Row]:
    """An energy barrier looked at after every step of two sizes; the path is exactly one-dimensional."""
    channel = Channel(Bump(1.0, 1.0), Barrier(0.1), transverse_directions=1)
    found, t, n = [], 0.1, 15_000 if quick else 60_000
    for seed, step in enumerate((0.004, 0.008)):
        setting = Escape(channel, Thermal(t), Overdamped(step), replicas=n, duration=100.0, seed=40 + seed)
        row = _row(
            # Bias: h k / 2, k = 3.2 at the bottom.
            f"absorbing level, h = {step}: τ D", setting, predicted(setting), 1.6 * step, t,
            rejected=predicted(setting, shifted=False) * t, rejected_name="level not shifted",
        )  # fmt: skip
        found.append(row)
    return found
