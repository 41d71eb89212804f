"""Round a bend: what constrained dynamics records there, and what it misses."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from benchmarks.physics._rows import Row
from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.landscapes import Bump, CurvedChannel, Exponential
from entropy_sim.measurements import mean_force, stationary
from entropy_sim.noise import GradientCovariance, Thermal

TITLE = "mean force, free drift and circulation on curved paths and in rotating eigenframes"

Floats = NDArray[np.float64]
_POINT = 0.4
_REPLICAS = 32


def rows(quick: bool) -> list[Row]:
    """All rows of the claim."""
    return [*annulus(quick), density(quick), free_drift(quick), *rotating_frame(quick), *circulation(quick)]


def _averages(tree: xr.DataTree, name: str) -> tuple[Floats, Floats]:
    """Mean and standard error at each position, from independent replicas."""
    per_replica = tree["mean_force"][name].mean("time_window").transpose("s", "replica").values
    return per_replica.mean(axis=1), per_replica.std(axis=1, ddof=1) / np.sqrt(per_replica.shape[1])


def annulus(quick: bool) -> list[Row]:
    """Both constrained averages at T / (k R²) = 0.015, five per cent apart."""
    landscape = CurvedChannel(Exponential(1.0, 20.0), angle=180.0)
    k = landscape.curvature(_POINT)[0, 0]
    slope, temperature = landscape.curvature_slope(_POINT)[0, 0], 0.015 * k
    exact = theory.annulus(k, slope, landscape.radius, temperature, inner_radius=0.1)  # no weight further in
    # Exact variance at any stable step: the plane's dynamics is linear.
    step = 0.5 / landscape.curvature([0.0, 1.0]).max()
    tree = mean_force(
        landscape,
        Thermal(temperature),
        Overdamped(step, "leimkuhler_matthews"),
        positions=(_POINT,),
        replicas=_REPLICAS,
        walkers=128 if quick else 512,
        burn_in=10.0 / k,
        duration=200.0 / k,
        stride=10,
        seed=1,
    )
    (rigid,), (rigid_error,) = _averages(tree, "mean_force")
    (curved,), (curved_error,) = _averages(tree, "mean_force_curved")
    straight = -0.5 * temperature * slope / k
    return [
        Row(
            "annulus, T/(kR²) = 0.015: mean force, rigid planes",
            rigid,
            rigid_error,
            float(exact.mean_force),
            "loss / parameter",
            rejected=float(straight),
            rejected_name="straight path",
        ),
        Row(
            "annulus, T/(kR²) = 0.015: -dA/ds, turning planes",
            curved,
            curved_error,
            float(exact.mean_force_curved),
            "loss / parameter",
            rejected=float(exact.mean_force),
            rejected_name="rigid planes",
        ),
    ]


def density(quick: bool) -> Row:
    """The marginal of s follows F, not the work of the rigid planes' force: <cos 2 pi s> on a closed circle."""
    landscape, temperature = CurvedChannel(Bump(1.0, 4.0)), 0.03
    tree = stationary(
        landscape,
        Thermal(temperature),
        Overdamped(0.05, "leimkuhler_matthews"),
        bins=60,
        walkers=1024 if quick else 8192,
        burn_in=100.0,
        duration=200.0 if quick else 2500.0,
        stride=20,
        seed=6,
    )
    group = tree["stationary"].to_dataset()
    cosine = np.cos(2.0 * np.pi * group["s"].values)
    size = float(group.attrs["effective_sample_size"])
    found = float((group["density"].values * cosine).mean())
    spread = float((group["density"].values * cosine**2).mean()) - found**2
    s = np.linspace(0.0, 1.0, 2001)
    k, slope = landscape.curvature(s)[:, 0], landscape.curvature_slope(s)[:, 0]
    exact = theory.annulus(k, slope, landscape.radius, temperature, inner_radius=0.1)
    rigid = theory.mean_force_work(s * landscape.arc_length, exact.mean_force)

    def average(potential: Floats) -> float:
        weight = np.exp(-potential / temperature)
        return float(np.trapezoid(weight * np.cos(2.0 * np.pi * s)) / np.trapezoid(weight))

    return Row(
        "closed circle: <cos 2 pi s> of the free walkers",
        found,
        float(np.sqrt(spread / size)),
        average(exact.free_energy),
        rejected=0.0 if quick else average(rigid),
        rejected_name="no entropic force" if quick else "work of the rigid planes",
    )


