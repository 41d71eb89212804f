"""Two runs held against each other, from either side, with known truths and named wrong ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from analysis import agreement, plots, predict_simulation, uncertainty
from analysis.compare import compare
from analysis.comparisons import (
    Alignment,
    all_between,
    barrier,
    effective_potential,
    escape,
    mean_force,
    profile,
    relaxation,
    stationary,
)
from analysis.uncertainty import Estimate
from entropy_sim import schema
from entropy_sim.errors import UserError


def uniform(p, level=1.63):
    """Kolmogorov's distance of p-values from uniform, in units of its 1 % level."""
    p = np.sort(p)
    return np.abs(p - (np.arange(len(p)) + 0.5) / len(p)).max() * np.sqrt(len(p)) / level


# --- profiles, forces, potentials -------------------------------------------------------------------------------------


def test_profiles_of_two_measurements_of_one_network_agree_and_of_another_do_not(network):
    one, two = network(seed=1).profile(), network(seed=2).profile(points=25)
    found = profile.between(one, two, "hessian_trace")
    assert found.sizes["s"] == 13
    assert found.attrs["verdict"] == "agrees"
    assert float(found["overall_ratio"]) == pytest.approx(1, abs=0.02)
    steeper = profile.between(one, network(seed=2, rise=4.0).profile(), "hessian_trace")
    assert float(steeper["overall_z"]) > 5
    with pytest.raises(UserError, match="variable: expected one of loss, .*found 'fisher_trace'"):
        profile.between(one, two, "fisher_trace")


def test_forces_agree_with_themselves_and_disagree_with_a_mutant(channel):
    length = channel().length
    one = channel(seed=1).mean_force()
    found = mean_force.between(one, channel(seed=2).mean_force(), (length, length))
    assert found.attrs["verdict"] == "agrees"
    assert found.attrs["compared"] == "force"
    other = mean_force.between(one, channel(seed=2, force_factor=2.0).mean_force(), (length, length))
    assert float(other["overall_z"]) > 5
    assert float(other["overall_ratio"]) == pytest.approx(0.5, abs=0.1)


def test_p_values_of_forces_and_potentials_are_uniform(channel):
    """Forces measured at the same places with known errors; for the potential the errors are correlated along s:
    with its variances alone the χ² would scatter more than twice as much as a χ² does."""
    force, potential, barriers, naive = [], [], [], []
    for seed in range(60):
        made = [channel(seed=1000 * i + seed, points=21) for i in (1, 2)]
        found = mean_force.between(*(m.mean_force() for m in made), (2.0, 2.0))
        force.append(float(found["p_value"]))
        height, top = effective_potential.between(found, 2.0)
        potential.append(float(height["p_value"]))
        barriers.append(float(top["p_value"]))
        z = height["z"].values[1:]
        naive.append((z**2).sum())
    assert uniform(force) < 1
    assert uniform(potential) < 1.3  # the quadrature's error widens it a little
    assert uniform(barriers) < 1.3
    assert np.var(naive) > 2 * 2 * len(z)  # of chi2 with as many degrees of freedom: 2 len(z)


def test_paths_of_different_length_need_an_alignment(channel):
    """The same channel in other units: lengths ×3, losses ×5, so forces × 5/3."""
    one, scaled = channel(seed=1).mean_force(), channel(seed=2, length=6.0).mean_force()
    scaled["mean_force"] = channel(seed=2).mean_force()["mean_force"] * 5 / 3
    scaled["mean_force_stderr"] = channel(seed=2).mean_force()["mean_force_stderr"] * 5 / 3
    for name in ("mean_force", "mean_force_stderr"):
        scaled[name].attrs = one[name].attrs
    with pytest.raises(UserError, match=r"arc_length: expected paths of the same length, found 2 and 6 .*0\.3333"):
        mean_force.between(one, scaled, (2.0, 6.0))
    found = mean_force.between(one, scaled, (2.0, 6.0), alignment=Alignment(length=1 / 3, loss=1 / 5))
    assert found.attrs["verdict"] == "agrees"
    assert found.attrs["aligned_time"] == pytest.approx(5 / 9)
    wrong = mean_force.between(one, scaled, (2.0, 6.0), alignment=Alignment(length=1 / 3))
    assert float(wrong["overall_z"]) > 5


