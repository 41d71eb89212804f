"""Which entropic force preconditioned updates leave: natural gradient, its family, Adam."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.physics._rows import Row
from entropy_sim import theory
from entropy_sim.dynamics import SGD, Adam, Preconditioned
from entropy_sim.dynamics.base import Dynamics
from entropy_sim.landscapes import Channel, Exponential
from entropy_sim.measurements import mean_force, stationary
from entropy_sim.measurements.base import timescale_ratio
from entropy_sim.noise import CurvatureCovariance

TITLE = "preconditioned SGD has a force of the thermal form, P = k^-a the family alpha = b - a, Adam alpha = b / 2"

Floats = NDArray[np.float64]
_C, _REPLICAS = 0.2, 64
_STIFFNESS = (1.0, 16.0)
_S = np.array([0.1, 0.5, 0.9])


def rows(quick: bool) -> list[Row]:
    """All rows of the claim."""
    held = [*thermal_form(quick), *invariance(quick), *family(quick)]
    return [*held, *density(quick), *adam(quick), *adam_outside_its_limit(quick)]


def _channel(factor: float = 1.0) -> Channel:
    return Channel(Exponential(factor * _STIFFNESS[0], factor * _STIFFNESS[1]), transverse_directions=4)


def _variance(
    dynamics: Dynamics, exponent: float, steps: int, burn_in: int, factor: float = 1.0, seed: int = 3
) -> tuple[Floats, Floats]:
    """<x²> at the positions, from the mean force -(4/2) k' <x²> with C = c k^exponent, and its standard error."""
    channel = _channel(factor)
    tree = mean_force(
        channel,
        CurvatureCovariance(_C, exponent),
        dynamics,
        positions=tuple(_S),
        replicas=_REPLICAS,
        walkers=4,
        burn_in=burn_in * dynamics.time_step,
        duration=steps * dynamics.time_step,
        time_windows=1,
        stride=5,
        seed=seed,
    )
    force = tree["mean_force"].to_dataset()["mean_force"].values[:, :, 0]
    variance = -2.0 * force / channel.curvature_slope(_S).sum(axis=1)[:, None]
    return variance.mean(axis=1), variance.std(axis=1, ddof=1) / np.sqrt(_REPLICAS)


def _slope(k: Floats, variance: Floats, stderr: Floats) -> tuple[float, float]:
    """alpha of <x²> = T k^(alpha - 1), from a weighted straight line through the logarithms."""
    weight = (variance / stderr) ** 2
    x = np.log(k) - np.average(np.log(k), weights=weight)
    denominator = (weight * x**2).sum()
    return 1.0 + float((weight * x * np.log(variance)).sum() / denominator), float(denominator**-0.5)


def thermal_form(quick: bool) -> list[Row]:
    """a = b = 1, eta k up to 8: the temperature k <x²> is the same everywhere, for beta = 0 and 0.9."""
    k, result = _channel().curvature(_S)[:, 0], []
    for momentum in (0.0, 0.9):
        dynamics = Preconditioned(0.5, 1.0, momentum)
        temperature = float(dynamics.variance(np.ones(1), np.full(1, _C))[0])
        small = theory.effective_temperature(_C, 0.5, momentum)
        found, stderr = _variance(dynamics, 1.0, 4000 if quick else 20_000, 400)
        for i, s in enumerate(_S):
            result.append(
                Row(
                    f"natural gradient, β = {momentum:g}, s = {s:g}: k <x²>",
                    k[i] * found[i],
                    k[i] * stderr[i],
                    temperature,
                    rejected=float(small * k[i]),
                    rejected_name="plain SGD",
                )
            )
        alpha, error = _slope(k, found, stderr)
        name = f"natural gradient, β = {momentum:g}: α"
        result.append(Row(name, alpha, error, 0.0, rejected=1.0, rejected_name="plain SGD"))
    return result


