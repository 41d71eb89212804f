"""The benchmark's rows, units and checks, at sizes where its timings mean nothing; none is asserted."""

import json
import math
import signal
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import _elsewhere, _environment, _own, _rows, simulator
from benchmarks.peers import entropy_sim_public
from benchmarks.peers.problem import Problem, Variant, z_scores
from benchmarks.peers.worker import Contestant, Missing, closing, fastest
from benchmarks.simulator import FLOOR, OURS, Settings
from entropy_sim import theory

TINY = Settings(walkers=256, rounds=2, steps=400, own_steps=400, work=2e5, repeats=1, scale=0.002, walker_steps=100_000)


def transfer(problem, functions, ny=48, nx=97):
    """Stationary averages of functions f(y, x): the leading eigenvector of the matrix of one Euler–Maruyama step
    between the cells of a grid, with no expansion in h. Cells add spacing²/12 to a variance (Sheppard): taken off."""
    from scipy import sparse
    from scipy.special import ndtr

    h, t = problem.step, problem.temperature
    y = (np.arange(ny) + 0.5) / ny
    x = np.linspace(-5, 5, nx) * np.sqrt(t / problem.soft)
    slope = (problem.stiffness(y + 1e-6) - problem.stiffness(y - 1e-6)) / 2e-6

    def weights(mean, nodes, spacing):
        width = np.sqrt(2 * t * h - spacing**2 / 12)
        z, half = (nodes[None] - mean[:, None]) / width, 0.5 * spacing / width
        return ndtr(z + half) - ndtr(z - half)

    rows = []
    for i in range(ny):
        to_y = y[i] - h * 0.5 * slope[i] * x**2
        w_y = sum(weights(to_y, y + turn, 1 / ny) for turn in (-1, 0, 1))
        w_x = weights(x * (1 - h * problem.stiffness(y[i])), x, x[1] - x[0])
        w = w_y[:, :, None] * w_x[:, None, :]
        rows.append(sparse.csr_matrix(np.where(w > 1e-10, w, 0.0).reshape(nx, -1)))
    _, vector = sparse.linalg.eigs(sparse.vstack(rows).tocsr().T, k=1, which="LR")
    density = (vector[:, 0] / vector.sum()).real.reshape(ny, nx)
    return [float((density * f(y[:, None], x[None, :])).sum()) for f in functions]


def test_exact_averages_against_the_transfer_operator():
    """h = 0.02, four times the benchmark's, so that the correction of order h stands out: leaving it out (the
    continuous averages) is rejected. The expansion leaves out terms of order (hk)²: 3e-3 here, 2e-4 in the benchmark.
    """
    problem = Problem(step=0.02)
    variance, cosine = transfer(
        problem,
        (
            lambda y, x: problem.stiffness(y) * x**2 / problem.temperature,
            lambda y, x: np.cos(2 * np.pi * y) + 0 * x,
        ),
    )
    exact, continuous = problem.exact(), Problem(step=1e-12).exact()
    assert variance == pytest.approx(exact["k x²/T"], abs=3e-3)
    assert variance - continuous["k x²/T"] > 0.015
    assert cosine == pytest.approx(exact["cos 2πy"], abs=1e-3)
    assert continuous["cos 2πy"] - cosine > 2e-3


def test_exact_variance_of_a_straight_channel_is_the_harmonic_one():
    flat = Problem(soft=2.0, stiff=2.0, step=0.1)
    expected = 2.0 * theory.variance_euler_maruyama(2.0, flat.temperature, 0.1) / flat.temperature
    assert flat.exact()["k x²/T"] == pytest.approx(float(expected), rel=1e-9)
    assert flat.density(50) == pytest.approx(1.0, rel=1e-9)


def test_the_problem_is_our_channel():
    problem = Problem()
    channel = entropy_sim_public.system(problem)[0]
    s = np.linspace(0, 0.999, 41)
    assert problem.stiffness(s) == pytest.approx(channel.curvature(s)[:, 0], rel=1e-12)


# The others compile for seconds.
SLOW = [pytest.param(p, marks=pytest.mark.slow) for p in simulator.PEERS if p != "numpy_loop"]


