"""What `compare` makes of the reference files, computed again from the definitions with NumPy and SciPy alone.

From the package only what is tested and the reader of files are used: forms, statistics and integrals are written out.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import scipy.interpolate
import scipy.linalg
import scipy.optimize
import scipy.stats
import xarray as xr

from analysis import arrhenius, barriers
from analysis.compare import compare
from analysis.comparisons import effective_potential, escape, mean_force, profile
from entropy_sim import schema
from entropy_sim.run_files import read_tree

REFERENCE = Path(__file__).parents[2] / "data" / "reference"


def read(name):
    return read_tree(REFERENCE / f"{name}.nc")


@pytest.fixture(scope="module")
def simulation():
    return compare([("sim", read("quick_simulation"))])


@pytest.fixture(scope="module")
def cifar():
    return compare([], read("cifar_network"))


@pytest.fixture(scope="module")
def twins():
    return compare([("force", read("twin_mean_force")), ("moved", read("twin_relaxation"))], read("quick_network"))


# --- statistics written out -------------------------------------------------------------------------------------------


def chi_squared(difference, covariance):
    """d^T C^-1 d over the places with an error, their number and p."""
    keep = np.diag(covariance) > 0
    chi = difference[keep] @ np.linalg.solve(covariance[np.ix_(keep, keep)], difference[keep])
    return chi, keep.sum(), scipy.stats.chi2.sf(chi, keep.sum())


def factor(m, m_covariance, p, p_covariance):
    """r that minimises (m − r p)^T (C_m + r² C_p)^-1 (m − r p), and where this has risen by 1, or by χ² per degree of
    freedom if that is more."""
    keep = np.diag(m_covariance) > 0
    m, p, a, b = m[keep], p[keep], m_covariance[np.ix_(keep, keep)], p_covariance[np.ix_(keep, keep)]
    # The integral through a spline hardly sees one zigzag of the forces: C_m may be singular to rounding.
    a = a + 1e-12 * np.diag(np.diag(a))

    def chi(r):
        return (m - r * p) @ np.linalg.solve(a + r * r * b, m - r * p)

    start = (m * p).sum() / (p * p).sum()
    best = scipy.optimize.minimize_scalar(chi, bracket=(0.8 * start, 1.3 * start), tol=1e-12)
    level = best.fun + max(1.0, best.fun / (len(m) - 1))
    far = 0.1 * best.x
    while chi(best.x - far) < level or chi(best.x + far) < level:
        far *= 1.5
    ends = [scipy.optimize.brentq(lambda r: chi(r) - level, best.x, best.x + side * far) for side in (-1, 1)]
    return best.x, ends[0], ends[1]


def fieller(m, m_error, p, p_error):
    """Roots of (m − r p)² = σ_m² + r² σ_p², where 0 of the denominator is excluded; else the whole line."""
    if p * p <= p_error * p_error:
        return -np.inf, np.inf
    return tuple(np.sort(np.roots([p * p - p_error**2, -2 * m * p, m * m - m_error**2]).real))


def mean_of(force, error, control=None):
    """Mean over replicas and windows (s, replica, window), and its error: that which is stated, times the scatter of
    the replicas over it, pooled over s, where this exceeds 1."""
    s, replicas, windows = force.shape
    stated = np.sqrt((error**2).reshape(s, -1).sum(1)) / (replicas * windows)
    each = force.mean(2)
    spread = each.std(1, ddof=1) / np.sqrt(replicas)
    known = stated > 0
    stated = stated * max(1.0, np.sqrt(np.mean((spread[known] / stated[known]) ** 2)))
    value = each.mean(1)
    return (value, stated) if control is None else (value - control.mean((1, 2)), stated)


def potential_of(y):
    """Matrices of minus the integral from y[0]: through the cubic spline, by trapezia."""
    basis, n = np.eye(len(y)), len(y)
    spline = [[-scipy.interpolate.CubicSpline(y, row).integrate(y[0], b) for row in basis] for b in y]
    trapezia = [[-np.trapezoid(row[: i + 1], y[: i + 1]) for row in basis] for i in range(n)]
    return np.array(spline), np.array(trapezia)


def check(found, m, m_covariance, p, p_covariance, prefix="", *, used=0, within=0.01):
    """The variables of one form against those computed from the two sides. used: degrees of freedom. within: how far a
    prediction by spline or bin may be off, in standard errors."""
    difference, error = m - p, np.sqrt(np.diag(m_covariance) + np.diag(p_covariance))
    known = np.diag(m_covariance) > 0
    np.testing.assert_allclose(found[f"{prefix}difference"], difference, atol=2e-4 * np.abs(m).max())
    z = difference[known] / error[known]
    np.testing.assert_allclose(found[f"{prefix}z"][known], z, atol=within)
    chi, n, _ = chi_squared(difference, m_covariance + p_covariance)
    assert int(found[f"{prefix}degrees_of_freedom"]) == n - used
    assert float(found[f"{prefix}chi_squared"]) == pytest.approx(chi, abs=2 * within * np.sqrt(n * chi))
    own = float(found[f"{prefix}chi_squared"])
    assert float(found[f"{prefix}p_value"]) == pytest.approx(scipy.stats.chi2.sf(own, n - used), rel=1e-9)
    if f"{prefix}overall_ratio" in found:
        value, low, high = (float(found[f"{prefix}overall_ratio{e}"]) for e in ("", "_low", "_high"))
        assert (value, low, high) == pytest.approx(factor(m, m_covariance, p, p_covariance), rel=1e-4)
        for i in np.flatnonzero(known):
            bounds = fieller(m[i], m_covariance[i, i] ** 0.5, p[i], p_covariance[i, i] ** 0.5)
            stored = [float(found[f"{prefix}ratio{e}"][i]) for e in ("_low", "_high")]
            if np.isfinite(bounds).all() and np.abs(bounds).max() < 1e3:  # beyond, it is a quotient of rounding
                assert stored == pytest.approx(bounds, rel=1e-3)


# --- simulations ------------------------------------------------------------------------------------------------------


def bump(s):
    """Stiffness of the reference channel and its slope; four such directions."""
    inside = 1 - (2 * s - 1) ** 2
    return 1 + 15 * inside**3, -15 * 12 * inside**2 * (2 * s - 1)


def measured_force():
    data = read("quick_simulation")["mean_force"]
    return data["s"].values, *mean_of(data["mean_force"].values, data["mean_force_stderr"].values)


def test_the_force_of_a_simulation(simulation):
    """Leimkuhler–Matthews, T = 0.01, four equal directions: −2 T k'/k exactly."""
    s, force, error = measured_force()
    k, slope = bump(s)
    found = simulation["mean_force/sim"].to_dataset().sel(form="thermal")
    check(found, force, np.diag(error**2), -2 * 0.01 * slope / k, np.zeros((11, 11)))


