"""Mean first-passage times against closed forms, scipy's double quadrature, a tridiagonal solve, and simulation."""

import numpy as np
import pytest
from scipy import integrate
from scipy.linalg import solve_banded

from entropy_sim import theory
from entropy_sim.errors import UserError


def test_free_diffusion():
    a = np.array([0.0, 0.3, 1.2, 2.0])
    right = theory.mean_first_passage_time(a, (0.0, 2.0), 0.0, 0.4)
    assert right.time == pytest.approx((4 - a**2) / 0.8, rel=1e-11)
    assert np.all(right.right_probability == 1)
    left = theory.mean_first_passage_time(a, (0.0, 2.0), 0.0, 0.4, "left")
    assert left.time == pytest.approx((4 - (2 - a) ** 2) / 0.8, rel=1e-11)
    both = theory.mean_first_passage_time(a, (0.0, 2.0), 0.0, 0.4, "both")
    assert both.time == pytest.approx(a * (2 - a) / 0.8, rel=1e-11)
    assert both.right_probability == pytest.approx(a / 2, rel=1e-11)
    assert right.log_time[:3] == pytest.approx(np.log(right.time[:3]))


def test_constant_drift_between_two_ends():
    f, d, a = 0.7, 0.3, 0.4
    found = theory.mean_first_passage_time(a, (0.0, 1.0), lambda y: -f * y, d, "both")
    split = np.expm1(-f * a / d) / np.expm1(-f / d)
    assert found.right_probability == pytest.approx(split, rel=1e-11)
    assert found.time == pytest.approx((split - a) / f, rel=1e-11)


def v(y):
    return 0.8 * np.cos(2 * np.pi * y) + 0.3 * y


@pytest.mark.parametrize("end", ["left", "right"])
def test_double_quadrature(end):
    d, a = 0.15, 0.4
    span = (lambda y: 0.0, lambda y: y) if end == "right" else (lambda y: y, lambda y: 1.3)
    outer = (a, 1.3) if end == "right" else (0.0, a)
    expected, _ = integrate.dblquad(lambda z, y: np.exp((v(y) - v(z)) / d) / d, *outer, *span, epsrel=1e-10, epsabs=0)
    found = theory.mean_first_passage_time(a, (0.0, 1.3), v, d, end)
    assert found.time == pytest.approx(expected, rel=1e-9)
    assert found.relative_error < 1e-8


@pytest.mark.parametrize("end", ["left", "right", "both"])
def test_state_dependent_diffusion_solves_the_backward_equation(end):
    """D tau'' - V' tau' = -1, second differences on 4000 cells: Itô, not Stratonovich."""
    n, right = 4000, 1.3
    y = np.linspace(0.0, right, n + 1)
    h = y[1]

    def d(y):
        return 0.3 * np.exp(0.9 * np.sin(4 * y))

    drift = 1.6 * np.pi * np.sin(2 * np.pi * y) - 0.3
    low, high = d(y) / h**2 - drift / (2 * h), d(y) / h**2 + drift / (2 * h)
    middle, source = -2 * d(y) / h**2, -np.ones(n + 1)
    high[0], low[-1] = high[0] + low[0], low[-1] + high[-1]  # mirrors
    for i, absorbs in ((0, end != "right"), (n, end != "left")):
        if absorbs:
            low[i], high[i], middle[i], source[i] = 0.0, 0.0, 1.0, 0.0
    bands = np.stack([np.roll(high, 1), middle, np.roll(low, -1)])
    tau = solve_banded((1, 1), bands, source)
    at = [n // 5, n // 2, 4 * n // 5]
    found = theory.mean_first_passage_time(y[at], (0.0, right), v, d, end)
    assert found.time == pytest.approx(tau[at], rel=1e-4)
    constant = theory.mean_first_passage_time(y[at], (0.0, right), v, 0.3, end)
    assert np.max(np.abs(constant.time / tau[at] - 1)) > 0.1


def test_tables_and_kinks_report_their_error():
    y = np.linspace(0.0, 1.3, 400)
    exact = theory.mean_first_passage_time(0.4, (0.0, 1.3), v, 0.15)
    table = theory.mean_first_passage_time(0.4, (0.0, 1.3), (y, v(y)), (y, np.full(400, 0.15)))
    assert table.time == pytest.approx(exact.time, rel=1e-6)
    # |y| has a kink inside a cell: tau known by cutting there.
    kink = theory.mean_first_passage_time(-0.2, (-1.0, 1.0), lambda y: -np.abs(y - 0.1234), 0.2, tolerance=1e-6)
    cut = theory.mean_first_passage_time([-0.2, 0.1234], (-1.0, 1.0), lambda y: -np.abs(y - 0.1234), 0.2)
    assert cut.relative_error[0] < 1e-8
    assert abs(kink.time / cut.time[0] - 1) < 3 * kink.relative_error + 1e-12
    assert kink.relative_error < 1e-6


def test_high_barriers_follow_kramers_and_stay_finite_as_logarithms():
    """U = b (1 - cos 2πy)/2 from a minimum: to the next one, over its top. Relative correction O(D / b)."""
    b, errors = 1.0, []
    curvature = 2 * np.pi**2 * b
    for d in (0.05, 0.025, 1 / 80):
        found = theory.mean_first_passage_time(
            0.0, (-0.5, 1.0), lambda y: 0.5 * b * (1 - np.cos(2 * np.pi * y)), d, "right"
        )
        errors.append(float(found.time / theory.kramers_time(curvature, curvature, b, d) - 1))
    assert np.all(np.abs(errors) < 2 * np.array([0.05, 0.025, 1 / 80]))
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.15)
    huge = theory.mean_first_passage_time(
        0.0, (-0.5, 1.0), lambda y: 0.5 * b * (1 - np.cos(2 * np.pi * y)), 1e-3, "right"
    )
    assert np.isinf(huge.time)
    assert huge.log_time == pytest.approx(1e3 + np.log(2 * np.pi / curvature), abs=2e-3)


