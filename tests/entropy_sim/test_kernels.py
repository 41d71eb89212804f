"""The ensemble loop: the same numbers however it is run, an obvious reimplementation, and divergence."""

import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numba import int8, int64, njit, void

import entropy_sim
from entropy_sim._ensemble import DIVERGENCE_BOUND, Ensemble, block_width
from entropy_sim._kernels import observe_function
from entropy_sim._random import fill_normals
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.landscapes import Barrier, Channel, DoubleWell, MullerBrown, Quadratic, Tabulated
from entropy_sim.landscapes._channel import PERIODIC, REFLECTING, simple_euler_maruyama, simple_gradient
from entropy_sim.landscapes._shapes import BUMP, FLAT, QUARTIC
from entropy_sim.noise import (
    CurvatureCovariance,
    CurvaturePower,
    GradientCovariance,
    TabulatedCovariance,
    Thermal,
)

SYSTEMS = [
    pytest.param(Channel(transverse_directions=1), Thermal(0.1), Overdamped(), id="channel-2d"),
    pytest.param(
        Channel(DoubleWell(), Barrier(0.2), 2, boundary="periodic"), CurvaturePower(), Overdamped(), id="channel-3d"
    ),
    pytest.param(
        Channel(transverse_directions=3), Thermal(0.1), Overdamped(scheme="leimkuhler_matthews"), id="channel-4d"
    ),
    pytest.param(Channel(), CurvatureCovariance(), SGD(0.01, 0.9), id="channel-5d-momentum"),
    pytest.param(Tabulated(), TabulatedCovariance(), SGD(0.01, 0.5), id="tabulated"),
    pytest.param(
        Quadratic(((2.0, 0.5), (0.5, 1.0))), GradientCovariance(((1.0, 0.3), (0.3, 0.5))), SGD(0.1), id="quadratic"
    ),
    pytest.param(MullerBrown(scale=0.01), Thermal(0.1), Overdamped(1e-3), id="muller-brown"),
]


@observe_function
def record_sums(theta, gradient, located, frame, index, out, params):
    for i in range(theta.shape[0]):
        for w in range(theta.shape[1]):
            out[i, w] += theta[i, w] * gradient[i, w] + located[0, w] + index


def run(system, pieces=(100,), n=300, **options):
    landscape, noise, dynamics = system
    start = landscape.path(np.linspace(0.1, 0.9, n))
    ensemble = Ensemble(
        landscape,
        noise,
        dynamics,
        start,
        seed=5,
        observer=record_sums,
        out_shape=(landscape.dimension, -1),
        observe_from=7,
        observe_every=3,
        locate=True,
        **options,
    )
    for steps in pieces:
        ensemble.advance(steps)
    return np.concatenate([ensemble.theta, ensemble.per_walker], axis=1)


@pytest.mark.parametrize(("landscape", "noise", "dynamics"), SYSTEMS)
def test_numbers_do_not_depend_on_threads_blocks_or_chunks(landscape, noise, dynamics):
    system = landscape, noise, dynamics
    reference = run(system, threads=1, block=320)
    for options in ({"threads": 2}, {"threads": 3, "block": 32}, {"threads": 1, "block": 96}, {"block": 128}):
        np.testing.assert_array_equal(run(system, **options), reference)
    np.testing.assert_array_equal(run(system, pieces=(1, 2, 30, 67), threads=1), reference)
    np.testing.assert_array_equal(run(system, n=77, threads=1)[0], run(system, n=77, block=64)[0])