def test_the_potential_of_a_simulation(simulation):
    """Both forces integrated by one rule; what it leaves open of their difference is common to all places."""
    s, force, error = measured_force()
    k, slope = bump(s)
    exact = -2 * 0.01 * slope / k
    spline, trapezia = potential_of(s)
    found = simulation["effective_potential/sim"].to_dataset().sel(form="thermal")
    open_part = (spline - trapezia) @ (force - exact)
    covariance = spline @ np.diag(error**2) @ spline.T
    # The first place is 0 by definition.
    check(
        found.isel(s=slice(1, None), s_other=slice(1, None)),
        (spline @ force)[1:], covariance[1:, 1:], (spline @ exact)[1:], np.outer(open_part, open_part)[1:, 1:],
        within=0.05,  # at the ends the spline through the profile has an error, which is stated
    )  # fmt: skip
    whole = covariance + np.outer((spline - trapezia) @ force, (spline - trapezia) @ force)
    np.testing.assert_allclose(found["covariance"], whole, atol=1e-9 * whole.max())
    np.testing.assert_allclose(found["potential"], spline @ force, atol=1e-12)
    top = int(np.argmax(spline @ force))
    for side, end in (("left", 0), ("right", 10)):
        height = (spline @ force)[top] - (spline @ force)[end]
        variance = whole[top, top] + whole[end, end] - 2 * whole[top, end]
        assert float(found[f"barrier_{side}"]) == pytest.approx(height)
        assert float(found[f"barrier_{side}_stderr"]) == pytest.approx(variance**0.5)


