"""u w x on actual samples: minibatch noise that is there at the minimum drives u² - w² to zero, as fast as said."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.physics._rows import Row
from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD
from entropy_sim.landscapes import GeneratedSamples, TwoLayerLinear
from entropy_sim.noise import Label, Minibatch

TITLE = "two-layer linear network: minibatches and labels really drawn, drift towards balance"

Floats = NDArray[np.float64]
_RESIDUALS = TwoLayerLinear(GeneratedSamples(residual=0.5))
_REALISABLE = TwoLayerLinear(GeneratedSamples(residual=0.0))


def rows(quick: bool) -> list[Row]:
    """All rows of the claim."""
    return [law_of_balance(quick), *first_step(quick), drift(quick), no_drift(quick), *relaxation(quick)]


def _balance(theta: Floats) -> Floats:
    return theta[:, 0] ** 2 - theta[:, 1] ** 2


def _released(landscape: TwoLayerLinear, noise: Label | Minibatch, eta: float, walkers: int, seed: int) -> Ensemble:
    """Walkers on the valley at s = 0.9."""
    return Ensemble(landscape, noise, SGD(eta), np.repeat(landscape.path(0.9), walkers, axis=0), seed=seed)


def law_of_balance(quick: bool) -> Row:
    """b' = b (1 - eta² g²) for every walker and step, g read off the change of u."""
    eta = 0.1
    ensemble = _released(_RESIDUALS, Label(0.5, 4), eta, 512, seed=1)
    worst, before = 0.0, ensemble.theta
    for _ in range(20 if quick else 200):
        ensemble.advance(1)
        after = ensemble.theta
        g = (before[:, 0] - after[:, 0]) / (eta * before[:, 1])
        expected = theory.balance_after_step(before[:, 0], before[:, 1], g, eta)
        worst = max(worst, float(np.abs(_balance(after) / expected - 1.0).max()))
        before = after
    return Row("largest error of u²-w² -> (u²-w²)(1 - eta² g²)", worst, 0.0, note="relative, any walker and step")


def first_step(quick: bool) -> list[Row]:
    """<g²> of one step from the valley: exactly the variance that the samples have, for every way to draw them."""
    eta, walkers, n = 0.1, 200_000 if quick else 4_000_000, _RESIDUALS.sample_count
    x, y = _RESIDUALS.data.numbers()
    spread, second = float((x * (_RESIDUALS.product * x - y)).var()), float((x * x).mean())
    cases = [
        ("batches of 8", Minibatch(8), spread / 8, spread / 9, "1/(B+1)"),
        ("batches of 32 of 64, no sample twice", Minibatch(32, False), spread * 32 / 63 / 32, spread / 32, "1/B"),
        ("batches of 40 of 64, no sample twice", Minibatch(40, False), spread * 24 / 63 / 40, spread / 40, "1/B"),
        ("batches of 8, labels", Label(0.5, 8), (spread + 0.25 * second) / 8, 0.25 * second / 8, "labels alone"),
        ("all samples, labels", Label(0.5, None), 0.25 * second / n, 0.5 * second / n, "sigma for sigma²"),
    ]
    out = []
    for i, (name, noise, expected, rejected, why) in enumerate(cases):
        ensemble = _released(_RESIDUALS, noise, eta, walkers, seed=2 + i)
        before = _balance(ensemble.theta)
        ensemble.advance(1)
        square = (1.0 - _balance(ensemble.theta) / before) / eta**2
        error = float(square.std()) / np.sqrt(walkers)
        out.append(
            Row(
                f"<g²> on the valley, {name}",
                float(square.mean()),
                error,
                expected,
                "loss² / parameter⁴",
                rejected=rejected,
                rejected_name=why,
            )
        )
    return out


def drift(quick: bool) -> Row:
    """Label noise on realisable data: -eta² sigma² E x² / B per step, with the valley's width in it."""
    eta, sigma, batch, before, steps = 0.05, 0.5, 8, 50, 400
    walkers = 1024 if quick else 16384
    ensemble = _released(_REALISABLE, Label(sigma, batch), eta, walkers, seed=10)
    ensemble.advance(before)
    start = ensemble.theta
    ensemble.advance(steps)
    change = np.log(_balance(ensemble.theta) / _balance(start)) / steps
    u, w = _REALISABLE.path(0.9)[0]
    fourth = float((_REALISABLE.data.numbers()[0] ** 4).mean())
    arguments = _REALISABLE.second_moment, sigma**2, eta, batch
    leading = float(theory.balance_rate(*arguments))
    return Row(
        "drift of ln(u²-w²) per step, labels",
        float(change.mean()),
        float(change.std() / np.sqrt(walkers)),
        float(theory.balance_rate_with_width(u, w, *arguments, fourth)),
        bias=2e-3 * abs(leading),
        rejected=0.5 * leading,
        rejected_name="half the rate",
        note=f"leading order {leading:.5g}",
    )


def no_drift(quick: bool) -> Row:
    """Realisable noiseless data: no noise at the minimum, no drift."""
    ensemble = _released(_REALISABLE, Minibatch(2), 0.05, 256, seed=11)
    before = _balance(ensemble.theta)
    ensemble.advance(500 if quick else 5000)
    moved = float(np.abs(_balance(ensemble.theta) / before - 1.0).max())
    return Row("largest change of u²-w², realisable data without noise", moved, 0.0, note="relative")


def relaxation(quick: bool) -> list[Row]:
    """Irreducible residuals, no label noise: u² - w² falls by e per 1 / (eta² <g²>) steps, and never changes sign."""
    eta, batch, walkers, steps = 0.05, 2, 128 if quick else 2048, 4000 if quick else 8000
    ensemble = _released(_RESIDUALS, Minibatch(batch), eta, walkers, seed=12)
    start = float(_balance(ensemble.theta)[0])
    ensemble.advance(steps)
    found = np.log(_balance(ensemble.theta) / start)
    x = _RESIDUALS.data.numbers()[0]
    second, fourth = _RESIDUALS.second_moment, float((x**4).mean())
    residual = _RESIDUALS.batch_gradient_variance(1, True, 0.0) / second
    expected = 0.0
    for _ in range(200):  # d ln b / dn at the point of the valley with that balance
        radius = np.hypot(start * np.exp(expected), 2.0 * _RESIDUALS.product)
        u, w = np.sqrt(0.5 * (radius + start * np.exp(expected))), np.sqrt(0.5 * (radius - start * np.exp(expected)))
        rate = theory.balance_rate_with_width(u, w, second, residual, eta, batch, fourth)
        expected += float(rate) * steps / 200
    leading = float(theory.balance_rate(second, residual, eta, batch)) * steps
    error = float(found.std() / np.sqrt(walkers))
    return [
        Row(
            f"relaxation: ln of (u²-w²) after {steps} steps over before",
            float(found.mean()),
            error,
            expected,
            bias=0.01 * abs(expected),
            rejected=0.5 * leading,
            rejected_name="half the rate",
            note=f"leading order {leading:.4g}",
        ),
        Row(
            "walkers that crossed u² = w²",
            float(np.isnan(found).sum()),
            0.0,
            note="exactly 0: b shrinks, never crosses",
        ),
    ]
