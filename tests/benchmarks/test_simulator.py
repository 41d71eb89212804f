"""The benchmark's rows, units and checks, at sizes where its timings mean nothing; none is asserted."""

import json
import math
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


def transfer(problem, functions, steps, ny=96, nx=161):
    """E of functions (n, ny, nx) after many Euler–Maruyama steps, by applying the step's expectation on a grid: the
    slow way to the stationary averages, with no expansion in h."""
    from scipy import sparse
    from scipy.special import ndtr

    h, t = problem.step, problem.temperature
    y = (np.arange(ny) + 0.5) / ny
    x = np.linspace(-6, 6, nx) * np.sqrt(t / problem.soft)
    dx, width = x[1] - x[0], np.sqrt(2 * t * h)
    slope = (problem.stiffness(y + 1e-6) - problem.stiffness(y - 1e-6)) / 2e-6

    def weights(mean, nodes, spacing):  # probability of the cell of each node
        z = (nodes[None] - mean[:, None]) / width
        half = 0.5 * spacing / width
        return ndtr(z + half) - ndtr(z - half)

    image = np.arange(-1, 2)
    rows = []
    for i in range(ny):
        to_y = y[i] - h * 0.5 * slope[i] * x**2
        w_y = sum(weights(to_y, y + turn, 1 / ny) for turn in image)
        w_x = weights(x * (1 - h * problem.stiffness(y[i])), x, dx)
        w = w_y[:, :, None] * w_x[:, None, :] / (w_y.sum(1)[:, None, None] * w_x.sum(1)[:, None, None])
        w[w < 1e-9] = 0.0
        rows.append(sparse.csr_matrix(w.reshape(nx, -1)))
    step = sparse.vstack(rows).tocsr()
    found = np.array([f(y[:, None], x[None, :]) * np.ones((ny, nx)) for f in functions]).reshape(len(functions), -1).T
    for _ in range(steps):
        found = step @ found
    return found.mean(axis=0), np.ptp(found, axis=0)


def test_exact_averages_against_the_transfer_operator():
    """h = 0.02, four times the benchmark's, so that the correction of order h stands out: leaving it out (the
    continuous averages) is rejected. What the expansion leaves out, (hk)² / 4 = 2e-3 at most, is the tolerance."""
    problem = Problem(step=0.02)
    functions = (
        lambda y, x: problem.stiffness(y) * x**2 / problem.temperature,
        lambda y, x: np.cos(2 * np.pi * y) + 0 * x,
    )
    found, left = transfer(problem, functions, 500)
    assert np.all(left < 1e-6)  # stationary
    exact, continuous = problem.exact(), Problem(step=1e-12).exact()
    # The grid's cells add dx²/12 to the variance of a step: 1 % of 2Th here.
    print(found, exact, continuous)
    assert found[0] == pytest.approx(exact["k x²/T"], abs=4e-3)
    assert found[0] - continuous["k x²/T"] > 0.015
    assert found[1] == pytest.approx(exact["cos 2πy"], abs=2e-3)


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


PEERS = ["numpy_loop", "jax_scan", "diffrax_euler", "torch_loop", "torchsde_euler", "deeptime_double_well", OURS]


@pytest.mark.parametrize("peer", PEERS)
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


def test_all_rows_with_a_missing_peer(tmp_path, monkeypatch, capsys):
    """The whole benchmark, NumPy as the only peer, and a floor that is not installed."""
    (tmp_path / "mkl_random.py").write_text("raise ImportError('no mkl_random here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        _own, "cold_start", lambda repeats, n: _own.cold_start_rows({"empty": [9.0], "filled": [2.0]}, n)
    )
    found = simulator.measure(TINY, ["numpy_loop"])
    text = json.dumps(found)
    rows = {row["name"]: row for row in json.loads(text)["rows"]}
    for row in rows.values():
        assert {"name", "value", "unit", "target", "met"} <= row.keys()
        assert (row["met"] is None) == (not row["target"]), row
    floor = rows["mkl_random (floor), 1 thread"]
    assert floor["value"] is None
    assert "no mkl_random here" in floor["note"]
    against = rows["entropy_sim / floor, 1 thread"]
    assert against["met"] is False
    assert "not installed" in against["note"]
    assert rows["NumPy, 1 thread"]["unit"] == "ns/walker-step"
    assert rows["NumPy / ours, 1 thread each"]["target"] == ">= 8"
    assert rows["check of NumPy, 1 thread: largest |z|"]["met"] is True
    assert rows["check of entropy_sim, 1 thread: largest |z|"]["met"] is True
    for name in ("1 and 2 threads", "other chunks of walkers and steps", "interrupted and resumed"):
        assert rows[f"same numbers bit for bit, {name}"]["value"] == 1.0
    assert rows["process to file and figure, compilation cache empty"]["met"] is False
    assert rows["process to file and figure, compilation cache filled"]["met"] is True
    assert found["environment"]["simd"]["bits"] in (128, 256, 512)
    assert "targets met" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "target", "met"),
    [(2.5, "<= 2.5", True), (2.6, "<= 2.5", False), (8.0, "< 8", False), (15.0, ">= 15", True), (0.0, "= 1", False)],
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
    assert _environment.simd(assembly) == {"zmm": 2, "ymm": 1, "xmm": 0}
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