def test_the_potentials_of_two_simulations():
    """The run against itself with the errors of its first and last two replicas: at the ends and in the middle the
    force is exactly 0 in both, so that 8 forces make 10 values, and what the rule leaves open is one more."""
    run = read("quick_simulation")
    halves = [run["mean_force"].to_dataset().isel(replica=slice(2 * i, 2 * i + 2)) for i in (0, 1)]
    found, _ = effective_potential.between(mean_force.between(*halves), 1.0)
    each = [mean_of(*(half[n].values for n in ("mean_force", "mean_force_stderr"))) for half in halves]
    difference, variance = each[0][0] - each[1][0], each[0][1] ** 2 + each[1][1] ** 2
    spline, trapezia = potential_of(halves[0]["s"].values)
    moved = np.flatnonzero(variance)
    assert len(moved) == 8
    # The same χ² from the forces themselves: V = R f + d g, d = (R − T) f open to a standard normal g.
    basis = np.column_stack([spline[:, moved] * np.sqrt(variance[moved]), (spline - trapezia) @ difference])
    chi = np.square(np.linalg.pinv(basis) @ (spline @ difference)).sum()
    assert int(found["degrees_of_freedom"]) == np.linalg.matrix_rank(basis)
    assert float(found["chi_squared"]) == pytest.approx(chi, rel=1e-6)


def test_the_density_of_a_simulation(simulation):
    """p ∝ k^-2, integrated over each bin; the free energy up to the weighted mean difference."""
    data = read("quick_simulation")["stationary"]
    edges = np.linspace(0, 1, 51)
    mass = np.array([scipy.integrate.quad(lambda s: bump(s)[0] ** -2, a, b)[0] for a, b in itertools.pairwise(edges)])
    found, none = simulation["stationary/sim"].to_dataset().isel(form=0), np.zeros((50, 50))
    value, error = data["density"].values, data["density_stderr"].values
    check(found, value, np.diag(error**2), mass / mass.mean(), none, "density_", used=1)
    value, error = data["free_energy"].values, data["free_energy_stderr"].values
    exact = -0.01 * np.log(mass)
    exact = exact + np.average(value - exact, weights=error**-2)
    check(found, value, np.diag(error**2), exact, none, "free_energy_", used=1)


def test_the_relaxation_of_a_simulation(simulation):
    """Mean position from the backward equation u_t = f u' + T u'' between reflecting ends, u(0) = s, on 401 points;
    the comparison solves the forward equation on cells."""
    data = read("quick_simulation")["relaxation"]
    s, temperature = np.linspace(0, 1, 401), 0.01
    h = s[1]
    k, slope = bump(s)
    drift = -2 * temperature * slope / k
    generator = np.zeros((401, 401))
    i = np.arange(1, 400)
    generator[i, i - 1] = temperature / h**2 - drift[1:-1] / (2 * h)
    generator[i, i + 1] = temperature / h**2 + drift[1:-1] / (2 * h)
    generator[0, 1] = generator[-1, -2] = 2 * temperature / h**2
    generator -= np.diag(generator.sum(1))
    start = data["start"].values
    mean = np.interp(start, s, scipy.linalg.expm(generator * float(data["time"][-1])) @ s)
    last = data["position"].sel(control=0).isel(time=-1).transpose("start", "replica").values
    m, error = last.mean(1) - start, last.std(1, ddof=1) / np.sqrt(64)
    found = simulation["relaxation/sim"].to_dataset().isel(form=0)
    np.testing.assert_allclose(found["position_predicted"][:, -1], mean, atol=2e-4)
    chi = (((m - mean + start) / error) ** 2).sum()
    assert float(found["chi_squared"]) == pytest.approx(chi, abs=0.05)
    np.testing.assert_allclose(found["z"], (m - mean + start) / error, atol=0.01)
    assert float(found["p_value"]) == pytest.approx(scipy.stats.chi2.sf(chi, 5), abs=0.01)
    assert float(found["overall_ratio"]) == pytest.approx(
        factor(m, np.diag(error**2), mean - start, 0 * np.eye(5))[0], abs=0.01
    )


