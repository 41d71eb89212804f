"""The analytic twin of a network: its measurements on the landscape tabulated from its own profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from analysis import summaries
from analysis.runs import open_run
from entropy_sim.errors import UserError
from entropy_sim.run_files import config_hash

if TYPE_CHECKING:
    from entropy_sim.landscapes.tabulated import Tabulated

#: Largest step of the twin, in units of the inverse of its largest stiffness; the stability limit is 2.
TWIN_STEP = 1.5
NAMES = ("profile", "mean_force", "relaxation", "stationary", "escape", "barrier")


def read(path: Path | str) -> xr.DataTree:
    """The run of a network that has a profile. Raises UserError, on one line, for any other file."""
    tree = open_run(path)
    if tree.attrs.get("source") != "nn_experiments":
        raise UserError(f"--twin: expected the run of a network, found one of {tree.attrs.get('source')} in {path}")
    if lacking := [name for name in ("profile", "path") if name not in tree.children]:
        found = ", ".join(map(str, tree.children))
        raise UserError(f"--twin: expected a run with {' and '.join(lacking)}, found {found} in {path}")
    return tree


def attributes(network: xr.DataTree) -> dict[str, str]:
    """What marks a run as this network's twin (see `analysis.compare`)."""
    own = network["profile"].attrs.get("config", network.attrs.get("config"))
    return {"system": "analytic twin of the network (Tabulated)", "twin_of": config_hash(own)}


def measurements(network: xr.DataTree) -> dict[str, Any]:
    """The twin's profile, and of mean_force and relaxation those that the network's configuration tells."""
    told = measured_settings(network)
    names = ["profile", *(n for n in ("mean_force", "relaxation") if "learning_rate" in told.get(n, {}))]
    landscape = _landscape(network)
    return {name: measurement(network, name, landscape) for name in names}


def measurement(network: xr.DataTree, name: str, landscape: Tabulated | None = None) -> Any:
    """One measurement on the twin: the network's positions, starts, times, learning rate and noise.

    Minibatch noise is the profile's, rescaled to the batch size; label noise ``C = (σ²/B) H``; thermal noise
    ``C = 2 T (1 − β) / η``. Where the learning rate comes near the twin's stability limit, the twin takes smaller steps
    with as much larger noise: eta C, and with it every effective temperature, and the clock eta · step stay the same.
    What the network did not measure (stationary, barrier) takes the settings of its relaxation or mean force. Raises
    UserError if the profile does not make a landscape, or the configuration tells no learning rate.
    """
    import entropy_sim
    from entropy_sim.scan import Scan

    if landscape is None:
        landscape = _landscape(network)
    config = measured_settings(network)
    own = {"stationary": "relaxation", "barrier": "mean_force", "profile": "mean_force"}.get(name, name)
    # A ladder has several learning rates, and so none for the others.
    having = [n for n in (own, "mean_force", "relaxation") if "learning_rate" in config.get(n, {})]
    settings = config[having[0]] if having and (having[0] == own or name != "mean_force") else None
    if settings is None:
        raise UserError(f"--twin: expected a configuration with a learning rate for {name}, found none in the file")
    nouns = {"landscape": landscape, **_dynamics(network, config, settings, landscape)}
    if name == "profile":
        return entropy_sim.Profile(**nouns, points=201)
    if name == "stationary":
        return entropy_sim.Stationary(**nouns)
    if name == "barrier":
        return entropy_sim.BarrierHeights(**nouns, **_given(settings, "burn_in", "duration"), scan=Scan())
    if name == "mean_force":
        given = _given(settings, "positions", "burn_in", "duration", "time_windows")
        return entropy_sim.MeanForce(**nouns, **given)
    if name == "relaxation":
        return entropy_sim.Relaxation(**nouns, **_given(settings, "starts", "duration", "records"))
    start, level = float(settings.get("start", 0.0)), float(settings.get("level", 0.5))
    levels = {"lower": None, "upper": level} if level > start else {"lower": level, "upper": None}
    return entropy_sim.Escape(**nouns, start=start, **levels, **_given(settings, "duration", "transient"))


