"""The channel: derivatives, folds, profiles and domains against finite differences and hand-made values; its thermal
density and mean force against quadrature."""

import numpy as np
import pytest
from scipy.integrate import quad

from entropy_sim import CurvaturePower, Overdamped, Relaxation, Thermal, mean_force
from entropy_sim._ensemble import Ensemble
from entropy_sim._kernels import evaluate
from entropy_sim.errors import UserError
from entropy_sim.landscapes import (
    Barrier,
    Bump,
    Channel,
    Confining,
    DoubleWell,
    Exponential,
    Flat,
    Interpolated,
    Power,
    Tilted,
)
from entropy_sim.landscapes._channel import any_gradient
from entropy_sim.run_files import config_from_file, from_jsonable, to_jsonable

WAVE = Interpolated((3.0, 1.0, 2.0, 4.0, 3.0), ends="periodic")
UNEVEN = Interpolated((2.0, 1.0, 3.0, 2.0), (-0.3, 0.2, 0.9, 1.4), "flat")
SYMMETRIC = {"bump": Bump(9.0, 0.5, 0.2), "wells": DoubleWell(0.5, 6.0, 0.5), "power": Power(0.5, 3.0), "wave": WAVE}
SHAPES = SYMMETRIC | {
    "exponential": Exponential(3.0, 0.2),
    "falling": Power(4.0, -1.5, 0.6, 0.3),
    "uneven": UNEVEN,
    "own": (DoubleWell(), Bump(), UNEVEN, Bump(), Exponential(), Power(), Bump(2.0, 3.0)),
    "own_symmetric": (Bump(3.0, 1.0), Bump(), DoubleWell(), Bump(), Power(), Power(), Bump(2.0, 3.0)),
}
ENERGIES = [Barrier(0.7), Confining(3.0, 0.4), Confining(2.0, 0.0, 4), Interpolated((1.0, 0.0, 3.0, 1.0))]
LM = "leimkuhler_matthews"


BARRIER = Barrier(-0.3)


def build(shape, boundary="reflecting", along=BARRIER, directions=2, length=0.7):
    if isinstance(shape, tuple):
        amplitudes = (1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.5)
        return Channel(Bump(), along, 7, amplitudes, length, boundary, shape)
    return Channel(shape, along, directions, (1.0, 2.5)[:directions], length, boundary)


CASES = [
    pytest.param(build(SHAPES[name], boundary, along), id=f"{name}-{boundary}-{i}")
    for name in SHAPES
    for boundary in ("reflecting", "periodic", "open")
    for i, along in enumerate(ENERGIES)
    if boundary == "reflecting" or (name != "wave" if boundary == "open" else name in (*SYMMETRIC, "own_symmetric"))
]
CHANNELS = [Channel(), build(Exponential(), along=Tilted(2.0)), *(case.values[0] for case in CASES[::4])]


def finite_differences(function, theta, h=1e-6):
    steps = h * np.eye(theta.shape[1])
    return np.stack([(function(theta + e) - function(theta - e)) / (2 * h) for e in steps], axis=1)


def energy(channel, theta):
    """L from the definition, walker by walker and direction by direction, mirrored and repeated by hand."""
    out = []
    for y, *x in theta:
        s = y / channel.length
        while channel.boundary != "open" and not 0 <= s <= 1:
            if channel.boundary == "periodic":
                s += 1 if s < 0 else -1
            else:
                s = -s if s < 0 else 2 - s
        shapes = channel.profiles or (channel.stiffness,) * len(x)
        amplitudes = channel.amplitudes or (1.0,) * len(x)
        k = [a * float(shape.value(np.array(s))) for a, shape in zip(amplitudes, shapes, strict=True)]
        out.append(
            float(channel.along.value(np.array(s))) + 0.5 * sum(k_i * x_i**2 for k_i, x_i in zip(k, x, strict=True))
        )
    return np.array(out)