def exact_potential(s, rate):
    """−(c/2) Σ ln(1 − ηk/2), c = 0.01, four directions."""
    return -0.5 * 0.01 * 4 * np.log(1 - rate * bump(s)[0] / 2)


def test_barriers_up_to_the_edge_of_stability():
    """Heights by trapezia from the stored forces; the exact height by the same rule from the exact forces."""
    run = read("edge_of_stability")
    tree = compare([("sim", run)])
    data = run["mean_force"].to_dataset().transpose("learning_rate", "s", "replica", "time_window", ...)
    s, rates = data["s"].values, data["learning_rate"].values
    _, trapezia = potential_of(s)
    top, measured, errors, exact, by_rule = 6, [], [], [], []
    for i, rate in enumerate(rates):
        each = data["mean_force"].values[i].mean(2)
        stated = np.sqrt((data["mean_force_stderr"].values[i] ** 2).sum((1, 2))) / each.shape[1]
        measured.append(trapezia[top] @ each.mean(1))
        errors.append(np.sqrt(trapezia[top] ** 2 @ stated**2))
        k, slope = bump(s)
        by_rule.append(trapezia[top] @ (-0.5 * 0.01 * 4 * slope * rate / (2 - rate * k)))
        exact.append(exact_potential(0.5, rate) - exact_potential(0.0, rate))
    barrier = run["barrier"]
    np.testing.assert_allclose(barrier["top"], 0.5)
    np.testing.assert_allclose(barrier["entropic_barrier_exact"], exact, rtol=1e-6)
    np.testing.assert_allclose(barrier["entropic_barrier"], measured, rtol=1e-9)
    np.testing.assert_allclose(barrier["entropic_barrier_stderr"], errors, rtol=0.3)
    found = tree["barrier/sim"].to_dataset()
    m, covariance = barrier["entropic_barrier"].values, np.diag(barrier["entropic_barrier_stderr"].values ** 2)
    check(found, m, covariance, np.array(by_rule), 0 * covariance)

    stable = tree["stability/sim"].to_dataset()
    assert len(stable["eta_k"]) == 6 * 10  # no slope at the ends and in the middle
    at, rate = stable["position"].values, stable["rate"].values
    np.testing.assert_allclose(stable["eta_k"], rate * bump(at)[0], rtol=1e-5)
    i, j = (np.abs(a[:, None] - b).argmin(1) for a, b in ((rate, rates), (at, s)))
    small = -rate / 4 * 0.01 * 4 * bump(at)[1]
    np.testing.assert_allclose(stable["ratio"], data["mean_force"].values.mean((2, 3))[i, j] / small, rtol=1e-4)


# --- networks ---------------------------------------------------------------------------------------------------------


def network_force(name):
    data = read(name)["mean_force"]
    force, error = (
        data[n].transpose("s", "replica", "time_window").values for n in ("mean_force", "mean_force_stderr")
    )
    return data["s"].values, *mean_of(force, error, data["mean_force_control"].values)


