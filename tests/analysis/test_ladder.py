from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from analysis.ladder import Extrapolation, extrapolate, noise_strength, ratios, sensitivity, statement
from entropy_sim import SGD, Channel, CurvatureCovariance, MeanForce, theory
from entropy_sim.errors import UserError

S = np.array([0.1, 0.25, 0.4, 0.6, 0.75])


def made_up(limit=1.0, slope=-40.0, bend=0.0, replicas=6, error=0.08, prediction_error=0.02, seed=0, control=True):
    """A ladder in σ and η whose ratio is limit + slope x + bend x², with the layout of docs/ladder.md."""
    random = np.random.default_rng(seed)
    rates, sigmas, batch, momentum = np.array([0.005, 0.01]), np.array([0.05, 0.2, 0.5]), 0.5, 0.5
    x = rates[:, None] * sigmas**2 / (batch * (1 - momentum))
    exact = -np.sin(2 * np.pi * S)[:, None, None] * x  # s, η, σ
    time = np.array([0.8, 1.0])
    ratio = limit + slope * x + bend * x**2
    predicted = exact[..., None] * time
    # One error of the prediction for each s, common to all rungs and windows.
    wrong = 1 + prediction_error * random.standard_normal(len(S))[:, None, None, None]
    shape = (len(S), 2, 3, replicas, 2)
    noise = error * random.standard_normal(shape[:-1])[..., None] + 0.3 * error * random.standard_normal(shape)
    slide = 0.3 * np.ones((len(S), 2, 3, 1, 2)) if control else 0.0
    force = predicted[..., None, :] * (ratio[..., None, None] + noise) + slide
    dims = ("s", "learning_rate", "label_noise", "replica", "time_window")
    variables = {
        "mean_force": (dims, force),
        "mean_force_predicted": (dims[:3] + dims[4:], predicted * wrong),
        "mean_force_predicted_stderr": (dims[:3] + dims[4:], abs(predicted) * prediction_error),
        "mean_force_formula": (dims[:3], exact * wrong[..., 0]),
        "mean_force_linear": (dims, predicted[..., None, :] * (1 + noise)),
        "diverged": (dims[:4], np.zeros(shape[:-1])),
    }
    if control:
        variables["mean_force_control"] = (
            ("s", "learning_rate", "label_noise", "control_replica", "time_window"),
            slide,
        )
    coordinates = {"s": S, "learning_rate": rates, "label_noise": sigmas, "time_window": [1.0, 2.0]}
    return xr.Dataset(variables, coordinates, attrs={"batch_size": batch, "momentum": momentum})


def test_the_strength_of_the_noise():
    found = noise_strength(made_up())
    assert float(found.sel(learning_rate=0.01, label_noise=0.2)) == pytest.approx(0.01 * 0.04 / (0.5 * 0.5))


@pytest.mark.slow
def test_the_interval_covers_the_limit_and_the_estimate_is_unbiased():
    """200 ladders, true limit 0.8: 68 % of the intervals hold it within 3 standard errors of that count, the mean is
    right within 3, and the mutants (no extrapolation; ratios not minus the control) are off by more than 5."""
    found = [extrapolate(made_up(limit=0.8, seed=s)) for s in range(200)]
    held = sum(float(f["limit_low"]) <= 0.8 <= float(f["limit_high"]) for f in found)
    assert abs(held - 200 * 0.6827) < 3 * np.sqrt(200 * 0.6827 * 0.3173)
    values = np.array([float(f["limit"]) for f in found])
    assert abs(values.mean() - 0.8) < 3 * values.std() / np.sqrt(200)
    flat = np.array(
        [float(extrapolate(made_up(limit=0.8, seed=s), Extrapolation(degree=0))["limit"]) for s in range(20)]
    )
    assert (flat.mean() - 0.8) / (flat.std() / np.sqrt(20)) < -5
    data = made_up(limit=0.8).drop_vars("mean_force_control")
    assert abs(float(extrapolate(data)["limit"]) - 0.8) > 5 * values.std()