@pytest.mark.parametrize("channel", CASES)
def test_gradient_is_the_derivative_of_the_energy(channel):
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(150, channel.dimension))
    theta[:, 0] = channel.length * rng.uniform(-2.3, 3.3, 150)  # both ends and several images beyond them
    np.testing.assert_allclose(channel.energy(theta), energy(channel, theta), rtol=1e-12, atol=1e-13)
    expected = finite_differences(channel.energy, theta)
    kink = np.abs(np.mod(theta[:, 0] / channel.length + 0.5, 1.0) - 0.5) < 1e-5
    assert kink.sum() < 5
    found, expected = channel.gradient_at(theta)[~kink], expected[~kink]
    scale = np.maximum(np.abs(expected), 1e-3 * np.abs(channel.energy(theta)[~kink])[:, None]) + 1e-2
    assert np.abs((found - expected) / scale).max() < 3e-6


@pytest.mark.parametrize("channel", [build(shape) for shape in SHAPES.values()], ids=list(SHAPES))
def test_images_pull_the_other_way(channel):
    """Mutant: the slope without the sign of its mirror image."""
    theta = np.random.default_rng(5).normal(size=(50, channel.dimension))
    theta[:, 0] = channel.length * np.random.default_rng(6).uniform(0.02, 0.98, 50)
    here = channel.gradient_at(theta)
    for center in (0.0, channel.length):
        image = theta * 1.0
        image[:, 0] = 2 * center - theta[:, 0]
        there = channel.gradient_at(image)
        np.testing.assert_allclose(there[:, 0], -here[:, 0], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(there[:, 1:], here[:, 1:], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("channel", CHANNELS)
def test_curvature_and_slopes_are_derivatives_along_the_path(channel):
    s = np.linspace(0.05, 0.95, 13)
    h = 1e-5
    change = (channel.curvature(s + h) - channel.curvature(s - h)) / (2 * h * channel.length)
    np.testing.assert_allclose(channel.curvature_slope(s), change, rtol=1e-5, atol=1e-6)
    rise = (channel.path_energy(s + h) - channel.path_energy(s - h)) / (2 * h * channel.length)
    np.testing.assert_allclose(channel.path_slope(s), rise, rtol=1e-5, atol=1e-7)
    for i in range(channel.transverse_directions):
        shift = np.zeros((1, channel.dimension))
        shift[0, 1 + i] = 1.0
        across = 2 * (channel.energy(channel.path(s) + shift) - channel.path_energy(s))
        np.testing.assert_allclose(channel.curvature(s)[:, i], across, rtol=1e-10)
    points = channel.path(s)
    points[:, 1:] = 3.0
    stiffness = evaluate(channel.transverse_stiffness, points, channel.params())[:, 1:]
    np.testing.assert_allclose(stiffness, channel.curvature(s), rtol=1e-10)


@pytest.mark.parametrize("channel", CASES)
def test_on_the_path_the_gradient_is_the_compiled_one(channel):
    s = np.linspace(-0.3, 1.4, 18) if channel.boundary == "open" else np.array([0.0, 1e-9, 0.13, 0.5, 0.77, 1.0])
    compiled = channel.gradient_at(channel.path(s))
    np.testing.assert_allclose(channel.path_gradient(s), compiled, rtol=1e-9, atol=1e-12)
    assert np.abs(compiled).max() > 0.1


def test_the_default_is_soft_at_the_ends_and_stiff_in_the_middle():
    np.testing.assert_allclose(Channel().curvature([0.0, 0.5, 1.0]), [[1.0] * 4, [16.0] * 4, [1.0] * 4])
    assert np.all(Channel().path_energy([0.0, 0.3, 1.0]) == 0)


@pytest.mark.parametrize(
    ("shape", "s", "expected"),
    [
        (Bump(2.0, 10.0, 0.25), [0.0, 0.25, 0.5, 0.625, 0.75, 1.0], [2, 2, 10, 2 + 8 * 0.75**3, 2, 2]),
        (DoubleWell(1.0, 5.0, 0.5), [0.25, 0.5, 0.75, 1.0], [1, 5, 1, 1 + 4 * 9]),
        (Exponential(2.0, 8.0), [0.0, 0.5, 1.0], [2, 4, 8]),
        (Power(1.0, 2.0, 0.0, 0.5), [0.0, 0.5, 1.0], [1, 2, 5]),
    ],
)
def test_shapes_have_the_values_of_their_formulas(shape, s, expected):
    np.testing.assert_allclose(Channel(shape).curvature(s)[:, 0], expected, rtol=1e-12)


def test_barrier_has_its_height_in_the_middle_and_flat_ends():
    channel = Channel(along=Barrier(0.4))
    np.testing.assert_allclose(channel.path_energy([0.0, 0.5, 1.0]), [0.0, 0.4, 0.0], atol=1e-15)
    np.testing.assert_allclose(channel.path_slope([0.0, 0.5, 1.0]), 0.0, atol=1e-15)


@pytest.mark.parametrize(
    ("boundary", "y", "s"),
    [
        ("reflecting", [-0.5, 2.0, 2.5, 4.0, 4.5], [0.25, 1.0, 0.75, 0.0, 0.25]),
        ("periodic", [-0.5, 2.5, 4.5], [0.75, 0.25, 0.25]),
        ("open", [-0.5, 2.0, 4.5], [-0.25, 1.0, 2.25]),
    ],
)
def test_positions_fold_at_the_boundaries(boundary, y, s):
    channel = Channel(transverse_directions=2, length=2.0, boundary=boundary)
    theta = np.column_stack([y, np.full(len(y), 3.0), np.full(len(y), 4.0)])
    np.testing.assert_allclose(channel.position(theta), s, atol=1e-12)
    np.testing.assert_allclose(channel.fold(np.array(y)), s, atol=1e-12)
    np.testing.assert_allclose(channel.distance(theta), 5.0)


def test_force_at_the_exact_end_is_the_one_sided_one():
    """y = length must not be taken for its mirror image because of rounding, whatever the length."""
    for length in (0.7, 1.0, 1.1, 2.5, 3.3):
        channel = Channel(Exponential(1.0, 4.0), transverse_directions=1, length=length)
        theta = np.array([[channel.path(1.0)[0, 0], 1.0]])
        expected = 0.5 * 4.0 * np.log(4.0) / length
        np.testing.assert_allclose(channel.gradient_at(theta)[0, 0], expected, rtol=1e-9)


def test_profiles_that_are_all_alike_are_the_shared_shape_and_nothing_recompiles():
    shared, own = (
        Channel(amplitudes=(1.0, 2.0, 3.0, 4.0)),
        Channel(amplitudes=(1.0, 2.0, 3.0, 4.0), profiles=(Bump(),) * 4),
    )
    np.testing.assert_array_equal(shared.params(), own.params())
    for channel in CHANNELS:
        channel.gradient_at(channel.path(0.5))
    assert len(any_gradient.pointer.overloads) == 1
    stiffer = Channel(Bump(0.3, 7.0), length=2.0, amplitudes=(3.0, 1.0, 2.0, 4.0))
    assert stiffer.gradient is shared.gradient
    assert len(shared.gradient.pointer.overloads) == 1


@pytest.mark.parametrize("directions", [1, 3])
@pytest.mark.parametrize("along", [Flat(), Confining(2.0, 0.2, 4)], ids=["flat", "confining"])
@pytest.mark.parametrize("boundary", ["reflecting", "periodic", "open"])
def test_the_gradient_of_few_shapes_is_that_of_all(boundary, along, directions):
    """What is compiled for one shape of stiffness and one of U, against the function that can do everything."""
    along = along if boundary != "periodic" or along == Flat() else Barrier(0.4)
    channel = Channel(Bump(1.0, 5.0, 0.4), along, directions, (0.5, 2.0, 3.0)[:directions], 1.3, boundary)
    assert channel.gradient is not any_gradient
    theta = np.random.default_rng(directions).normal(size=(200, directions + 1))
    theta[:3, 0], theta[3, -1] = (0.0, 1.3, -1.3), np.nan
    expected = evaluate(any_gradient, theta, channel.params())
    np.testing.assert_allclose(channel.gradient_at(theta), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("directions", [1, 3])
@pytest.mark.parametrize("along", [Flat(), Confining(2.0, 0.2, 4)], ids=["flat", "confining"])
@pytest.mark.parametrize("boundary", ["reflecting", "periodic", "open"])
def test_a_step_in_one_is_gradient_and_kick(boundary, along, directions):
    """And it says whether a coordinate, along the path or across it, may be beyond the bound, or is NaN."""
    along = along if boundary != "periodic" or along == Flat() else Barrier(0.4)
    channel = Channel(Bump(1.0, 5.0, 0.4), along, directions, (0.5, 2.0, 3.0)[:directions], 1.3, boundary)
    draws = np.random.default_rng(directions)
    theta, xi = draws.normal(size=(64, directions + 1)), draws.normal(size=(64, directions + 1)).astype(np.float32)
    theta[:3, 0], theta[3, -1], theta[4, 0] = (0.0, 1.3, -1.3), np.nan, 1e5

    def step(theta):
        block = np.ascontiguousarray(theta.T)
        params = channel.params(), np.array([0.01, 0.2])
        left = channel.euler_maruyama.pointer(block, np.ascontiguousarray(xi.T), *params, 1e8)
        return block.T, left

    moved, left = step(theta)
    expected = theta - 0.01 * channel.gradient_at(theta) + 0.2 * xi.astype(np.float64)
    within = np.abs(expected) < 1e8  # the wall is steep
    np.testing.assert_allclose(moved[within], expected[within], rtol=1e-12, atol=1e-12)
    assert left
    theta = np.zeros_like(theta)
    assert not step(theta)[1]
    theta[3, -1] = np.nan
    assert step(theta)[1]
    theta[3, -1] = 0.0
    for i in range(directions + 1):  # at s = 0 the stiffness does not change: x pulls y nowhere
        far = theta.copy()
        far[7, i] = -3e8
        assert step(far)[1]


@pytest.mark.parametrize("channel", [Channel(UNEVEN), Channel(profiles=(Bump(), Exponential(), Bump(), Bump()))])
def test_tables_and_several_shapes_take_the_gradient_of_all(channel):
    assert channel.gradient is any_gradient
    assert channel.euler_maruyama is None


# --- thermal equilibrium ---------------------------------------------------------------------------------------------

OWN = (Bump(1.0, 3.0, 0.5), Exponential(1.0, 4.0), UNEVEN)
EQUILIBRIA = {
    "one direction, power law": (Channel(Power(0.5, 4.0, 0.3, 0.3), transverse_directions=1, length=1.3), 800),
    "own profiles": (Channel(transverse_directions=3, amplitudes=(1.0, 2.0, 0.5), profiles=OWN), 800),
    "a hundred": (Channel(Bump(1.0, 1.06), transverse_directions=100, boundary="periodic"), 500),
    "open, harmonic": (Channel(Bump(1.0, 6.0), Confining(8.0, 0.0), 2, (1.0, 2.0), boundary="open"), 800),
    "open, double well": (Channel(Bump(1.0, 6.0), Barrier(1.0), 2, (1.0, 2.0), 4.0, "open"), 1200),
    "open, by its stiffness": (Channel(Power(1.0, 2.0, width=1.0), transverse_directions=6, boundary="open"), 1500),
}


def mean_over_density(channel, observable, power=0.5):
    """Average of observable(s) over p ∝ exp(-U) prod k_i^(-power), T = 1, by adaptive quadrature."""

    def weight(s):
        return np.exp(-float(channel.along.value(np.array(s)))) * np.prod(channel.curvature(s)[0] / 4.0) ** -power

    if channel.boundary == "open":
        pieces = [(-np.inf, 0.0), (0.0, 0.5), (0.5, 1.0), (1.0, np.inf)]
    else:
        pieces = [(0.0, 0.5), (0.5, 1.0)]

    def integral(f):
        return sum(quad(f, *piece, epsabs=0.0, epsrel=1e-7, limit=200)[0] for piece in pieces)

    return integral(lambda s: weight(s) * observable(s)) / integral(weight)


@pytest.mark.parametrize("name", EQUILIBRIA)
def test_thermal_marginal_is_that_of_the_quadrature(name):
    """Independent walkers, one snapshot; relative standard error of a mean about 1 %. Mutants: prod k_i^(-1), the
    missing 1/2, and no entropic force at all."""
    channel, steps = EQUILIBRIA[name]
    walkers = 4000 if channel.dimension > 50 else 20_000
    ensemble = Ensemble(
        channel, Thermal(1.0), Overdamped(0.01, LM), channel.path((np.arange(walkers) + 0.5) / walkers), seed=4
    )
    ensemble.advance(steps)
    assert not ensemble.diverged.any()
    s = channel.position(ensemble.theta)

    def z(observable, power):
        values = observable(s)
        return (values.mean() - mean_over_density(channel, observable, power)) * np.sqrt(walkers) / values.std()

    observables = (lambda s: np.exp(-8.0 * (s - 0.5) ** 2), lambda s: 1.0 / (1.0 + 4.0 * (s - 0.1) ** 2))
    assert max(abs(z(f, 0.5)) for f in observables) < 3.5
    for mutant in (1.0, 0.0):
        if mutant == 0.0 and name == "open, by its stiffness":
            continue  # has no density at all
        assert max(abs(z(f, mutant)) for f in observables) > 5


@pytest.mark.parametrize("name", EQUILIBRIA)
def test_mean_force_is_minus_the_slopes_of_energy_and_half_the_logarithms(name):
    channel, _ = EQUILIBRIA[name]
    s, h = np.array([0.15, 0.35, 0.6, 0.85]), 1e-5
    walkers = 32 if channel.dimension > 50 else 512
    tree = mean_force(
        channel,
        Thermal(1.0),
        Overdamped(0.01, LM),
        positions=tuple(s),
        walkers=walkers,
        replicas=1,
        burn_in=4.0,
        duration=8.0,
        time_windows=1,
        seed=2,
    )
    group = tree["mean_force"]
    found, stderr = group["mean_force"].values[:, 0, 0], group["mean_force_stderr"].values[:, 0, 0]

    def exact(factor):
        free = [channel.path_energy(s + e) + factor * np.log(channel.curvature(s + e)).sum(axis=1) for e in (h, -h)]
        return -(free[0] - free[1]) / (2 * h * channel.length)

    assert np.abs((found - exact(0.5)) / stderr).max() < 4
    for mutant in (1.0, -0.5):
        assert np.abs((found - exact(mutant)) / stderr).max() > 5


def test_a_thousand_directions_run_stably_and_have_the_equipartition():
    profiles = tuple(Bump(1.0 + i % 7, 8.0) for i in range(1000))
    channel = Channel(transverse_directions=1000, profiles=profiles)
    ensemble = Ensemble(channel, Thermal(0.01), Overdamped(0.02, LM), channel.path(np.linspace(0, 1, 64)), seed=1)
    ensemble.advance(300)
    theta = ensemble.theta
    assert not ensemble.diverged.any()
    k = channel.curvature(channel.position(theta))
    energies = 0.5 * k * theta[:, 1:] ** 2 / 0.01
    z = (energies.mean() - 0.5) / (energies.std() / np.sqrt(energies.size))
    assert abs(z) < 4  # relative standard error 0.6 %; y drifts, while x follows at once
    assert abs((energies.mean() - 1.0) / (energies.std() / np.sqrt(energies.size))) > 5


# --- domains and refusals --------------------------------------------------------------------------------------------


def test_an_open_flat_valley_may_be_left_but_has_no_images():
    channel = Channel(Exponential(1.0, 2.0), boundary="open", transverse_directions=1)
    tree = Relaxation(channel, Thermal(0.1), Overdamped(0.01), starts=(0.5,), duration=10.0, control=False).run()
    final = tree["relaxation"]["position"].values[0, :, -1]
    assert final.min() < -0.5
    assert final.max() > 1.0
    drift = -0.5 * 0.1 * np.log(2.0) * 10.0  # -T k'/(2k) everywhere on the line
    z = (final.mean() - 0.5 - drift) * np.sqrt(final.size) / final.std()
    assert abs(z) < 3.5
    assert abs((final.mean() - 0.5 + drift) * np.sqrt(final.size) / final.std()) > 5  # mutant: the other sign


@pytest.mark.parametrize(
    ("channel", "limit"),
    [
        (Channel(), 16.0),
        (Channel(along=Confining(50.0, 0.0), length=0.5), 400.0),
        (Channel(DoubleWell(), boundary="open"), 1 + 15 * ((2 / 0.6) ** 2 - 1) ** 2),
    ],
)
def test_steps_are_judged_by_the_stiffest_place(channel, limit):
    Overdamped(1.99 / limit).check(channel, Thermal())
    with pytest.raises(UserError, match=r"dynamics\.step: expected less than .* the stability limit"):
        Overdamped(2.01 / limit).check(channel, Thermal())


def test_configurations_come_back_also_those_of_before_and_noise_follows_profiles():
    channel = Channel(Power(), Tilted(), 3, (1.0, 2.0, 3.0), boundary="open", profiles=OWN)
    assert from_jsonable(Channel, to_jsonable(channel)) == channel
    old = {
        "type": "Channel",
        "along": {"type": "Flat"},
        "amplitudes": [],
        "boundary": "reflecting",
        "length": 1.0,
        "stiffness": {"end": 1.0, "middle": 16.0, "type": "Bump", "width": 0.5},
        "transverse_directions": 4,
    }
    assert from_jsonable(Channel, old) == Channel()
    np.testing.assert_allclose(CurvaturePower(0.2, 1.0).transverse(channel, 0.4), 0.2 * channel.curvature(0.4))


def test_the_reference_run_can_be_run_again(request):
    from entropy_sim import MeanForce

    config = config_from_file(MeanForce, request.config.rootpath / "data" / "reference" / "quick_simulation.nc")
    assert config.landscape == Channel()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bump(end=0.0), r"stiffness\.end: expected a positive number, found 0\.0"),
        (lambda: Bump(middle=-1.0), r"stiffness\.middle: expected a positive number"),
        (lambda: Bump(width=0.6), r"stiffness\.width: expected 0 < width <= 0\.5, found 0\.6"),
        (lambda: DoubleWell(well=2.0, middle=1.0), r"stiffness\.middle: expected at least the well's 2"),
        (lambda: DoubleWell(separation=0.1), r"stiffness\.separation: expected 0\.4…1, found 0\.1"),
        (lambda: Exponential(start=float("nan")), r"stiffness\.start: expected a positive number, found nan"),
        (lambda: Barrier(float("inf")), r"along\.height: expected a finite number"),
        (lambda: Channel(length=-1.0), r"landscape\.length: expected a positive number"),
        (lambda: Channel(transverse_directions=0), r"landscape\.transverse_directions: expected at least 1"),
        (lambda: Channel(amplitudes=(1.0,)), r"landscape\.amplitudes: expected one for each of the 4 .*, found 1"),
        (lambda: Channel(profiles=(Bump(),)), r"landscape\.profiles: expected one for each of the 4 .*, found 1"),
        (lambda: Channel(transverse_directions=1, amplitudes=(-1.0,)), r"landscape\.amplitudes: expected positive"),
        (lambda: Channel(boundary="absorbing"), r"landscape\.boundary: expected reflecting, periodic or open, found"),
        (
            lambda: Channel(Exponential(), boundary="periodic"),
            r"landscape\.stiffness: expected the same value at s = 0 and 1 for boundary periodic, found 1 and 16",
        ),
        (
            lambda: Channel(transverse_directions=2, profiles=(Bump(), Exponential()), boundary="periodic"),
            r"landscape\.profiles\[1\]: expected the same value at s = 0 and 1 for boundary periodic, found 1 and 16",
        ),
        (
            lambda: Channel(along=Tilted(0.1), boundary="periodic"),
            r"landscape\.along: expected the same value at s = 0 and 1 for boundary periodic, found 0 and -0\.1",
        ),
        (
            lambda: Channel(transverse_directions=1, profiles=(Interpolated((1.0, -1.0)),)),
            r"landscape\.profiles\[0\]: expected a positive stiffness for s in 0…1, found -1 at s = 1",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()
