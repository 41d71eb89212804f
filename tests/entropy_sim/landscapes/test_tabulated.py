"""The twin of a measured network reproduces its table, and is smooth between."""

import numpy as np
import pytest
import xarray as xr
from scipy.interpolate import PchipInterpolator

from entropy_sim import schema
from entropy_sim._kernels import evaluate
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Tabulated
from entropy_sim.landscapes.tabulated import MOST_BULK_MODES

LINEAR = Tabulated(
    knots=(0.0, 1.0, 2.0),
    loss=(0.5, 0.4, 0.3),
    stiffness=((1.0,), (2.0,), (3.0,)),
    bulk_stiffness=(3.0, 2.0, 1.0),
    bulk_modes=2,
    noise=((0.0,), (1.0,), (2.0,)),
    bulk_noise=(0.1, 0.2, 0.3),
    noise_along=(0.3, 0.2, 0.1),
)
TWIN = Tabulated()


def network_dataset(runs=None, drop=()):
    """A profile like a network's: two kinds of path of length 3, top eigenvalues that turn negative, noise."""
    n = 7
    s = np.linspace(0, 1, n) ** 1.2
    top = np.stack([10 + 20 * np.sin(np.pi * s), 4 + 3 * np.sin(np.pi * s), 1.0 - 1.5 * s], axis=-1)
    noise = np.stack([2 * top[:, 0], top[:, 1], np.full(n, 0.1)], axis=-1)
    trace = 60 + 40 * np.sin(np.pi * s)

    def both(values):
        values = np.stack([np.full_like(values, 7.0), values])
        return values if runs is None else np.stack([values * f for f in range(1, runs + 1)])

    lead = () if runs is None else ("run",)
    along, modes = (*lead, "path_kind", "s"), (*lead, "path_kind", "s", "eigenvalue_index")
    variables = {
        "s": (("s",), s),
        "path_kind": (("path_kind",), np.array(["line", "neb"])),
        "eigenvalue_index": (("eigenvalue_index",), np.arange(3)),
        "loss": (along, both(0.01 + 0.002 * np.cos(6 * s))),
        "hessian_eigenvalue": (modes, both(top)),
        "hessian_trace_transverse": (along, both(trace)),
        "noise_eigenvalue": (modes, both(noise)),
        "noise_trace_transverse": (along, both(noise.sum(-1) + 3.0)),
        "noise_trace": (along, both(noise.sum(-1) + 3.5)),
    }
    profile = schema.make("profile", {k: v for k, v in variables.items() if k not in drop})
    path = schema.make("path", {"s": (("s",), s), "arc_length": (("s",), 3.0 * s)})
    tree = xr.DataTree.from_dict({"/profile": profile, "/path": path})
    return tree, s, top, trace, noise


@pytest.mark.parametrize("twin", [LINEAR, TWIN])
def test_gradient_is_the_derivative_of_the_energy(twin):
    theta = np.random.default_rng(0).normal(size=(300, twin.dimension)) * 2
    theta = theta[np.abs(np.mod(theta[:, 0] / twin.arc_length + 0.5, 1.0) - 0.5) > 1e-3]
    h = 1e-6
    steps = h * np.eye(twin.dimension)
    expected = np.stack([(twin.energy(theta + e) - twin.energy(theta - e)) / (2 * h) for e in steps], axis=1)
    np.testing.assert_allclose(twin.gradient_at(theta), expected, rtol=1e-5, atol=1e-6)


def test_a_linear_table_is_reproduced_exactly():
    s = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(LINEAR.curvature(s)[:, 0], 1 + 2 * s, rtol=1e-13)
    np.testing.assert_allclose(LINEAR.curvature(s)[:, 1:], np.repeat(3 - 2 * s, 2).reshape(-1, 2), rtol=1e-13)
    np.testing.assert_allclose(LINEAR.curvature_slope(s), [[1.0, -1.0, -1.0]] * 5, rtol=1e-12)
    np.testing.assert_allclose(LINEAR.path_energy(s), 0.5 - 0.2 * s, rtol=1e-13)
    np.testing.assert_allclose(LINEAR.noise_variance_at(0.75), [[0.15, 1.5, 0.25, 0.25]], rtol=1e-13)


@pytest.mark.parametrize("twin", [LINEAR, TWIN])
def test_tables_are_exact_at_the_knots_and_compiled_functions_agree_between(twin):
    knots = np.array(twin.knots) / twin.arc_length
    k = len(twin.stiffness[0])
    np.testing.assert_allclose(twin.curvature(knots)[:, :k], twin.stiffness, rtol=1e-12)
    np.testing.assert_allclose(twin.curvature(knots)[:, k], twin.bulk_stiffness, rtol=1e-12)
    np.testing.assert_allclose(twin.path_energy(knots), twin.loss, atol=1e-12)
    s = np.concatenate([knots, np.linspace(0, 1, 57)])
    points = twin.path(s)
    points[:, 1:] = 2.0
    stiffness = evaluate(twin.transverse_stiffness, points, twin.params())[:, 1:]
    np.testing.assert_allclose(stiffness, twin.curvature(s), rtol=1e-10)
    noise = evaluate(twin.noise_variance, points, twin.params())
    np.testing.assert_allclose(noise, twin.noise_variance_at(s), rtol=1e-10, atol=1e-13)


