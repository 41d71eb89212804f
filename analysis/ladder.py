"""A ladder of noise strengths, extrapolated to zero noise: measured / predicted force with its interval.

The dataset is described in docs/ladder.md.

A rung is one combination of `learning_rate`, `label_noise`, `batch_size` and `temperature`; its abscissa is the
strength of its noise, ``x = η σ² / (B (1 − β))`` (times the temperature, if that is varied). Theory predicts the ratio
1 as x → 0; at finite x the ratio is fitted by a polynomial in x of a degree that is stated, not chosen from the fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import special

from analysis import summaries
from analysis.agreement import plus_minus
from analysis.uncertainty import LEVEL, SIGMAS, Array
from entropy_sim import statistics
from entropy_sim.errors import UserError, require

RUNGS = ("learning_rate", "label_noise", "batch_size", "temperature")
Denominator = Literal["predicted", "formula"]
Estimator = Literal["raw", "reduced"]


@dataclass(frozen=True)
class Extrapolation:
    """The choices of an extrapolation, fixed before the data are looked at."""

    denominator: Denominator = "predicted"
    """predicted: linear response after the finite time of the windows; formula: its stationary limit"""
    estimator: Estimator = "raw"
    """raw: the force itself; reduced: the force less that of the linearised dynamics with the same noise"""
    degree: int = 1
    """degree of the polynomial in the strength of the noise: 0, 1 or 2"""
    windows: tuple[int, ...] = ()
    """time windows that are averaged (none: all)"""
    highest: float = np.inf
    """strongest noise that enters"""

    def __post_init__(self) -> None:
        require(self.degree in (0, 1, 2), "degree", "0, 1 or 2", self.degree)
        require(self.highest > 0, "highest", "a positive strength of the noise", self.highest)


def is_ladder(tree: xr.DataTree) -> bool:
    """Whether the run's mean force was measured at several rungs beside its prediction (docs/ladder.md)."""
    if "mean_force" not in tree.children:
        return False
    node = tree["mean_force"]
    predicted = {"mean_force_predicted", "mean_force_formula"} & set(node.data_vars)
    return bool(predicted) and any(node.sizes.get(d, 1) > 1 for d in RUNGS)


def noise_strength(dataset: xr.Dataset) -> xr.DataArray:
    """``x = η σ² / (B (1 − β)) · T`` over the rungs; what the dataset does not tell counts as 1 (β as 0)."""
    result = xr.DataArray(1.0)
    for name, power in (("learning_rate", 1), ("label_noise", 2), ("batch_size", -1), ("temperature", 1)):
        value = dataset[name] if name in dataset.coords else summaries.setting(name, dataset, dataset.attrs)
        result = result if value is None else result * value**power
    result = result / (1 - (summaries.setting("momentum", dataset, dataset.attrs) or 0.0))
    return result.drop_vars([c for c in result.coords if c not in result.dims])


