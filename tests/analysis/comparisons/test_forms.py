"""Forms scored by their likelihood, and told where they fail."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats

from analysis import agreement
from analysis.compare import compare
from analysis.comparisons._forms import log_likelihoods
from analysis.predict import FINITE_TIME, PROPORTIONAL, predict_network
from analysis.uncertainty import Estimate


def test_likelihoods_are_scipy_s_with_the_summed_covariance():
    random = np.random.default_rng(0)
    a, b = (m @ m.T for m in random.normal(size=(2, 4, 4)))
    measured, predicted = random.normal(size=(2, 4))
    found, none, places = log_likelihoods(
        Estimate(measured, a), [Estimate(predicted, b), Estimate(0 * predicted, 0 * b)]
    )
    assert places == 4
    assert found[0] == pytest.approx(scipy.stats.multivariate_normal(predicted, a + b).logpdf(measured))
    assert found[1] == none == pytest.approx(scipy.stats.multivariate_normal(np.zeros(4), a).logpdf(measured))


def test_all_forms_are_scored_at_the_same_places():
    """A form that is NaN at one place takes that place from all; one that is NaN at most places has no score."""
    ones = np.ones(4)
    measured = Estimate.independent(np.array([1.0, 2.0, 3.0, 4.0]), ones)
    gap, hardly = np.array([np.nan, 2.0, 3.0, 4.0]), np.array([1.0, np.nan, np.nan, np.nan])
    found, _, places = log_likelihoods(measured, [Estimate.independent(v, 0 * ones) for v in (gap, 0 * ones, hardly)])
    assert places == 3
    assert found[0] == pytest.approx(-1.5 * np.log(2 * np.pi))
    assert found[1] == pytest.approx(-1.5 * np.log(2 * np.pi) - 0.5 * (4 + 9 + 16))
    assert np.isnan(found[2])
    nothing = Estimate.independent(np.full(4, np.nan), ones)
    assert np.isnan(log_likelihoods(nothing, [measured])[0]).all()


def statements(tree):
    return {
        r.quantity: r.statement for r in agreement.rows(tree["table"].to_dataset()) if r.measurement == "mean_force"
    }


def test_the_form_that_made_the_force_is_the_likeliest(network):
    """Forces made by the finite-time form (a time in which the soft modes have not equilibrated), and by none."""
    known = network(profile_noise=0.01, learning_rate=0.004, force_noise=3e-8)
    tree = known.tree()
    force = tree["mean_force"].to_dataset()
    force = force.assign_coords(time_window=("time_window", np.array([0.02, 0.06, 0.1]), force["time_window"].attrs))
    exact = network(profile_noise=1e-6).profile(points=41)
    times = np.concatenate([0.02 * x / np.sqrt(2) + force["time_window"].values for x in (-1, 0, 1)])
    predicted = predict_network(
        exact, arc_length=20.0, learning_rate=0.004, s=force["s"].values, times=times
    )["force"].sel(form=FINITE_TIME)  # fmt: skip
    noise = 3e-8 * np.random.default_rng(0).standard_normal(force["mean_force"].shape)
    force["mean_force"][:] = predicted.values[:, None, None] + known.control_force + noise
    tree["mean_force"] = force
    said = statements(compare([], tree))
    assert said["forms by likelihood"].startswith("finite time is the likeliest; ln L below it, over 9 places: ")
    assert said["finite time"].startswith("agrees")
    assert said[PROPORTIONAL].startswith("disagrees")
    assert "finite time: 0 of 9" in said["where forms fail"]
    assert "no force at all −" in said["forms by likelihood"]


def test_where_a_form_fails_is_told_with_the_size(network):
    """A force that is twice the prediction, known to 2 %."""
    known = network(profile_noise=0.005, force_noise=1e-7, learning_rate=0.002, force_factor=2.0, rise=3.0)
    text = statements(compare([], dataclasses.replace(known).tree()))["where forms fail"]
    part = next(p for p in text.split("; ") if PROPORTIONAL + ":" in p)
    assert "measured/predicted 2.0" in part or "measured/predicted 1.9" in part
    assert " 8 of 9" in part  # all but the middle, where there is no force