def free_drift(quick: bool) -> Row:
    """Tangent-normal noise correlation drives free SGD round a bend, +eta² gamma''ᵀ C t per step, on a flat valley."""
    landscape, eta, steps, correlation = CurvedChannel(Bump(2.0, 2.0)), 0.02, 20, 0.9
    noise = GradientCovariance(((1.0, correlation), (correlation, 1.0)))
    walkers = 300_000 if quick else 3_000_000
    ensemble = Ensemble(landscape, noise, SGD(eta), np.repeat(landscape.path(0.0), walkers, axis=0), seed=3)
    ensemble.advance(steps)
    moved = np.arctan2(ensemble.theta[:, 1], ensemble.theta[:, 0]) * landscape.radius
    drift = theory.tangent_normal_drift(
        landscape.path_curvature(0.0)[0], np.array(noise.covariance), landscape.tangent(0.0)[0], eta
    )
    # C is constant, the frame turns with the walkers as they spread: C_rt = c <cos 2 phi>, and r fluctuates.
    before = np.arange(steps) * eta**2
    turned = float(np.mean(np.exp(-2.0 * before) * (1.0 + 3.0 * before)))
    return Row(
        "free drift per step from tangent-normal correlation",
        float(moved.mean()) / steps,
        float(moved.std() / np.sqrt(walkers)) / steps,
        float(drift) * turned,
        "parameter",
        bias=abs(float(drift)) * 0.002,
        rejected=0.5 * float(drift) * turned,
        rejected_name="half of it",
        note="constrained runs: 0",
    )


def _lyapunov(landscape: CurvedChannel, noise: Floats, s: Floats, eta: float) -> Floats:
    """Mean force of the turning planes, exact at any stable learning rate: the plane's dynamics is linear."""
    return theory.mean_force_lyapunov(
        landscape.transverse_hessian(s),
        noise,
        landscape.transverse_hessian_slope(s),
        eta,
        tangent=landscape.tangent(s),
        exact=True,
    )


def rotating_frame(quick: bool) -> list[Row]:
    """The eigenframe turns about the tangent, C is not proportional to H: the Lyapunov equation, not its diagonal."""
    landscape = CurvedChannel(
        Exponential(1.0, 2.0), transverse_directions=2, amplitudes=(1.0, 4.0), radius=2.0, angle=90.0, twist=0.5
    )
    covariance = ((0.3, 0.0, 0.1), (0.0, 0.3, 0.0), (0.1, 0.0, 0.1))
    noise, eta, s = GradientCovariance(covariance), 0.1, np.array([0.2, 0.5, 0.8])
    tree = mean_force(
        landscape,
        noise,
        SGD(eta),
        positions=tuple(s),
        replicas=_REPLICAS,
        walkers=64 if quick else 512,
        burn_in=10.0,
        duration=100.0,
        stride=10,
        seed=4,
    )
    found, error = _averages(tree, "mean_force_curved")
    exact = _lyapunov(landscape, np.array(covariance), s, eta)
    variance = theory.variance_sgd(landscape.curvature(s), noise.transverse(landscape, s), eta)
    diagonal = theory.mean_force(landscape.curvature_slope(s), variance)
    return [
        Row(
            f"rotating eigenframe, s = {s[i]:g}: mean force of SGD",
            found[i],
            error[i],
            float(exact[i]),
            "loss / parameter",
            rejected=float(diagonal[i]),
            rejected_name="diagonal alone",
        )
        for i in range(len(s))
    ]