def ratios(dataset: xr.Dataset, choices: Extrapolation = Extrapolation()) -> xr.Dataset:
    """Measured / predicted force of every replica: `ratio` (rung, s, replica), `noise` (rung), rising, and
    `relative_error` (s) of the prediction, common to all rungs (the largest of theirs).

    Replicas that diverged are NaN. Raises UserError for a group that lacks what the choices need.
    """
    prediction = f"mean_force_{choices.denominator}"
    needed = ["mean_force", prediction, *(["mean_force_linear"] if choices.estimator == "reduced" else [])]
    needed += ["mean_force_predicted"] if choices.estimator == "reduced" else []
    if lacking := [n for n in needed if n not in dataset]:
        raise UserError(f"mean_force: expected {', '.join(needed)}, found no {', '.join(lacking)}")
    windows = list(choices.windows) or list(range(dataset.sizes["time_window"]))
    most = dataset.sizes["time_window"] - 1
    require(all(0 <= w <= most for w in windows), "windows", f"numbers of time windows, 0…{most}", windows)

    def averaged(name: str) -> xr.DataArray:
        value = dataset[name]
        return (
            value.isel(time_window=windows).mean("time_window", skipna=False) if "time_window" in value.dims else value
        )

    force = averaged("mean_force")
    if "diverged" in dataset:
        force = force.where(dataset["diverged"] == 0)
    if "mean_force_control" in dataset:
        control = averaged("mean_force_control")
        paired = control.sizes["control_replica"] == force.sizes["replica"] > 1
        force = force - (
            control.rename(control_replica="replica").drop_vars("replica", errors="ignore")
            if paired
            else control.mean("control_replica")
        )
    expected = averaged(prediction)
    if choices.estimator == "reduced":
        force = force - averaged("mean_force_linear") + averaged("mean_force_predicted")
    ratio = (force / expected.where(expected != 0)).reset_coords(drop=True)
    ratio = ratio.where(np.isfinite(ratio))
    noise = noise_strength(dataset)
    rungs = [d for d in RUNGS if d in ratio.dims]
    if not rungs:
        raise UserError(f"mean_force: expected rungs over one of {', '.join(RUNGS)}, found none")
    noise = noise.broadcast_like(ratio.isel(dict.fromkeys(("s", "replica"), 0), drop=True))
    stacked = ratio.stack(rung=rungs).transpose("rung", "s", "replica")
    x = noise.stack(rung=rungs).values
    error = xr.zeros_like(expected) if f"{prediction}_stderr" not in dataset else averaged(f"{prediction}_stderr")
    relative = abs(error / expected.where(expected != 0))
    relative = relative.max([d for d in relative.dims if d != "s"])
    order = np.argsort(x, kind="stable")
    order = order[x[order] <= choices.highest]
    text = {"units": "1", "long_name": "measured / predicted mean force"}
    return xr.Dataset(
        {
            "ratio": (("rung", "s", "replica"), stacked.values[order], text),
            "relative_error": (
                ("s",),
                relative.values,
                {"units": "1", "long_name": "relative error of the prediction"},
            ),
            "noise": (("rung",), x[order], {"units": "parameter^2", "long_name": "noise, η σ² / (B (1 − β))"}),
        },
        {"s": ("s", dataset["s"].values, dict(dataset["s"].attrs))},
    )


def extrapolate(dataset: xr.Dataset, choices: Extrapolation = Extrapolation()) -> xr.Dataset:
    """The ratio at zero noise, from a ladder (a `mean_force` group, docs/ladder.md).

    At each s the mean ratios are fitted by ``sum_j a_j x^j``, weighted by the scatter of the replicas, pooled over s at
    each rung. The fit is linear, so each replica has an intercept of its own, and the error is their scatter, whatever
    correlation the rungs of one replica have. The intercepts of all s are averaged with their errors, to which the
    relative error of the prediction, common to the rungs of one s, is added in quadrature; where they scatter more than
    that (χ²), the error of the mean is multiplied by Birge's factor. Positions whose prediction is not known to a third
    are left out (attribute `left_out`).

    Variables: `limit` (+ `_stderr`, `_low`, `_high`: 68 %, Student), `limit_at` (s, + `_stderr`), `coefficient`
    (degree, s), `ratio` (rung, s, + `_stderr`), `ratio_mean` (rung, + `_stderr`) over s, `noise` (rung), `chi_squared`
    of the points about the fits, `degrees_of_freedom`, `p_value`. Raises UserError with too few rungs for the degree.
    """
    data = ratios(dataset, choices)
    values, x, relative = data["ratio"].values, data["noise"].values, data["relative_error"].values
    enough = np.isfinite(values).sum(-1) >= 2
    keep_rung = enough.mean(1) > 0.5
    require(
        len(np.unique(x[keep_rung])) > choices.degree,
        "mean_force",
        f"{choices.degree + 1} strengths of the noise with two replicas, for a fit of degree {choices.degree}",
        len(np.unique(x[keep_rung])),
    )
    values, x = values[keep_rung], x[keep_rung]
    with np.errstate(invalid="ignore"):
        sharp = (relative < 1 / 3) & np.isfinite(values).all(0).sum(-1).__ge__(2)
    if not sharp.any():
        return _undetermined(data, "no position has a known prediction and two replicas that survived every rung")
    fits = _fits(values[:, sharp], x, relative[sharp], choices.degree)
    return _result(data, fits, x, values, sharp, choices)