def table(values, knots=None, **options):
    n = len(values)
    flat = (1.0,) * n
    knots = tuple(float(i) for i in range(n)) if knots is None else knots
    return Tabulated(
        knots=knots,
        loss=(0.0,) * n,
        stiffness=tuple((float(v),) for v in values),
        bulk_stiffness=flat,
        bulk_modes=0,
        noise=tuple((float(v),) for v in values),
        bulk_noise=flat,
        noise_along=flat,
        **options,
    )


def test_a_quadratic_is_reproduced_exactly_also_on_uneven_knots_and_has_its_slope():
    knots = (0.0, 0.7, 1.0, 2.2, 3.0)
    twin = table([2 + (y - 1) ** 2 for y in knots], knots)
    s = np.linspace(0, 1, 101)
    np.testing.assert_allclose(twin.curvature(s)[:, 0], 2 + (3 * s - 1) ** 2, rtol=1e-12)
    np.testing.assert_allclose(twin.curvature_slope(s)[:, 0], 2 * (3 * s - 1), rtol=1e-10, atol=1e-12)


def test_a_local_extremum_of_the_table_keeps_its_slope():
    twin = table([1.0, 6.0, 4.0, 2.0])
    assert twin.curvature_slope(np.array([1 / 3]))[0, 0] == pytest.approx(1.5)
    monotone = PchipInterpolator(range(4), [1.0, 6.0, 4.0, 2.0])
    assert monotone(1.0, 1) == 0.0


def test_steep_tables_stay_above_the_floor_and_variances_above_zero():
    rng = np.random.default_rng(0)
    s = np.linspace(0, 1, 2001)
    for _ in range(20):
        values = np.exp(rng.normal(0, 3, 8))
        twin = table(values, floor=0.5)
        assert twin.curvature(s).min() >= 0.5 - 1e-9
        assert table(values).params().size == twin.params().size
        assert twin._tables(s * twin.arc_length)[2].min() >= -1e-9
        unlimited = np.gradient(np.maximum(values, 0.5), edge_order=2)
        assert not np.allclose(unlimited, twin.curvature_slope(np.linspace(0, 1, 8))[:, 0])


def test_the_twin_of_a_profile_has_its_trace_noise_and_loss():
    tree, s, top, trace, noise = network_dataset()
    twin = Tabulated.from_profile(tree, "neb", bulk_modes=5)
    assert twin.dimension == 1 + 3 + 5
    assert twin.arc_length == pytest.approx(3.0)
    k = twin.curvature(s)
    floored = np.maximum(top, twin.floor)
    assert twin.floor == pytest.approx(1e-3 * top.max())
    assert (top < twin.floor).any()
    np.testing.assert_allclose(k[:, :3], floored, rtol=1e-10)
    np.testing.assert_allclose(k.sum(axis=1), trace + (floored - top).sum(axis=1), rtol=1e-10)
    variance = twin.noise_variance_at(s)
    np.testing.assert_allclose(variance[:, 1:4], noise, rtol=1e-10)
    np.testing.assert_allclose(variance[:, 1:].sum(axis=1), noise.sum(-1) + 3.0, rtol=1e-10)
    np.testing.assert_allclose(variance[:, 0], 0.5, rtol=1e-10)
    np.testing.assert_allclose(twin.path_energy(s), 0.01 + 0.002 * np.cos(6 * s), atol=1e-12)


def test_a_mode_that_is_not_known_everywhere_leaves_the_others_their_own_noise():
    tree, s, top, _, noise = network_dataset()
    profile = tree["profile"].to_dataset()
    profile["hessian_eigenvalue"][:, 3, 0] = np.nan
    tree["profile"] = profile
    twin = Tabulated.from_profile(tree, bulk_modes=5)
    np.testing.assert_allclose(twin.noise_variance_at(s)[:, 1:3], noise[:, 1:], rtol=1e-10)
    np.testing.assert_allclose(twin.curvature(s)[:, 0], top[:, 1], rtol=1e-10)


def positive_profile(softest):
    """A network's profile whose third eigenvalue is `softest` (n,), and the rest of its trace."""
    tree, s, top, trace, _ = network_dataset()
    top = np.column_stack([top[:, :2], softest])
    profile = tree["profile"].to_dataset()
    profile["hessian_eigenvalue"].loc[{"path_kind": "neb"}] = top
    tree["profile"] = xr.DataTree(profile)
    return tree, s, top, trace, trace - top.sum(axis=1)