def circulation(quick: bool) -> list[Row]:
    """With noise that is no function of H the mean force has no potential: its work round a closed circle, and the
    current of free walkers that it drives."""
    landscape = CurvedChannel(
        Bump(1.0, 1.0), transverse_directions=2, amplitudes=(1.0, 4.0), radius=2.0, twist=1.0, twist_start=0.125
    )
    variances, eta, points = (0.5, 0.1, 0.3), 0.1, 12
    noise, s = GradientCovariance((variances,)), np.arange(points) / points
    tree = mean_force(
        landscape,
        noise,
        SGD(eta),
        positions=tuple(s),
        replicas=_REPLICAS,
        walkers=16 if quick else 128,
        burn_in=10.0,
        duration=100.0,
        stride=10,
        seed=5,
    )
    found, error = _averages(tree, "mean_force_curved")
    spacing = landscape.arc_length / points  # the trapezoidal rule, exact to rounding for the few harmonics here
    fine = np.arange(480) / 480.0
    force = _lyapunov(landscape, np.diag(variances), fine, eta)
    work = Row(
        "closed circle: work of the mean force in one turn",
        float(found.sum()) * spacing,
        float(np.sqrt((error**2).sum())) * spacing,
        float(force.mean()) * landscape.arc_length,
        "loss",
        rejected=0.0,
        rejected_name="any potential",
    )
    c, t = np.diag(variances), landscape.tangent(fine)
    drift = force + theory.tangent_normal_drift(landscape.path_curvature(fine), c, t, eta) / eta
    diffusion = 0.5 * eta * np.einsum("ni,ij,nj->n", t, c, t)
    speed, speed_error = _mean_speed(landscape, noise, eta, quick)
    current = Row(
        "closed circle: mean speed of free walkers",
        speed,
        speed_error,
        _ring_speed(drift, diffusion, landscape.arc_length),
        "parameter per time",
        bias=0.05 * abs(speed),
        rejected=0.0,
        rejected_name="detailed balance",
        note="reduced dynamics, first order in the noise",
    )
    return [work, current]


def _mean_speed(landscape: CurvedChannel, noise: GradientCovariance, eta: float, quick: bool) -> tuple[float, float]:
    """Mean speed along a closed circle after the density has settled, turns counted, and its standard error."""
    walkers, pieces, steps = 512 if quick else 2048, 60 if quick else 240, 200
    ensemble = Ensemble(landscape, noise, SGD(eta), landscape.path(np.arange(walkers) / walkers), seed=7)
    ensemble.advance(6000)
    moved, before = np.zeros(walkers), landscape.position(ensemble.theta)
    for _ in range(pieces):  # short enough that none goes half way round
        ensemble.advance(steps)
        after = landscape.position(ensemble.theta)
        moved += (after - before + 0.5) % 1.0 - 0.5
        before = after
    speed = moved * landscape.arc_length / (pieces * steps * eta)
    return float(speed.mean()), float(speed.std() / np.sqrt(walkers))


def _ring_speed(drift: Floats, diffusion: Floats, length: float) -> float:
    """Length times the stationary current J of dy = f dt + sqrt(2 D) dW (Itô) on a ring, J = f p - (D p)'."""
    step = length / len(drift)
    slope = np.append(drift / diffusion, drift[0] / diffusion[0])
    rise = np.exp(np.concatenate([[0.0], np.cumsum(0.5 * (slope[1:] + slope[:-1]) * step)]))
    fall = np.concatenate([[0.0], np.cumsum(0.5 * (1.0 / rise[1:] + 1.0 / rise[:-1]) * step)])
    current = (rise[-1] - 1.0) / (rise[-1] * fall[-1])  # times D p at the origin
    flux = rise * (1.0 - current * fall)  # D p
    return float(current / (flux[:-1] / diffusion).mean())
