"""AutoNEB on Müller-Brown's potential (two known saddles) and on potentials where one part of it can be seen alone."""

import dataclasses

import numpy as np
import pytest

from entropy_sim import path_geometry
from entropy_sim.errors import UserError
from entropy_sim.landscapes import MullerBrown
from nn_experiments.paths import autoneb
from nn_experiments.paths.autoneb import AutoNEB, AutoNEBState, upwind_tangents

HEIGHT = np.array([-200.0, -100.0, -170.0, 15.0])
A, B, C = np.array([[-1, -1, -6.5, 0.7], [0, 0, 11, 0.6], [-10, -10, -6.5, 0.7]])
X, Y = np.array([[1, 0, -0.5, -1], [0, 0.5, 1.5, 1]])
DEEPEST = np.array([[-0.558223634633, 1.441725841803], [0.623499404931, 0.028037758529]])
SADDLES = (-40.664844, -72.248940)
FAST = AutoNEB(pivots=25, cycles=((1e-4, 400), (1e-4, 400)), momentum=0.5, insertions=0)


def muller_brown(points):
    """Values (n,) and gradients (n, 2), from the published formula."""
    dx, dy = points[:, :1] - X, points[:, 1:] - Y
    terms = HEIGHT * np.exp(A * dx**2 + B * dx * dy + C * dy**2)
    gradient = [(terms * (2 * A * dx + B * dy)).sum(1), (terms * (B * dx + 2 * C * dy)).sum(1)]
    return terms.sum(1), np.stack(gradient, axis=1)


def path_maxima(points):
    """Energies of the local maxima along the densely sampled polyline."""
    energies = muller_brown(path_geometry.interpolate(points, np.linspace(0, 1, 20_001)))[0]
    inner = energies[1:-1]
    return inner[(inner > energies[:-2]) & (inner > energies[2:])]


@pytest.mark.parametrize("tangent", ["upwind", "central"])
def test_both_saddles_of_muller_brown(tangent):
    result = dataclasses.replace(FAST, tangent=tangent).run(muller_brown, DEEPEST)
    assert np.allclose(path_maxima(result.points), SADDLES, atol=2e-3)
    assert result.converged
    assert result.perpendicular_gradient_norm[1:-1].max() < 1e-3


def test_both_saddles_of_the_simulator_s_own_landscape():
    """A landscape and a network are the same to a path finder: a callable on (P, D)."""
    landscape = MullerBrown()

    def value_and_gradient(points):
        gradient = np.empty((2, len(points)))
        landscape.gradient(np.ascontiguousarray(points.T), gradient, landscape.params())
        return landscape.energy(points), gradient.T

    result = FAST.run(value_and_gradient, landscape.path([0.0, 1.0]))
    assert np.allclose(path_maxima(result.points), SADDLES, atol=2e-3)
    assert np.allclose(result.points, FAST.run(muller_brown, DEEPEST).points, atol=1e-5)


def test_insertion_finds_the_saddles_from_few_pivots():
    config = AutoNEB(
        pivots=7, cycles=((1e-4, 200),) * 5 + ((1e-4, 500),), momentum=0.5, insertions=4, insertion_threshold=0.002
    )
    result = config.run(muller_brown, DEEPEST)
    assert np.allclose(path_maxima(result.points), SADDLES, atol=1e-2)
    assert 7 < len(result.points) <= 7 + 5 * 4
    assert result.history.pivots == sorted(result.history.pivots)
    without = dataclasses.replace(config, insertions=0).run(muller_brown, DEEPEST)
    assert not without.converged
    assert np.max(np.abs(path_maxima(without.points) - SADDLES)) > 0.05


def test_a_pivot_is_added_where_the_loss_bulges_and_keeps_its_place():
    """A bump at x = 1/8 of a valley floor; the others stay where they were, unequal spacing and all."""

    def bump(points):
        x, y = points[:, 0], points[:, 1]
        hill = np.exp(-0.5 * ((x - 0.125) / 0.03) ** 2)
        return hill + 0.5 * y**2, np.stack([-hill * (x - 0.125) / 0.03**2, y], axis=1)

    ends, states = np.array([[0.0, 0.0], [1.0, 0.0]]), []
    config = AutoNEB(pivots=3, cycles=((1e-3, 20), (1e-3, 20)), insertions=1, redistribute_every=5)
    config.run(bump, ends, callback=states.append)
    for state in states:
        assert np.allclose(state.points[:, 0], [0.0, 0.125, 0.5, 1.0], atol=1e-12)
        assert np.allclose(state.places, [0.0, 0.125, 0.5, 1.0], atol=1e-12)
    assert states[0].history.pivots == [3, 3]
    assert states[1].history.pivots == [3, 3, 4]