def invariance(quick: bool) -> list[Row]:
    """All curvature times 25, other random numbers: the force (k' <x²>) stays; plain SGD's is 25 times larger."""
    steps, result = 2000 if quick else 20_000, []
    rules: tuple[tuple[str, Dynamics, float], ...] = (
        ("natural gradient", Preconditioned(0.3), 1.0),
        ("plain SGD", SGD(2e-3), 25.0),
    )
    for name, dynamics, expected in rules:
        natural = expected == 1.0
        low, high = (
            _variance(dynamics, 1.0, steps if natural else 4 * steps, 300 if natural else 4000, factor, seed)
            for factor, seed in ((1.0, 3), (25.0, 4))
        )
        ratio = 25.0 * high[0] / low[0]
        error = ratio * np.hypot(high[1] / high[0], low[1] / low[0])
        k = _channel().curvature(_S)[:, 0]
        if not natural:  # the finite learning rate, exactly
            expected_here = 25.0 * dynamics.variance(25 * k, _C * 25 * k) / dynamics.variance(k, _C * k)
        else:
            expected_here = np.ones(3)
        result.append(
            Row(
                f"{name}: force with 25 k over force with k",
                float(ratio[1]),
                float(error[1]),
                float(expected_here[1]),
                rejected=26.0 - expected,
                rejected_name="scales" if natural else "does not scale",
            )
        )
    return result


