from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import integrate

from analysis import agreement, predict
from analysis.compare import compare
from analysis.predict_relaxation import predict_network_relaxation
from entropy_sim.errors import UserError

STARTS = np.array([0.15, 0.3, 0.5, 0.7, 0.85])
TIMES = np.linspace(0, 160, 33)
STRONG = {"profile_noise": 1e-6, "noise_ratio": 0.1}


def predicted(known, times=TIMES, starts=STARTS, points=41, **options):
    settings = {"arc_length": known.length, "learning_rate": known.learning_rate, "momentum": known.momentum}
    return predict_network_relaxation(known.profile(points=points), starts, times, **(settings | options))


def solved(force, times, starts=STARTS):
    """s(t) of ds/dt = force(s, t), by scipy."""
    found = integrate.solve_ivp(
        lambda t, s: force(s, t), (times[0], times[-1]), starts, t_eval=times, rtol=1e-8, atol=1e-10
    )
    return found.y


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_positions_follow_the_known_force(network, momentum):
    known = network(**STRONG, momentum=momentum)
    found = predicted(known)
    expected = solved(lambda s, t: known.force(s) / known.length, TIMES)
    assert np.abs(expected[:, -1] - STARTS).max() > 0.1
    for form in (predict.PROPORTIONAL, predict.ALONG_PATH):
        np.testing.assert_allclose(found["position"].sel(form=form), expected, atol=2e-4)
        moved = found["displacement"].sel(form=form)
        np.testing.assert_allclose(moved, found["position"].sel(form=form)[:, -1] - STARTS, atol=1e-12)


def test_variances_grow_after_the_release(network):
    """dy/dt = −½ Σ k_i' Σ_∞ (1 − (1 − ηk)^{2t/η}), the bulk as stiff as the softest mode, by scipy."""
    known = network(**STRONG)
    times = np.linspace(0, 0.6, 13)
    eta, c = known.learning_rate, known.noise_ratio
    modes, weights = np.array([*known.modes, min(known.modes)]), np.array([*known.modes, known.bulk])

    def force(s, t):
        k = modes * known.g(s)[:, None]
        variance = eta * c / (2 - eta * k) * (1 - (1 - eta * k) ** (2 * t / eta))
        return -0.5 * (weights * known.slope(s)[:, None] * variance).sum(-1) / known.length

    expected = solved(force, times)[:, -1] - STARTS
    found = predicted(known, times)["displacement"]
    np.testing.assert_allclose(found.sel(form=predict.FINITE_TIME), expected, atol=0.01 * np.abs(expected).max())
    stationary = found.sel(form=predict.FINITE_RATE)
    assert np.abs(stationary - expected).max() > 0.1 * np.abs(expected).max()  # which would be seen to be wrong


def test_ends_hold_and_unknown_places_are_not_crossed(network):
    known = network(**STRONG, learning_rate=0.05)  # eta k reaches 3.6: unstable in the middle
    found = predicted(known, np.linspace(0, 4000, 9))
    assert found["position"].min() >= 0
    assert found["position"].max() <= 1
    finite = found["position"].sel(form=predict.FINITE_RATE)
    assert np.isnan(finite.sel(start=0.5)[1:]).all()
    assert np.isfinite(finite.sel(start=0.15)).all()


@pytest.mark.slow
def test_stated_errors_are_those_of_repeated_profiles(network):
    """16 profiles with errors of 5 %: χ² of the displacements about the truth within 5 sigma of its mean, and beyond
    with errors half as large."""
    truth = predicted(network(**STRONG))["displacement"].sel(form=predict.PROPORTIONAL).values
    total = 0.0
    for seed in range(16):
        found = predicted(network(**STRONG | {"profile_noise": 0.05}, seed=seed), points=13)
        one = found.sel(form=predict.PROPORTIONAL).isel(start=[0, 1, 3, 4], start_other=[0, 1, 3, 4])
        difference = one["displacement"].values - truth[[0, 1, 3, 4]]
        total += difference @ np.linalg.solve(one["covariance"].values, difference)
    assert abs(total - 64) < 5 * np.sqrt(2 * 64)
    assert 4 * total > 64 + 5 * np.sqrt(2 * 64)


# --- in a comparison --------------------------------------------------------------------------------------------------