def test_entropic_barrier_is_not_arrhenius():
    """Thermal F = (T/2) ln k: tau D independent of T; the energy barrier's ln tau has slope Delta U in 1/T."""

    def k(y):
        return np.exp(3.0 * np.sin(np.pi * y) ** 2)

    scaled = [
        T
        * float(
            theory.mean_first_passage_time(
                0.0, (-0.5, 1.0), lambda y, T=T: theory.effective_potential_thermal(k(y)[..., None], T), T
            ).time
        )
        for T in (0.01, 0.3, 5.0)
    ]
    assert scaled == pytest.approx([scaled[0]] * 3, rel=1e-8)
    log = [
        theory.mean_first_passage_time(0.0, (-0.5, 1.0), lambda y: np.sin(np.pi * y) ** 2, T).log_time
        for T in (0.02, 0.0202)
    ]
    assert (log[0] - log[1]) / (1 / 0.02 - 1 / 0.0202) == pytest.approx(1.0, rel=0.01)


def test_simulated_escape_with_the_shifted_level():
    """dy = -V' dt + noise by Euler-Maruyama, 20000 walkers: relative standard error 0.7 %. The
    unshifted level is 5 standard errors off."""
    rng = np.random.default_rng(19)
    d, h, walkers = 0.5, 4e-3, 20_000
    y, times, step = np.full(walkers, 0.1), [], 0
    while y.size:
        step += 1
        y = y + h * np.cos(3 * y) + np.sqrt(2 * d * h) * rng.normal(size=y.size)
        y = np.abs(y)  # reflecting at 0
        gone = y >= 1.0
        times.append(np.full(gone.sum(), step * h))
        y = y[~gone]
    times = np.concatenate(times)
    error = times.std(ddof=1) / np.sqrt(walkers)
    shift = theory.absorbing_level_shift(d, h)

    def predicted(level):
        return theory.mean_first_passage_time(0.1, (0.0, level), lambda y: -np.sin(3 * y) / 3, d).time

    assert abs(times.mean() - predicted(1.0 + shift)) < 3.5 * error
    for mutant in (predicted(1.0), predicted(1.0 - shift), predicted(1.0 + 2 * shift)):
        assert abs(times.mean() - mutant) > 5 * error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2.0, (0.0, 1.0), 0.0, 1.0), r"start: expected positions in 0 … 1, found 2\.0"),
        ((0.5, (1.0, 0.0), 0.0, 1.0), "interval: expected finite numbers left < right"),
        ((0.5, (0.0, 1.0), 0.0, 0.0), "diffusion: expected a number > 0, found 0"),
        ((0.5, (0.0, 1.0), lambda y: y * np.nan, 1.0), "potential: expected a finite number, found nan"),
        ((0.5, (0.0, 1.0), ([0.0, 0.5], [0.0, 1.0]), 1.0), r"potential: expected a table that covers 0 … 1"),
        ((0.5, (0.0, 1.0), ([0.0, 0.5], [0.0]), 1.0), "potential: expected a table .* of one length"),
        ((0.5, (0.0, 1.0), 0.0, 1.0, "top"), "absorbing: expected one of left, right, both, found 'top'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(UserError, match=message):
        theory.mean_first_passage_time(*arguments)