def test_the_force_and_the_potential_of_a_network(cifar):
    """−(η/4) (Tr C / Tr H) Tr(Q ∂H), all transverse, β = 0, with the relative errors of the three in quadrature; all
    places are points of the profile."""
    profile = read("cifar_network")["profile"].isel(path_kind=0)
    s, net, error = network_force("cifar_network")
    at = [int(np.argmin(np.abs(profile["s"].values - x))) for x in s]
    noise, trace, slope = ("noise_trace_transverse", "hessian_trace_transverse", "hessian_trace_slope")
    value = {n: profile[n].values[at] for n in (noise, trace, slope)}
    relative = sum((profile[f"{n}_stderr"].values[at] / value[n]) ** 2 for n in value)
    expected = -0.1 / 4 * value[noise] / value[trace] * value[slope]
    covariance = np.diag(expected**2 * relative)
    found = cifar["mean_force/network"].to_dataset().sel(form="curvature-proportional")
    np.testing.assert_allclose(found["net"], net, rtol=1e-12)
    np.testing.assert_allclose(found["net_stderr"], error, rtol=1e-12)
    np.testing.assert_allclose(found["predicted"], expected, rtol=1e-9)
    check(found, net, np.diag(error**2), expected, covariance)
    total = np.diag(error**2) + covariance

    y = s * float(read("cifar_network")["mean_force"].attrs["arc_length"])
    spline, trapezia = potential_of(y)
    found = cifar["effective_potential/network"].to_dataset().sel(form="curvature-proportional")
    open_part = (spline - trapezia) @ (net - expected)
    whole = spline @ total @ spline.T + np.outer(open_part, open_part)
    chi, n, p = chi_squared((spline @ (net - expected))[1:], whole[1:, 1:])
    assert float(found["chi_squared"]) == pytest.approx(chi, rel=1e-6)
    assert float(found["p_value"]) == pytest.approx(p, rel=1e-4)
    assert int(found["degrees_of_freedom"]) == n == len(s) - 1


def test_a_network_and_its_twin(twins):
    """Forces at the same places with both errors; displacements with Welch's degrees of freedom."""
    s, net, error = network_force("quick_network")
    data = read("twin_mean_force")["mean_force"].to_dataset().transpose("s", "replica", "time_window", ...)
    force, twin_error = mean_of(data["mean_force"].values, data["mean_force_stderr"].values)
    twin = force - data["mean_force_control"].values.mean((1, 2))
    both = twins["between/network and force"]
    check(both["mean_force"].to_dataset(), net, np.diag(error**2), twin, np.diag(twin_error**2))
    spline, trapezia = potential_of(s * float(read("quick_network")["mean_force"].attrs["arc_length"]))
    found = both["effective_potential"].to_dataset()
    open_part = (spline - trapezia) @ (net - twin)
    covariance = spline @ np.diag(error**2 + twin_error**2) @ spline.T + np.outer(open_part, open_part)
    np.testing.assert_allclose(found["covariance"], covariance, atol=1e-9 * covariance.max())
    chi, n, p = chi_squared((spline @ (net - twin))[1:], covariance[1:, 1:])
    assert float(found["chi_squared"]) == pytest.approx(chi, rel=1e-6)
    assert (int(found["degrees_of_freedom"]), float(found["p_value"])) == (n, pytest.approx(p, rel=1e-4))

    found = twins["between/network and moved/relaxation"].to_dataset()
    time, sides = float(found.attrs["compared_at_time"]), []
    for name in ("quick_network", "twin_relaxation"):
        data = read(name)["relaxation"]
        position = data["position"].sel(control=0).transpose("start", "replica", "time").values
        at = [[np.interp(time, data["time"].values, one) for one in row] for row in position]
        each = np.array(at) - data["start"].values[:, None]
        sides.append((data["start"].values, each))
    for i, start in enumerate(found["start"].values):
        a, b = (each[np.argmin(np.abs(starts - start))] for starts, each in sides)
        assert float(found["difference"][i]) == pytest.approx(a.mean() - b.mean(), rel=1e-6)
        if np.ptp(a) < 1e-9:  # the network stays on a vertex of the path
            continue
        p = scipy.stats.ttest_ind(a, b, equal_var=False).pvalue
        assert 2 * scipy.stats.norm.sf(abs(float(found["z"][i]))) == pytest.approx(p, rel=1e-6)
    assert float(found["chi_squared"]) == pytest.approx(float((found["z"] ** 2).sum()))