@dataclass(frozen=True)
class _Fits:
    """What the fits at each position gave: coefficients (degree + 1, s), errors, and how the points scatter."""

    coefficients: Array
    stderr: Array
    freedom: Array
    weights: Array
    chi_squared: float
    degrees_of_freedom: int


def _fits(values: Array, x: Array, relative: Array, degree: int) -> _Fits:
    """Weighted polynomials through (rung, s, replica); weights 1 / variance of a rung's mean, pooled over s.

    The size of a ratio's scatter goes as 1 / prediction, which differs between positions: it is pooled relative to the
    scatter of the position over all rungs."""
    powers = x[:, None] ** np.arange(degree + 1) / np.max(x) ** np.arange(degree + 1)
    count = np.isfinite(values).sum(-1)
    variance = np.nanvar(values, axis=-1, ddof=1) / count
    scale = np.exp(np.mean(np.log(np.maximum(variance, 1e-300)), axis=0))
    pooled = np.mean(variance / scale, axis=1)[:, None] * scale
    pooled = np.where(pooled > 0, pooled, np.nan)
    positions = values.shape[1]
    coefficients, stderr = np.full((degree + 1, positions), np.nan), np.full(positions, np.nan)
    freedom, chi2, points = np.zeros(positions), 0.0, 0
    for i in range(positions):
        w = 1 / pooled[:, i] if np.isfinite(pooled[:, i]).all() else np.ones(len(x))
        solve = np.linalg.pinv(powers * np.sqrt(w)[:, None]) * np.sqrt(w)
        whole = np.isfinite(values[:, i]).all(0)
        mean = values[:, i][:, whole].mean(-1)
        coefficients[:, i] = solve @ mean
        intercepts = (solve @ values[:, i][:, whole])[0]
        stderr[i] = intercepts.std(ddof=1) / np.sqrt(whole.sum())
        freedom[i] = whole.sum() - 1
        if np.isfinite(pooled[:, i]).all():
            chi2 += float((w * (mean - powers @ coefficients[:, i]) ** 2).sum())
            points += len(x) - degree - 1
    total = np.hypot(stderr, coefficients[0] * relative)
    with np.errstate(divide="ignore"):
        weights = np.where(total > 0, 1 / total**2, np.nan)
    scaled = coefficients / np.max(x) ** np.arange(degree + 1)[:, None]
    return _Fits(scaled, total, freedom, weights, chi2, points)