# --- relaxation -------------------------------------------------------------------------------------------------------


def released(replicas, seed, drift=0.1, points=9, starts=(0.2, 0.4, 0.6, 0.8), control=None):
    random = np.random.default_rng(seed)
    time, starts = np.linspace(0, 8, points), np.array(starts)
    walk = np.sqrt(time) * random.standard_normal((len(starts), replicas, 1)) * 0.02
    position = starts[:, None, None] + np.sign(starts - 0.5)[:, None, None] * drift * time / 8 + walk
    return schema.make(
        "relaxation",
        {
            "start": (("start",), starts),
            "time": (("time",), time),
            "position": (("start", "replica", "time"), position),
            "diverged": (("start", "replica"), np.zeros((len(starts), replicas))),
        },
    )


def test_few_replicas_are_judged_by_student_s_t():
    """2 and 3 replicas, no difference, 2000 pairs: p-values within 4 % of uniform (Welch's approximation); those that
    take the standard errors for known are off by more than 10 %. One run is put through the whole comparison."""
    random = np.random.default_rng(0)
    right, naive = [], []
    for _ in range(2000):
        sides = [random.standard_normal((1, n)) for n in (2, 3)]
        ends = [Estimate.independent(x.mean(1), x.std(1, ddof=1) / np.sqrt(x.shape[1])) for x in sides]
        widened = relaxation._student(ends, [np.array([2]), np.array([3])])
        for store, pair in ((right, widened), (naive, ends)):
            difference = pair[0].minus(pair[1])
            store.append(2 * scipy.stats.norm.sf(abs(difference.value[0]) / difference.stderr[0]))
    scale = 1.63 / np.sqrt(2000)
    assert uniform(right) * scale < 0.04
    assert uniform(naive) * scale > 0.1
    found = relaxation.between(released(3, 1), released(3, 10_000))
    assert (
        found["difference_stderr"] > np.hypot(*(found[f"position_{n}_stderr"][:, -1] for n in ("first", "second")))
    ).all()


def test_a_drift_that_differs_is_seen_and_sized():
    found = relaxation.between(released(200, 1), released(200, 2, drift=0.2, points=17))
    assert float(found["overall_z"]) > 5
    assert float(found["overall_ratio"]) == pytest.approx(0.5, abs=0.03)
    assert found.attrs["control"] == "not subtracted"
    assert found.attrs["compared_at_time"] == 8
    half = relaxation.between(released(200, 1), released(200, 2, drift=0.2), time=4.0)
    np.testing.assert_allclose(abs(half["second"]), 0.1, atol=0.01)


def test_clocks_of_different_units_are_aligned():
    slow = released(100, 2)
    slow = slow.assign_coords(time=("time", slow["time"].values * 4, slow["time"].attrs))
    found = relaxation.between(released(100, 1), slow, alignment=Alignment(time=0.25))
    assert found.attrs["verdict"] == "agrees"
    assert found.attrs["compared_at_time"] == 8
    assert float(relaxation.between(released(100, 1), slow)["overall_z"]) > 5


def test_starts_in_common_and_replicas_that_all_diverged():
    one = released(5, 1)
    with pytest.raises(UserError, match="relaxation/start: expected a start in common, found 0.2, 0.4"):
        relaxation.between(one, released(5, 2, starts=(0.3, 0.5)))
    gone = released(5, 2)
    gone["diverged"][:] = 1
    found = relaxation.between(one, gone)
    assert found.attrs["verdict"] == "not determined"
    assert np.isnan(found["difference"]).all()
    with pytest.raises(UserError, match="time: expected a time up to 8"):
        relaxation.between(one, one, time=9.0)


