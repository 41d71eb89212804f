"""Unwrapped coordinates with folded forces take the steps of a walker that is really reflected, whatever acts on it."""

import numpy as np
import pytest

from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Adam, Overdamped, Preconditioned
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Barrier, Bump, Channel, CurvedChannel, Quadratic, Tabulated
from entropy_sim.landscapes.interpolated import Interpolated
from entropy_sim.landscapes.shapes import Tilted
from entropy_sim.measurements import mean_force, stationary
from entropy_sim.noise import CurvatureCovariance, CustomDiffusion, GradientCovariance, Thermal

TABLE = Tabulated(
    knots=(0.0, 1.0, 2.0),
    loss=(2.0, 1.0, 0.0),
    stiffness=((1.0,), (2.0,), (1.0,)),
    bulk_stiffness=(1.0,) * 3,
    bulk_modes=0,
    noise=((1.0,),) * 3,
    bulk_noise=(1.0,) * 3,
    noise_along=(1.0,) * 3,
)
LANDSCAPES = [
    pytest.param(Channel(Bump(1.0, 2.0), Tilted(-1.0), 1, length=2.0), id="channel"),
    pytest.param(TABLE, id="tabulated"),
]
DYNAMICS = [
    SGD(0.05, weight_decay=0.3),
    SGD(0.05, momentum=0.9, weight_decay=0.3),
    SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.3),
    Adam(0.05, weight_decay=0.3),
    Adam(0.05, weight_decay=0.3, decoupled=True),
]


def reflected(y, length):
    r = np.mod(y, 2.0 * length)
    return np.where(r > length, 2.0 * length - r, r)


@pytest.mark.parametrize("landscape", LANDSCAPES)
@pytest.mark.parametrize("dynamics", DYNAMICS, ids=repr)
def test_weight_decay_acts_where_a_reflected_walker_is(dynamics, landscape):
    """Against the plain rule in 0…length, position and memory along the path turned round at each end it passes."""
    length = landscape.arc_length
    theta = np.array([[1.9, 0.4, 1.2], [0.3, -0.2, 0.5]])
    memory = np.zeros((dynamics.memory_rows(2), 3))
    if memory.size:
        memory[0] = [0.5, -0.6, 0.3]  # thrown against the ends: a plain fall would come to rest beside one
    ensemble = Ensemble(landscape, GradientCovariance(((0.0,),)), dynamics, theta.T, threads=1)
    ensemble._memory[0, :, :3] = memory
    if not memory.size:
        theta = theta + np.array([[0.5], [0.0]])  # begins in a mirror image instead
        ensemble._theta[0, :, :3] = theta
        theta[0] = reflected(theta[0], length)
    turned = 0
    for _ in range(60):
        gradient = landscape.gradient_at(theta.T).T
        dynamics.function(theta, gradient, np.zeros((2, 3)), np.zeros((0, 3)), memory, dynamics.params())
        beyond = np.floor(theta[0] / length) % 2 == 1  # an odd number of mirrors passed in this step
        turned += beyond.sum()
        theta[0] = reflected(theta[0], length)
        if memory.size:
            memory[0] = np.where(beyond, -memory[0], memory[0])
    ensemble.advance(60)
    found = ensemble.theta.T
    np.testing.assert_allclose(landscape.position(found.T) * length, theta[0], atol=1e-10)
    np.testing.assert_allclose(found[1], theta[1], atol=1e-10)
    assert turned >= 2 or not memory.size


def test_weight_decay_on_a_path_with_ends_leaves_its_boltzmann_factor():
    """C and k constant: p ∝ exp(-(λ/2) y² / T), T = eta C / 2 to first order in eta."""
    noise, dynamics = GradientCovariance(((2.0,),)), SGD(0.01, weight_decay=0.02)
    found = stationary(
        Channel(Bump(1.0, 1.0), transverse_directions=1),
        noise,
        dynamics,
        bins=5,
        walkers=4096,
        burn_in=150.0,
        duration=150.0,
        stride=50,
    )["stationary"]
    y = (np.arange(5000) + 0.5) / 5000
    expected = np.exp(-(y**2)).reshape(5, -1).mean(axis=1)
    z = (found["density"] - expected / expected.mean()) / found["density_stderr"]
    assert np.abs(z).max() < 4
    assert np.abs((found["density"] - 1.0) / found["density_stderr"]).max() > 20  # it has an effect at all


