"""What a network run has to show before its force means anything, each criterion with its number.

The thresholds are fixed here, before any measurement; a run that misses one is told so, one that lacks the data too.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis.agreement import Row, criterion_row, number, plus_minus
from analysis.predict import path_profile
from analysis.uncertainty import LEVEL, SIGMAS, Estimate, agreement, chi2_verdict
from entropy_sim.statistics import gaussian_significance, student_quantile

LOSS_FRACTION = 0.05  # the path's highest loss, of the straight line's barrier
CURVATURE_RISE = 3.0  # Tr H |theta|^2 in the middle over the ends
CONTROL_FRACTION = 0.25  # displacement of the noise-free control, of that with noise


def path_is_flat(run: str, profile: xr.Dataset, path: xr.Dataset | None) -> Row:
    """The highest loss on the path, between its points too, against the barrier on the straight line.

    Barrier: highest loss on the line above the mean of its ends."""
    quantity = f"path's highest loss / straight line's barrier < {LOSS_FRACTION:g}"
    kinds = [str(k) for k in profile["path_kind"].values]
    if "line" not in kinds or len(kinds) < 2:
        return criterion_row(run, "profile", quantity, met=None, statement="needs a path and the straight line")
    along, straight = path_profile(profile), path_profile(profile, "line")
    of_path = profile.isel(path_kind=next(i for i, k in enumerate(kinds) if k != "line"))
    beyond = [
        of_path["loss"].values,
        *([path["loss_between"].values] if path is not None and "loss_between" in path else []),
    ]
    if any(np.isinf(values).any() for values in beyond):
        return criterion_row(
            run, "profile", quantity, met=False, statement="the loss on the path is infinite somewhere"
        )
    for name, one in (("path", along), ("straight line", straight)):
        if where := _missing(one["s"].values):
            text = f"no loss {where} of the {name}"
            return criterion_row(run, "profile", quantity, met=None, statement=text)
    line = straight["loss"].values
    highest = float(np.max(along["loss"].values))
    between = "at the measured points"
    # Nothing lies beyond the last point.
    if path is not None and "loss_between" in path and not np.isnan(path["loss_between"].values[:-1]).any():
        highest = max(highest, float(np.nanmax(path["loss_between"].values)))
        between = "sampled between the points too"
    barrier = float(line.max() - 0.5 * (line[0] + line[-1]))
    if barrier <= 0:
        return criterion_row(run, "profile", quantity, met=None, statement="the straight line has no barrier")
    fraction = highest / barrier
    words = f"highest loss {number(highest)} ({between}) against {number(barrier)}: {100 * fraction:.2g} %"
    return criterion_row(
        run,
        "profile",
        quantity,
        met=fraction < LOSS_FRACTION,
        statement=words,
        measured=fraction,
        expected=LOSS_FRACTION,
    )


def _missing(s: np.ndarray) -> str:
    """Where a path has no points without which nothing can be said of its middle and its ends, if anywhere."""
    if not ((s > 0.25) & (s < 0.75)).any():
        return "in the middle"
    return "" if s[0] < 0.1 and s[-1] > 0.9 else "at an end"


def curvature_rises(run: str, profile: xr.Dataset) -> Row:
    """Tr H |theta|^2, which a mere change of the norm leaves alone, at the middle over the mean of the ends."""
    quantity = f"Tr H ‖θ‖², middle / ends ≥ {CURVATURE_RISE:g}"
    p = path_profile(profile)
    if "hessian_trace" not in p or "parameter_norm" not in p:
        return criterion_row(run, "profile", quantity, met=None, statement="needs hessian_trace and parameter_norm")
    square = p["parameter_norm"].values ** 2
    value = p["hessian_trace"].values * square
    stderr = p["hessian_trace_stderr"].values * square if "hessian_trace_stderr" in p else np.zeros_like(value)
    if where := _missing(p["s"].values):
        return criterion_row(run, "profile", quantity, met=None, statement=f"no point {where} of the path")
    middle = int(np.argmin(np.abs(p["s"].values - 0.5)))
    ends, ends_stderr = 0.5 * (value[0] + value[-1]), 0.5 * np.hypot(stderr[0], stderr[-1])
    if not np.isfinite([value[middle], ends]).all():
        text = "the trace or the norm is not known at the ends or in the middle"
        return criterion_row(run, "profile", quantity, met=None, statement=text)
    if not ends > 0:
        return criterion_row(run, "profile", quantity, met=None, statement="the trace at the ends is not positive")
    rise = value[middle] / ends
    rise_stderr = abs(rise) * np.hypot(stderr[middle] / value[middle], ends_stderr / ends)
    words = (
        f"{plus_minus(rise, rise_stderr)} (Tr H ‖θ‖² {number(ends)} at the ends, {number(value[middle])} at the middle)"
    )
    return criterion_row(
        run,
        "profile",
        quantity,
        met=bool(rise >= CURVATURE_RISE),
        statement=words,
        measured=float(rise),
        measured_stderr=float(rise_stderr),
        expected=CURVATURE_RISE,
    )


def force_confines(run: str, force: xr.Dataset) -> list[Row]:
    """The mean over all interior points of each half: towards its end, by more than 3 standard errors, one row each.

    Control-subtracted where there is a control; the force as it is stands in the statement beside it."""
    s = force["s"].values
    net, stderr = force["net"].values, force["net_stderr"].values
    raw, raw_stderr = force["force"].values, force["force_stderr"].values
    rows = []
    for side, towards, inside in (
        ("left", -1.0, (s > 1e-9) & (s < 0.5 - 1e-9)),
        ("right", 1.0, (s > 0.5 + 1e-9) & (s < 1 - 1e-9)),
    ):
        quantity = f"mean force on the {side} half towards its end > {SIGMAS:g} standard errors"
        use = inside & np.isfinite(net) & np.isfinite(stderr) & (stderr > 0)
        if not use.any():
            text = "no interior point has a force with an error"
            rows.append(criterion_row(run, "mean_force", quantity, met=None, statement=text))
            continue
        n = int(use.sum())
        mean, error = float(net[use].mean()), float(np.sqrt((stderr[use] ** 2).sum()) / n)
        z = towards * mean / error
        words = f"{plus_minus(mean, error)} loss / parameter over {n} point" + ("s" if n > 1 else "")
        words += f" ({z:.3g} standard errors towards the end)"
        if "control" in force:
            before, before_error = float(raw[use].mean()), float(np.sqrt((raw_stderr[use] ** 2).sum()) / n)
            words += f"; before the control is subtracted {plus_minus(before, before_error)}"
        rows.append(
            criterion_row(
                run,
                "mean_force",
                quantity,
                met=z > SIGMAS,
                statement=words,
                measured=mean,
                measured_stderr=error,
                z=z,
                units="loss / parameter",
            )
        )
    return rows


def replicas_return(run: str, relaxed: xr.Dataset) -> list[Row]:
    """Replicas released off the middle move towards their own ends, and the noise-free control does not.

    One row over all off-centre starts: the mean displacement towards the own end, above 3 standard errors, and positive
    at every start. A few replicas a start give poor error bars, so their spread is pooled over the starts and z is the
    Gaussian equivalent of Student's t. One row for the control: at each start it moves towards the end by no more than
    a quarter as far as with noise. Then one row per start, the numbers.
    """
    noisy = relaxed.sel(control=0)
    moved, replicas = noisy["displacement"].values, noisy["replicas"].values
    off = np.isfinite(moved) & (replicas > 0)
    freedom = int((replicas[off] - 1).sum())
    variance = np.nan_to_num(noisy["displacement_stderr"].values ** 2 * replicas * (replicas - 1))
    quantity = f"replicas released off the middle move towards their own end, > {SIGMAS:g} standard errors"
    if not off.any() or freedom < 1 or variance[off].sum() <= 0:
        text = "no off-centre start has two replicas that survived" if freedom < 1 else "the replicas have no spread"
        return [criterion_row(run, "relaxation", quantity, met=None, statement=text)]
    spread = np.sqrt(variance[off].sum() / freedom)
    mean = float(moved[off].mean())
    stderr = float(spread * np.sqrt((1 / replicas[off]).sum()) / off.sum())
    z = float(gaussian_significance(mean / stderr, freedom))
    z = z if np.isfinite(z) else mean / stderr  # the t distribution's tail underflows
    own, total = int(noisy["own_side"].values[off].sum()), int(replicas[off].sum())
    towards = int((moved[off] > 0).sum())
    words = f"mean Δs = {plus_minus(mean, stderr)} (z = {z:.1f}); towards the end from {towards} of {off.sum()} starts"
    words += f", {own} of {total} replicas on their own side at the end"
    if "end_distance" in relaxed:
        distance = float(np.nanmean(relaxed["end_distance"].values[off]))
        words += f"; at the end {number(distance)} parameter units off the path on average"
    met = z > SIGMAS and towards == off.sum()
    numbers = {"measured": mean, "measured_stderr": stderr, "z": z}
    rows = [criterion_row(run, "relaxation", quantity, met=bool(met), statement=words, **numbers)]
    rows.append(_control_stays(run, relaxed))
    if "still" in relaxed and relaxed["still"].values.any():
        at = ", ".join(f"{s:.3g}" for s in relaxed["start"].values[relaxed["still"].values == 1])
        text = f"s = {at}: s of every replica stays exactly the same; the nearest point of the path is a vertex of its "
        text += "polyline, which holds a range of positions, so this is not a position held by a force"
        rows.append(Row(run, "relaxation", "starts on a vertex of the path", "result", "", text))
    for i in np.flatnonzero(off):
        error = float(spread / np.sqrt(replicas[i]))
        start = float(noisy["start"].values[i])
        rows.append(
            Row(
                run,
                "relaxation",
                f"displacement towards its own end from s = {start:.3g}",
                "result",
                "",
                f"Δs = {plus_minus(float(moved[i]), error)}, {int(replicas[i])} replicas",
                measured=float(moved[i]),
                measured_stderr=error,
            )
        )
    return rows


def _control_stays(run: str, relaxed: xr.Dataset) -> Row:
    quantity = f"the noise-free control stays (moves to its end < {CONTROL_FRACTION:g} as far)"
    if 1 not in relaxed["control"].values:
        return criterion_row(run, "relaxation", quantity, met=None, statement="no control was run")
    noisy, still = relaxed.sel(control=0), relaxed.sel(control=1)
    both = np.isfinite(noisy["displacement"].values) & np.isfinite(still["displacement"].values)
    if not both.any():
        return criterion_row(run, "relaxation", quantity, met=None, statement="no off-centre start has a control")
    moved, control = noisy["displacement"].values[both], still["displacement"].values[both]
    words = "; ".join(
        f"from s = {start:.3g} control {c + 0.0:+.3f}, with noise {m:+.3f}"
        for start, c, m in zip(relaxed["start"].values[both], control, moved, strict=True)
    )
    met = bool(np.all(control <= CONTROL_FRACTION * np.clip(moved, 0.0, None)))
    worst = float(control.max())
    return criterion_row(run, "relaxation", quantity, met=met, statement=words, measured=worst)


def heating_identity(run: str, dataset: xr.Dataset) -> Row | None:
    """``2<(theta−gamma)·Q grad L> = eta <|Q g_B|^2>``, exact for any anharmonicity once the run is stationary.

    Left over right, mean over positions. The error is the spread of the replicas at each position, which are
    independent whatever the correlation in time: positions that differ are no error of their mean. z and the χ² of all
    positions against 1 are the Gaussian equivalents of Student's t (Welch, Biometrika 34 (1947) 28); the identity holds
    where neither rejects it. With one replica the scatter between positions is the error, as it is if the identity
    holds. A failure means that the fluctuations have not equilibrated (or still drift). None where the run did not
    record it."""
    if "heating_left" not in dataset or "heating_right" not in dataset:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (dataset["heating_left"] / dataset["heating_right"]).transpose("s", "replica").values
    places = [row[np.isfinite(row)] for row in found]
    places = [row for row in places if row.size > 1] or [found[np.isfinite(found)]]
    quantity = "stationarity: 2⟨(θ−γ)·Q∇L⟩ / η⟨‖Q g_B‖²⟩"
    if sum(row.size for row in places) < 3 or any(np.ptp(row) == 0 for row in places):
        text = "not determined: fewer than 3 values, or replicas without spread"
        return Row(run, "mean_force", quantity, "formula", "not determined", text)
    each, size = np.array([row.mean() for row in places]), np.array([row.size for row in places])
    variance = np.array([row.var(ddof=1) for row in places]) / size
    mean, stderr = float(each.mean()), float(np.sqrt(variance.sum()) / len(places))
    # Welch's degrees of freedom, from v² / (n + 1): from few replicas v²/(n − 1) is too large on average.
    freedom = float(variance.sum() ** 2 / (variance**2 / (size + 1)).sum() - 2)
    freedom = float(np.clip(freedom, size.min() - 1, (size - 1).sum()))
    z = float(gaussian_significance((mean - 1) / stderr, freedom))
    z = z if np.isfinite(z) else (mean - 1) / stderr  # the t distribution's tail underflows
    scores = gaussian_significance((each - 1) / np.sqrt(variance), size - 1)
    test = agreement(
        Estimate.independent(scores, np.ones_like(scores)), Estimate.independent(*np.zeros((2, len(each))))
    )
    verdict = "agrees" if abs(z) <= SIGMAS and chi2_verdict(test) == "agrees" else "disagrees"
    meaning = "equilibrated" if verdict == "agrees" else "the fluctuations are not stationary in these windows"
    words = f"{plus_minus(mean, stderr)} against 1 ({meaning})"
    words += f"; {number(each.min())} to {number(each.max())} at {len(each)} positions" if len(each) > 1 else ""
    half = float(student_quantile(LEVEL, freedom)) * stderr
    return Row(
        run,
        "mean_force",
        quantity,
        "formula",
        verdict,
        f"{verdict}: {words}",
        measured=mean,
        measured_stderr=stderr,
        expected=1.0,
        ratio=mean,
        ratio_low=mean - half,
        ratio_high=mean + half,
        z=z,
        chi_squared=test.chi_squared,
        degrees_of_freedom=test.degrees_of_freedom,
        p_value=test.p_value,
    )
