from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from analysis import predict
from analysis.uncertainty import Estimate, agreement
from entropy_sim.errors import UserError

S = np.linspace(0.1, 0.9, 17)


def forms(network, **options):
    """Predictions of every form, with a fine and nearly noiseless profile."""
    profile = network.profile(points=41)
    options = {"arc_length": network.length, "learning_rate": network.learning_rate, "s": S} | options
    return predict.predict_network(profile, momentum=network.momentum, **options)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_curvature_proportional_force_of_a_known_network(network, momentum):
    """f = −(eta c / 4(1−beta)) · 90 · dg/dy, written out in the factory."""
    known = network(profile_noise=1e-6, momentum=momentum)
    found = forms(known)
    for form in (predict.PROPORTIONAL, predict.ALONG_PATH):
        np.testing.assert_allclose(found["force"].sel(form=form), known.force(S), atol=2e-3 * known.force(S).max())


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_thermal_force_of_a_known_network(network, momentum):
    """All stiffnesses rise by the same g(s): f = −(T/2) d_eff g'/g, T d_eff = eta Tr C / 2(1−beta), whatever d_eff."""
    known = network(profile_noise=1e-6, momentum=momentum)
    noise = known.noise_ratio * known.trace * known.g(S) / (1 - momentum)
    expected = -known.learning_rate * noise / 4 * known.slope(S) / known.g(S)
    found = forms(known)
    np.testing.assert_allclose(found["force"].sel(form=predict.THERMAL), expected, atol=2e-3 * expected.max())
    d = len(known.modes) + known.bulk / min(known.modes)
    assert found.attrs["effective_dimension"] == pytest.approx(d, rel=1e-4)
    np.testing.assert_allclose(found["effective_temperature"], known.learning_rate * noise / (2 * d), rtol=1e-3)


def test_finite_learning_rate_force_of_a_known_network(network):
    """Each top mode by its exact variance eta C (1+b) / (k (1−b) (2(1+b) − eta k)), the bulk by the small-eta form."""
    known = network(profile_noise=1e-6, learning_rate=0.02, momentum=0.3)
    b, c, eta = 0.3, known.noise_ratio, 0.02
    k = np.array(known.modes) * known.g(S)[:, None]
    slope = np.array(known.modes) * known.slope(S)[:, None]
    top = -0.5 * (slope * eta * c * (1 + b) / ((1 - b) * (2 * (1 + b) - eta * k))).sum(-1)
    expected = top - eta * c / (4 * (1 - b)) * known.bulk * known.slope(S)
    found = forms(known)["force"].sel(form=predict.FINITE_RATE)
    np.testing.assert_allclose(found, expected, atol=2e-3 * expected.max())
    assert np.abs(expected / known.force(S) - 1)[:6].max() > 0.1  # the small-eta form would be seen to be wrong


def test_lyapunov_s_solution_in_the_modes_basis(network):
    """Σ H + H Σ = η C/(1−β) for diagonal matrices, solved by scipy, one mode noisier than C = c H has it."""
    known = network(profile_noise=1e-6, momentum=0.4, learning_rate=0.02)
    profile = known.profile(points=41)
    profile["noise_eigenvalue"] = profile["noise_eigenvalue"].copy(deep=True)
    profile["noise_eigenvalue"][..., 1] *= 1.5
    profile["noise_trace"] = profile["noise_trace"] + 0.5 * profile["noise_eigenvalue"][..., 1] / 1.5
    profile["noise_trace_transverse"] = profile["noise_trace"]
    found = predict.predict_network(profile, arc_length=20.0, learning_rate=0.02, momentum=0.4, s=S)
    c, expected = known.noise_ratio, []
    for g, slope in zip(known.g(S), known.slope(S), strict=True):
        k, noise = np.array(known.modes) * g, c * np.array(known.modes) * g * np.array([1, 1.5, 1, 1, 1])
        sigma = linalg.solve_continuous_lyapunov(np.diag(k), np.diag(0.02 * noise / 0.6))
        bulk = 0.02 * c / (4 * 0.6) * known.bulk * slope
        expected.append(-0.5 * np.trace(np.diag(np.array(known.modes) * slope) @ sigma) - bulk)
    value = found["force"].sel(form=predict.LYAPUNOV)
    np.testing.assert_allclose(value, expected, atol=2e-3 * np.max(expected))
    equal = forms(known)["force"].sel(form=predict.LYAPUNOV)
    assert np.abs(value - equal).max() > 0.02 * np.abs(equal).max()  # C = c H would be seen to be wrong
    silent = predict.predict_network(profile.drop_vars("noise_eigenvalue"), arc_length=20.0, learning_rate=0.02)
    assert f"{predict.LYAPUNOV}: no noise_eigenvalue" in silent.attrs["dropped"]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_finite_time_force_of_a_known_network(network, momentum):
    """Each variance follows its recursion, step by step here; at late times it is the stationary one, at once 0."""
    known = network(profile_noise=1e-6, learning_rate=0.01, momentum=momentum)
    times = np.array([0.05, 0.1]) / (1 - momentum)
    k = np.array([*known.modes, min(known.modes)]) * known.g(S)[:, None]
    slope = np.array([*known.modes, known.bulk]) * known.slope(S)[:, None]
    total = np.zeros_like(k)
    x2, xv, v2 = (np.zeros_like(k) for _ in range(3))
    wanted = [round(t * (1 - momentum) / 0.01) for t in times]
    for n in range(1, max(wanted) + 1):
        # v' = b v − h k x − h ξ, x' = x + v'
        a, b = 0.01 * k, momentum
        v2_new = b**2 * v2 - 2 * a * b * xv + a**2 * x2 + 0.01**2 * known.noise_ratio * k
        xv_new = b * xv - a * x2 + v2_new
        x2 = x2 + 2 * (b * xv - a * x2) + v2_new
        v2, xv = v2_new, xv_new
        if n in wanted:
            total += x2 / len(wanted)
    expected = -0.5 * (slope * total).sum(-1)
    found = forms(known, times=times)["force"].sel(form=predict.FINITE_TIME)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())
    stationary = forms(known)["force"].sel(form=predict.FINITE_RATE)
    assert np.abs(expected - stationary).max() > 0.15 * np.abs(stationary).max()  # which would be seen to be wrong
    late = forms(known, times=np.array([200.0]))["force"]
    np.testing.assert_allclose(
        late.sel(form=predict.FINITE_TIME), late.sel(form=predict.FINITE_RATE), rtol=0.2, atol=1e-9
    )
    assert np.abs(forms(known, times=np.array([0.0]))["force"].sel(form=predict.FINITE_TIME)).max() < 1e-12


