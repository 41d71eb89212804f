"""Free-energy barriers by thermodynamic integration: proportional to d and T, logarithmic in the stiffness ratio."""

from __future__ import annotations

import numpy as np

from benchmarks.physics._rows import Row
from entropy_sim.dynamics import Overdamped
from entropy_sim.landscapes import Bump, Channel
from entropy_sim.measurements import BarrierHeights
from entropy_sim.noise import Thermal
from entropy_sim.scan import Scan
from entropy_sim.statistics import Floats, weighted_mean

TITLE = "the free-energy barrier is d (T/2) ln(k_middle / k_end): extensive in d, T times a number, whatever the step"

#: Stiffness 1 at the wells, 8 at the top, unless scanned.
CHANNEL, TEMPERATURE, STEP = Channel(Bump(1.0, 8.0), transverse_directions=2), 0.05, 0.01
DIMENSIONS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


def rows(quick: bool) -> list[Row]:
    """Heights at every value of three scans, and how they grow."""
    return [*dimension(quick), *stiffness_ratio(quick), *temperature(quick)]


def _heights(scan: Scan, quick: bool, seed: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Heights less the step's and the trapezoid's part (both exact), standard errors, that part's size, the values."""
    measurement = BarrierHeights(
        CHANNEL, Thermal(TEMPERATURE), Overdamped(STEP), points=33, replicas=2, walkers=32 if quick else 256,
        burn_in=4.0, duration=8.0 if quick else 20.0, stride=4, scan=scan, seed=seed,
    )  # fmt: skip
    group = measurement.run()["barrier"].to_dataset()
    x = np.array(scan.values)
    t = x if scan.parameter == "temperature" else TEMPERATURE
    d = x if scan.parameter == "dimension" else 2.0
    ratio = x if scan.parameter == "stiffness_ratio" else 8.0
    # Euler-Maruyama: ln(k / (1 - h k / 2)) for ln k.
    step = 0.5 * t * d * (np.log1p(-0.5 * STEP) - np.log1p(-0.5 * STEP * ratio))
    known = step + group["quadrature_error"].values
    return group["entropic_barrier"].values - known, group["entropic_barrier_stderr"].values, known, x


def _rows(name: str, heights: Floats, errors: Floats, exact: Floats, known: Floats, x: Floats) -> list[Row]:
    return [
        Row(
            f"{name} {v:g}", h, e, w, "loss", rejected=0.5 * w, rejected_name="half as high", note=f"step etc. {k:+.2g}"
        )
        for v, h, e, w, k in zip(x, heights, errors, exact, known, strict=True)
    ]


def _slope(x: Floats, y: Floats, stderr: Floats) -> tuple[float, float]:
    """Weighted least-squares slope through the origin."""
    found = weighted_mean(y / x, stderr / x)
    return float(found.mean), float(found.stderr)


def _power(x: Floats, y: Floats, stderr: Floats) -> tuple[float, float]:
    """Power of x in y, from a weighted straight line through the logarithms, and its standard error."""
    weight = (y / stderr) ** 2
    centred = np.log(x) - np.average(np.log(x), weights=weight)
    scale = float((weight * centred**2).sum())
    return float((weight * centred * np.log(y)).sum() / scale), scale**-0.5


def dimension(quick: bool) -> list[Row]:
    """d = 1 to 100."""
    scan = Scan("dimension", DIMENSIONS[::3] if quick else DIMENSIONS)
    heights, errors, known, x = _heights(scan, quick, 1)
    each = 0.5 * TEMPERATURE * np.log(8.0)
    slope, error = _slope(x, heights, errors)
    power, power_error = _power(x, heights, errors)
    return [
        *_rows("height, d =", heights, errors, each * x, known, x),
        Row("height per dimension", slope, error, each, "loss", rejected=2 * each, rejected_name="T ln k"),
        Row("height ∝ d^p: p", power, power_error, 1.0, rejected=0.5, rejected_name="∝ √d"),
    ]


def stiffness_ratio(quick: bool) -> list[Row]:
    """Middle over end, 2 to 32, two dimensions."""
    heights, errors, known, x = _heights(Scan("stiffness_ratio", (2.0, 4.0, 8.0, 16.0, 32.0)), quick, 2)
    slope, error = _slope(np.log(x), heights, errors)
    linear = TEMPERATURE * (x[-1] - 1) / (x[0] - 1) * np.log(2.0) / np.log(32.0)  # ∝ k, fixed at the first
    return [
        *_rows("height, stiffness ratio =", heights, errors, TEMPERATURE * np.log(x), known, x),
        Row(
            "height per unit of ln(ratio), d = 2", slope, error, TEMPERATURE, "loss",
            rejected=linear, rejected_name="∝ the stiffness",
        ),
    ]  # fmt: skip


def temperature(quick: bool) -> list[Row]:
    """T over two decades: the height in units of T is a number."""
    heights, errors, known, x = _heights(Scan("temperature", (0.01, 0.1, 1.0)), quick, 3)
    power, power_error = _power(x, heights, errors)
    return [
        *_rows("height, T =", heights, errors, x * np.log(8.0), known, x),
        Row("height ∝ T^p: p", power, power_error, 1.0, rejected=0.0, rejected_name="an energy barrier"),
    ]