def test_profiles_of_two_networks():
    """Traces at the points that both have, each with its error."""
    one, two = (read(n)["profile"].to_dataset() for n in ("quick_network", "cifar_network"))
    found = profile.between(one, two, "hessian_trace")
    (a, b), (ea, eb) = ([d[n].values[0] for d in (one, two)] for n in ("hessian_trace", "hessian_trace_stderr"))
    check(found, a, np.diag(ea**2), b, np.diag(eb**2))


def test_a_ladder_s_limit():
    """Straight lines in x = η σ² / B through the mean ratios of each place, weighted by the scatter of replicas pooled
    over places; the error of an intercept from those of the single replicas."""
    run = read("ladder_network")
    found = compare([], run)["ladder/network"].to_dataset()
    data = run["mean_force"].to_dataset().transpose("s", "learning_rate", "label_noise", ..., "time_window")
    assert not data["diverged"].values.any()
    net = data["mean_force"].mean("time_window") - data["mean_force_control"].mean("time_window").mean(
        "control_replica"
    )
    net = net.transpose("s", "learning_rate", "label_noise", "replica").values
    expected, error = (data[f"mean_force_predicted{e}"].mean("time_window").values for e in ("", "_stderr"))
    x = (data["learning_rate"].values[:, None] * data["label_noise"].values ** 2 / 179).ravel()
    order = np.argsort(x, kind="stable")
    ratio = (net / expected[..., None]).reshape(4, 12, -1)[:, order]
    x, relative = x[order], np.abs(error / expected).reshape(4, 12).max(1)
    variance = ratio.var(-1, ddof=1) / ratio.shape[-1]
    size = np.exp(np.log(variance).mean(1))
    weight = 1 / ((variance / size[:, None]).mean(0) * size[:, None])
    limits = [np.polyfit(x, r.mean(-1), 1, w=np.sqrt(w))[1] for r, w in zip(ratio, weight, strict=True)]
    each = np.array(
        [[np.polyfit(x, r[:, j], 1, w=np.sqrt(w))[1] for j in range(6)] for r, w in zip(ratio, weight, strict=True)]
    )
    errors = np.hypot(each.std(1, ddof=1) / np.sqrt(6), limits * relative)
    np.testing.assert_allclose(found["limit_at"], limits, rtol=1e-8)
    np.testing.assert_allclose(found["limit_at_stderr"], errors, rtol=1e-8)
    near = [errors[max(i - 1, 0) : i + 2] for i in range(4)]  # few replicas: weights from neighbours' errors too
    w = np.array([1 / np.mean(e**2) for e in near])
    w /= w.sum()
    limit, stderr = w @ limits, np.sqrt(w**2 @ errors**2)
    between = (((limits - limit) / errors) ** 2).sum() / (3 * 5 / 3)  # Student's t of 5 degrees has variance 5/3
    stderr *= max(1.0, np.sqrt(between))
    assert (float(found["limit"]), float(found["limit_stderr"])) == pytest.approx((limit, stderr))
    freedom = (errors**2).sum() ** 2 / (errors**4 / 5).sum()
    half = scipy.stats.t.ppf(0.5 + 0.6827 / 2, freedom) * stderr
    assert float(found["limit_high"]) == pytest.approx(limit + half)
    lines = [np.polyval(np.polyfit(x, r.mean(-1), 1, w=np.sqrt(w)), x) for r, w in zip(ratio, weight, strict=True)]
    chi = sum((w * (r.mean(-1) - line) ** 2).sum() for r, w, line in zip(ratio, weight, lines, strict=True))
    assert float(found["chi_squared"]) == pytest.approx(chi)
    assert float(found["p_value"]) == pytest.approx(scipy.stats.chi2.sf(chi, 4 * 10))


# --- escapes and scans: drawn, because no reference file has them -----------------------------------------------------