@pytest.mark.parametrize("dynamics", [SGD(0.05, weight_decay=0.3), Adam(0.01, weight_decay=0.3)], ids=repr)
def test_weight_decay_is_refused_on_a_path_that_is_its_own_beginning(dynamics):
    with pytest.raises(UserError, match=r"dynamics\.weight_decay: expected 0 with landscape\.boundary periodic, found"):
        dynamics.check(Channel(boundary="periodic"), CurvatureCovariance())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "noise.py"
    path.write_text(
        "def diagonal(x, p):\n    return 0.02 + 0.08 * x[0] ** 2, 0.05\n\n"
        "def factor(x, p):\n    return (0.1 * x[0],), (0.2 + 0.1 * x[0] * x[1],)\n"
    )
    return path


@pytest.mark.parametrize("interpretation", ["ito", "stratonovich", "anti_ito"])
@pytest.mark.parametrize("landscape", LANDSCAPES)
def test_a_users_noise_is_the_mirror_image_in_a_mirror_image(file, interpretation, landscape):
    noise, rng = CustomDiffusion(str(file), interpretation=interpretation), np.random.default_rng(0)
    real = np.stack([rng.uniform(0.1, 1.9, 32), rng.normal(size=32)])
    xi = rng.normal(size=(noise.normals(landscape), 32)).astype(np.float32)

    def act(theta):
        gradient, out, field = np.zeros((2, 32)), np.zeros((2, 32)), np.zeros((2, 32))
        landscape.folded(theta, field, landscape.params())
        numbers = np.uint64(0), 0, 0, noise.params(landscape, 1.0)
        noise.function_for(landscape)(theta, gradient, field, xi, out, *numbers)
        return np.stack([gradient, out])

    for image, sign in ((lambda y: -y, -1.0), (lambda y: 4.0 - y, -1.0), (lambda y: y - 4.0, 1.0)):
        found = act(np.stack([image(real[0]), real[1]]))
        np.testing.assert_allclose(found, act(real) * np.array([sign, 1.0])[:, None], rtol=1e-7, atol=1e-12)


def test_a_users_diffusion_reaches_its_stationary_density_between_reflecting_ends(tmp_path):
    """Itô without force: p ∝ 1/D(y)."""
    file = tmp_path / "noise.py"
    file.write_text("def diagonal(x, p):\n    return 0.02 + 0.08 * x[0] ** 2, 0.05\n")
    channel = Channel(Bump(1.0, 1.0), transverse_directions=1)
    options = {"bins": 5, "walkers": 4096, "burn_in": 60.0, "duration": 80.0, "stride": 50}
    found = stationary(channel, CustomDiffusion(str(file)), Overdamped(0.005), **options)["stationary"]
    y = (np.arange(5000) + 0.5) / 5000
    expected = (1.0 / (0.02 + 0.08 * y**2)).reshape(5, -1).mean(axis=1)
    z = (found["density"] - expected / expected.mean()) / found["density_stderr"]
    assert np.abs(z).max() < 4


STEEP = Interpolated((0.0, 50.0, 0.0, 50.0, 0.0))


@pytest.mark.parametrize(
    "landscape",
    [
        Channel(along=STEEP, transverse_directions=1),
        Tabulated(loss=(0.0, 50.0, 0.0, 50.0, 0.0)),
        CurvedChannel(along=Barrier(30.0), angle=180.0, radius=0.3),
        Quadratic(((1000.0, 1.0),)),
    ],
    ids=lambda landscape: type(landscape).__name__,
)
def test_a_step_that_is_unstable_along_the_path_is_refused_unless_walkers_are_held_there(landscape):
    stiffest = landscape.tangential_curvature(np.linspace(0.0, 1.0, 5001)).max()
    with pytest.raises(UserError, match="the stability limit 2/k at the largest stiffness") as refused:
        stationary(landscape, Thermal(1.0), Overdamped(2.1 / stiffest))
    assert float(str(refused.value).split("stiffness ")[1].split(",")[0]) == pytest.approx(stiffest, rel=0.01)
    held = {"walkers": 2, "replicas": 1, "burn_in": 0.0, "duration": 0.5, "stride": 1, "time_windows": 1}
    mean_force(landscape, Thermal(1.0), Overdamped(2.1 / stiffest), **held)


def test_preconditioning_leaves_the_stiffness_along_the_path_as_it_is():
    channel = Channel(along=Barrier(30.0), transverse_directions=1)
    stiffest = channel.largest_stiffness()
    with pytest.raises(UserError, match=r"stability limit 2 \(1 \+ momentum\)/k along the path at the largest"):
        Preconditioned(2.1 / stiffest).check(channel, CurvatureCovariance())
    Preconditioned(1.8 / stiffest).check(channel, CurvatureCovariance())
    Preconditioned(2.1 / stiffest).check(channel, CurvatureCovariance(), held=True)