def _result(
    data: xr.Dataset, fits: _Fits, x: Array, values: Array, sharp: NDArray[np.bool_], choices: Extrapolation
) -> xr.Dataset:
    good = np.isfinite(fits.weights)
    if not good.any():
        return _undetermined(data, "the replicas have no spread")
    # With few replicas an error is itself uncertain, and a weight from it biased towards the lucky: pooled weights.
    variance = fits.stderr[good] ** 2
    freedom = float(variance.sum() ** 2 / (variance**2 / np.maximum(fits.freedom[good], 1)).sum())
    weights = fits.weights[good] if fits.freedom.min() >= 10 else _smoothed(data, fits, sharp)[good]
    weights = weights / weights.sum()
    limits = fits.coefficients[0, good]
    limit = float(weights @ limits)
    stderr = float(np.sqrt(weights**2 @ variance))
    between = float((((limits - limit) ** 2) / variance).sum())
    n = len(limits) - 1
    # The variances are estimated: under the truth the scatter has the mean n f / (f − 2) of Student's t.
    per = np.maximum(fits.freedom[good].mean(), 3.0)
    birge = max(1.0, np.sqrt(between / (n * per / (per - 2)))) if n > 0 else 1.0
    stderr *= birge
    half = float(statistics.student_quantile(LEVEL, freedom)) * stderr
    p = float(special.chdtrc(fits.degrees_of_freedom, fits.chi_squared)) if fits.degrees_of_freedom else np.nan
    known = np.isfinite(values)
    count = known.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, values, 0.0).sum(-1) / count
        square = np.where(known, values - mean[..., None], 0.0) ** 2
        error = np.sqrt(square.sum(-1) / (count - 1) / count)
    s = data["s"].values[sharp]
    one, along = "1", ("rung", "s")
    variables = {
        "limit": ((), limit, one, "measured / predicted force at zero noise"),
        "limit_stderr": ((), stderr, one, "standard error of the limit"),
        "limit_low": ((), limit - half, one, "limit, lower end (68 %)"),
        "limit_high": ((), limit + half, one, "limit, upper end (68 %)"),
        "limit_at": (("s",), fits.coefficients[0], one, "measured / predicted force at zero noise"),
        "limit_at_stderr": (("s",), fits.stderr, one, "standard error of the limit at s"),
        "coefficient": (("degree", "s"), fits.coefficients, "1", "coefficient of x^degree"),
        "ratio": (along, mean[:, sharp], one, "measured / predicted mean force"),
        "ratio_stderr": (along, error[:, sharp], one, "standard error of measured / predicted"),
        "ratio_mean": (("rung",), mean[:, sharp][:, good] @ weights, one, "measured / predicted, mean over s"),
        "ratio_mean_stderr": (
            ("rung",),
            np.sqrt(error[:, sharp][:, good] ** 2 @ weights**2),
            one,
            "standard error of the mean over s",
        ),
        "noise": (("rung",), x, "parameter^2", "noise, η σ² / (B (1 − β))"),
        "weight": (("s",), _spread(weights, good), one, "weight of the position"),
        "chi_squared": ((), fits.chi_squared, one, "χ² of the points about the fits"),
        "degrees_of_freedom": ((), fits.degrees_of_freedom, one, "degrees of freedom"),
        "p_value": ((), p, one, "p-value of χ²"),
        "birge_factor": ((), float(birge), one, "by which the scatter between positions exceeds their errors"),
    }
    z = (limit - 1) / stderr if stderr > 0 else np.nan
    verdict = "not determined" if not np.isfinite(z) else "disagrees" if abs(z) > SIGMAS else "agrees"
    if verdict == "agrees" and not (limit - half > 0.5 and limit + half < 2):
        verdict = "not determined"  # 1 ± 3 agrees with everything
    names = ("constant", "straight line", "parabola")
    words = f"measured/predicted → {plus_minus(limit, half)} as the noise goes to zero ({names[choices.degree]} in "
    words += f"η σ²/(B (1 − β)), {len(x)} rungs, {len(limits)} positions)"
    left_out = [f"s = {v:.3g}" for v in data["s"].values[~sharp]]
    return xr.Dataset(
        {n: (dims, v, {"units": u, "long_name": t}) for n, (dims, v, u, t) in variables.items()},
        {"s": ("s", s, dict(data["s"].attrs)), "degree": np.arange(choices.degree + 1)},
        attrs={
            "verdict": verdict,
            "statement": f"{verdict}: {words}",
            "denominator": choices.denominator,
            "estimator": choices.estimator,
            "fit_degree": choices.degree,
            "windows": list(choices.windows) or "all",
            "left_out": ", ".join(left_out) or "none",
        },
    )


