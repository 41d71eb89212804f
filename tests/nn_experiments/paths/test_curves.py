"""Bézier curves and polygonal chains in two dimensions, against a direct minimisation of the mean loss."""

import dataclasses

import numpy as np
import pytest
from scipy.interpolate import BPoly
from scipy.optimize import minimize

from entropy_sim import path_geometry
from entropy_sim.errors import UserError
from nn_experiments.paths.curves import BezierCurve, PolygonalChain

ENDS = np.array([[-1.0, 0.1], [1.0, -0.2]])
CONTROLS = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, -1.0], [2.0, 1.0]])
MIDDLES = (np.arange(400) + 0.5) / 400


def hill(points):
    """A bowl in y around a sine, and a hill in the way: values (n,), gradients (n, 2)."""
    x, y = points[:, 0], points[:, 1]
    off = y - 0.5 * np.sin(2 * x)
    bump = np.exp(-4 * (x**2 + y**2))
    values = off**2 + 0.7 * bump
    return values, np.stack([-2 * off * np.cos(2 * x) - 5.6 * bump * x, 2 * off - 5.6 * bump * y], axis=1)


def mean_loss(config, inner, penalty=0.0):
    points = config.weights(MIDDLES) @ np.concatenate([ENDS[:1], inner.reshape(-1, 2), ENDS[1:]])
    return hill(points)[0].mean() + 0.5 * penalty * (points**2).sum(1).mean()


def test_weights_of_bezier_are_bernstein_polynomials():
    t = np.linspace(0, 1, 23)
    curve = BezierCurve(control_points=2).weights(t) @ CONTROLS
    assert np.allclose(curve, BPoly(CONTROLS[:, None, :], [0, 1])(t), atol=1e-14)


def test_a_chain_is_linear_between_its_corners():
    t = np.linspace(0, 1, 23)
    chain = PolygonalChain(control_points=2).weights(t) @ CONTROLS
    assert np.allclose(chain, np.column_stack([np.interp(3 * t, range(4), c) for c in CONTROLS.T]), atol=1e-14)


@pytest.mark.parametrize("kind", [BezierCurve, PolygonalChain])
@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.05), ("adam", 0.02)])
def test_trained_control_points_minimise_the_mean_loss(kind, optimizer, rate, monkeypatch):
    """Against BFGS on a quadrature over t; with weights of another kind the minimum is another."""
    penalty = 0.3
    config = kind(
        control_points=2,
        steps=600,
        learning_rate=rate,
        optimizer=optimizer,
        weight_decay=penalty,
        samples_per_step=200,
        records=1,
    )
    kept = []
    original = type(config).path
    monkeypatch.setattr(kind, "path", lambda self, controls: kept.append(controls.copy()) or original(self, controls))
    config.run(hill, ENDS)
    start, found = kept[0][1:-1], kept[-1][1:-1]
    best = minimize(lambda c: mean_loss(config, c, penalty), start.ravel(), method="BFGS")
    assert np.allclose(start, ENDS[0] + np.array([[1], [2]]) / 3 * (ENDS[1] - ENDS[0]))

    def excess(inner):
        """Above the minimum, in units of what there was to gain."""
        gain = mean_loss(config, start, penalty) - best.fun
        return (mean_loss(config, inner, penalty) - best.fun) / gain

    assert abs(excess(found)) < 5e-3
    unpenalised = minimize(lambda c: mean_loss(config, c), start.ravel(), method="BFGS")
    other = {BezierCurve: PolygonalChain, PolygonalChain: BezierCurve}[kind](control_points=2)
    of_the_other = minimize(lambda c: mean_loss(other, c, penalty), start.ravel(), method="BFGS")
    assert excess(unpenalised.x) > 0.05
    assert excess(of_the_other.x) > 0.05