def test_a_pivot_moves_as_heavy_ball():
    """One pivot between symmetric ends on L = ½ k (y − 1)² moves along y alone: compared with the iteration itself."""
    k, rate, beta, decay, steps = 3.0, 0.05, 0.8, 0.4, 17

    def valley(points):
        return 0.5 * k * (points[:, 1] - 1) ** 2, np.stack([0 * points[:, 0], k * (points[:, 1] - 1)], axis=1)

    config = AutoNEB(pivots=3, cycles=((rate, steps),), momentum=beta, weight_decay=decay, insertions=0)
    found = config.run(valley, np.array([[-1.0, 0.0], [1.0, 0.0]])).points[1]
    y, v = 0.0, 0.0
    for _ in range(steps):
        v = beta * v - rate * (k * (y - 1) + decay * y)
        y += v
    assert np.allclose(found, [0.0, y], atol=1e-12)


def test_tangents_see_the_weight_decay(monkeypatch):
    seen = []
    original = autoneb.upwind_tangents
    monkeypatch.setattr(autoneb, "upwind_tangents", lambda p, e: seen.append((p.copy(), e)) or original(p, e))
    dataclasses.replace(FAST, cycles=((1e-4, 2),), weight_decay=3.0).run(muller_brown, DEEPEST)
    points, energies = seen[1]
    assert np.allclose(energies, muller_brown(points)[0] + 1.5 * (points**2).sum(1), rtol=1e-12)


def test_ends_stay_and_spacing_is_equal():
    result = FAST.run(muller_brown, DEEPEST)
    assert np.array_equal(result.points[[0, -1]], DEEPEST)
    lengths = np.diff(result.arc_length)
    assert lengths.max() / lengths.min() < 1.001


def test_unprojected_gradient_slides_down(monkeypatch):
    """Mutant: between two redistributions the pivots of an unprojected band fall off the barrier."""
    config = dataclasses.replace(FAST, cycles=((1e-4, 400), (1e-4, 100)), redistribute_every=10_000)
    states: list[AutoNEBState] = []
    good = config.run(muller_brown, DEEPEST, callback=states.append)
    assert good.history.highest_pivot_loss[-1] == pytest.approx(SADDLES[0], abs=0.5)
    monkeypatch.setattr(autoneb, "upwind_tangents", lambda points, energies: 0.0 * points[1:-1])
    bad = config.run(muller_brown, DEEPEST, start=states[0])
    assert bad.history.highest_pivot_loss[-1] < SADDLES[0] - 10


def test_converged_is_relative_to_the_barrier_of_the_path_found():
    """The last cycle changes the highest loss by a known fraction of its excess over the higher end, B of two unlike
    ones; in units of the straight line's loss, or of the excess over the lower end, the same change is smaller."""
    config = AutoNEB(pivots=25, cycles=((1e-4, 15), (1e-4, 10)), momentum=0.5, insertions=0, insertion_threshold=10.0)
    result = config.run(muller_brown, DEEPEST)
    before, after = result.history.highest_loss[-2:]
    change, barrier = abs(after - before), after - muller_brown(DEEPEST)[0].max()
    scale = muller_brown(path_geometry.interpolate(DEEPEST, np.linspace(0, 1, 201)))[0]
    assert change / (after - muller_brown(DEEPEST)[0].min()) < 0.8 * change / barrier
    assert change / np.ptp(scale) < 0.8 * change / barrier

    def converged(tolerance):
        return dataclasses.replace(config, tolerance=tolerance).run(muller_brown, DEEPEST).converged

    assert converged(1.001 * change / barrier)
    assert not converged(0.999 * change / barrier)


