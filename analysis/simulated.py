"""A simulation as its predictions need it: noise and dynamics of its configuration, exact curves along its path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from analysis import summaries
from analysis.predict import path_profile
from analysis.uncertainty import Array
from entropy_sim import theory
from entropy_sim.errors import UserError, require

#: Points of a profile below which nothing tells what the splines between them are wrong by.
FEWEST = 9
#: What predictions read from the configuration of a noise or a dynamics.
_NUMBERS = {
    "Thermal": ("temperature",),
    "CurvaturePower": ("temperature", "exponent", "along_path"),
    "CurvatureCovariance": ("scale", "exponent", "along_path"),
    "SGD": ("learning_rate", "momentum"),
    "Overdamped": ("step",),
}


@dataclass(frozen=True)
class Setting:
    """What a simulation was run with: noise and dynamics as in its configuration."""

    noise: Mapping[str, Any]
    dynamics: Mapping[str, Any]

    @property
    def sgd(self) -> bool:
        return self.dynamics["type"] == "SGD"

    @property
    def temperature(self) -> float | None:
        """T of thermal noise, None for other noise."""
        return float(self.noise["temperature"]) if self.noise.get("type") == "Thermal" else None


@dataclass(frozen=True)
class Profile:
    """Exact curves along the path: U (n,), k_i and the noise (D_i or C_i) across it (n, modes), D_y along it (n,)."""

    s: Array
    energy: Array
    stiffness: Array
    noise: Array
    along: Array | None


def with_profile(tree: xr.DataTree) -> xr.DataTree:
    """A simulation with the exact profile that its configuration implies, if it has none of its own and is of the
    package's own nouns; otherwise the tree as it is. (Code that a file carries is not run to draw it.)"""
    config = summaries.configuration(tree.attrs)
    if "profile" in tree.children or tree.attrs.get("source") != "entropy_sim" or not isinstance(config, dict):
        return tree
    if any(str(value).startswith("Custom") for name, value in summaries.walk(config) if name == "type"):
        return tree
    import entropy_sim
    from entropy_sim.run_files import from_jsonable

    kind = getattr(entropy_sim, str(config.get("type")), None)
    try:
        measurement = from_jsonable(kind, config) if isinstance(kind, type) else None
        if not all(hasattr(measurement, noun) for noun in ("landscape", "noise", "dynamics")):
            return tree
        assert measurement is not None
        profile = entropy_sim.Profile(measurement.landscape, measurement.noise, measurement.dynamics, points=201).run()
    except UserError:
        return tree
    result = tree.copy()
    result["profile"] = profile["profile"].to_dataset()
    return result


def configuration(tree: xr.DataTree, measurement: str) -> Mapping[str, Any]:
    """Of one measurement: its own, if it carries one, else the run's."""
    own = tree[measurement].attrs if measurement in tree.children else {}
    found = summaries.configuration(own if "config" in own else tree.attrs)
    return found if isinstance(found, dict) else {}


def read(tree: xr.DataTree, measurement: str) -> tuple[Setting, Profile, float]:
    """Noise and dynamics of one measurement (its own configuration, if it carries one), and the exact profile."""
    dataset, length = summaries.measurement(tree, "profile"), summaries.arc_length(tree)
    if dataset is None or length is None:
        raise UserError(f"no prediction without {'a profile' if dataset is None else 'the arc length'} of the path")
    config = configuration(tree, measurement)
    noise, dynamics = (config.get(name) for name in ("noise", "dynamics"))
    if not (isinstance(noise, dict) and isinstance(dynamics, dict)):
        raise UserError("config: expected a noise and a dynamics to predict from, found none")
    kind = dynamics.get("type")
    plain = kind == "SGD" and not (dynamics.get("nesterov") or dynamics.get("weight_decay"))
    if not (plain or kind == "Overdamped"):
        found = f"{kind} with nesterov or weight_decay" if kind == "SGD" else kind
        raise UserError(f"config.dynamics: expected Overdamped or heavy-ball SGD to predict from, found {found}")
    for name, told in (("noise", noise), ("dynamics", dynamics)):
        for number in _NUMBERS.get(str(told.get("type")), ()):
            found = told.get(number)
            known = isinstance(found, (int, float)) and np.isfinite(found)
            require(known, f"config.{name}.{number}", "a number to predict from", found)
    setting = Setting(noise, dynamics)
    return setting, _profile(path_profile(dataset), setting), length


def _profile(p: xr.Dataset, setting: Setting) -> Profile:
    require(p.sizes["s"] >= FEWEST, "profile/s", f"at least {FEWEST} points along the path", p.sizes["s"])
    if "hessian_eigenvalue" not in p:
        raise UserError("profile: expected hessian_eigenvalue (all transverse stiffnesses), found no such variable")
    stiffness = p["hessian_eigenvalue"].transpose("s", ...).values.astype(float)
    total = p.get("hessian_trace_transverse", p.get("hessian_trace"))
    if total is not None and not np.allclose(stiffness.sum(-1), total.values, rtol=1e-6):
        raise UserError("profile/hessian_eigenvalue: expected all transverse modes, found some of the trace only")
    noise, along = _noise(p, setting, stiffness)
    return Profile(p["s"].values.astype(float), p["loss"].values.astype(float), stiffness, noise, along)


def _noise(p: xr.Dataset, setting: Setting, k: Array) -> tuple[Array, Array | None]:
    """D_i or C_i across the path, and the diffusion D_y along it (for SGD eta C_y / (2(1−beta)))."""
    noise, kind = setting.noise, setting.noise.get("type")
    ones = np.ones(len(k))
    along: Array | None
    if kind == "Thermal":
        across, along = noise["temperature"] * np.ones_like(k), noise["temperature"] * ones
    elif kind in ("CurvaturePower", "CurvatureCovariance"):
        across = noise["temperature" if kind == "CurvaturePower" else "scale"] * k ** noise["exponent"]
        along = noise["along_path"] * ones
    elif kind == "TabulatedCovariance":
        if "noise_eigenvalue" not in p:
            raise UserError("profile: expected noise_eigenvalue, the twin's gradient noise, found no such variable")
        across = p["noise_eigenvalue"].transpose("s", ...).values.astype(float)
        along = None
        if "noise_trace" in p and "noise_trace_transverse" in p:
            along = (p["noise_trace"] - p["noise_trace_transverse"]).values.astype(float)
    elif kind == "GradientCovariance" and len(noise["covariance"]) == 1:
        row = np.broadcast_to(np.asarray(noise["covariance"][0], float), (k.shape[-1] + 1,))
        across, along = row[1:] * np.ones_like(k), row[0] * ones
    else:
        raise UserError(f"config.noise: expected a noise that is diagonal in the modes, found {kind}")
    if setting.sgd and along is not None:
        along = theory.effective_temperature(
            np.clip(along, 0.0, None), setting.dynamics["learning_rate"], setting.dynamics["momentum"]
        )
    return across, along


def every_second(profile: Profile) -> Profile:
    """The profile on every second point, both ends kept."""
    keep = np.unique(np.append(np.arange(0, len(profile.s), 2), len(profile.s) - 1))
    along = None if profile.along is None else profile.along[keep]
    return Profile(profile.s[keep], profile.energy[keep], profile.stiffness[keep], profile.noise[keep], along)