def test_noise_factor_and_path_kind(network):
    known = network(profile_noise=1e-6)
    base = forms(known)["force"].sel(form=predict.PROPORTIONAL).values
    half = forms(known, noise_factor=0.5)["force"].sel(form=predict.PROPORTIONAL).values
    np.testing.assert_allclose(half, 0.5 * base)
    line = forms(known, path_kind="line")["force"].sel(form=predict.PROPORTIONAL).values
    assert np.abs(line).max() < np.abs(base).max()
    with pytest.raises(UserError, match="path_kind: expected one of neb, line, found 'bezier'"):
        forms(known, path_kind="bezier")


def test_stated_errors_are_those_of_repeated_profiles(network):
    """30 profiles with 5 % errors: predictions scatter as the propagated errors say (chi2 within 5 sigma of its mean),
    and the true force is in their middle; the mutant without 1/(1−beta) is not, by more than 5 sigma."""
    known = network(profile_noise=0.05, momentum=0.5)
    options = {"arc_length": known.length, "learning_rate": known.learning_rate, "momentum": 0.5}
    s = np.linspace(0, 1, 13)
    total, mutant = [], []
    for seed in range(30):
        profile = network(profile_noise=0.05, momentum=0.5, seed=seed).profile()
        found = predict.predict_network(profile, s=s, **options)
        one = predict.estimate(found, predict.PROPORTIONAL).select(np.abs(s - 0.5) < 0.4)
        truth = known.force(s)[np.abs(s - 0.5) < 0.4]
        # The slope's error is proportional to the slope, which is 0 in the middle: leave that point out.
        one, truth = one.select(np.abs(truth) > 1e-6), truth[np.abs(truth) > 1e-6]
        total.append(agreement(one, Estimate.independent(truth, 0 * truth)).chi_squared)
        mutant.append(agreement(one, Estimate.independent(0.5 * truth, 0 * truth)).chi_squared)
    n = 30 * len(truth)
    assert abs(sum(total) - n) < 5 * np.sqrt(2 * n) * 1.2  # 1.2: errors of a ratio are not quite Gaussian
    assert sum(mutant) > n + 5 * np.sqrt(2 * n)


def test_points_beyond_stability_are_not_predicted_and_leave_the_others_alone(network):
    known = network(profile_noise=1e-6, learning_rate=0.05)  # eta k reaches 3.6
    found = forms(known)
    finite = found["force"].sel(form=predict.FINITE_RATE).values
    unstable = 0.05 * known.modes[0] * known.g(S) >= 2
    assert np.isnan(finite[unstable]).all()
    assert np.isfinite(finite[[0, -1]]).all()
    assert np.isfinite(found["force"].sel(form=predict.PROPORTIONAL)).all()
    assert found.attrs["largest_eta_k"] == pytest.approx(0.05 * 12 * 6, rel=1e-3)


def test_what_was_not_measured_is_dropped_by_name_or_refused(network):
    known = network()
    profile = known.profile().drop_vars(["hessian_eigenvalue", "noise_eigenvalue", "hessian_trace_slope"])
    options = {"arc_length": 20.0, "learning_rate": 0.01}
    found = predict.predict_network(profile, **options)
    assert list(found["form"].values) == [predict.ALONG_PATH]
    assert "hessian_trace_slope was not measured" in found.attrs["dropped"]
    assert "finite learning rate: no top-k" in found.attrs["dropped"]
    with pytest.raises(UserError, match="expected noise_trace to predict a force from"):
        predict.predict_network(profile.drop_vars("noise_trace"), **options)
    with pytest.raises(UserError, match="at least 3 points"):
        predict.predict_network(known.profile(points=2), **options)


def test_negative_trace_is_not_predicted(network):
    profile = network().profile()
    profile["hessian_trace_transverse"] = -profile["hessian_trace_transverse"]
    found = predict.predict_network(profile, arc_length=20.0, learning_rate=0.01)
    assert np.isnan(found["force"]).all()


def test_spline_matrix_is_exact_for_cubics_and_nan_outside():
    y, at = np.array([0.0, 0.5, 1.5, 2.0, 3.0]), np.array([0.1, 2.2])
    np.testing.assert_allclose(predict.spline_matrix(y, at) @ y**3, at**3)
    np.testing.assert_allclose(predict.spline_matrix(y, at, derivative=1) @ y**3, 3 * at**2)
    assert np.isnan(predict.spline_matrix(y, np.array([3.5]))).all()