def test_a_low_path_that_still_sinks_is_not_converged():
    """A straight line a thousand times higher than the path must not make every path converged."""

    def ring(points):
        """A circular valley of radius 1 with a barrier of 0.02 at y = 1; straight across, the loss is 100."""
        x, y = points.T
        excess = x**2 + y**2 - 1
        values = 100 * excess**2 + 0.01 * (1 - np.cos(2 * np.arctan2(y, x)))
        turn = 0.02 * np.sin(2 * np.arctan2(y, x)) / np.maximum(x**2 + y**2, 1e-12)
        return values, np.stack([400 * excess * x - turn * y, 400 * excess * y + turn * x], axis=1)

    def bent(*steps):
        config = AutoNEB(pivots=25, cycles=tuple((5e-4, n) for n in steps), momentum=0.5, insertions=0)
        return config.run(ring, np.array([[np.cos(0.1), np.sin(0.1)], [-np.cos(0.1), np.sin(0.1)]]))

    sinking = bent(15, 3)
    before, after = sinking.history.highest_loss[-2:]
    assert (before - after) / after > 0.2
    assert before < 1e-3 * sinking.history.highest_loss[0]
    assert not sinking.converged
    assert bent(60, 60).converged


def test_torch_gives_the_same_path():
    torch = pytest.importorskip("torch")

    def tensors(points):
        return tuple(torch.from_numpy(a) for a in muller_brown(points.numpy()))

    config = AutoNEB(pivots=7, cycles=((1e-4, 60), (1e-4, 60)), momentum=0.5, weight_decay=0.1)
    expected = config.run(muller_brown, DEEPEST)
    found = config.run(tensors, torch.from_numpy(DEEPEST))
    assert isinstance(found.points, torch.Tensor)
    assert np.allclose(found.points.numpy(), expected.points, rtol=1e-9)
    assert np.allclose(found.loss_between, expected.loss_between, rtol=1e-9)
    assert np.allclose(found.perpendicular_gradient_norm, expected.perpendicular_gradient_norm, rtol=1e-6, atol=1e-9)


def test_losses_between_are_the_highest_sampled_ones():
    result = FAST.run(muller_brown, DEEPEST)
    assert np.array_equal(result.losses, muller_brown(result.points)[0])
    for i in range(len(result.points) - 1):
        samples = muller_brown(path_geometry.interpolate(result.points[i : i + 2], np.linspace(0, 1, 5)))[0]
        assert result.loss_between[i] == pytest.approx(samples.max(), rel=1e-12)
    assert result.loss_between[-1] == result.losses[-1]
    assert result.history.highest_loss[-1] == result.loss_between.max()


def test_weight_decay_is_descended_but_not_reported():
    """L = ½ (r² − 1)² / 0.01 with a penalty: the band of the penalised potential lies at r² = 1 − 0.01 λ."""

    def ring(points):
        r2 = (points**2).sum(1)
        return 50 * (r2 - 1) ** 2, 200 * (r2 - 1)[:, None] * points

    ends = np.array([[1.0, 0.0], [-0.6, 0.8]])
    penalty = 20.0
    result = AutoNEB(pivots=15, cycles=((1e-3, 1000),), momentum=0.5, weight_decay=penalty, insertions=0).run(
        ring, ends
    )
    r2 = (result.points[5:10] ** 2).sum(1)
    assert np.allclose(r2, 1 - penalty / 200, atol=1e-4)
    assert np.allclose(result.losses[5:10], 50 * (penalty / 200) ** 2, rtol=1e-2)
    # The gradient of the loss alone is `penalty` there; that of what is descended vanishes.
    assert result.perpendicular_gradient_norm[5:10].max() < penalty / 100


def test_all_pivots_share_one_call_per_step():
    calls = []

    def counted(points):
        calls.append(len(points))
        return muller_brown(points)

    config = AutoNEB(pivots=9, cycles=((1e-4, 30), (1e-4, 20)), insertions=0)
    result = config.run(counted, DEEPEST, evaluate=lambda p: muller_brown(p)[0], full=muller_brown)
    assert calls == [7] * 50
    assert len(result.history.mean_loss) == config.steps == 50