def test_a_nan_in_one_window_takes_its_replica_out_and_nothing_else():
    data = made_up()
    data["mean_force"][1, 0, 0, 2, 1] = np.nan
    values = ratios(data)["ratio"].values
    assert np.isnan(values).sum() == 1
    assert abs(float(extrapolate(data)["limit"]) - 1) < 3 * float(extrapolate(data)["limit_stderr"])


def test_a_parabola_is_extrapolated_by_one_and_not_by_a_straight_line():
    bent = {"bend": 2000.0, "error": 0.02, "prediction_error": 0.0}
    straight = [float(extrapolate(made_up(seed=s, **bent))["limit"]) for s in range(8)]
    curved = [float(extrapolate(made_up(seed=s, **bent), Extrapolation(degree=2))["limit"]) for s in range(8)]
    assert abs(np.mean(curved) - 1) < 3 * np.std(curved) / np.sqrt(8)
    assert abs(np.mean(straight) - 1) > 5 * np.std(straight) / np.sqrt(8)


def test_the_reduced_estimator_removes_the_noise_it_shares_with_the_linear_dynamics():
    raw, reduced = (extrapolate(made_up(), Extrapolation(estimator=e)) for e in ("raw", "reduced"))
    assert float(reduced["limit_stderr"]) < float(raw["limit_stderr"])
    assert abs(float(reduced["limit"]) - 1) < 3 * float(reduced["limit_stderr"])


def test_the_error_of_the_prediction_enters_once_per_position():
    """Replicas without scatter to speak of: the error of the limit is that of the predictions over √5 positions."""
    one = extrapolate(made_up(error=1e-4, prediction_error=0.1))
    assert float(one["limit_stderr"]) == pytest.approx(0.1 / np.sqrt(5), rel=0.6)
    np.testing.assert_allclose(one["limit_at_stderr"], 0.1 * abs(one["limit_at"]), rtol=0.35)


def test_a_wrong_theory_disagrees_and_a_noisy_ladder_determines_nothing():
    assert extrapolate(made_up()).attrs["verdict"] == "agrees"
    assert extrapolate(made_up(limit=2.0)).attrs["verdict"] == "disagrees"
    assert extrapolate(made_up(limit=-1.0)).attrs["verdict"] == "disagrees"
    assert extrapolate(made_up(error=30.0)).attrs["verdict"] == "not determined"
    text = extrapolate(made_up()).attrs["statement"]
    assert text.startswith("agrees: measured/predicted → ")
    assert "(straight line in η σ²/(B (1 − β)), 6 rungs, 5 positions)" in text


def test_diverged_replicas_unknown_predictions_and_missing_parts():
    data = made_up()
    data["diverged"][:, 1, 2, :4] = 1  # most of the strongest rung: it is left out, not the replicas
    assert extrapolate(data)["noise"].size == 6
    data["diverged"][:, 1, 2] = 1
    assert extrapolate(data)["noise"].size == 5
    unknown = made_up()
    unknown["mean_force_predicted_stderr"][2] = 1e3
    assert extrapolate(unknown).attrs["left_out"] == "s = 0.4"
    unknown["mean_force_predicted_stderr"][:] = 1e3
    assert extrapolate(unknown).attrs["verdict"] == "not determined"
    still = made_up(error=0.0, prediction_error=0.0)
    assert extrapolate(still).attrs["verdict"] == "not determined"
    data["diverged"][:] = 1
    with pytest.raises(UserError, match="2 strengths of the noise with two replicas, for a fit of degree 1, found 0"):
        extrapolate(data)
    with pytest.raises(UserError, match="expected mean_force, mean_force_predicted, found no mean_force_predicted"):
        extrapolate(made_up().drop_vars("mean_force_predicted"))
    with pytest.raises(UserError, match="3 strengths of the noise"):
        extrapolate(made_up(), Extrapolation(degree=2, highest=1.5e-4))
    with pytest.raises(UserError, match="rungs over one of learning_rate"):
        ratios(made_up().isel(learning_rate=0, label_noise=0))


