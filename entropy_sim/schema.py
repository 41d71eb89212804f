"""The dataset contract: groups, dimensions, variables and units that simulator and networks both write.

A run is one netCDF4 file, an `xarray.DataTree` with one group per measurement. What a side cannot know is absent,
never faked. Every estimated variable `v` may have its standard error beside it as `v_stderr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from entropy_sim.errors import UserError

SCHEMA_VERSION = "1"

#: Attributes the root of every run carries (see `run_files.provenance`).
ROOT_ATTRIBUTES = (
    "source",
    "system",
    "config",
    "noise",
    "seed",
    "threads",
    "schema_version",
    "created",
    "git_commit",
    "versions",
    "device",
)
SOURCES = ("entropy_sim", "nn_experiments", "analysis")
#: Coordinates that are names; all others, and all variables, are numbers.
_NAMES = ("path_kind", "optimizer", "architecture")
_NEVER_EMPTY = ("s", "start", "time", "time_window", "replica", "control")
#: Attributes of the root or a group that are numbers, or one number for each value of a scan, where they are present.
_NUMBERS = (
    *("arc_length", "autocorrelation_time", "batch_size", "burn_in", "burn_in_relaxation_times", "censored"),
    *("effective_bins", "effective_sample_size", "gaussian_width", "group_size", "highest_loss_per_cycle"),
    *("learning_rate", "minima_distance", "momentum", "outside", "parameters", "pivots_per_cycle", "samples"),
    *("time_step", "timescale_ratio", "training_samples"),
)


class SchemaError(UserError):
    """A dataset that breaks the contract; the message lists every fault."""


@dataclass(frozen=True)
class Variable:
    """What one variable means: the dimensions it must have, its units (or `other_units`) and its name on an axis."""

    dims: tuple[str, ...]
    units: str
    long_name: str
    required: bool = False
    other_units: str | None = None


@dataclass(frozen=True)
class Group:
    """One measurement: its variables, its coordinates, and the dimensions a scan may add to any of its variables."""

    variables: Mapping[str, Variable]
    coordinates: Mapping[str, Variable]
    extra_dims: tuple[str, ...] = ()


_S = Variable(("s",), "1", "normalised arc length s", required=True)
_SCANS = (
    *("run", "learning_rate", "step", "batch_size", "label_noise", "temperature", "along_path"),
    *("dimension", "stiffness_ratio"),
)
_SCAN_COORDINATES = {
    "run": Variable(("run",), "1", "run"),
    "learning_rate": Variable(("learning_rate",), "parameter^2 / loss", "learning rate"),
    "batch_size": Variable(("batch_size",), "1", "batch size"),
    "label_noise": Variable(("label_noise",), "1", "label noise strength"),
    "temperature": Variable(("temperature",), "loss", "temperature"),
    "dimension": Variable(("dimension",), "1", "number of transverse directions"),
    "step": Variable(("step",), "parameter^2 / loss", "time step"),
    "along_path": Variable(("along_path",), "loss", "diffusion along the path"),
    "stiffness_ratio": Variable(("stiffness_ratio",), "1", "stiffness in the middle over that at the ends"),
}


def _escape_variables() -> dict[str, Variable]:
    time, each, one, curve = "parameter^2 / loss", ("replica",), (), ("curve_point",)
    return {
        "first_passage_time": Variable(each, time, "first-passage time", required=True),  # NaN where not escaped
        "escaped": Variable(each, "1", "escaped before the end of the run", required=True),
        "diverged": Variable(each, "1", "diverged before it escaped"),
        "distance": Variable(each, "parameter", "distance from the path, at the escape or at the end"),
        "side": Variable(each, "1", "side of the escape (1: upper level, -1: lower level, 0: none)"),
        "duration": Variable(one, time, "time of observation"),
        "rate": Variable(one, "loss / parameter^2", "escape rate"),
        "rate_low": Variable(one, "loss / parameter^2", "escape rate, lower end of the interval"),
        "rate_high": Variable(one, "loss / parameter^2", "escape rate, upper end of the interval"),
        "mean_first_passage_time": Variable(one, time, "mean first-passage time"),
        "mean_first_passage_time_reduced": Variable(one, time, "mean first-passage time of the reduced dynamics"),
        "restricted_mean_time": Variable(one, time, "mean time to the escape or the end of the run"),
        "exponentiality_z": Variable(one, "1", "z of the test for exponential times (> 0: rising hazard)"),
        "timescale_ratio": Variable(one, "1", "timescale ratio"),
        "diffusion_along_path": Variable(one, "loss", "diffusion along the path"),
        "survival_time": Variable(curve, time, "time"),
        "survival": Variable(curve, "1", "share of replicas that have not escaped"),
    }


def _profile_variables() -> dict[str, Variable]:
    along = ("path_kind", "s")
    return {
        "loss": Variable(along, "loss", "training loss", required=True),
        "train_error": Variable(along, "1", "training error"),
        "test_loss": Variable(along, "loss", "test loss"),
        "test_error": Variable(along, "1", "test error"),
        "weight_decay_penalty": Variable(along, "loss", "weight-decay penalty"),
        "hessian_trace": Variable(along, "loss / parameter^2", "Hessian trace Tr H"),
        "hessian_trace_transverse": Variable(along, "loss / parameter^2", "Hessian trace transverse to the path"),
        "hessian_trace_slope": Variable(along, "loss / parameter^3", "slope of the trace along the path, Tr(Q dH/dt)"),
        "hessian_trace_normalized": Variable(along, "loss", "norm-corrected Hessian trace, Σ ‖w‖² Tr H_ww"),
        "hessian_max_eigenvalue": Variable(along, "loss / parameter^2", "largest Hessian eigenvalue"),
        "hessian_min_eigenvalue": Variable(along, "loss / parameter^2", "smallest Hessian eigenvalue"),
        "hessian_max_eigenvalue_normalized": Variable(along, "loss", "norm-corrected largest Hessian eigenvalue"),
        "hessian_min_eigenvalue_normalized": Variable(along, "loss", "norm-corrected smallest Hessian eigenvalue"),
        "hessian_eigenvalue": Variable((*along, "eigenvalue_index"), "loss / parameter^2", "Hessian eigenvalue"),
        "hessian_square_trace": Variable(along, "loss^2 / parameter^4", "Tr H^2"),
        "lanczos_steps": Variable(along, "1", "Lanczos steps of the Hessian eigenvalues"),
        "log_determinant": Variable(along, "1", "log determinant of the transverse stiffness"),
        "fisher_trace": Variable(along, "loss / parameter^2", "Fisher trace"),
        "fisher_trace_transverse": Variable(along, "loss / parameter^2", "Fisher trace transverse to the path"),
        "fisher_trace_normalized": Variable(along, "loss", "norm-corrected Fisher trace"),
        "fisher_singular_value": Variable((*along, "eigenvalue_index"), "loss / parameter^2", "Fisher singular value"),
        "noise_trace": Variable(along, "loss^2 / parameter^2", "trace of the minibatch-gradient covariance Tr C"),
        "noise_trace_transverse": Variable(along, "loss^2 / parameter^2", "Tr C transverse to the path"),
        "noise_trace_normalized": Variable(along, "loss^2", "norm-corrected Tr C"),
        "noise_hessian_trace": Variable(along, "loss^3 / parameter^4", "Tr(C H)"),
        "noise_hessian_alignment": Variable(along, "1", "alignment of the noise with the Hessian"),
        "noise_top_share": Variable(along, "1", "share of Tr C along the largest Hessian eigenvectors"),
        "noise_eigenvalue": Variable(
            (*along, "eigenvalue_index"), "loss^2 / parameter^2", "gradient noise along each Hessian eigenvector"
        ),
        "parameter_norm": Variable(along, "parameter", "parameter norm"),
        "gradient_norm": Variable(along, "loss / parameter", "gradient norm"),
        "effective_potential": Variable(along, "loss", "effective potential"),
    }


def _mean_force_variables() -> dict[str, Variable]:
    dims = ("s", "replica", "time_window")
    force = "loss / parameter"
    return {
        "mean_force": Variable(dims, force, "mean force along +s", required=True),
        "mean_force_control": Variable(("s", "control_replica", "time_window"), force, "mean force without noise"),
        "mean_force_curved": Variable(dims, force, "mean force with the path-curvature factor"),
        "mean_force_linear": Variable(dims, force, "mean force of the linearised dynamics with the same noise"),
        "mean_force_predicted": Variable(("s", "time_window"), force, "mean force by finite-time linear response"),
        "mean_force_formula": Variable(("s",), force, "mean force by the stationary formula"),
        "hessian_trace_slope": Variable(("s",), "loss / parameter^3", "slope of the trace along the path, Tr(Q dH/dt)"),
        "hessian_trace_slope_moved": Variable(("s",), "loss / parameter^3", "Tr(Q dH/dt) where the replicas end"),
        "floor_distance": Variable(("s",), "parameter", "distance of the valley floor from the path point"),
        "floor_alignment": Variable(("s",), "1", "cosine between the tangents of the valley floor and of the path"),
        "effective_potential": Variable(("s",), "loss", "effective potential"),
        "position_autocorrelation_time": Variable(("s",), "parameter^2 / loss", "autocorrelation time of the force"),
        "effective_sample_size": Variable(("s",), "1", "effective sample size"),
        "heating_left": Variable(("s", "replica"), "loss", "2 <(theta-gamma).Q grad L>"),
        "heating_right": Variable(("s", "replica"), "loss", "eta <|Q g_B|^2>"),
        "transverse_loss": Variable(dims, "loss", "mean loss of the constrained dynamics"),
        "distance": Variable(dims, "parameter", "distance from the path point"),
        "diverged": Variable(("s", "replica"), "1", "replica diverged"),
    }


#: Every group of the contract. Dimensions in `extra_dims` may be added to any variable of the group by a scan.
GROUPS: Mapping[str, Group] = {
    "path": Group(
        variables={
            "arc_length": Variable(("s",), "parameter", "arc length y", required=True),
            "loss_between": Variable(("s",), "loss", "highest loss up to the next point"),
            "perpendicular_gradient_norm": Variable(("s",), "loss / parameter", "gradient norm off the tangent"),
            # An ensemble of paths between the same ends; the variables above are those of the run that is measured.
            "run_highest_loss": Variable(("run",), "loss", "highest loss of each path"),
            "run_arc_length": Variable(("run",), "parameter", "arc length of each path"),
            "run_perpendicular_gradient_norm": Variable(
                ("run",), "loss / parameter", "largest gradient norm off the tangent of each path"
            ),
            "run_converged": Variable(("run",), "1", "whether each path converged"),
            "run_distance": Variable(("run", "other_run"), "1", "distance between paths, in arc lengths"),
        },
        coordinates={
            "s": _S,
            "run": Variable(("run",), "1", "run"),
            "other_run": Variable(("other_run",), "1", "run"),
        },
        extra_dims=("run",),
    ),
    "profile": Group(
        variables=_profile_variables(),
        coordinates={
            "s": _S,
            "path_kind": Variable(("path_kind",), "1", "kind of path", required=True),
            "eigenvalue_index": Variable(("eigenvalue_index",), "1", "eigenvalue index"),
            **_SCAN_COORDINATES,
        },
        extra_dims=_SCANS,
    ),
    "plane": Group(
        # The plane through both minima: the first at (0, 0), the second at (their distance, 0).
        variables={
            "loss": Variable(("plane_y", "plane_x"), "loss", "training loss", required=True),
            "train_error": Variable(("plane_y", "plane_x"), "1", "training error"),
            "test_loss": Variable(("plane_y", "plane_x"), "loss", "test loss"),
            "test_error": Variable(("plane_y", "plane_x"), "1", "test error"),
            "path_x": Variable(("s",), "parameter", "projection of the path, along the straight line", required=True),
            "path_y": Variable(("s",), "parameter", "projection of the path, off the straight line", required=True),
            "path_distance": Variable(("s",), "parameter", "distance of the path from the plane", required=True),
            "path_loss": Variable(("s",), "loss", "training loss of the path"),
            "path_loss_projected": Variable(("s",), "loss", "training loss at the projection of the path"),
        },
        coordinates={
            "s": _S,
            "plane_x": Variable(("plane_x",), "parameter", "along the straight line between the minima", required=True),
            "plane_y": Variable(("plane_y",), "parameter", "off the straight line", required=True),
        },
    ),
    "spectrum": Group(
        variables={"density": Variable(("s", "eigenvalue"), "parameter^2 / loss", "spectral density", required=True)},
        coordinates={
            "s": _S,
            "eigenvalue": Variable(("eigenvalue",), "loss / parameter^2", "Hessian eigenvalue", required=True),
            "path_kind": Variable(("path_kind",), "1", "kind of path"),
        },
        extra_dims=("run", "path_kind"),
    ),
    "mean_force": Group(
        variables=_mean_force_variables(),
        coordinates={
            "s": _S,
            "replica": Variable(("replica",), "1", "replica"),
            "control_replica": Variable(("control_replica",), "1", "replica of the control"),
            "time_window": Variable(("time_window",), "parameter^2 / loss", "middle of the time window", required=True),
            **_SCAN_COORDINATES,
        },
        extra_dims=_SCANS,
    ),
    "relaxation": Group(
        variables={
            "position": Variable(("start", "replica", "time"), "1", "position s along the path", required=True),
            "position_null": Variable(("start", "time"), "1", "position s of random displacements of the same length"),
            "distance": Variable(("start", "replica", "time"), "parameter", "distance from the path"),
            "loss": Variable(("start", "replica", "time"), "loss", "training loss"),
            "parameter_norm": Variable(("start", "replica", "time"), "parameter", "parameter norm"),
            "diverged": Variable(("start", "replica"), "1", "replica diverged", required=True),
        },
        coordinates={
            "start": Variable(("start",), "1", "starting position s", required=True),
            "replica": Variable(("replica",), "1", "replica"),
            "time": Variable(
                ("time",), "parameter^2 / loss", "time t (step size x steps, for SGD over 1 - momentum)", required=True
            ),
            "control": Variable(("control",), "1", "control (0: noise on, 1: noise off)"),
            **_SCAN_COORDINATES,
        },
        extra_dims=("control", *_SCANS),
    ),
    "stationary": Group(
        variables={
            "density": Variable(("s",), "1", "stationary density of s", required=True),
            "free_energy": Variable(("s",), "loss", "free energy", other_units="1"),  # -ln p unless thermal
        },
        coordinates={"s": _S, **_SCAN_COORDINATES},
        extra_dims=_SCANS,
    ),
    "escape": Group(
        variables=_escape_variables(),
        coordinates={
            "replica": Variable(("replica",), "1", "replica"),
            "curve_point": Variable(("curve_point",), "1", "point of the survival curve"),
            **_SCAN_COORDINATES,
        },
        extra_dims=(*_SCANS, "shared_iterations"),
    ),
    "barrier": Group(
        variables={
            "energy_barrier": Variable((), "loss", "energy barrier", required=True),
            "entropic_barrier": Variable((), "loss", "entropic barrier", required=True),
            "entropic_barrier_exact": Variable((), "loss", "entropic barrier, exact"),
            "quadrature_error": Variable((), "loss", "error of the integral's quadrature"),
            "top": Variable((), "1", "position s of the top of the barrier"),
            "timescale_ratio": Variable((), "1", "timescale ratio"),
            "energy_barrier_path": Variable((), "loss", "energy barrier on the path found"),
            "energy_barrier_each": Variable(("replica",), "loss", "energy barrier of each pair"),
            "energy_barrier_path_each": Variable(("replica",), "loss", "energy barrier on each pair's path"),
            "entropic_barrier_each": Variable(("replica",), "loss", "entropic barrier of each pair"),
            "hessian_trace_rise": Variable((), "1", "Tr H in the middle of the path over that at its ends"),
            "hessian_trace_normalized_rise": Variable((), "1", "the same, norm-corrected"),
            "end_distance": Variable((), "parameter", "distance between the ends"),
            "path_converged": Variable((), "1", "share of the paths that converged"),
        },
        coordinates={
            **_SCAN_COORDINATES,
            "shared_iterations": Variable(("shared_iterations",), "1", "shared training iterations"),
            # Names.
            "optimizer": Variable(("optimizer",), "1", "optimizer of the training"),
            "architecture": Variable(("architecture",), "1", "network"),
        },
        extra_dims=(*_SCANS, "shared_iterations", "optimizer", "architecture", "replica"),
    ),
}


def _specification(group: str, name: str) -> Variable | None:
    contract = GROUPS[group]
    known = {**contract.variables, **contract.coordinates}
    if name in known:
        return known[name]
    base = known.get(name.removesuffix("_stderr")) if name.endswith("_stderr") else None
    if base is None:
        return None
    # A standard error is often that of the average over replicas or windows, so any subset of the dims will do.
    return Variable(base.dims, base.units, f"standard error of {base.long_name}", other_units=base.other_units)


def _dims_fault(group: str, name: str, spec: Variable, found: tuple[str, ...]) -> str | None:
    allowed_extra = set(GROUPS[group].extra_dims)
    missing = [d for d in spec.dims if d not in found]
    foreign = [d for d in found if d not in spec.dims and d not in allowed_extra]
    if name.endswith("_stderr"):
        missing = []
    if missing or foreign:
        return f"{group}/{name}: expected dimensions {spec.dims}, found {tuple(found)}"
    return None


def make(group: str, variables: Mapping[str, Any], attrs: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Build the dataset of one group from `name -> (dims, values)`, filling in units and names from the contract.

    Coordinates of the group are recognised by name. Raises SchemaError listing every fault of the result.
    """
    if group not in GROUPS:
        raise SchemaError(f"group: expected one of {', '.join(GROUPS)}, found {group!r}")
    contract = GROUPS[group]
    data: dict[str, xr.Variable] = {}
    coords: dict[str, xr.Variable] = {}
    for name, value in variables.items():
        variable = xr.as_variable(value, name=name) if isinstance(value, xr.DataArray) else xr.Variable(*value[:2])
        spec = _specification(group, name)
        if spec is not None:
            variable.attrs.setdefault("units", spec.units)
            variable.attrs.setdefault("long_name", spec.long_name)
        if len(value) > 2 and not isinstance(value, xr.DataArray):
            variable.attrs.update(value[2])
        (coords if name in contract.coordinates else data)[name] = variable
    dataset = xr.Dataset(data, coords, attrs=dict(attrs or {}))
    if found := group_faults(group, dataset):
        raise SchemaError("; ".join(found))
    return dataset