# --- stationary -------------------------------------------------------------------------------------------------------


def density(bins, seed, tilt=0.5, error=0.05):
    random = np.random.default_rng(seed)
    edges = np.linspace(0, 1, bins + 1)
    primitive = edges + tilt * np.sin(2 * np.pi * edges) / (2 * np.pi)
    exact = np.diff(primitive) * bins
    # Equal information per length of s, whatever the bins.
    stderr = error * np.sqrt(bins / 20) * np.ones(bins)
    value = exact + stderr * random.standard_normal(bins)
    axis = (np.arange(bins) + 0.5) / bins
    return schema.make(
        "stationary",
        {
            "s": (("s",), axis),
            "density": (("s",), value),
            "density_stderr": (("s",), stderr),
            "free_energy": (("s",), -np.log(value) + seed),
            "free_energy_stderr": (("s",), stderr / value),
        },
    )


def test_densities_on_different_bins_are_averaged_exactly():
    """60 bins against 20: rebinning keeps the integral, the errors shrink by √3, and p is uniform over 100 pairs."""
    found = [stationary.between(density(20, s), density(60, 500 + s)) for s in range(100)]
    np.testing.assert_allclose(found[0]["second"].mean(), density(60, 500)["density"].mean())
    np.testing.assert_allclose(found[0]["second_stderr"], 0.05, rtol=1e-12)
    assert found[0].attrs["bins"] == "60 and 20 on 20: exact".replace("60 and 20", "20 and 60")
    # One degree of freedom goes to the normalisation, which these made-up densities do not keep: 20, not 19.
    assert uniform([scipy.stats.chi2.sf(float(f["chi_squared"]), 20) for f in found]) < 1
    assert float(stationary.between(density(20, 1), density(30, 2, tilt=0.8))["overall_z"]) > 5
    assert "in proportion" in stationary.between(density(20, 1), density(30, 2)).attrs["bins"]


def test_correlated_bins_are_judged_by_how_many_are_independent():
    """Bins of correlation 0.8^|i−j|, 400 densities of the truth: p as from χ² of n² / Σ r² degrees of freedom is
    uniform to 1.3 of Kolmogorov's 1 % level; taken as independent, ten times too many are 3 standard errors off."""
    n, random = 40, np.random.default_rng(1)
    matrix = 0.8 ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    root, s = np.linalg.cholesky(matrix), (np.arange(n) + 0.5) / n
    independent = n**2 / (matrix**2).sum()
    exact, right, naive = Estimate.independent(np.ones(n), np.zeros(n)), [], []
    for _ in range(400):
        one = Estimate.independent(1 + 0.01 * root @ random.standard_normal(n), np.full(n, 0.01))
        naive.append(uncertainty.agreement(one, exact).p_value)
        right.append(uncertainty.agreement(one, exact, independent=independent).p_value)
    made = schema.make(
        "stationary",
        {"s": (("s",), s), "density": (("s",), one.value), "density_stderr": (("s",), one.stderr)},
        {"effective_bins": independent},
    )
    form = xr.Dataset(
        {"density": (("form", "s"), np.ones((1, n)))}, {"form": ["f"], "formula": ("form", ["1"]), "s": s}
    )
    row = stationary.against_theory("a", made, form)[1][0]
    assert "9.3 of the points are independent" in row.statement
    assert uniform(right) < 1.3
    assert np.mean(np.array(naive) < 0.0027) > 0.03
    found = stationary.between(made, made)
    assert found.attrs["independent_bins"] == pytest.approx(made.attrs["effective_bins"])
    assert stationary.between(density(20, 1), made).attrs["independent_bins"] == "taken to be all: not stored"


