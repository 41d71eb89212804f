"""Heavy-tailed noise: exact stationary laws, and wells left by single jumps instead of over the barrier."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma

from benchmarks.physics._rows import Row
from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.landscapes import Quadratic
from entropy_sim.measurements import escape
from entropy_sim.noise import Levy, LevyGradient

TITLE = "alpha-stable noise leaves a well in a time ∝ σ^-α, whatever its depth, where Gaussian noise needs exp(ΔU/T)"

Floats = NDArray[np.float64]
#: The well L = x²/2 between -1 and 1 (and a second coordinate that plays no part): depth 1/2.
WELL = Quadratic(((1.0, 1.0),), start=(-1.0, 0.0), end=(1.0, 0.0))
STEP = 0.05


def rows(quick: bool) -> list[Row]:
    """Scales of stationary laws, rates of escape, and how they grow with the noise."""
    return stationary_scales(quick) + rates(quick)


def stationary_scales(quick: bool) -> list[Row]:
    """Scale of the stationary law on k = 1, h = 1/2, from <cos(u x)> at u = 1/scale."""
    found = []
    for alpha in (1.2, 1.5, 1.7):
        for name, noise, dynamics, exact, wrong, wrong_name in (
            (
                "Euler",
                Levy(alpha, 0.2),
                Overdamped(0.5),
                theory.scale_levy_euler(1.0, 0.2, 0.5, alpha),
                theory.scale_levy_euler(1.0, 0.2, 0.5, alpha) * 0.5 ** (0.5 - 1.0 / alpha),
                "increments ∝ √h",
            ),
            (
                "SGD",
                LevyGradient(alpha, 0.2),
                SGD(0.5),
                theory.scale_levy_sgd(1.0, 0.2, 0.5, alpha),
                theory.scale_levy_euler(1.0, 0.2, 0.5, alpha),
                "increments ∝ η^(1/α)",
            ),
        ):
            ensemble = Ensemble(
                WELL, noise, dynamics, np.zeros((20_000 if quick else 400_000, 2)), seed=round(10 * alpha)
            )
            ensemble.advance(40)
            c = np.cos(ensemble.theta / float(exact)).ravel()
            mean, error = c.mean(), c.std() / np.sqrt(c.size)
            scale = float(exact) * (-np.log(mean)) ** (1.0 / alpha)
            stderr = scale * error / (mean * alpha * -np.log(mean))
            row = Row(
                f"{name}, α = {alpha}: stationary scale at hk = 1/2", scale, stderr, float(exact), "parameter",
                rejected=float(wrong), rejected_name=wrong_name,
            )  # fmt: skip
            found.append(row)
    return found


def rates(quick: bool) -> list[Row]:
    """Rates of escape against those of the same Markov chain on a grid, and their powers of sigma."""
    found = []
    sigmas = (0.1, 0.2) if quick else (0.05, 0.1, 0.2)
    for alpha in (1.2, 1.5, 1.8):
        measured = np.array([_measured(alpha, sigma, quick) for sigma in sigmas])
        exact = np.array([exact_rate(alpha, sigma, STEP) for sigma in sigmas])
        for sigma, (rate, error), expected in zip(sigmas, measured, exact, strict=True):
            name = f"α = {alpha}, σ = {sigma}: rate of escape"
            wrong = expected * STEP ** (0.5 * alpha - 1.0)
            note = f"single jumps alone: {single_jump_rate(alpha, sigma):.4g}"
            found.append(Row(name, rate, error, expected, "1/time", 0.0, wrong, "increments ∝ √h", note))
        power, error = _power(sigmas, measured[:, 0], measured[:, 1])
        exact_power = _power(sigmas, exact, 0.01 * exact)[0]
        kramers = _power(sigmas, np.exp(-0.5 / np.square(sigmas)), np.ones(len(sigmas)))[0]
        note = f"the chain's own: {exact_power:.3f}"
        name = f"α = {alpha}: power of σ in the rate"
        found.append(Row(name, power, error, alpha, "1", abs(exact_power - alpha), kramers, "exp(-ΔU/σ²)", note))
    hot = (0.3, 0.4)
    gauss = np.array([_measured(2.0, sigma, quick) for sigma in hot])
    power, error = _power(hot, gauss[:, 0], gauss[:, 1])
    expected = _power(hot, np.array([exact_rate(2.0, sigma, STEP) for sigma in hot]), np.ones(2))[0]
    found.append(Row("α = 2: the same power, T = 0.09 … 0.16", power, error, expected, rejected=2.0, rejected_name="α"))
    return found


def single_jump_rate(alpha: float, sigma: float) -> float:
    """Rate of jumps longer than the well's half-width 1, ``2 sigma^α Gamma(α) sin(pi α / 2) / pi``: the rate of escape
    as sigma -> 0 (Imkeller, Pavlyukevich, J. Phys. A 39 (2006) L237)."""
    return float(2.0 * sigma**alpha * gamma(alpha) * np.sin(0.5 * np.pi * alpha) / np.pi)


def exact_rate(alpha: float, sigma: float, step: float) -> float:
    """Rate of escape of the chain x <- (1 - h) x + sigma h^(1/α) zeta out of |x| < 1: minus the logarithm of the
    leading eigenvalue of its kernel on a grid, over h; independent of the simulator."""
    scale = sigma * step ** (1.0 / alpha)
    n = int(min(2400, max(400, 10.0 / scale)))
    x = (np.arange(n) + 0.5) * 2.0 / n - 1.0
    fine, size = 2.0 / n / 4.0, 1 << 19  # four points to a cell; the density from its characteristic function
    u = 2.0 * np.pi * np.fft.rfftfreq(size, fine)
    density = np.fft.irfft(np.exp(-((scale * u) ** alpha)), size) / fine
    at = np.arange(size // 2) * fine
    kernel = np.interp(np.abs(x[:, None] - (1.0 - step) * x[None, :]), at, density[: size // 2]) * 2.0 / n
    weight = np.ones(n)
    for _ in range(400):
        weight = kernel @ weight
        total = weight.sum()
        weight /= total
    return float(-np.log((kernel @ weight).sum()) / step)


def _measured(alpha: float, sigma: float, quick: bool) -> tuple[float, float]:
    """Rate and standard error, most of the walkers having escaped."""
    duration = 1.5 / exact_rate(alpha, sigma, STEP)
    options = {"start": 0.5, "lower": 0.0, "upper": 1.0, "replicas": 2000 if quick else 10_000}
    noise, dynamics = Levy(alpha, sigma), Overdamped(STEP)
    # The walkers settle within a few relaxation times of 1.
    tree = escape(
        WELL,
        noise,
        dynamics,
        duration=10.0 + duration,
        transient=10.0,
        seed=round(1e4 * alpha + 100 * sigma),
        **options,
    )
    group = tree["escape"]
    return float(group["rate"]), float(group["rate_stderr"])


def _power(sigmas: tuple[float, ...], rate: Floats, error: Floats) -> tuple[float, float]:
    """d ln rate / d ln sigma by weighted least squares, and its standard error."""
    x, weight = np.log(sigmas), (rate / error) ** 2
    centre = (weight * x).sum() / weight.sum()
    spread = (weight * (x - centre) ** 2).sum()
    return float((weight * (x - centre) * np.log(rate)).sum() / spread), float(1.0 / np.sqrt(spread))