def group_faults(group: str, dataset: xr.Dataset) -> list[str]:
    """Every way in which `dataset` breaks the contract of `group`, one line each."""
    if group not in GROUPS:
        return [f"{group}: not a group of the schema (expected one of {', '.join(GROUPS)})"]
    contract = GROUPS[group]
    required = {**contract.variables, **contract.coordinates}
    faults = [
        f"{group}/{name}: missing" for name, v in required.items() if v.required and name not in dataset.variables
    ]
    for name, variable in dataset.variables.items():
        name = str(name)
        spec = _specification(group, name)
        if spec is None:
            faults.append(f"{group}/{name}: not a variable of this group")
            continue
        fault = _dims_fault(group, name, spec, tuple(map(str, variable.dims)))
        if fault:
            faults.append(fault)
        found_units = variable.attrs.get("units")
        if found_units not in (spec.units, spec.other_units):
            faults.append(f"{group}/{name}: expected units {spec.units!r}, found {found_units!r}")
        if not variable.attrs.get("long_name"):
            faults.append(f"{group}/{name}: long_name missing")
        if (fault := _values_fault(group, name, variable)) is not None:
            faults.append(fault)
    faults += [f"{group}: expected at least one {d}, found none" for d in _NEVER_EMPTY if dataset.sizes.get(d) == 0]
    faults += _attribute_faults(f"{group}: ", dataset.attrs)
    if "s" in dataset.variables and dataset["s"].ndim == 1 and np.issubdtype(dataset["s"].dtype, np.number):
        s = dataset["s"].values
        if s.size and np.all(np.isfinite(s)) and not (s.min() >= -1e-9 and s.max() <= 1 + 1e-9):
            faults.append(f"{group}/s: expected values in 0…1, found {s.min():g}…{s.max():g}")
        elif np.any(np.diff(s) <= 0):
            faults.append(f"{group}/s: expected increasing values")
    return faults