def test_the_gradient_of_a_step_is_unbiased():
    """Stratified t: the mean over many steps is the gradient of the quadrature."""
    config = BezierCurve(control_points=2, samples_per_step=3)
    inner = np.array([[-0.4, 0.3], [0.6, -0.1]])
    controls = np.concatenate([ENDS[:1], inner, ENDS[1:]])
    gradients = []
    for step in range(600):
        state = dataclasses.make_dataclass("S", ["controls", "velocity", "square", "step", "history"])(
            controls.copy(), np.zeros((2, 2)), np.zeros((0, 2)), 0, None
        )
        state.history = type("H", (), {"step": staticmethod(lambda losses: None)})
        dataclasses.replace(config, seed=step)._step(state, hill, None)
        gradients.append(-state.velocity.ravel() / config.rate(0))
    mean, error = np.mean(gradients, 0), np.std(gradients, 0) / np.sqrt(len(gradients))
    exact = [
        (mean_loss(config, inner.ravel() + e) - mean_loss(config, inner.ravel() - e)) / 2e-5 for e in 1e-5 * np.eye(4)
    ]
    assert np.all(np.abs(mean - exact) < 4 * error)
    assert np.all(error < 0.03 * np.abs(exact).max())
    assert np.abs(mean - 2 * np.array(exact)).max() > 5 * error.max()  # the sum over only some of the t


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.7), ("adam", 0.9)])
def test_steps_are_those_of_torch_s_optimizers(optimizer, momentum):
    """Step by step, with the same t: torch's SGD (v ← βv + g, θ ← θ − lr v; one learning rate) and Adam."""
    torch = pytest.importorskip("torch")
    steps, rate = 9, 0.05
    config = BezierCurve(
        control_points=2, steps=steps, learning_rate=rate, optimizer=optimizer, momentum=momentum, samples_per_step=3
    )
    free = torch.tensor(config.fit(ENDS)[1:-1], requires_grad=True)
    kinds = {
        "sgd": lambda p: torch.optim.SGD(p, rate, momentum=momentum),
        "adam": lambda p: torch.optim.Adam(p, rate),
    }
    made = kinds[optimizer]([free])
    asked = []

    def watched(points):
        asked.append(points.copy())
        return hill(points)

    config.run(watched, ENDS, evaluate=lambda points: hill(points)[0], full=hill)
    for step in range(5):  # the learning rate is constant for half of the steps
        t = (np.arange(3) + np.random.default_rng((0, step)).random(3)) / 3
        weights = config.weights(t)
        controls = np.concatenate([ENDS[:1], free.detach().numpy(), ENDS[1:]])
        assert np.allclose(asked[step], weights @ controls, rtol=1e-10)
        free.grad = torch.from_numpy(weights[:, 1:-1].T @ hill(weights @ controls)[1] / 3)
        made.step()
    assert np.allclose([config.rate(s) for s in (0, 4, 9)], [rate, rate, rate / 100])


@pytest.mark.parametrize("kind", [BezierCurve, PolygonalChain])
def test_path_points_are_equally_spaced_on_the_curve(kind):
    config = kind(control_points=2, points=9)
    path = config.path(CONTROLS)
    fine = config.weights(np.linspace(0, 1, 20_001)) @ CONTROLS
    y = path_geometry.arc_length(fine)
    expected = np.column_stack([np.interp(np.linspace(0, y[-1], 9), y, c) for c in fine.T])
    assert np.array_equal(path[[0, -1]], CONTROLS[[0, -1]])
    assert np.allclose(path, expected, atol=2e-3)


def test_a_curve_is_fitted_to_the_chain_it_starts_from():
    """The least-squares fit over s, against a minimiser that knows nothing of matrices."""
    config = BezierCurve(control_points=2)
    s = np.linspace(0, 1, 501)
    wanted = path_geometry.interpolate(CONTROLS, s)

    def square(inner):
        controls = np.concatenate([CONTROLS[:1], inner.reshape(2, 2), CONTROLS[-1:]])
        return ((config.weights(s) @ controls - wanted) ** 2).sum(1).mean()

    best = minimize(square, CONTROLS[1:-1].ravel(), method="BFGS").x.reshape(2, 2)
    fitted = config.fit(CONTROLS)
    assert np.array_equal(fitted[[0, -1]], CONTROLS[[0, -1]])
    assert np.allclose(fitted[1:-1], best, atol=5e-3)
    assert np.abs(best - CONTROLS[1:-1]).max() > 0.5
    straight = config.fit(CONTROLS[[0, -1]])
    assert np.allclose(straight, np.linspace(CONTROLS[0], CONTROLS[-1], 4))


