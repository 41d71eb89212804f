"""Waiting times with censoring: textbook data, scipy's estimate, exact coverage, and wrong estimates rejected."""

import numpy as np
import pytest
from scipy import stats

from entropy_sim.errors import UserError
from entropy_sim.survival import CURVE_POINTS, exponential_rate, exponentiality, kaplan_meier, mean_time, summary

# Remission times in weeks (Freireich et al., Blood 21 (1963) 699).
RELAPSED = [6, 6, 6, 7, 10, 13, 16, 22, 23]
TIME = np.array([*RELAPSED, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35], dtype=float)
EVENT = np.arange(21) < len(RELAPSED)


def censored(seed, n, rate, end, lag=0.0):
    """Times of a lag and an exponential after it, looked at until `end`."""
    t = lag + np.random.default_rng(seed).exponential(1 / rate, n)
    return np.minimum(t, end), t < end


def test_kaplan_meier_on_textbook_data_and_against_scipy():
    found = kaplan_meier(TIME, EVENT)
    np.testing.assert_array_equal(found.time, [6, 7, 10, 13, 16, 22, 23])
    np.testing.assert_array_equal(found.at_risk, [21, 17, 15, 12, 11, 7, 6])
    np.testing.assert_allclose(found.survival, [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], atol=5e-4)
    np.testing.assert_allclose(found.stderr, [0.076, 0.087, 0.096, 0.107, 0.114, 0.128, 0.135], atol=6e-4)
    theirs = stats.ecdf(stats.CensoredData(uncensored=TIME[EVENT], right=TIME[~EVENT])).sf
    np.testing.assert_allclose(found.at(theirs.quantiles)[0], theirs.probabilities, rtol=1e-12)
    band = theirs.confidence_interval(0.95, method="linear")
    inside = found.stderr[-1]
    np.testing.assert_allclose(theirs.probabilities[-1] - band.low.probabilities[-1], 1.959964 * inside, rtol=1e-6)
    np.testing.assert_array_equal(found.at([0.0, 5.9]), [[1.0, 1.0], [0.0, 0.0]])


def test_a_curve_that_ends_at_zero_has_no_error_there():
    found = kaplan_meier([1.0, 2.0, 2.0], [True] * 3)
    np.testing.assert_allclose(found.survival, [2 / 3, 0.0])
    assert found.stderr[-1] == 0.0


def test_rate_of_textbook_data():
    """9 relapses in 359 weeks (Lawless, example 4.1.1 takes the same data)."""
    found = exponential_rate(TIME, EVENT)
    assert (found.events, found.exposure) == (9, 359.0)
    assert found.rate == pytest.approx(9 / 359)
    assert found.stderr == pytest.approx(3 / 359)
    assert found.low == pytest.approx(stats.chi2.ppf(0.025, 18) / 718)
    assert found.high == pytest.approx(stats.chi2.ppf(0.975, 20) / 718)


def test_the_interval_is_exact_without_censoring_and_not_narrower_with_it():
    """20 000 experiments of 5 walkers: the rate is below the interval in 0.025 ± 0.001. Mutant: rate ± 1.96 stderr."""
    rng = np.random.default_rng(3)
    experiments = rng.exponential(1.0, (20_000, 5))
    sums = experiments.sum(axis=1)
    low, high = stats.chi2.ppf([0.025, 0.975], 10)[:, None] / (2 * sums)
    one = exponential_rate(experiments[0], np.ones(5, bool))
    assert (one.low, one.high) == pytest.approx((low[0], high[0]))
    error = np.sqrt(0.025 * 0.975 / 20_000)
    assert abs(np.mean(low > 1) - 0.025) < 4 * error
    assert abs(np.mean(high < 1) - 0.025) < 4 * error
    assert abs(np.mean((5 - 1.96 * np.sqrt(5)) / sums > 1) - 0.025) > 5 * error
    cut = [exponential_rate(np.minimum(t, 1.0), t < 1.0) for t in experiments[:4000]]
    assert np.mean([c.low < 1 < c.high for c in cut]) > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 4000)