def _values_fault(group: str, name: str, variable: xr.Variable) -> str | None:
    """What is no number, a coordinate without a value, and an error below 0: nothing can be computed from them."""
    if name in _NAMES:
        return None
    if variable.dtype.kind not in "fiub":
        found = "text" if variable.dtype.kind in "OSUT" else str(variable.dtype)
        return f"{group}/{name}: expected numbers, found {found}"
    if name in GROUPS[group].coordinates:
        values = variable.values
        if not np.all(np.isfinite(values)):
            return f"{group}/{name}: expected finite values, found {values[~np.isfinite(values)].flat[0]:g}"
        if name == "control" and (len(set(values.flat)) < values.size or not {0} <= set(values.flat) <= {0, 1}):
            return f"{group}/control: expected 0 (noise on), or 0 and 1 (noise off), found {_listed(values)}"
    if name.endswith("_stderr") and bool((variable.values < 0).any()):
        return f"{group}/{name}: expected values of at least 0, found {float(variable.min()):g}"
    return None


def _listed(values: Any) -> str:
    return ", ".join(f"{v:g}" for v in np.ravel(values))


def _attribute_faults(where: str, attrs: Mapping[Any, Any]) -> list[str]:
    found = {name: attrs[name] for name in _NUMBERS if name in attrs}
    return [
        f"{where}attribute {name}: expected a number, found {value!r}"
        for name, value in found.items()
        if np.asarray(value).dtype.kind not in "fiub"
    ]


def faults(tree: xr.DataTree) -> list[str]:
    """Every way in which a run breaks the contract, one line each; empty for a valid run."""
    found = [f"attribute {name}: missing" for name in ROOT_ATTRIBUTES if name not in tree.attrs]
    source = tree.attrs.get("source")
    if source is not None and source not in SOURCES:
        found.append(f"attribute source: expected one of {', '.join(SOURCES)}, found {source!r}")
    version = tree.attrs.get("schema_version")
    if version is not None and str(version) != SCHEMA_VERSION:
        found.append(f"attribute schema_version: expected {SCHEMA_VERSION!r}, found {str(version)!r}")
    found += _attribute_faults("", tree.attrs)
    # Comparisons have groups of their own (see analysis.compare); their layout is not part of this contract.
    if source != "analysis":
        for name, node in tree.children.items():
            found += group_faults(name, node.to_dataset())
        if not tree.children:
            found.append(f"no measurement: expected at least one group of {', '.join(GROUPS)}")
    return found


def validate(tree: xr.DataTree, name: str = "dataset") -> None:
    """Raise SchemaError, naming `name` and listing all faults at once, unless the run keeps the contract."""
    if found := faults(tree):
        raise SchemaError(f"{name}: not a valid run: " + "; ".join(found))