def drawn_escapes(rate, replicas, seed, end):
    """Seen at sixteenths of the unit of time, so that several escape together."""
    time = np.ceil(16 * np.random.default_rng(seed).exponential(1 / rate, replicas)) / 16
    escaped = time < end
    variables = {
        "first_passage_time": (("replica",), np.where(escaped, time, np.nan)),
        "escaped": (("replica",), escaped.astype(np.int8)),
        "duration": ((), end),
        "rate": ((), rate),
    }
    return schema.make("escape", variables), np.minimum(time, end), escaped


def test_escapes_of_two_runs():
    """Rates, the log-rank test and survival curves, by SciPy, with censored replicas on both sides."""
    (one, *first), (two, *second) = drawn_escapes(1.0, 60, 1, 0.72), drawn_escapes(1.6, 80, 2, 0.9)
    found = escape.between(one, two)
    logs = [np.log(escaped.sum() / time.sum()) for time, escaped in (first, second)]
    error = np.sqrt(sum(1 / escaped.sum() for _, escaped in (first, second)))
    assert float(found["difference"][0]) == pytest.approx(logs[0] - logs[1])
    assert float(found["z"][0]) == pytest.approx((logs[0] - logs[1]) / error)
    censored = [scipy.stats.CensoredData(t[e], right=t[~e]) for t, e in (first, second)]
    rank = scipy.stats.logrank(*censored)
    assert float(found["chi_squared"]) == pytest.approx(rank.statistic**2)
    assert float(found["p_value"]) == pytest.approx(rank.pvalue)
    at = found["survival_time"].values[0]
    for name, data, (time, escaped) in zip(("first", "second"), censored, (first, second), strict=True):
        np.testing.assert_allclose(found[f"survival_{name}"][0], scipy.stats.ecdf(data).sf.evaluate(at), atol=1e-12)
        # Greenwood's formula: d / (n (n − d)) of every time at which d of n escape.
        died = [(u, (time[escaped] == u).sum(), (time >= u).sum()) for u in np.unique(time[escaped])]
        spread = np.array([sum(d / (n * (n - d)) for u, d, n in died if u <= x) for x in at])
        np.testing.assert_allclose(
            found[f"survival_{name}_stderr"][0], found[f"survival_{name}"][0] * np.sqrt(spread), atol=1e-9
        )


def test_exponents_and_slopes_of_scans():
    """Weighted straight lines, by `numpy.polyfit`: ln height against ln T, ln(τ D) against 1/T."""
    random, t = np.random.default_rng(0), np.array([0.05, 0.1, 0.2, 0.4])
    error = np.array([0.02, 0.04, 0.03, 0.05])
    height, axis = 3 * t**0.9 * np.exp(error * random.standard_normal(4)), ("temperature",)
    variables = {"temperature": (axis, t), "energy_barrier": (axis, 0 * t), "entropic_barrier": (axis, height)}
    variables |= {"entropic_barrier_stderr": (axis, error * height)}
    found = barriers.scaling(schema.make("barrier", variables))
    line, covariance = np.polyfit(np.log(t), np.log(height), 1, w=1 / error, cov="unscaled")
    rest = ((np.log(height) - np.polyval(line, np.log(t))) / error) ** 2
    numbers = [float(found[n]) for n in ("exponent", "exponent_stderr", "chi_squared")]
    assert numbers == pytest.approx([line[0], covariance[0, 0] ** 0.5, rest.sum()])

    tau = np.exp(0.3 / t) / t * np.exp(error * random.standard_normal(4))
    variables = {"mean_first_passage_time": (axis, tau), "mean_first_passage_time_stderr": (axis, error * tau)}
    made = xr.Dataset({**variables, "rate": (axis, 1 / tau)}, {"temperature": t})
    found = arrhenius.arrhenius(made, 0.8)
    line, covariance = np.polyfit(1 / t, np.log(tau * t), 1, w=1 / error, cov="unscaled")
    energetic = np.polyfit(1 / t, 0.8 / t + np.log(t), 1, w=1 / error)[0]
    numbers = [float(found[n]) for n in ("slope", "slope_stderr", "fraction")]
    assert numbers == pytest.approx([line[0], covariance[0, 0] ** 0.5, line[0] / energetic])