def test_a_run_goes_on_from_any_cycle_to_the_same_result():
    config = AutoNEB(pivots=7, cycles=((1e-4, 50),) * 3, momentum=0.5)
    states: list[AutoNEBState] = []
    whole = config.run(muller_brown, DEEPEST, callback=states.append)
    assert [s.steps_done for s in states] == [50, 100, 150]
    for state in states:
        again = config.run(muller_brown, DEEPEST, start=state)
        assert np.array_equal(again.points, whole.points)
        assert np.array_equal(again.loss_between, whole.loss_between)
        assert again.history == whole.history


def test_caller_keeps_points_and_gradients():
    """A caller's gradient buffer is not written to, nor are the ends or a state that is gone on from."""
    ends, buffer = DEEPEST.copy(), np.zeros((5, 2))

    def buffered(points):
        values, buffer[:] = muller_brown(points)
        before = buffer.copy()
        seen.append((before, buffer))
        return values, buffer

    seen: list[tuple[np.ndarray, np.ndarray]] = []
    states: list[AutoNEBState] = []
    config = AutoNEB(pivots=7, cycles=((1e-4, 1), (1e-4, 1)), insertions=0)
    arguments = {"evaluate": lambda p: muller_brown(p)[0], "full": muller_brown}
    config.run(buffered, ends, callback=states.append, **arguments)
    assert np.array_equal(seen[-1][0], seen[-1][1])
    assert np.array_equal(ends, DEEPEST)
    kept = states[0].points.copy()
    config.run(buffered, ends, start=states[0], **arguments)
    assert np.array_equal(states[0].points, kept)


def test_upwind_tangents_against_the_published_cases():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])  # a right angle of unequal arms: u₋ = x, u₊ = y
    diagonal = np.sqrt(0.5)

    def tangent(*energies):
        return upwind_tangents(points, np.array(energies))[0]

    assert np.allclose(tangent(0.0, 1.0, 2.0), [0, 1])  # rising: forward
    assert np.allclose(tangent(2.0, 1.0, 0.0), [1, 0])  # falling: backward
    # maximum, forward neighbour higher: u₊ · 3 + u₋ · 1; a common bug swaps these weights
    assert np.allclose(tangent(0.0, 3.0, 2.0), np.array([1, 3]) / np.sqrt(10))
    assert np.allclose(tangent(2.0, 3.0, 0.0), np.array([3, 1]) / np.sqrt(10))
    assert np.allclose(tangent(1.0, 0.0, 4.0), np.array([1, 4]) / np.sqrt(17))  # minimum
    assert np.allclose(tangent(1.0, 1.0, 1.0), [diagonal, diagonal])  # flat: no division by zero
    assert np.allclose(tangent(1.0, 1.0, 3.0), [0, 1])  # level on one side


def test_diverging_path_is_refused():
    def quartic(points):
        with np.errstate(over="ignore"):
            return (points**4).sum(1), 4 * points**3

    with pytest.raises(
        UserError,
        match=r"^path\.cycles: expected learning rates at which the path's loss stays finite, found inf at "
        r"point 2 of 5, cycle 1 \(learning rate 10\), step 6$",
    ):
        AutoNEB(pivots=5, cycles=((10.0, 50),)).run(quartic, np.array([[3.0, 1], [-3, 1]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pivots": 2}, "pivots: expected at least 3, found 2"),
        ({"cycles": ()}, r"cycles: expected at least one"),
        ({"cycles": ((0.1, 0),)}, r"cycles: expected a positive learning rate and number of steps, found \(0\.1, 0\)"),
        ({"momentum": 1.0}, "momentum: expected 0 <= momentum < 1, found 1"),
        ({"weight_decay": -1.0}, "weight_decay: expected a number >= 0, found -1"),
        ({"tangent": "forward"}, "tangent: expected 'upwind' or 'central', found 'forward'"),
        ({"redistribute_every": 0}, "redistribute_every: expected a number of steps > 0, found 0"),
        ({"samples_between": 0}, "samples_between: expected at least 1, found 0"),
        ({"insertion_threshold": 0.0}, "insertion_threshold: expected a number > 0, found 0"),
        ({"insertions": -1}, "insertions: expected a number >= 0, found -1"),
        ({"tolerance": 0.0}, "tolerance: expected a number > 0, found 0"),
        ({"batch_size": 0}, "batch_size: expected a number of samples > 0, found 0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UserError, match=message):
        AutoNEB(**options)
