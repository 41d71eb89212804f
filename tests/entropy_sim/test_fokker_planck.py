"""The numerical Fokker-Planck solution against Boltzmann, quadrature in one dimension, adiabatic limits, simulation."""

import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid
from scipy.interpolate import CubicSpline

from entropy_sim import theory
from entropy_sim.errors import UserError
from entropy_sim.fokker_planck import FokkerPlanck


def k(y):
    return 2.0 * np.exp(1.2 * np.cos(2 * np.pi * y))


def k_slope(y):
    return -2.4 * np.pi * np.sin(2 * np.pi * y) * k(y)


def ring(T, alpha, cells=(96, 64)):
    """U = 0 on a ring of length 1, D_y = T, D_x = T k^alpha."""
    return FokkerPlanck.channel(k, (0.0, 1.0), T, lambda y: T * k(y) ** alpha, boundary="periodic", cells=cells)


def ratio(T):
    """The largest timescale ratio on the ring."""
    y = np.linspace(0, 1, 201)
    return theory.timescale_ratio(k(y)[:, None], k_slope(y)[:, None], T).max()


def adiabatic(y, alpha):
    p = np.exp(-theory.effective_potential_curvature_power(k(y)[:, None], 1.0, alpha))
    return p / p.sum() / (y[1] - y[0])


# --- thermal noise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [0.01, 3.0])
def test_thermal_noise_gives_boltzmann_on_a_coarse_grid(T):
    problem = FokkerPlanck.channel(k, (0.0, 0.8), T, T, lambda y: np.sin(5 * y), cells=(24, 32))
    found = problem.stationary()
    energy = np.asarray(problem.energy(found.y[:, None], found.x[None]))
    boltzmann = np.exp((energy.min() - energy) / T)
    assert found.density / found.density.max() == pytest.approx(boltzmann / boltzmann.max(), rel=1e-8, abs=1e-28)
    exact = np.exp(-theory.effective_potential_thermal(k(found.y)[:, None], T, np.sin(5 * found.y)) / T)
    exact /= exact.sum() * 0.8 / 24
    assert found.marginal == pytest.approx(exact, rel=1e-6, abs=1e-12)
    assert found.marginal.sum() * 0.8 / 24 == pytest.approx(1.0)
    assert abs(found.circulation) + abs(found.entropy_production) + abs(found.net_current) < 1e-11


@pytest.mark.parametrize(("height", "safe"), [(15.0, True), (50.0, False)])
def test_rounding_between_deep_wells_is_reported(height, safe):
    problem = FokkerPlanck.channel(k, (-0.3, 1.2), 1.0, 1.0, lambda y: height * np.sin(np.pi * y) ** 2, cells=(80, 16))
    found = problem.stationary()
    exact = np.exp(-theory.effective_potential_thermal(k(found.y)[:, None], 1.0, height * np.sin(np.pi * found.y) ** 2))
    exact /= exact.sum() * 1.5 / 80
    off = np.abs(found.marginal - exact)
    assert np.all(off <= 3 * found.marginal_error + 1e-9)
    assert (off.max() < 1e-3 * exact.max()) == safe
    assert (np.max(found.marginal_error / exact.max()) < 0.02) == safe


def test_any_landscape_on_a_rectangle():
    from entropy_sim.landscapes import MullerBrown

    landscape, T = MullerBrown(), 25.0
    problem = FokkerPlanck.of_landscape(landscape, (-1.6, 1.1), (-0.4, 1.9), T, T, cells=(32, 32))
    found = problem.stationary()
    energy = landscape.energy(np.stack(np.meshgrid(found.y, found.x, indexing="ij"), axis=-1))
    boltzmann = np.exp((energy.min() - energy) / T)
    boltzmann /= boltzmann.sum() * (2.7 / 32) * (2.3 / 32)
    assert found.density == pytest.approx(boltzmann, rel=1e-8)
    assert found.x[:2] == pytest.approx([-0.4 + 2.3 / 64, -0.4 + 3 * 2.3 / 64])