def test_the_sensitivity_lists_every_other_choice():
    found = sensitivity(made_up())
    names = list(map(str, found["choice"].values))
    assert names[:4] == ["as chosen", "degree 0", "degree 2", "without the strongest noise"]
    assert {"time window 2 alone", "over the formula", "reduced estimator", "without s = 0.4"} <= set(names)
    assert np.isfinite(found["limit"]).all()
    assert float(found["limit"].sel(choice="degree 0")) < 0.95
    assert "; other choices give " in statement(extrapolate(made_up()), found)


def simulated(rates, walkers=256, force_factor=1.0):
    """SGD with C = c K on the channel, at several learning rates: the exact law at a finite rate is known."""
    scale, positions = 0.02, (0.2, 0.3, 0.7)
    runs, formula = [], []
    channel = Channel()
    s = np.array(positions)
    for rate in rates:
        run = MeanForce(
            channel,
            CurvatureCovariance(scale=scale),
            SGD(learning_rate=rate),
            positions=positions,
            replicas=8,
            walkers=walkers,
            burn_in=10.0,
            duration=400.0 * rate,
            time_windows=1,
            stride=1,
        ).run(threads=1)
        runs.append(run["mean_force"].to_dataset())
        slope = channel.curvature_slope(s).sum(-1)
        formula.append(force_factor * theory.mean_force_curvature_proportional(slope, scale, learning_rate=rate))
    ladder = xr.concat(runs, xr.DataArray(list(rates), dims="learning_rate", name="learning_rate"), join="override")
    ladder["mean_force_formula"] = (("learning_rate", "s"), np.array(formula))
    return ladder


def test_the_simulator_s_ladder_over_learning_rates_ends_at_one():
    """Exact law 1 / (1 − ηk/4 …) > 1 at every rung. The straight line ends at 1 within 3 standard errors; half the
    force, and the mean over the rungs, do not (5 of them)."""
    ladder = simulated((0.005, 0.01, 0.02))
    choices = Extrapolation(denominator="formula")
    found = extrapolate(ladder, choices)
    limit, error = float(found["limit"]), float(found["limit_stderr"])
    assert found.attrs["verdict"] == "agrees"
    assert abs(limit - 1) < 3 * error < 0.1
    assert abs(0.5 * limit - 1) > 5 * error
    largest = float(found["ratio_mean"][-1])
    k = Channel().curvature([0.2, 0.3, 0.7])
    assert largest > 1 + 0.2 * 0.02 * k.mean() / 4


def test_a_network_s_ladder_is_a_line_of_the_table_and_a_figure(network, tmp_path):
    """The other stages are compared as ever; the overview, which needs one setting, is left out."""
    from analysis import agreement
    from analysis.compare import compare
    from analysis.plots import plot_file
    from analysis.report import write_figures, write_report

    run = network().tree()
    force = made_up()
    for name, variable in force.variables.items():
        variable.attrs = {"units": "1" if name in ("s", "diverged") else "loss / parameter", "long_name": str(name)}
    run["mean_force"] = force
    tree = compare([], run)
    rows = {r.quantity: r for r in agreement.rows(tree["table"].to_dataset())}
    found = rows["ladder: linear response, at zero noise"]
    assert found.verdict == "agrees"
    assert "; other choices give " in found.statement
    assert abs(found.ratio - 1) < 3 * found.measured_stderr
    # The made-up windows have 0.8 and 1 of the stationary force, which the formula knows nothing of.
    formula = rows["ladder: stationary formula, at zero noise"]
    assert formula.verdict == "disagrees"
    assert abs(formula.ratio - 0.9) < 3 * formula.measured_stderr
    assert "ladder" in {p.stem for p in plot_file(run, tmp_path / "run")}
    figures = write_figures(tmp_path, [], run, tree, formats=("png",))
    assert {"network_ladder", "network_ladder_formula"} <= {f.path.stem for f in figures}
    assert "measured/predicted →" in write_report(tmp_path, tree, [], run, figures).read_text(encoding="utf-8")