def _landscape(network: xr.DataTree) -> Tabulated:
    from entropy_sim import Tabulated

    kinds = [str(k) for k in network["profile"].to_dataset()["path_kind"].values]
    kind = next((k for k in kinds if k != "line"), kinds[0])
    # Kinds share one s axis in the file: points that belong to another kind hold no loss.
    loss = network["profile"].to_dataset()["loss"].isel(path_kind=kinds.index(kind))
    known = np.isfinite(loss.values.reshape(-1, loss.sizes["s"])).all(0)
    if known.sum() < 3:
        raise UserError(f"--twin: expected a profile of at least 3 points, found {int(known.sum())} with a loss")
    tree = network.copy()
    tree["profile"] = network["profile"].to_dataset().isel(s=np.flatnonzero(known))
    return Tabulated.from_profile(tree, path_kind=kind)


def measured_settings(network: xr.DataTree) -> Mapping[str, Any]:
    """Settings by the name of the measurement: the run's (of several combined, the first's), or those that its groups
    carry themselves."""
    whole = summaries.configuration(network.attrs)
    whole = whole if isinstance(whole, dict) else {}
    if isinstance(each := whole.get("measurements"), list) and each and isinstance(each[0], dict):
        whole = each[0] | whole
    found = {n: v for n, v in whole.items() if isinstance(v, dict)}
    for name, node in network.children.items():
        if str(name) not in found and "config" in node.attrs:
            own = summaries.configuration(node.attrs)
            if isinstance(own, dict):
                found[str(name)] = own.get(str(name), own)
    return found


def _given(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {n: tuple(v) if isinstance(v, list) else v for n, v in settings.items() if n in names}


def _dynamics(
    network: xr.DataTree, config: Mapping[str, Any], settings: Mapping[str, Any], landscape: Tabulated
) -> dict[str, Any]:
    """Noise and SGD without momentum at the same effective temperatures and on the same clock."""
    from entropy_sim import SGD, CurvatureCovariance, TabulatedCovariance

    rate = float(settings["learning_rate"]) / (1 - float(settings.get("momentum", 0.0)))
    stiffest = float(landscape.curvature(np.linspace(0.0, 1.0, 1001)).max())
    step = min(rate, TWIN_STEP / stiffest)
    noise = settings.get("noise") or {}
    kind = str(noise.get("type", "Minibatch"))
    if kind == "Label":
        if not noise.get("batch_size"):
            raise UserError("--twin: expected label noise of a known batch size, found that of the full batch")
        c = rate / step * float(noise["strength"]) ** 2 / float(noise["batch_size"])
        return {"noise": CurvatureCovariance(c, 1.0, c * _along(network)), "dynamics": SGD(learning_rate=step)}
    if kind == "Thermal":
        variance = 2 * float(noise["temperature"]) / step
        return {"noise": CurvatureCovariance(variance, 0.0, variance), "dynamics": SGD(learning_rate=step)}
    measured = config.get("profile", {}).get("noise", {}).get("batch_size")
    ours = noise.get("batch_size")
    factor = float(measured) / float(ours) if measured and ours else 1.0
    return {"noise": TabulatedCovariance(scale=rate / step * factor), "dynamics": SGD(learning_rate=step)}


def _along(network: xr.DataTree) -> float:
    """Mean curvature along the path itself, at least 0: what the transverse trace leaves of the whole."""
    profile = network["profile"].to_dataset()
    if not {"hessian_trace", "hessian_trace_transverse"} <= set(profile.data_vars):
        return 0.0
    kinds = [str(k) for k in profile["path_kind"].values]
    one = profile.isel(path_kind=next((i for i, k in enumerate(kinds) if k != "line"), 0))
    return max(float((one["hessian_trace"] - one["hessian_trace_transverse"]).mean()), 0.0)