def test_the_bulk_is_nowhere_stiffer_than_the_softest_top_mode():
    tree, s, top, trace, rest = positive_profile(np.linspace(0.8, 1.4, 7))
    twin = Tabulated.from_profile(tree)
    k = twin.curvature(s)
    np.testing.assert_allclose(k.sum(axis=1), trace, rtol=1e-10)
    np.testing.assert_allclose(k[:, :3], top, rtol=1e-10)
    assert (k[:, 3] <= top[:, 2] * (1 + 1e-12)).all()
    fewer = Tabulated.from_profile(tree, bulk_modes=twin.bulk_modes - 1)
    assert (fewer.curvature(s)[:, 3] > top[:, 2]).any()  # the smallest such number
    assert twin.bulk_modes == np.ceil((rest / top[:, 2]).max())


def test_a_negative_eigenvalue_does_not_bound_the_bulk_and_a_tiny_one_meets_the_cap():
    tree, s, top, _, rest = positive_profile(np.linspace(-1.0, -0.5, 7))
    twin = Tabulated.from_profile(tree)
    assert twin.bulk_modes == np.ceil((rest / top[:, 1]).max())
    tree, s, top, trace, rest = positive_profile(np.full(7, 0.04))
    capped = Tabulated.from_profile(tree, floor=1e-4)
    assert capped.bulk_modes == MOST_BULK_MODES < (rest / 0.04).max()
    np.testing.assert_allclose(capped.curvature(s).sum(axis=1), trace, rtol=1e-10)


def test_a_trace_that_the_top_modes_exhaust_leaves_no_bulk():
    tree, _, top, _, _ = positive_profile(np.ones(7))
    profile = tree["profile"].to_dataset()
    profile["hessian_trace_transverse"].loc[{"path_kind": "neb"}] = top.sum(axis=1) - 0.1
    tree["profile"] = xr.DataTree(profile)
    assert Tabulated.from_profile(tree).bulk_modes == 0


def test_a_profile_of_several_runs_and_one_without_noise():
    tree, s, top, _, _ = network_dataset(runs=2)
    one, two = (Tabulated.from_profile(tree, run=r) for r in (0, 1))
    np.testing.assert_allclose(two.curvature(s)[:, 0], 2 * one.curvature(s)[:, 0], rtol=1e-12)
    silent = Tabulated.from_profile(network_dataset(drop=("noise_eigenvalue", "noise_trace"))[0], bulk_modes=0)
    assert silent.dimension == 1 + top.shape[1]
    assert not silent.noise_variance_at(s).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tabulated(knots=(0.0, 2.0, 1.0, 3.0, 4.0)), r"landscape\.knots: expected two or more increasing"),
        (lambda: Tabulated(knots=(1.0, 1.5, 2.0, 2.5, 3.0)), r"landscape\.knots: expected .* from 0"),
        (lambda: Tabulated(loss=(0.0, 1.0)), r"landscape\.loss: expected a value for each of 5 knots, found 2"),
        (lambda: Tabulated(stiffness=()), r"landscape\.stiffness: expected a value for each of 5 knots, found 0"),
        (lambda: Tabulated(noise=((1.0,),) * 5), r"landscape\.stiffness: expected as many modes at every knot"),
        (lambda: Tabulated(bulk_noise=(-1.0,) * 5), r"landscape\.bulk_noise: expected variances >= 0"),
        (lambda: Tabulated(floor=0.0), r"landscape\.floor: expected a positive number"),
        (lambda: Tabulated(bulk_modes=-1), r"landscape\.bulk_modes: expected 0 or more"),
        (
            lambda: Tabulated(bulk_stiffness=(1.0, float("nan"), 1.0, 1.0, 1.0)),
            r"landscape\.bulk_stiffness: expected finite numbers",
        ),
        (lambda: Tabulated.from_profile(xr.DataTree()), r"expected a dataset with the groups profile and path"),
        (
            lambda: Tabulated.from_profile(network_dataset(drop=("hessian_eigenvalue",))[0]),
            r"expected a profile with .*, found 'no hessian_eigenvalue'",
        ),
        (
            lambda: Tabulated.from_profile(network_dataset()[0], "bezier"),
            r"path_kind: expected one of line, neb, found 'bezier'",
        ),
        (lambda: Tabulated.from_profile("/nonexistent.nc"), r"expected a netCDF file, found no such file"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_no_force_out_of_a_table_that_rises_from_its_end():
    twin = table([1.0, 4.0, 16.0, 4.0, 1.0])
    s = np.linspace(0, 1, 101)
    slope = twin.curvature_slope(s)[:, 0]
    assert slope[s < 0.5].min() >= 0.0
    assert slope[s > 0.5].max() <= 0.0