def test_a_channel_landscape_is_the_channel():
    from entropy_sim.landscapes import Channel, Exponential

    landscape = Channel(stiffness=Exponential(1.0, 4.0), transverse_directions=1, length=2.0, boundary="open")
    here = FokkerPlanck.channel(lambda y: 4.0 ** (y / 2), (0.0, 2.0), 0.1, lambda y: 0.1 * 4.0 ** (y / 2))
    box = here.box
    there = FokkerPlanck.of_landscape(
        landscape, (0.0, 2.0), box, 0.1, lambda y: 0.1 * 4.0 ** (y / 2), stretch=here.stretch
    )
    assert there.stationary().density == pytest.approx(here.stationary().density, rel=1e-7, abs=1e-20)
    with pytest.raises(UserError, match="landscape: expected two dimensions, found 5"):
        FokkerPlanck.of_landscape(Channel(), (0.0, 1.0), box, 0.1, 0.1)


# --- one dimension: the transverse mode decouples -------------------------------------------------------------------


def diffusion(y):
    return 0.3 * np.exp(0.9 * np.sin(4 * y))


def potential(y):
    return 0.3 * np.cos(2 * np.pi * y) + 0.3 * y


def drift(y):
    return 0.6 * np.pi * np.sin(2 * np.pi * y) - 0.3


def decoupled(cells=(160, 16)):
    return FokkerPlanck.channel(lambda y: 5.0 + 0 * y, (0.0, 1.3), diffusion, 0.2, potential, cells=cells)


def test_state_dependent_noise_is_ito_and_of_second_order():
    grid = np.linspace(0, 1.3, 20_001)
    exact = {name: theory.stationary_density(grid, drift(grid), diffusion(grid), name) for name in ("ito", "anti_ito")}

    def error(n, name="ito"):
        found = decoupled((n, 16)).stationary()
        off = np.abs(found.marginal - np.interp(found.y, grid, exact[name]))
        return off.max(), found.marginal_error.max()

    (coarse, _), (fine, estimate) = error(40), error(80)
    assert coarse / fine == pytest.approx(4.0, rel=0.1)
    assert 0.7 < estimate / fine < 1.4
    assert fine < 0.003
    assert error(80, "anti_ito")[0] > 0.3


@pytest.mark.parametrize("end", ["left", "right", "both"])
def test_escape_in_one_dimension(end):
    at = np.array([0.0, 0.31, 0.9, 1.3])
    exact = theory.mean_first_passage_time(at, (0.0, 1.3), potential, diffusion, end).time
    found = decoupled().escape_time(at, end)
    assert found.time == pytest.approx(exact, rel=3e-5, abs=1e-5)
    fine, coarse = (decoupled(cells).escape_time(at, end, "equilibrium") for cells in ((640, 16), (320, 16)))
    moving = exact > 1e-9
    assert (coarse.error / fine.error)[moving] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("height", [3.0, 30.0, 150.0])
def test_barriers_of_any_height(height):
    """sin² barrier, 10 to 500 times D; the generator alone is singular to rounding from 30 D on."""

    def barrier(y):
        return height * np.sin(np.pi * y) ** 2

    def deeper(y):  # the second well, where nothing absorbs yet, is the lower one
        return barrier(y) - 2.0 * np.maximum(y - 0.5, 0.0) ** 2

    for shape in (barrier, deeper):
        found = FokkerPlanck.channel(lambda y: 5.0 + 0 * y, (-0.4, 1.0), 0.3, 0.3, shape, cells=(400, 16)).escape_time(
            0
        )
        exact = theory.mean_first_passage_time(0.0, (-0.4, 1.0), shape, 0.3).time
        assert found.time == pytest.approx(exact, rel=3e-4)
        assert abs(found.time - exact) < found.error < 0.02 * exact


def test_net_current_round_a_ring():
    """D_x(y) out of step with k(y) drives a current, in the adiabatic limit that of dy = f dt + noise: quadrature."""

    def hot(T, y):
        return T * (1 + 0.6 * np.sin(2 * np.pi * y))

    y = np.linspace(0, 1, 4001)
    force = -0.5 * k_slope(y) / k(y) * hot(1.0, y)  # per T
    phi = -cumulative_trapezoid(force, y, initial=0)
    inner = cumulative_trapezoid(np.exp(phi), y, initial=0)
    # p = exp(-phi) (p0 - J inner) per T, periodic: p0 (exp(phi(1)) - 1) = -J inner(1)
    start = -inner[-1] / np.expm1(phi[-1])
    exact = 1.0 / np.trapezoid(np.exp(-phi) * (start - inner), y)
    errors = []
    for T in (1e-3, 2.5e-4):
        found = FokkerPlanck.channel(
            k, (0.0, 1.0), T, lambda y, T=T: hot(T, y), boundary="periodic", cells=(240, 80)
        ).stationary()
        errors.append(found.net_current / T / exact - 1)
    assert abs(errors[1]) < 0.02
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.2)  # linear in T, the timescale ratio
    assert abs(ring(1e-3, 0.0).stationary().net_current) < 1e-12