@pytest.mark.parametrize("threads", [1, 2, 7, 64])
@pytest.mark.parametrize("rows", [5, 8, 9, 11, 33, 260, 4003, 10**6])
def test_blocks_fit_the_cache_and_are_dealt_evenly_to_the_threads(rows, threads):
    for n in (1, 31, 32, 33, 1000, 1023, 1536, 16384, 10**6 + 1):
        width = block_width(n, rows, threads)
        blocks = -(-n // width)
        assert width % 32 == 0
        assert 32 <= width <= (1024 if rows <= 8 else 800)
        assert rows <= 8 or width % 256 != 0
        assert 8 * rows * width <= 2**21 or width <= 128
        assert blocks * width - n < max(64 * blocks, width)  # at most 63 idle columns a block
        if n >= 64 * threads:
            assert -(-blocks // threads) * threads * width <= 1.25 * n + 64 * threads  # threads finish together
        assert block_width(n, rows, threads, 96) <= 96


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_of_many_rows_are_hardly_padding(threads):
    """2048 walkers in 100 or 316 dimensions: blocks of 288, as before, computed 12 % for nothing in 316."""
    for rows in (154, 478):
        width = block_width(2048, rows, threads)
        assert -(-2048 // (width * threads)) * threads * width <= 1.07 * 2048


def test_threads_share_the_blocks_although_one_is_held_up():
    """One thread starts late: the other has taken all there was, each block once, and numbers are the same."""
    landscape, noise, dynamics = Channel(transverse_directions=1), Thermal(0.1), Overdamped()
    start = landscape.path(np.linspace(0.1, 0.9, 4096))
    ends = []
    for threads in (1, 2):
        ensemble = Ensemble(landscape, noise, dynamics, start, seed=5, threads=threads, block=64)
        ensemble.advance(1)
        work, left = ensemble._work, []

        def late(queue, target, work=work, left=left):
            if not left:  # the first to come
                left.append(None)
                time.sleep(0.3)
                left[0] = 64 - int(queue[0])
            work(queue, target)

        ensemble._work = late
        ensemble.advance(300)
        assert left == [64 if threads == 1 else -1]  # the other thread has asked once more than there are blocks
        ends.append(ensemble.theta)
    np.testing.assert_array_equal(*ends)


def test_a_thread_waits_for_the_part_of_the_way_before_its_own():
    """More threads than processors, each with a block: one that is not running holds up whoever wants its block."""
    landscape, noise, dynamics = Channel(transverse_directions=1), Thermal(0.1), Overdamped()
    start = landscape.path(np.linspace(0.1, 0.9, 6 * 32))

    def final(threads):
        ensemble = Ensemble(landscape, noise, dynamics, start, seed=5, threads=threads, block=32)
        ensemble.advance(20_000)
        return ensemble.theta

    alone = final(1)
    for _ in range(5):
        np.testing.assert_array_equal(final(6), alone)


def test_a_piece_that_is_taken_again_takes_no_step():
    """As after an interruption, which finds some blocks at the end of the piece and others not."""
    landscape = Channel(transverse_directions=1)
    start = landscape.path(np.linspace(0.1, 0.9, 64))
    ensemble = Ensemble(landscape, Thermal(0.1), Overdamped(), start, seed=5, threads=2, block=32)
    ensemble.advance(3000)
    before = ensemble.theta
    ensemble.step = 0
    ensemble._piece(3000)
    np.testing.assert_array_equal(ensemble.theta, before)


def test_no_two_threads_are_given_the_same_block():
    """Eight threads count together as far as one would alone; a counter that is read and then written loses some."""
    from entropy_sim._kernels import _add

    @njit(void(int64[::1], int8[::1]), nogil=True)
    def mark(queue, seen):
        while True:
            i = _add(queue, 0, 1)
            if i >= seen.size:
                return
            seen[i] += 1

    seen, queue, gate = np.zeros(10_000_000, dtype=np.int8), np.zeros(1, dtype=np.int64), threading.Barrier(8)

    def go():
        gate.wait()
        mark(queue, seen)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(go) for _ in range(8)]:
            future.result()
    assert queue[0] == seen.size + 8
    assert (seen == 1).all()


def test_the_gradient_is_computed_for_those_who_read_it():
    """A step in one leaves the workspace of the gradient alone, unless an observer says that it looks."""
    landscape, noise = Channel(transverse_directions=1), Thermal(0.1)
    start = landscape.path(np.linspace(0.1, 0.9, 64)) + 0.1
    seen = []
    for scheme, watch in (("euler_maruyama", True), ("leimkuhler_matthews", True), ("euler_maruyama", False)):
        dynamics, common = Overdamped(scheme=scheme), {"seed": 5, "observe_every": 1, "watch": watch}
        ensemble = Ensemble(landscape, noise, dynamics, start, observer=record_sums, out_shape=(2, -1), **common)
        ensemble.advance(1)
        assert ensemble._rows[0] == (2 if watch else 0)
        if watch:
            seen.append(ensemble.per_walker)
    np.testing.assert_array_equal(*seen)


@pytest.mark.parametrize(("landscape", "noise", "dynamics"), SYSTEMS)
def test_different_seeds_and_walkers_give_different_numbers(landscape, noise, dynamics):
    def final(**options):
        ensemble = Ensemble(landscape, noise, dynamics, np.repeat(landscape.path(0.5), 3, axis=0), **options)
        ensemble.advance(4)
        return ensemble.theta

    a, b, shifted = final(seed=1), final(seed=2), final(seed=1, first_walker=2)
    assert len(np.unique(np.concatenate([a, b])[:, -1])) == 6
    np.testing.assert_array_equal(shifted[:1], a[2:])


def test_leimkuhler_matthews_and_euler_maruyama_equal_an_obvious_loop():
    k, h, t, seed, steps = np.array([1.0, 3.0]), 0.1, 0.2, 11, 70  # two epochs of the random numbers and a bit
    for scheme in ("euler_maruyama", "leimkuhler_matthews"):
        ensemble = Ensemble(Quadratic((tuple(k),)), Thermal(t), Overdamped(h, scheme), np.ones((3, 2)), seed=seed)
        ensemble.advance(steps)
        x, previous = np.ones((3, 2)), np.zeros((3, 2))
        normals = np.empty((steps, 2, 64), dtype=np.float32)
        for step, out in enumerate(normals):  # two coordinates to a batch of two normals
            fill_normals(out, seed, 0, step)
        for step in range(steps):
            r = normals[step, :, :3].T.astype(np.float64)
            kick = r if scheme == "euler_maruyama" else (previous + r) / 2
            x = x - h * k * x + math.sqrt(2 * t * h) * kick
            previous = r
        np.testing.assert_allclose(ensemble.theta, x, rtol=1e-12)


def test_heavy_ball_equals_an_obvious_loop():
    """In three dimensions: two steps share a batch of three pairs of normals."""
    k, eta, beta, seed, steps = np.array([1.0, 3.0, 2.0]), 0.3, 0.8, 3, 7
    noise = GradientCovariance(((0.5, 0.2, 0.1), (0.2, 1.5, 0.3), (0.1, 0.3, 0.8)))
    well = Quadratic((tuple(k),), end=(1.0, 0.0, 0.0))
    ensemble = Ensemble(well, noise, SGD(eta, beta), np.ones((3, 3)), seed=seed)
    ensemble.advance(steps)
    factor = noise.params(well, 1.0).reshape(3, 3)
    np.testing.assert_allclose(factor @ factor.T, noise.covariance, rtol=1e-12)
    x, v, xi = np.ones((3, 3)), np.zeros((3, 3)), np.empty((6, 64), dtype=np.float32)
    for step in range(steps):
        fill_normals(xi, seed, 0, step // 2)
        gradient = k * x + xi[3 * (step % 2) : 3 * (step % 2) + 3, :3].T @ factor.T
        v = beta * v - eta * gradient
        x = x + v
    np.testing.assert_allclose(ensemble.theta, x, rtol=1e-12)


def test_without_noise_a_quadratic_contracts_exactly():
    ensemble = Ensemble(Quadratic(((1.0, 4.0),)), Thermal(1.0), Overdamped(0.1), np.ones((2, 2)), noisy=False)
    ensemble.advance(10)
    np.testing.assert_allclose(ensemble.theta, [[0.9**10, 0.6**10]] * 2, rtol=1e-13)


def test_constrained_walkers_stay_on_their_plane_and_fluctuate_in_it():
    landscape = Quadratic(((2.0, 0.5), (0.5, 1.0)))
    t = np.array([0.6, 0.8])
    frame = np.repeat(np.array([[t, [1.0, 2.0], [0.0, 0.0]]]), 100, axis=0)
    ensemble = Ensemble(
        landscape, GradientCovariance(), SGD(0.1, 0.9), np.repeat([[1.0, 2.0]], 100, axis=0), frame=frame
    )
    ensemble.advance(50)
    np.testing.assert_allclose((ensemble.theta - [1.0, 2.0]) @ t, 0.0, atol=1e-14)
    assert (ensemble.theta @ [-0.8, 0.6]).std() > 0.05


def test_a_diverging_walker_is_flagged_and_leaves_the_others_alone():
    landscape = Quadratic(((-5.0, 1.0),))
    start = np.array([[0.0, 1.0], [1.0, 1.0]] * 50)
    alone = Ensemble(landscape, Thermal(0.0), Overdamped(0.1), start[::2])
    mixed = Ensemble(landscape, Thermal(0.0), Overdamped(0.1), start)
    steps = math.ceil(math.log(DIVERGENCE_BOUND) / math.log(1.5))
    for ensemble in (alone, mixed):
        ensemble.advance(steps - 1)
    assert not mixed.diverged.any()
    for ensemble in (alone, mixed):
        ensemble.advance(3)
    np.testing.assert_array_equal(mixed.diverged, [False, True] * 50)
    assert np.isnan(mixed.theta[1::2, 0]).all()
    np.testing.assert_array_equal(mixed.theta[::2], alone.theta)


@pytest.mark.parametrize("variants", [simple_gradient, simple_euler_maruyama])
def test_variants_of_a_function_have_symbols_of_their_own(variants):
    """Compiled in processes of their own and then loaded by one, variants of one name could share an address: the steps
    of one landscape were taken on another. Numba's number of a function (v15, say) does not tell them apart."""
    kinds = [(BUMP, FLAT, PERIODIC), (QUARTIC, FLAT, PERIODIC), (BUMP, FLAT, REFLECTING)]
    names = set()
    for kind in kinds:
        (compiled,) = variants(*kind, True).pointer.overloads.values()
        names.add(re.sub(r"B\d*v\d+", "", compiled.fndesc.llvm_cfunc_wrapper_name))
    assert len(names) == len(kinds)


_NOISE_OF_TWO = """
import numpy as np
from entropy_sim.noise import CurvaturePower
noise, ones = np.zeros((2, 1)), np.ones((2, 1))
numbers = np.array([1.0, 1.0, 0.5])
CurvaturePower.function(ones, ones.copy(), 4.0 * ones, ones.astype(np.float32), noise, np.uint64(0), 0, 0, numbers)
print(noise[1, 0])
"""


def test_a_helper_that_changed_in_another_file_is_compiled_anew(tmp_path):
    package = tmp_path / "entropy_sim"
    shutil.copytree(Path(entropy_sim.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def root_of_four():
        command = [sys.executable, "-c", _NOISE_OF_TWO]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return float(done.stdout)

    np.testing.assert_allclose(root_of_four(), 2.0, rtol=1e-12)
    helpers = package / "_random.py"
    text = helpers.read_text()
    assert text.count("return p * scale") == 1  # of fast_exp
    helpers.write_text(text.replace("return p * scale", "return 3.0 * p * scale"))
    np.testing.assert_allclose(root_of_four(), 6.0, rtol=1e-12)


def test_a_long_path_is_no_divergence():
    channel = Channel(length=1e9, transverse_directions=1)
    ensemble = Ensemble(channel, Thermal(0.1), Overdamped(), channel.path([0.05, 0.5, 0.95]))
    ensemble.advance(10)
    assert not ensemble.diverged.any()


@pytest.mark.parametrize(
    ("landscape", "noise", "dynamics"),
    [p for p in SYSTEMS if p.id in ("channel-5d-momentum", "tabulated", "muller-brown", "channel-3d")],
)
def test_nan_and_infinity_do_no_harm_in_any_function(landscape, noise, dynamics):
    start = np.repeat(landscape.path(0.5), 8, axis=0)
    start[1], start[2, 0], start[3, -1], start[4, 0] = np.nan, np.inf, -np.inf, 1e300
    ensemble = Ensemble(landscape, noise, dynamics, start, observer=record_sums, out_shape=(8, -1), observe_every=1)
    ensemble.advance(5)
    np.testing.assert_array_equal(ensemble.diverged, [False, True, True, True, True, False, False, False])