def test_a_density_that_remembers_its_start_determines_nothing(channel):
    known = channel(groups=("profile", "stationary")).tree()
    ds = known["stationary"].to_dataset()
    predicted = predict_simulation.predict_stationary(known, ds["s"].values)
    assert stationary.against_theory("a", ds, predicted.copy(deep=True), 0.5)[1][0].verdict == "agrees"
    row = stationary.against_theory("a", ds, predicted, 3.2)[1][0]
    assert row.verdict == "not determined"
    assert "still 3.20 standard errors from the stationary one" in row.statement


def test_free_energies_are_compared_up_to_a_constant():
    found = stationary.between(density(20, 1), density(20, 7), "free_energy")
    assert found.attrs["verdict"] == "agrees"
    assert abs(float(found["difference"].mean())) < 0.05
    assert "overall_ratio" not in found
    with pytest.raises(UserError, match="the same bins for a free energy"):
        stationary.between(density(20, 1), density(40, 7), "free_energy")


# --- escape -----------------------------------------------------------------------------------------------------------


def escapes(rate, replicas, seed, duration=np.inf, diverged=0):
    time = np.random.default_rng(seed).exponential(1 / rate, replicas)
    escaped = time < duration
    lost = np.arange(replicas) < diverged
    each = ("replica",)
    return schema.make(
        "escape",
        {
            "replica": (each, np.arange(replicas)),
            "first_passage_time": (each, np.where(escaped & ~lost, time, np.nan)),
            "escaped": (each, (escaped & ~lost).astype(np.int8)),
            "diverged": (each, lost.astype(np.int8)),
            "duration": ((), min(duration, 1e9)),
            "rate": ((), rate),
        },
    )


def test_log_rank_is_scipy_s():
    for duration in (1e9, 0.8):
        sides = [escapes(1.0, 40, 1, duration), escapes(1.5, 60, 2, duration)]
        times = [escape.observed(s) for s in sides]
        data = [scipy.stats.CensoredData(t[e], right=t[~e]) for t, e in times]
        expected = scipy.stats.logrank(*data).statistic
        assert escape.log_rank(*times) == pytest.approx(expected, rel=1e-6)


def test_the_ratio_of_rates_is_clopper_and_pearson_s_and_covers():
    a, b = escape.observed(escapes(2.0, 30, 1, 1.0)), escape.observed(escapes(1.0, 50, 2, 1.0))
    value, low, high = escape.rate_ratio(a, b, 0.95)
    (n1, e1), (n2, e2) = ((int(e.sum()), t.sum()) for t, e in (a, b))
    interval = scipy.stats.binomtest(n1, n1 + n2).proportion_ci(0.95, method="exact")
    expected = [p / (1 - p) * e2 / e1 for p in (interval.low, interval.high)]
    assert (low, high) == pytest.approx(expected, rel=1e-6)
    assert value == pytest.approx(n1 / e1 / (n2 / e2))
    none = (np.ones(5), np.zeros(5, dtype=bool))
    assert escape.rate_ratio(none, b)[:2] == (0, 0)
    assert np.isinf(escape.rate_ratio(a, none)[2])
    covered = 0
    for seed in range(300):
        pair = [escape.observed(escapes(r, 12, 7 * seed + i, 1.0)) for i, r in enumerate((2.0, 1.0))]
        _, low, high = escape.rate_ratio(*pair)
        covered += low <= 2.0 <= high
    assert covered > 300 * 0.683 - 3 * np.sqrt(300 * 0.683 * 0.317)


