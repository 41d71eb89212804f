"""Why the measured and the predicted sizes differ, and what the path is not, in words with the recorded numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from analysis import summaries
from analysis.agreement import Row, number, plus_minus
from analysis.ladder import is_ladder
from analysis.predict import path_profile

_HEATED = 2.0  # loss in the constrained planes over that on the path from which the words say that SGD heats


def why_sizes_differ(rows: Sequence[Row], network: xr.DataTree | None) -> list[str]:
    """Paragraphs for the report: what the constrained dynamics did where a formula of the force disagrees (nothing if
    none does, or without the numbers), and the limits of the path."""
    if network is None:
        return []
    return [text for text in (_heating(rows, network), _path_limits(network)) if text]


def _windows(force: xr.Dataset, name: str) -> np.ndarray:
    """Mean over positions and replicas that did not diverge, one value per time window."""
    value = force[name].where(force["diverged"] == 0) if "diverged" in force else force[name]
    return value.mean([d for d in value.dims if d != "time_window"], skipna=True).values


def _heating(rows: Sequence[Row], network: xr.DataTree) -> str:
    if is_ladder(network):
        return ""
    force, profile = (summaries.measurement(network, name) for name in ("mean_force", "profile"))
    formulas = [r for r in rows if r.run == "network" and r.measurement == "mean_force" and r.kind == "formula"]
    identity = [r for r in formulas if r.quantity.startswith("stationarity") and np.isfinite(r.measured)]
    wrong = [r for r in formulas if r.verdict == "disagrees" and r not in identity]
    if not wrong or force is None or profile is None or not {"transverse_loss", "distance"} <= set(force.data_vars):
        return ""
    path = path_profile(profile)
    on_path = float(np.interp(force["s"].values, path["s"].values, path["loss"].values).mean())
    off_path, distance = _windows(force, "transverse_loss"), _windows(force, "distance")
    if not (on_path > 0 and np.isfinite([off_path[0], distance[0], distance[-1]]).all()):
        return ""
    ratio = off_path[0] / on_path
    text = (
        f"{len(wrong)} predictions of the mean force disagree with it in size. They expand the loss to second order "
        f"about the path. The constrained dynamics did this, averaged over the "
        f"positions: in the first time window the loss in the planes is {number(off_path[0])}, against "
        f"{number(on_path)} on the path at the same s, a factor of {ratio:.2g}; the distance from the path point is "
        f"{number(distance[0])} in the first window"
    )
    text += f" and {number(distance[-1])} in the last" if len(distance) > 1 else ""
    sizes = abs(force["mean_force"].mean("replica", skipna=True)).mean("s", skipna=True).values
    if len(sizes) > 1 and sizes[0] > 0 and np.isfinite(sizes[-1]):
        text += f"; the size of the force in the last window is {sizes[-1] / sizes[0]:.2g} times that in the first"
    text += "."
    if identity:
        found = identity[0]
        text += f" The stationarity identity gives {plus_minus(found.measured, found.measured_stderr)}"
        text += (
            ", not 1 everywhere: the fluctuations have not equilibrated."
            if found.verdict == "disagrees"
            else " against 1."
        )
    rate = summaries.setting("learning_rate", force, network.attrs)
    at = "SGD" if rate is None else f"SGD at learning rate {rate:g}"
    if ratio >= _HEATED:
        text += f" This is what one expects if {at} heats the network out of the quadratic neighbourhood of the path."
        return text
    return f"{text} The loss alone does not show that {at} leaves the quadratic neighbourhood."


def _path_limits(network: xr.DataTree) -> str:
    path = summaries.measurement(network, "path")
    force = None if is_ladder(network) else summaries.measurement(network, "mean_force")
    if path is None or "perpendicular_gradient_norm" not in path:
        return ""
    cycles = np.size(path.attrs.get("highest_loss_per_cycle", []))
    text = (
        "The path is one of many: another seed or search finds another one, and the search was stopped after a finite"
    )
    text += f" number of steps ({cycles} cycles)." if cycles else " number of steps."
    if path.attrs.get("converged") is not None:
        met = "was" if int(path.attrs["converged"]) else "was not"
        text += f" Its own stopping criterion {met} met, which bounds"
        text += " how much its highest loss still changes, not the gradient."
    norm, s = path["perpendicular_gradient_norm"].values, path["s"].values
    inner = np.flatnonzero(np.isfinite(norm) & (s > 1e-9) & (s < 1 - 1e-9))
    if inner.size:
        middle = norm[inner[np.argmin(np.abs(s[inner] - 0.5))]]
        ends = f"{number(norm[0])} and {number(norm[-1])} at the ends"
        text += f" The gradient of the loss off the tangent, zero on a minimum-energy path, is {number(middle)} loss / "
        text += f"parameter at the middle and {ends}."
    if force is not None and "mean_force_control" in force:
        control = force["mean_force_control"].mean("control_replica", skipna=True)
        control = control.transpose("s", "time_window")
        if bool(np.isfinite(control).any()):
            text += " Released on it without noise, the network feels a force along the path of at most "
            text += f"{number(float(np.nanmax(np.abs(control[:, 0]))))} in the first time window"
            text += f" and {number(float(np.nanmax(np.abs(control[:, -1]))))} in the last" * (control.shape[1] > 1)
            text += "; this control is subtracted."
    return text