# --- between the limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_stationary_density_becomes_adiabatic_with_the_timescale_ratio(alpha):
    """Largest deviation from exp(-V_eff/T) along T = 0.1 … 1e-4: proportional to the timescale ratio in the end, and at
    ratio 4 so large that the adiabatic density is no answer."""
    temperatures = np.array([0.1, 1.6e-3, 4e-4, 1e-4])
    errors, resolution = [], []
    for T in temperatures:
        found = ring(T, alpha, (160, 64)).stationary()
        errors.append(np.abs(found.marginal - adiabatic(found.y, alpha)).max())
        resolution.append(found.marginal_error.max())
    assert ratio(0.1) == pytest.approx(3.89, abs=0.01)
    assert ratio(1e-4) < 0.004
    assert errors[0] > 0.05
    assert errors[3] < 0.0015
    assert errors[2] / errors[3] == pytest.approx(4.0, rel=0.35)
    assert np.all(np.array(resolution) < 1e-3)
    assert resolution[3] < 0.5 * errors[3]
    thermal = adiabatic(ring(1e-4, alpha, (160, 64)).stationary().y, 0.0)
    assert np.abs(ring(1e-4, alpha, (160, 64)).stationary().marginal - thermal).max() > 0.1


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_probability_circulates_unless_noise_is_thermal(alpha):
    found = ring(0.1, alpha).stationary()
    cell_x = np.diff(found.x).mean()
    uniform = alpha == 1.0  # sqrt(D_x / k) is the same everywhere, so the cells are
    assert found.residual < 1e-11
    if uniform:
        divergence = np.diff(found.current_y, axis=0) / np.diff(found.y)[0] + np.diff(found.current_x, axis=1) / cell_x
        assert np.abs(divergence).max() < 1e-9 * np.abs(np.diff(found.current_x, axis=1) / cell_x).max()
    if alpha == 0.0:
        assert found.circulation < 1e-12
        assert abs(found.entropy_production) < 1e-12
        return
    assert found.circulation > 0.05
    assert found.circulation_error < 0.03 * found.circulation
    assert found.entropy_production > 0.3
    # The current is the rotation of the stream function, and that is 0 all round the edge.
    assert np.abs(found.stream[:, [0, -1]]).max() < 1e-12
    assert np.ptp(found.stream) == pytest.approx(found.circulation, rel=1e-9)
    # Mirror images in x turn in opposite senses, so nothing goes round.
    assert found.stream == pytest.approx(-found.stream[:, ::-1], abs=1e-10)
    assert abs(found.net_current) < 1e-12