@pytest.mark.parametrize("peer", ["numpy_loop", OURS, *SLOW])
def test_a_peer_does_the_physics(peer):
    """Its averages are the exact ones; twice the temperature would not be, at 5 standard errors and more."""
    problem = Problem()
    variant = simulator.importlib.import_module(f"benchmarks.peers.{peer}").VARIANTS[0]
    try:
        contestant = Contestant(peer, problem, 1024, 1, replace(variant, processes="one"))
        with closing([contestant]):
            contestant.advance(1600, keep=False)
            contestant.advance(400)
            z = contestant.check()
            wrong = {n: 2 * v for n, v in contestant.exact.items()}
            samples = contestant.samples
    except Missing as why:
        pytest.skip(str(why))
    assert z
    assert all(abs(v) < simulator.Z_LIMIT for v in z.values())
    if samples:
        assert z_scores(samples, {"k x²/T": wrong["k x²/T"]})["k x²/T"] < -5


def test_a_wrong_peer_is_invalid():
    """Samples of twice the temperature, and of no motion at all (x = 0)."""
    problem, rng = Problem(), np.random.default_rng(1)
    y = rng.uniform(size=2000)
    for x in (rng.normal(size=2000) * np.sqrt(2 * problem.temperature / problem.stiffness(y)), np.zeros(2000)):
        z = z_scores([problem.averages(y, x)], problem.exact())
        race = simulator.Race([1], checks={("numpy_loop", 1): z})
        assert abs(z["k x²/T"]) > 5
        assert not race.valid(("numpy_loop", 1))
    race.checks["numpy_loop", 1] = {"k x²/T": math.nan}
    assert not race.valid(("numpy_loop", 1))