def test_escapes_with_censored_and_diverged_replicas():
    """The exponential law is known: p uniform where the rates are equal; a mutant that takes the censored for escaped
    at the end, or a rate twice as large, is seen."""
    p = [
        float(escape.between(escapes(1.0, 60, s, 0.7), escapes(1.0, 60, 900 + s, 0.7, 5))["p_value"])
        for s in range(100)
    ]
    assert uniform(p) < 1
    one, two = escapes(2.0, 300, 1, 0.7, 3), escapes(1.0, 300, 2, 0.7)
    found = escape.between(one, two)
    assert float(found["overall_z"]) > 5
    assert float(found["log_rank_z"][0]) > 5
    low, high = float(found["rate_ratio_low"][0]), float(found["rate_ratio_high"][0])
    assert low - (high - low) < 2.0 < high + (high - low)
    assert int(found["censored_first"][0] + found["events_first"][0]) == 297
    np.testing.assert_allclose(found["survival_first"][0], np.exp(-2 * found["survival_time"][0]), atol=0.08)
    nobody = escape.between(escapes(1e-9, 5, 1, 0.7), escapes(1e-9, 5, 2, 0.7))
    assert nobody.attrs["verdict"] == "not determined"
    assert np.isnan(float(nobody["rate_ratio"][0]))
    gone = escape.between(escapes(1.0, 5, 1, 0.7, 5), one)
    assert gone.attrs["verdict"] == "not determined"


def scan(datasets, values, parameter="temperature"):
    axis = xr.DataArray(values, dims=parameter, name=parameter, attrs={"units": "loss", "long_name": "temperature"})
    return xr.concat(datasets, axis, coords="minimal", compat="override")


def test_scanned_escapes_are_matched_value_by_value():
    one = scan([escapes(r, 80, i) for i, r in enumerate((1.0, 2.0, 4.0))], [0.1, 0.2, 0.4])
    two = scan([escapes(r, 80, 50 + i) for i, r in enumerate((2.0, 4.0))], [0.2, 0.4])
    found = escape.between(one, two)
    np.testing.assert_allclose(found["temperature"], [0.2, 0.4])
    assert found["survival_first"].dims == ("temperature", "curve_point")
    assert found.attrs["verdict"] == "agrees"
    with pytest.raises(UserError, match="expected scans of the same parameter, found temperature and None"):
        escape.between(one, escapes(1.0, 5, 1))
    with pytest.raises(UserError, match="temperature: expected a value in common, found 0.1, 0.2, 0.4 and 0.3"):
        escape.between(one, scan([escapes(1.0, 5, 1)], [0.3]))


# --- barriers ---------------------------------------------------------------------------------------------------------


def barriers(values, factor=1.0, seed=0, error=0.01, parameter="temperature"):
    random = np.random.default_rng(seed)
    values = np.asarray(values, float)
    return schema.make(
        "barrier",
        {
            parameter: ((parameter,), values),
            "energy_barrier": ((parameter,), 0.02 * np.ones(len(values))),
            "entropic_barrier": ((parameter,), factor * values**1.5 + error * random.standard_normal(len(values))),
            "entropic_barrier_stderr": ((parameter,), np.full(len(values), error)),
        },
    )


def test_barriers_on_shared_and_on_interpolated_values():
    values = np.array([0.1, 0.2, 0.3, 0.5])
    found = barrier.between(barriers(values), barriers(values, seed=3))
    assert found.attrs["verdict"] == "agrees"
    assert found.attrs["aligned_parameter"] == "the same values"
    dense = barriers(np.linspace(0.12, 0.6, 12), seed=4)
    found = barrier.between(barriers(values), dense)
    np.testing.assert_allclose(found["temperature"], [0.2, 0.3, 0.5])
    assert "interpolated" in found.attrs["aligned_parameter"]
    assert found.attrs["verdict"] == "agrees"
    assert float(barrier.between(barriers(values, 2.0), dense)["overall_z"]) > 5