def density(quick: bool) -> list[Row]:
    """Free walkers, C = c k across and constant along the path: with the natural gradient p ∝ prod k_i^(-T / (2 D_y)),
    D_y = eta C_y / 2, a power of k (with plain SGD ln p falls with sum k_i), the better the slower y; ends left out."""
    rate, bins, channel, result = 0.1, 40, _channel(), []
    inside = slice(bins // 10, -bins // 10)
    log_k = np.log(channel.curvature((np.arange(bins) + 0.5) / bins)[inside, 0])
    dynamics = Preconditioned(rate)
    for along in (0.16, 0.04):
        noise, slopes = CurvatureCovariance(0.4 * along, 1.0, along), []
        for seed in range(8 if quick else 16):
            tree = stationary(
                channel,
                noise,
                dynamics,
                bins=bins,
                walkers=512 if quick else 2048,
                burn_in=200.0,
                duration=400.0 if quick else 600.0,
                seed=seed,
            )
            slopes.append(-np.polyfit(log_k, np.log(tree["stationary"].to_dataset()["density"].values[inside]), 1)[0])
        ratio = timescale_ratio(channel, noise, dynamics)
        temperature = float(dynamics.variance(np.ones(1), np.full(1, 0.4 * along))[0])
        expected = 2.0 * temperature / dynamics.diffusion(np.array(along), "gradient_covariance")
        result.append(
            Row(
                f"natural gradient, free, timescale ratio {ratio:.3f}: -d ln p / d ln k",
                float(np.mean(slopes)),
                float(np.std(slopes, ddof=1) / np.sqrt(len(slopes))),
                float(expected),
                bias=ratio,
                rejected=0.5 * float(expected),
                rejected_name="half of it",
            )
        )
    return result


def family(quick: bool) -> list[Row]:
    """alpha = b - a; what the finite learning rate adds to the slope is given as a bias."""
    k, result = _channel().curvature(_S)[:, 0], []
    for a, b in ((1.0, 0.5), (0.5, 0.5), (0.5, 1.0), (0.0, 1.0)):
        dynamics = Preconditioned(0.01, a)
        exact, _ = _slope(k, dynamics.variance(k, _C * k**b), np.ones(3))
        found, stderr = _variance(dynamics, b, 5000 if quick else 60_000, 1500)
        alpha, error = _slope(k, found, stderr)
        name = f"P = k^-{a:g}, C ∝ k^{b:g}: α"
        result.append(
            Row(name, alpha, error, b - a, bias=abs(exact - b + a), rejected=b - a + 0.5, rejected_name="+1/2")
        )
    return result


def adam(quick: bool) -> list[Row]:
    """Small eta k / √C, slow second moments, small epsilon: V = U + (eta √c / 2) sum √k for C = c k; for C = c the
    thermal form with T = eta √c / 2."""
    k, result = _channel().curvature(_S)[:, 0], []
    eta, steps = 0.003, 4000 if quick else 40_000
    for b in (1.0, 0.0):
        dynamics = Adam(eta, 0.9, 0.999, 1e-12)
        found, stderr = _variance(dynamics, b, steps, 5000)
        exact = theory.variance_adam(k, _C * k**b, eta, 0.9)
        alpha, error = _slope(k, found, stderr)
        expected, _ = _slope(k, exact, np.ones(3))
        name = "C = c k" if b else "C = c"
        bias = abs(expected - 0.5 * b) + (1.0 - dynamics.beta2)
        wrong = {"rejected": 1.0, "rejected_name": "plain SGD"} if b else {"rejected": 0.5, "rejected_name": "1/2"}
        result.append(Row(f"Adam, {name}: α", alpha, error, 0.5 * b, bias=bias, **wrong))  # type: ignore[arg-type]
        predicted = 0.5 * eta * np.sqrt(_C * k**b) / k
        result.append(
            Row(
                f"Adam, {name}: force / predicted, s = {_S[1]:g}",
                found[1] / predicted[1],
                stderr[1] / predicted[1],
                1.0,
                bias=float(abs(exact[1] / predicted[1] - 1.0)) + (1.0 - dynamics.beta2),
                rejected=2.0 if b else 0.5,
                rejected_name="a missing 1/2" if b else "another 1/2",
            )
        )
    return result


def adam_outside_its_limit(quick: bool) -> list[Row]:
    """C = c k at s = 1/2: larger steps, quicker second moments, larger epsilon. Where there is a formula, it is tested;
    the other rows show how far the prediction of the limit is off."""
    k, i, steps = _channel().curvature(_S)[:, 0], 1, 6000 if quick else 20_000
    noise, result = _C * k, []

    def row(name: str, dynamics: Adam, expected: float | None, note: str = "", bias: float = 0.0) -> Row:
        found, stderr = _variance(dynamics, 1.0, steps, 5000)
        limit = 0.5 * dynamics.learning_rate * np.sqrt(noise[i]) / k[i]
        return Row(
            f"Adam, {name}: force / predicted",
            found[i] / limit,
            stderr[i] / limit,
            None if expected is None else expected / limit,
            rejected=None if expected is None else 1.0,
            rejected_name="the limit",
            bias=bias,
            note=note,
        )

    for size in (0.1, 0.5, 2.0):
        eta = size * np.sqrt(noise[i]) / k[i]
        for beta1 in (0.0, 0.9):
            expected = float(theory.variance_adam(k[i], noise[i], eta, beta1))
            name = f"ηk/√C = {size:g}, β1 = {beta1:g}"
            # The second moments still fluctuate by √(1 - β2): an effect of its order.
            result.append(row(name, Adam(eta, beta1, 0.999, 1e-12), expected, bias=2e-3))
    eta = 0.1 * np.sqrt(noise[i]) / k[i]
    for beta2 in (0.99, 0.9, 0.5):
        result.append(row(f"β1 = 0, β2 = {beta2:g}", Adam(eta, 0.0, beta2, 1e-12), None, "no formula"))
    # Signs: the lattice of step eta adds about (eta k / √C) / 2 to 1.25, so that small steps are wanted.
    eta = 0.02 * np.sqrt(noise[i]) / k[i]
    sign = float(theory.variance_sign_descent(k[i], noise[i], eta))
    limit = 0.5 * eta * np.sqrt(noise[i]) / k[i]
    result.append(row("β1 = β2 = 0 (signs)", Adam(eta, 0.0, 0.0, 1e-12), sign, "small steps", bias=0.01 * sign / limit))
    for relative in (0.1, 1.0):
        epsilon = relative * np.sqrt(noise[i])
        # As the noise of a learning rate divided by 1 + epsilon / √C, small eta k / √C.
        small = 0.01 * np.sqrt(noise[i]) / k[i]
        expected = float(0.5 * small * np.sqrt(noise[i]) / k[i] / (1.0 + relative))
        dynamics = Adam(small, 0.0, 0.999, float(epsilon))
        result.append(row(f"ε/√C = {relative:g}", dynamics, expected, "small steps", bias=0.006))
    return result