@pytest.fixture
def no_floor(tmp_path, monkeypatch):
    """mkl_random cannot be imported, here or in a contestant's process."""
    (tmp_path / "mkl_random.py").write_text("raise ImportError('no mkl_random here')\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.slow
def test_the_race_goes_on_without_a_peer(no_floor, monkeypatch):
    """Rows and units of the race, on one processor and with a floor that is not installed."""
    monkeypatch.setattr(simulator, "processors", lambda: [0])
    problem = Problem()
    found = simulator.race(TINY, problem, ["numpy_loop"], say=lambda text: None)
    rows = {row.name: row for row in simulator.race_rows(TINY, problem, ["numpy_loop"], found)}
    floor = rows["mkl_random (floor), 1 thread"]
    assert floor.value is None
    assert "not installed: no mkl_random here" in floor.note
    against = rows["entropy_sim / floor, 1 thread"]
    assert against.met is False
    assert against.note == floor.note
    assert "one processor" in rows["ours: speed of 2 threads / 1 thread"].note
    assert rows["NumPy, 1 thread"].unit == "ns/walker-step"
    assert rows["NumPy, 1 thread"].repeats == TINY.rounds
    ratio = rows["NumPy / ours, 1 thread each"]
    assert (ratio.unit, ratio.target) == ("ratio", ">= 8")
    costs = found.costs["numpy_loop", 1], found.costs[OURS, 1]
    assert ratio.value == pytest.approx(np.median(np.divide(*costs)))
    assert rows["check of NumPy, 1 thread: largest |z|"].met is True
    assert rows["check of entropy_sim, 1 thread: largest |z|"].met is True


def test_the_same_numbers_however_they_are_made():
    """Also in the background, where SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        rows = _own.same_numbers(Problem(), 256, 400)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert [(row.value, row.met) for row in rows] == [(1.0, True)] * 3
    assert "stopped after" in rows[-1].note


def test_scaling_is_the_largest_cost_over_the_smallest():
    rows, table = _own.scaling(Problem(), 1, 4e5, 1)
    cost = {(t["walkers"], t["dimension"]): t["ns"] for t in table}
    few = [cost[n, 2] for n in (1000, 10_000)]
    assert rows[0].value == pytest.approx(max(few) / min(few))
    assert not rows[0].valid  # a million walkers do not fit into so little work
    assert "left out" in rows[0].note
    assert rows[0].target == "<= 1.3"


@pytest.mark.slow
def test_the_whole_benchmark(no_floor, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(simulator, "QUICK", TINY)
    every = _elsewhere.scenarios
    monkeypatch.setattr(_elsewhere, "scenarios", lambda walkers, scale: every(walkers, scale)[::6])
    assert simulator.main(["--quick", "--peers", "numpy_loop", "--json", str(tmp_path / "speed.json")]) == 0
    found = json.loads((tmp_path / "speed.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    for row in rows.values():
        assert {"name", "value", "unit", "target", "met"} <= row.keys()
        assert (row["met"] is None) == (not row["target"]), row
    for state in ("empty", "filled"):
        row = rows[f"process to file and figure, compilation cache {state}"]
        assert (row["unit"], row["target"]) == ("s", "< 8")
        assert row["value"] > 0
    assert rows["peak memory, 4000 steps less 400"]["met"] is True
    assert {"threads", "stride", "simd", "processor", "versions", "float"} <= found["environment"].keys()
    assert found["environment"]["simd"]["bits"] in (128, 256, 512)
    assert rows["1 walker, final state only: deeptime / ours"]["unit"] == "ratio"
    assert "targets met" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "target", "met"),
    [
        (2.5, "<= 2.5", True),
        (2.6, "<= 2.5", False),
        (7.9, "< 8", True),
        (8.0, "< 8", False),
        (15.0, ">= 15", True),
        (16.0, ">= 15", True),
        (14.9, ">= 15", False),
        (1.0, "= 1", True),
        (0.0, "= 1", False),
    ],
)
def test_a_row_meets_its_target(value, target, met):
    assert _rows.Row("x", value, "1", target).met is met
    assert not _rows.Row("x", value, "1", target, valid=False).met
    assert _rows.Row("x", value, "1").met is None


def test_a_row_is_a_median_with_its_range():
    row = _rows.of("x", [3.0, 1.0, 2.0, 50.0, 2.5], "s")
    assert (row.value, row.low, row.high, row.repeats) == (2.5, 1.0, 50.0, 5)


def test_vector_instructions_are_counted_by_width():
    assembly = "\tvmulpd\t%ymm1, %ymm2, %ymm3\n\tvfmadd213pd\t(%rax), %zmm1, %zmm2\n\tvpmuludq\t%zmm0, %zmm0, %zmm1\n"
    assembly += "\tvmulsd\t%xmm1, %xmm2, %xmm3\n\tvmovapd\t%ymm0, %ymm1\n"  # one number; no arithmetic
    assembly += "\tvsqrtps\t%zmm1, %zmm2\n\tvmulss\t%xmm1, %xmm2, %xmm3\n"
    assert _environment.simd(assembly) == {"zmm": 3, "ymm": 1, "xmm": 0}
    assert _environment.simd_bits(_environment.simd(assembly)) == 512
    assert _environment.simd_bits(_environment.simd("")) == 0


def test_every_thread_does_its_share():
    """One process per thread: together they hold all walkers."""
    with closing([Contestant("numpy_loop", Problem(), 1001, 2, Variant({"chunk": 256}, "each"))]) as (peer,):
        peer.advance(10)
    assert [sample["cos 2πy"][2] for sample in peer.samples] == [501, 500]


def test_the_fastest_variant_races(monkeypatch):
    contestant = fastest("numpy_loop", Problem(), 512, 1, 50)
    contestant.close()
    assert len(contestant.heat) == 2
    assert min(contestant.heat, key=contestant.heat.__getitem__) == str(contestant.variant)


def test_where_a_peer_is_faster_the_row_says_so():
    entries = [
        _elsewhere.Entry(OURS, "ours", {"measurement": "relaxation"}, 10),  # its start-up is most of it
        _elsewhere.Entry("numpy_loop", "NumPy", {"chunk": 1}, 1000),
    ]
    (row,) = _elsewhere._scenario("1 walker", Problem(), 1, 1, entries, 1)
    assert row.unit == "ratio"
    assert "NumPy IS FASTER" in row.note


def test_a_mistake_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        simulator.main(["--json", "/nowhere/at/all.json"])
    assert "--json" in capsys.readouterr().err.splitlines()[-1]
    assert FLOOR not in simulator.PEERS