def _smoothed(data: xr.Dataset, fits: _Fits, sharp: NDArray[np.bool_]) -> Array:
    """Weights from errors that are averaged with those of the neighbouring positions."""
    variance = np.where(np.isfinite(fits.stderr), fits.stderr**2, np.nan)
    padded = np.pad(variance, 1, constant_values=np.nan)
    near = np.array([padded[:-2], padded[1:-1], padded[2:]])
    known = np.isfinite(near)
    with np.errstate(invalid="ignore", divide="ignore"):  # where no weight is needed
        return known.sum(0) / np.where(known, near, 0.0).sum(0)


def _spread(weights: Array, good: NDArray[np.bool_]) -> Array:
    result = np.zeros(len(good))
    result[good] = weights
    return result


def _undetermined(data: xr.Dataset, why: str) -> xr.Dataset:
    names = ("limit", "limit_stderr", "limit_low", "limit_high", "p_value")
    variables = {n: ((), np.nan, {"units": "1", "long_name": n.replace("_", " ")}) for n in names}
    attrs = {"verdict": "not determined", "statement": f"not determined: {why}"}
    return xr.Dataset(variables, attrs=attrs)


def sensitivity(dataset: xr.Dataset, choices: Extrapolation = Extrapolation()) -> xr.Dataset:
    """The limit under other choices, one changed at a time, over `choice`: other degrees, without the strongest noise,
    each time window alone, the other denominator and estimator, each position left out. `limit`, `_stderr`, `_low`,
    `_high`; NaN where a choice cannot be made with these data."""
    from dataclasses import replace

    noise = np.unique(noise_strength(dataset).values)
    others: list[tuple[str, Extrapolation, xr.Dataset]] = [("as chosen", choices, dataset)]
    others += [(f"degree {d}", replace(choices, degree=d), dataset) for d in (0, 1, 2) if d != choices.degree]
    if len(noise) > 1:
        others.append(("without the strongest noise", replace(choices, highest=float(noise[-2]) * 1.000001), dataset))
    if dataset.sizes["time_window"] > 1:
        windows = range(dataset.sizes["time_window"])
        others += [(f"time window {w + 1} alone", replace(choices, windows=(w,)), dataset) for w in windows]
    swap = "formula" if choices.denominator == "predicted" else "predicted"
    others.append((f"over the {swap}", replace(choices, denominator=swap), dataset))  # type: ignore[arg-type]
    swap = "reduced" if choices.estimator == "raw" else "raw"
    others.append((f"{swap} estimator", replace(choices, estimator=swap), dataset))  # type: ignore[arg-type]
    if dataset.sizes["s"] > 2:
        for i, s in enumerate(dataset["s"].values):
            rest = dataset.isel(s=[j for j in range(dataset.sizes["s"]) if j != i])
            others.append((f"without s = {s:.3g}", choices, rest))
    found: dict[str, list[float]] = {n: [] for n in ("limit", "limit_stderr", "limit_low", "limit_high")}
    for _, choice, data in others:
        try:
            one = extrapolate(data, choice)
        except UserError:
            one = _undetermined(data, "")
        for name, values in found.items():
            values.append(float(one[name]))
    return xr.Dataset(
        {n: ("choice", v, {"units": "1", "long_name": n.replace("_", " ")}) for n, v in found.items()},
        {"choice": [name for name, _, _ in others]},
    )


def statement(limit: xr.Dataset, others: xr.Dataset) -> str:
    """The number in words, with how far other choices move it."""
    known = others.isel(choice=slice(1, None)).where(np.isfinite(others["limit"]), drop=True)
    if not known.sizes.get("choice") or not np.isfinite(limit["limit"]):
        return str(limit.attrs["statement"])
    limits = known["limit"].values
    low, high = known.isel(choice=int(np.argmin(limits))), known.isel(choice=int(np.argmax(limits)))
    text = "; other choices give {:.2f} ({}) to {:.2f} ({})"
    return str(limit.attrs["statement"]) + text.format(
        float(low["limit"]), low["choice"].item(), float(high["limit"]), high["choice"].item()
    )