def test_barriers_by_name_are_compared_where_both_have_the_name():
    def named(names, heights):
        dims = ("optimizer",)
        variables = {"optimizer": (dims, np.array(names)), "energy_barrier": (dims, np.ones(len(names)))}
        variables |= {"entropic_barrier": (dims, np.array(heights))}
        variables |= {"entropic_barrier_stderr": (dims, np.full(len(names), 0.1))}
        return schema.make("barrier", variables)

    one, two = named(["sgd", "adam", "muon"], [1.0, 2.0, 3.0]), named(["muon", "soap", "sgd"], [3.5, 9.0, 1.0])
    found = barrier.between(one, two)
    assert found["optimizer"].values.tolist() == ["sgd", "muon"]
    np.testing.assert_allclose(found["difference"], [0.0, -0.5])
    assert plots.plot_between(found).get_xticklabels()[1].get_text() == "muon"
    with pytest.raises(UserError, match="optimizer: expected a name in common, found sgd, adam, muon and soap"):
        barrier.between(one, named(["soap"], [1.0]))
    groups, rows = barrier.scans("net", xr.DataTree.from_dict({"/barrier": one}))
    assert groups == {}
    assert [row.quantity for row in rows] == ["energy barrier by optimizer", "entropic barrier by optimizer"]
    assert rows[1].statement == "sgd 1.00 ± 0.10, adam 2.00 ± 0.10, muon 3.00 ± 0.10; all equal: χ² = 200.0 for 2"


def test_barriers_of_different_scans_are_refused_and_exact_ones_not_determined():
    one = barriers([0.1, 0.2])
    with pytest.raises(UserError, match="expected scans of the same parameter, found temperature and dimension"):
        barrier.between(one, barriers([2, 4], parameter="dimension"))
    with pytest.raises(UserError, match="temperature: expected a value in common"):
        barrier.between(one, barriers([0.3, 0.4]))
    assert barrier.between(one, one, "energy_barrier").attrs["verdict"] == "not determined"


def test_heights_of_several_runs_have_the_error_of_their_spread():
    runs = xr.concat([barriers([0.1, 0.2], seed=i, error=0.05) for i in range(400)], "run")
    found = barrier.heights(runs, "entropic_barrier")
    np.testing.assert_allclose(found.stderr, 0.05 / 20, rtol=0.2)


# --- everything in two runs -------------------------------------------------------------------------------------------


def test_two_simulations_are_compared_in_everything_they_share(channel):
    one, two = channel(seed=1).tree(), channel(seed=2).tree()
    groups, rows = all_between("a and b", one, two)
    assert {"profile_loss", "mean_force", "effective_potential", "relaxation", "stationary_density"} <= set(groups)
    verdicts = {r.quantity: r.verdict for r in rows}
    assert verdicts["mean force"] == verdicts["entropic barrier"] == verdicts["displacement"] == "agrees"
    assert verdicts["training loss"] == "not determined"  # exact on both sides
    tree = compare([("a", one), ("b", two)])
    assert set(groups) == set(tree["between/a and b"].children)
    table = agreement.rows(tree["table"].to_dataset())
    assert [r for r in table if r.run == "a and b"]


def test_a_network_and_another_network(network, channel):
    one = network(seed=1, force_noise=3e-6)
    other = dataclasses.replace(one, seed=2, force_factor=3.0)
    tree = compare([("sim", channel().tree())], one.tree(), [("other", other.tree())])
    table = {r.quantity: r for r in agreement.rows(tree["table"].to_dataset()) if r.run == "network and other"}
    assert table["mean force"].verdict == "disagrees"
    assert table["mean force"].ratio == pytest.approx(1 / 3, abs=0.05)
    assert table["Hessian trace Tr H"].verdict == "agrees"
    assert "network and sim" not in tree["between"].children  # other units, unless told how to align them
    aligned = compare([("sim", channel().tree())], one.tree(), alignment=Alignment(length=10.0))
    assert "network and sim" in aligned["between"].children


def test_mismatched_measurements_are_a_line_of_the_table(network, channel):
    tree = compare([("a", channel().tree()), ("b", channel(length=3.0).tree())])
    lines = [r for r in agreement.rows(tree["table"].to_dataset()) if r.run == "a and b"]
    force = next(r for r in lines if r.measurement == "mean_force")
    assert force.statement.startswith("not determined: arc_length: expected paths of the same length, found 2 and 3")
