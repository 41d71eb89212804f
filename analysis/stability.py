"""The entropic force near the edge of stability: it exceeds the small-step force by ``1 / (1 − ηk / 2(1+β))``."""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis import simulated, summaries
from analysis.predict import path_profile, spline_matrix
from analysis.runs import over_runs
from entropy_sim import theory
from entropy_sim.errors import UserError, require


def edge_of_stability(tree: xr.DataTree) -> xr.Dataset:
    """Measured force over that of small steps, ``−(η c / 4(1−β)) Σ k_i'``, at every place and learning rate, against
    ``ηk``: the simulator's mean force scanned over `learning_rate`, noise C = c K, modes of one stiffness k(s).

    Variables over `point`, in the order of ηk: `eta_k`, `ratio` (+ `_stderr`), `s`, `learning_rate`; and `exact`
    (eta_k_fine) over a fine grid. Attributes: momentum, stability_limit 2(1+β). Left out are places whose small-step
    force is below a thousandth of its largest. Raises UserError for any other run.
    """
    require("mean_force" in tree.children, "mean_force", "a run with this group", list(map(str, tree.children)))
    dataset = over_runs("mean_force", tree["mean_force"].to_dataset())
    config = summaries.configuration(tree.attrs)
    noise, dynamics = (config.get(n, {}) if isinstance(config, dict) else {} for n in ("noise", "dynamics"))
    if noise.get("type") != "CurvatureCovariance" or noise.get("exponent") != 1 or dynamics.get("type") != "SGD":
        raise UserError("config: expected SGD with C = c K (CurvatureCovariance of exponent 1), found something else")
    require("learning_rate" in dataset.dims, "mean_force", "a scan over learning_rate", list(map(str, dataset.dims)))
    exact = simulated.with_profile(tree)
    length = summaries.arc_length(tree)
    if "profile" not in exact.children or length is None:
        raise UserError("profile: expected one, or a configuration that implies it, found neither")
    profile = path_profile(exact["profile"].to_dataset())
    stiffness = profile["hessian_eigenvalue"].transpose("s", ...).values
    if not np.allclose(stiffness, stiffness[:, :1], rtol=1e-9):
        raise UserError("profile: expected transverse modes of one stiffness, found several")
    y, at = profile["s"].values * length, dataset["s"].values * length
    k = spline_matrix(y, at) @ stiffness
    slope = (spline_matrix(y, at, derivative=1) @ stiffness).sum(-1)
    momentum, scale = float(dynamics.get("momentum", 0.0)), float(noise["scale"])
    found = []
    for rate in dataset["learning_rate"].values.astype(float):
        one = summaries.mean_force(dataset.sel(learning_rate=rate))
        small = theory.mean_force_curvature_proportional(slope, scale, learning_rate=rate, momentum=momentum)
        known = np.abs(small) > 1e-3 * np.abs(small).max()
        net, error = one["net"].values / np.where(known, small, np.nan), one["net_stderr"].values
        error = error / np.abs(np.where(known, small, np.nan))
        found.append((rate * k[:, 0], net, error, dataset["s"].values, np.full(len(at), rate)))
    columns = np.concatenate([np.array(rows) for rows in found], axis=1)
    columns = columns[:, np.isfinite(columns[1])]
    require(columns.size > 0, "mean_force", "a force somewhere", "none (all diverged, or without a value)")
    columns = columns[:, np.argsort(columns[0], kind="stable")]
    limit = 2 * (1 + momentum)
    fine = np.linspace(0.0, min(1.05 * columns[0].max(), 0.995 * limit), 400)
    texts = ("learning rate × stiffness, ηk", "measured / small-step force", "standard error of the ratio")
    names = ("eta_k", "ratio", "ratio_stderr", "position", "rate")
    long_names = (*texts, "position s", "learning rate")
    units = ("1", "1", "1", "1", "parameter^2 / loss")
    data = {
        n: ("point", c, {"units": u, "long_name": t})
        for n, c, u, t in zip(names, columns, units, long_names, strict=True)
    }
    result = xr.Dataset(data, {"eta_k_fine": ("eta_k_fine", fine, {"units": "1", "long_name": texts[0]})})
    result["exact"] = ("eta_k_fine", 1 / (1 - fine / limit), {"units": "1", "long_name": "1 / (1 − ηk / 2(1+β))"})
    return result.assign_attrs(momentum=momentum, stability_limit=limit)