def test_without_an_event_there_is_an_upper_bound():
    found = exponential_rate([10.0] * 4, [False] * 4)
    assert (found.rate, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(-np.log(0.025) / 40)


def test_counting_censored_times_as_escapes_or_leaving_them_out_is_wrong():
    """Rate 1, half censored. Mutants: n / sum of the escaped times only; all n / sum."""
    t, e = censored(1, 20_000, 1.0, np.log(2))
    found = exponential_rate(t, e)
    assert abs(found.rate - 1) / found.stderr < 3
    assert (e.sum() / t[e].sum() - 1) / found.stderr > 5
    assert (e.size / t.sum() - 1) / found.stderr > 5
    found = mean_time(t, e)
    assert abs(found.mean - 1) / found.mean_stderr < 3
    assert (1 - found.restricted) / found.restricted_stderr > 5
    assert abs(found.restricted - 0.5) / found.restricted_stderr < 3


def test_a_lag_is_left_out_of_the_rate_and_kept_in_the_mean():
    """Nobody leaves before t = 1, rate 1 afterwards: <t> = 2. Mutant: the rate of all times, 1 / <t>."""
    t, e = censored(2, 20_000, 1.0, 2.5, lag=1.0)
    late = exponential_rate(t, e, after=1.0)
    assert abs(late.rate - 1) / late.stderr < 3
    naive = exponential_rate(t, e)
    assert abs(naive.rate - 1) / naive.stderr > 5
    found = mean_time(t, e, after=1.0)
    assert abs(found.mean - 2) / found.mean_stderr < 3
    assert abs(mean_time(t, e).mean - 2) / found.mean_stderr > 5
    assert exponentiality(t, e) > 5
    assert abs(exponentiality(t, e, after=1.0)) < 3


def test_the_error_of_the_mean_is_that_of_repeated_experiments():
    experiments = [mean_time(*censored(seed, 200, 1.0, 1.5, lag=0.5), after=0.5) for seed in range(600)]
    spread = np.std([m.mean for m in experiments])
    claimed = np.mean([m.mean_stderr for m in experiments])
    assert abs(claimed / spread - 1) < 4 / np.sqrt(2 * 600)


def test_all_ways_to_the_mean_agree_for_exponential_times():
    t, e = censored(4, 300, 2.0, 0.4)
    assert mean_time(t, e).mean == pytest.approx(1 / exponential_rate(t, e).rate)
    assert mean_time(t, e).restricted == pytest.approx(np.trapezoid(*_steps(t, e)))
    t, e = censored(5, 300, 2.0, np.inf)
    assert mean_time(t, e).mean == mean_time(t, e).restricted == t.mean()


def _steps(t, e):
    """The area under the Kaplan-Meier curve, as a polygon."""
    curve = kaplan_meier(t, e)
    x = np.repeat(np.concatenate([[0.0], curve.time, [t.max()]]), 2)[1:-1]
    y = np.repeat(np.concatenate([[1.0], curve.survival]), 2)
    return y, x


@pytest.mark.parametrize("end", [np.inf, 1.0])
def test_the_test_for_exponential_times_is_standard_normal_for_them(end):
    z = np.array([exponentiality(*censored(seed, 400, 1.0, end)) for seed in range(6000)])
    assert abs(z.mean()) < 0.15  # third-order skewness of the score at this size
    assert abs(z.std() - 1) < 4 / np.sqrt(12_000)  # mutant: the information of the shape alone, 0.95
    rising = np.minimum(np.random.default_rng(0).gamma(2.0, 0.5, 400), end)
    assert exponentiality(rising, rising < end) > 5
    falling = np.minimum(np.random.default_rng(0).weibull(0.6, 400), end)
    assert exponentiality(falling, falling < end) < -5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kaplan_meier([1.0], [True, False]), r"event: expected the shape \(1,\)"),
        (lambda: kaplan_meier([], []), "time: expected one or more times"),
        (lambda: exponential_rate([np.nan], [True]), "time: expected finite times >= 0"),
        (lambda: exponential_rate([1.0], [True], level=1.0), "level: expected a number between 0 and 1"),
        (lambda: mean_time([1.0, 2.0], [False, True]), "time: expected censored times all 2"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_nothing_observed_is_no_number():
    assert np.isnan(exponential_rate([0.0], [True]).rate)
    assert np.isnan(exponentiality([1.0, 2.0], [True, False]))
    found = mean_time([1.0, 1.0], [False, False])
    assert found.restricted == 1.0
    assert np.isnan(found.mean)


def test_the_summary_is_of_these_estimates_after_the_transient():
    t, e = censored(3, 200, 0.5, 3.0, lag=0.4)
    found = summary(t, e, transient=0.5)
    rate, mean = exponential_rate(t, e, 0.95, after=0.5), mean_time(t, e, after=0.5)
    assert (found["rate"], found["rate_stderr"]) == (rate.rate, rate.stderr)
    assert (found["rate_low"], found["rate_high"]) == (rate.low, rate.high)
    assert (found["mean_first_passage_time"], found["restricted_mean_time"]) == (mean.mean, mean.restricted)
    assert found["exponentiality_z"] == exponentiality(t, e, after=0.5)
    assert found["survival"].shape == found["survival_time"].shape == (CURVE_POINTS,)
    assert found["survival"][[0, -1]] == pytest.approx([1.0, 1 - e.mean()])