def test_result_is_judged_as_every_path():
    result = BezierCurve(steps=200, learning_rate=0.05, points=7, records=4).run(hill, ENDS)
    assert result.finder == "BezierCurve"
    assert np.array_equal(result.points[[0, -1]], ENDS)
    assert np.array_equal(result.losses, hill(result.points)[0])
    for i in range(6):
        values = hill(path_geometry.interpolate(result.points[i : i + 2], np.linspace(0, 1, 5)))[0]
        assert result.loss_between[i] == pytest.approx(values.max(), rel=1e-12)
    tangents = path_geometry.tangents(result.points)
    gradients = hill(result.points)[1]
    across = gradients[:, 0] * tangents[:, 1] - gradients[:, 1] * tangents[:, 0]
    assert np.allclose(result.perpendicular_gradient_norm, np.abs(across), atol=1e-12)
    assert len(result.history.highest_loss) == 5
    assert len(result.history.mean_loss) == 200
    assert result.highest_loss == result.history.highest_loss[-1]


def test_converged_asks_whether_the_highest_loss_still_changes():
    config = BezierCurve(steps=400, learning_rate=0.05, records=4, samples_per_step=20)
    result = config.run(hill, ENDS)
    assert result.converged
    before, after = result.history.highest_loss[-2:]
    change = abs(after - before) / (after - hill(ENDS)[0].max())
    assert not dataclasses.replace(config, tolerance=0.99 * change).run(hill, ENDS).converged
    assert dataclasses.replace(config, tolerance=1.01 * change).run(hill, ENDS).converged


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_torch_gives_the_same_path(optimizer):
    torch = pytest.importorskip("torch")

    def tensors(points):
        return tuple(torch.from_numpy(a) for a in hill(points.numpy()))

    config = PolygonalChain(control_points=2, steps=60, optimizer=optimizer, weight_decay=0.1)
    expected, found = config.run(hill, ENDS), config.run(tensors, torch.from_numpy(ENDS))
    assert isinstance(found.points, torch.Tensor)
    assert np.allclose(found.points.numpy(), expected.points, rtol=1e-9)
    assert np.allclose(found.perpendicular_gradient_norm, expected.perpendicular_gradient_norm, rtol=1e-9)


def test_a_diverging_curve_is_refused():
    def quartic(points):
        with np.errstate(over="ignore", invalid="ignore"):
            return (points**4).sum(1), 4 * points**3

    with pytest.raises(
        UserError, match=r"^path\.learning_rate: expected one at which .* found (inf|nan) at point \d of 4, st"
    ):
        BezierCurve(learning_rate=10.0).run(quartic, 3 * ENDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control_points": 0}, "control_points: expected at least 1, found 0"),
        ({"steps": 0}, "steps: expected at least 1, found 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number > 0, found 0"),
        ({"optimizer": "lbfgs"}, "optimizer: expected 'sgd' or 'adam', found 'lbfgs'"),
        ({"momentum": 1.0}, "momentum: expected 0 <= momentum < 1, found 1"),
        ({"weight_decay": -1.0}, "weight_decay: expected a number >= 0, found -1"),
        ({"samples_per_step": 0}, "samples_per_step: expected at least 1, found 0"),
        ({"points": 2}, "points: expected at least 3, found 2"),
        ({"samples_between": 0}, "samples_between: expected at least 1, found 0"),
        ({"records": 0}, "records: expected at least 1, found 0"),
        ({"tolerance": 0.0}, "tolerance: expected a number > 0, found 0"),
        ({"batch_size": 0}, "batch_size: expected a number of samples > 0, found 0"),
        ({"seed": -1}, "seed: expected a number >= 0, found -1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UserError, match=message):
        BezierCurve(**options)