def test_second_order_with_a_current():
    """Marginal on the ring, and time out of half of it: changes fall by 4 per halving of the cells."""
    at = np.linspace(0.1, 0.9, 17)
    marginals = []
    for n in (80, 160, 320):
        found = ring(0.1, 1.0, (n, n // 2)).stationary()
        marginals.append(CubicSpline(found.y, found.marginal)(at))
        if n == 160:
            estimate = np.interp(at, found.y, found.marginal_error)
    first, second = np.abs(np.diff(marginals, axis=0)).max(axis=1)
    assert first / second == pytest.approx(4.0, rel=0.15)
    assert estimate.max() == pytest.approx(first / 3, rel=0.1)

    def escape(n):
        problem = FokkerPlanck.channel(k, (-0.5, 1.0), 0.1, lambda y: 0.1 * k(y), cells=(n, n))
        return problem.escape_time(0.5)

    two = escape(128), escape(256)
    assert two[0].error / two[1].error == pytest.approx(4.0, rel=0.25)
    assert abs(two[1].time - two[0].time) < two[0].error


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_escape_becomes_the_quadrature_with_fast_transverse_modes(alpha):
    """From the soft place, y = 1/2, to the stiff one, y = 1: the relative difference along the timescale ratio. Where x
    starts matters less and less."""
    errors, starts = [], []
    for T in (0.1, 1e-3, 2.5e-4):
        problem = FokkerPlanck.channel(k, (0.0, 1.0), T, lambda y, T=T: T * k(y) ** alpha, cells=(160, 64))
        quadrature = theory.mean_first_passage_time(
            0.5, (0.0, 1.0), lambda y, T=T: theory.effective_potential_curvature_power(k(y)[..., None], T, alpha), T
        ).time
        path, spread = problem.escape_time(0.5), problem.escape_time(0.5, across="equilibrium")
        errors.append(float(path.time / quadrature - 1))
        starts.append(float(spread.time / path.time - 1))
        assert path.error / path.time < 5e-3
    assert abs(errors[0]) > 0.02
    assert abs(errors[2]) < 0.03
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.3)
    assert abs(starts[2]) < 1e-3 < abs(starts[0])


def test_simulation_far_from_the_adiabatic_limit():
    """Escape from y = 1/2, x = 0 at timescale ratio 39, alpha = 1: 6000 walkers, relative standard error 1.8 %, with
    the shifted level. The adiabatic time is rejected."""
    rng = np.random.default_rng(20)
    T, h, walkers = 1.0, 4e-4, 6000
    y, x, times, step = np.full(walkers, 0.5), np.zeros(walkers), [], 0
    while y.size:
        step += 1
        stiff = k(y)
        a, b = rng.normal(size=(2, y.size)) * np.sqrt(2 * T * h)
        y, x = np.abs(y - 0.5 * h * k_slope(y) * x * x + a), x - h * stiff * x + np.sqrt(stiff) * b
        gone = y >= 1.0
        times.append(np.full(gone.sum(), step * h))
        y, x = y[~gone], x[~gone]
    times = np.concatenate(times)
    error = times.std(ddof=1) / np.sqrt(walkers)
    level = 1.0 + float(theory.absorbing_level_shift(T, h))
    found = FokkerPlanck.channel(k, (0.0, level), T, lambda y: T * k(y)).escape_time(0.5)
    assert error / found.time < 0.02
    assert found.error < error
    assert abs(times.mean() - found.time) < 3.5 * error
    quadrature = theory.mean_first_passage_time(
        0.5, (0.0, level), lambda y: theory.effective_potential_curvature_power(k(y)[..., None], T, 1.0), T
    ).time
    thermal = FokkerPlanck.channel(k, (0.0, level), T, T).escape_time(0.5).time
    for mutant in (quadrature, thermal):
        assert abs(times.mean() - mutant) > 5 * error


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decoupled((15, 16)), r"cells: expected two even numbers >= 16, found \(15, 16\)"),
        (
            lambda: FokkerPlanck.channel(k, (1.0, 0.0), 0.1, 0.1),
            "interval: expected two finite numbers, the small",
        ),
        (
            lambda: FokkerPlanck.channel(lambda y: y, (-1.0, 1.0), 0.1, 0.1),
            r"stiffness: expected a function k\(y\)",
        ),
        (
            lambda: FokkerPlanck.channel(k, (0.0, 1.0), 0.0, 0.1).stationary(),
            "diffusion_y: expected a number > 0 every",
        ),
        (lambda: FokkerPlanck.channel(k, (0.0, 1.0), 0.1, lambda y: -y), "diffusion_x: expected a number > 0 every"),
        (
            lambda: FokkerPlanck.channel(k, (0.0, 0.8), 1, 1, boundary="periodic"),
            "energy: expected the same at both",
        ),
        (
            lambda: FokkerPlanck.channel(k, (0.0, 1.0), 1, 1, boundary="open"),
            "boundary: expected one of reflecting",
        ),
        (lambda: decoupled().escape_time(2.0), r"start: expected positions in 0 … 1\.3, found 2"),
        (lambda: decoupled().escape_time(1.0, "top"), "absorbing: expected one of left, right, both"),
        (lambda: decoupled().escape_time(1.0, across="far"), "across: expected one of path, equilibrium"),
        (
            lambda: FokkerPlanck.channel(k, (0.0, 1.0), 1.0, 1.0, lambda y: 3e3 * y * y).escape_time(0.1),
            "energy: expected barriers below 650 D",
        ),
        (lambda: ring(0.1, 0.0).escape_time(0.5), "boundary: expected reflecting, for an escape"),
        (
            lambda: FokkerPlanck(lambda y, x: y * x / 0, (0.0, 1.0), (0.0, 1.0), 1.0, 1.0).stationary(),
            "energy: expected finite values",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