def released(known, factor=1.0, replicas=6):
    """A run whose replicas move as `factor` times the curvature-proportional force has it, and whose control stays."""
    tree = known.tree()
    relaxed = tree["relaxation"].to_dataset().isel(replica=np.arange(replicas) % known.replicas)
    relaxed = relaxed.assign_coords(replica=np.arange(replicas)).copy(deep=True)
    expected = solved(lambda s, t: factor * known.force(s) / known.length, TIMES)
    scatter = 0.004 * np.random.default_rng(5).standard_normal((5, replicas, 1)) * (TIMES > 0)
    relaxed["position"].values[0] = expected[:, None] + scatter
    tree["relaxation"] = relaxed
    return tree


def lines(tree):
    return {(r.measurement, r.quantity): r for r in agreement.rows(compare([], tree)["table"].to_dataset())}


def test_a_network_s_relaxation_is_held_against_every_form(network):
    known = network(noise_ratio=1.0, learning_rate=0.001, replicas=3)
    result = compare([], released(known))
    rows = {r.quantity: r for r in agreement.rows(result["table"].to_dataset()) if r.measurement == "relaxation"}
    for form in (predict.PROPORTIONAL, predict.ALONG_PATH, predict.THERMAL, predict.FINITE_RATE, predict.LYAPUNOV):
        row = rows[f"displacement at the end, {form}"]
        assert row.verdict == "agrees", row.statement
        assert row.statement.endswith("control subtracted")
    assert "no force at all" in rows["forms by likelihood"].statement
    found = result["relaxation/network"]
    places = found["places_scored"].item()
    assert places == 2  # the starts that have a control
    assert found["log_likelihood"].max() > found["log_likelihood_of_none"] + 20
    assert np.isnan(found["z"].sel(start=0.15)).all()
    np.testing.assert_allclose(
        found["difference"].sel(form=predict.PROPORTIONAL, start=0.3),
        found["position"].sel(control=0, start=0.3)[-1]
        - 0.3
        - found["displacement_predicted"].sel(form=predict.PROPORTIONAL, start=0.3),
    )
    wrong = lines(released(known, factor=0.5))["relaxation", f"displacement at the end, {predict.PROPORTIONAL}"]
    assert wrong.verdict == "disagrees"
    assert wrong.ratio == pytest.approx(0.5, abs=0.1)


def test_what_the_control_does_too_is_subtracted_and_replicas_are_pooled(network):
    """A drift of everybody changes nothing; the variance of a mean is that of the replicas, pooled over the starts."""
    known = network(noise_ratio=1.0, learning_rate=0.001, replicas=3)
    still, drifting = released(known), released(known)
    drifting["relaxation"]["position"].values[:] += 0.02 * TIMES / TIMES[-1]
    found, other = (
        compare([], tree)["relaxation/network"].sel(form=predict.PROPORTIONAL) for tree in (still, drifting)
    )
    np.testing.assert_allclose(found["difference"], other["difference"], atol=1e-9)
    assert found["difference"].notnull().sum() == 2
    last = still["relaxation"]["position"].values[0, :, :, -1]
    pooled = last.var(axis=1, ddof=1).mean() / last.shape[1]
    variance = (found["difference"] / found["z"]) ** 2 - found["displacement_predicted_stderr"] ** 2
    np.testing.assert_allclose(variance.dropna("start"), pooled, rtol=1e-6)


def test_without_a_profile_a_relaxation_is_not_predicted(network):
    row = lines(network(groups=("path", "relaxation")).tree())["relaxation", "prediction"]
    assert row.statement == "not determined: no prediction without profile"


def test_label_noise_is_that_of_its_strength_and_other_noise_is_not_guessed(network):
    """C = (σ²/B) H, not that of minibatches, in which the profile was measured."""
    known = network(profile_noise=1e-6)

    def with_noise(**noise):
        tree = known.tree()
        config = json.loads(tree.attrs["config"])
        tree.attrs["config"] = json.dumps(config | {n: {"noise": noise} for n in ("mean_force", "relaxation")})
        return tree

    minibatch = compare([], known.tree())["mean_force/network"]["predicted"].sel(form=predict.PROPORTIONAL)
    label = compare([], with_noise(type="Label", strength=0.4, batch_size=32))["mean_force/network"]
    expected = minibatch * (0.4**2 / 32) / known.noise_ratio
    np.testing.assert_allclose(label["predicted"].sel(form=predict.PROPORTIONAL), expected, rtol=1e-4)
    rows = lines(with_noise(type="Thermal", temperature=1e-6))
    text = "not determined: the profile holds the noise of minibatches, the dynamics had Thermal noise"
    assert rows["mean_force", "prediction"].statement == text
    assert rows["relaxation", "prediction"].statement == text


def test_times_and_profiles_that_make_no_prediction(network):
    with pytest.raises(UserError, match="at least 3 points along the path, found 2"):
        predicted(network(), points=2)
