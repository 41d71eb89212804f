"""One run held against theory, and a network's run against its twins: the groups and the lines of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from analysis import (
    comparisons,
    criteria,
    ladder,
    predict,
    predict_relaxation,
    predict_simulation,
    simulated,
    stability,
    summaries,
)
from analysis.agreement import Row, formula_row
from analysis.comparisons._pair import SAME_LENGTH
from analysis.runs import Run
from analysis.twin import measured_settings
from analysis.uncertainty import Estimate
from entropy_sim.errors import UserError
from entropy_sim.run_files import config_hash
from entropy_sim.schema import GROUPS


def with_profiles(simulations: Sequence[Run]) -> list[Run]:
    """Simulations without a profile take that of another one with the same landscape, noise and dynamics, or that which
    their configuration implies."""

    def nouns(tree: xr.DataTree) -> list[Any]:
        config = summaries.configuration(tree.attrs)
        config = config if isinstance(config, dict) else {}
        return [config.get(name) for name in ("landscape", "noise", "dynamics")]

    profiles = [(nouns(tree), tree) for _, tree in simulations if "profile" in tree.children]
    result = []
    for label, tree in simulations:
        same = [t for n, t in profiles if n == nouns(tree) and None not in n]
        if "profile" not in tree.children and same:
            tree = tree.copy()
            tree["profile"] = same[0]["profile"].copy()
        elif any(n in tree.children and not _scanned(tree[n]) for n in ("mean_force", "stationary", "relaxation")):
            tree = simulated.with_profile(tree)
        result.append((label, tree))
    return result


def _scanned(node: Any) -> bool:
    """Whether a group holds several values of a setting, so that the configuration's own value is none of it."""
    return any(node.sizes.get(d, 1) > 1 for d in GROUPS[str(node.name)].extra_dims if d not in ("control", "run"))


def with_related(tree: xr.DataTree, runs: Sequence[Run]) -> xr.DataTree:
    """A run of escapes with what tells the barrier that they climb, where it has none itself: the profile that its
    configuration implies, else the profile, and the barriers, of another run on the same landscape."""
    if "escape" not in tree.children:
        return tree
    result = simulated.with_profile(tree).copy()
    landscape = _landscape(tree)
    for name in {"profile", "barrier"} - set(result.children):
        same = [t for _, t in runs if name in t.children and landscape is not None and _landscape(t) == landscape]
        if same:
            result[name] = same[0][name].copy()
    return result


def _landscape(tree: xr.DataTree) -> Any:
    config = summaries.configuration(tree.attrs)
    return config.get("landscape") if isinstance(config, dict) else None


def simulation(label: str, tree: xr.DataTree, groups: dict[str, xr.Dataset], rows: list[Row]) -> None:
    profile, force, relaxed, density = (
        _of_one_setting(label, tree, name, rows) for name in ("profile", "mean_force", "relaxation", "stationary")
    )
    length = summaries.arc_length(tree)
    if profile is not None:
        groups[f"profile/{label}"] = profile
    if force is None:
        _near_the_edge(label, tree, groups, rows)
    else:
        predictions = None
        try:
            predictions = predict_simulation.predict_simulation(tree, force["s"].values)
        except UserError as error:
            rows.append(_not_determined(label, "mean_force", str(error)))
        result, new = comparisons.mean_force.against_theory(label, force, predictions, exact=True, quantity="force")
        rows += new
        groups[f"mean_force/{label}"] = result
        if length is not None:
            potential, new = comparisons.effective_potential.against_theory(
                label, result, length, quantity="force", profile=profile
            )
            rows += new
            if potential is not None:
                groups[f"effective_potential/{label}"] = potential
    if density is not None:
        try:
            predicted = predict_simulation.predict_stationary(tree, density["s"].values)
            memory = _remembered(tree, density)
            result, new = comparisons.stationary.against_theory(label, density, predicted, memory)
            groups[f"stationary/{label}"] = result
            rows += new
        except UserError as error:
            groups[f"stationary/{label}"] = density
            rows.append(_not_determined(label, "stationary", str(error)))
    if relaxed is not None:
        positions = None
        try:
            positions = predict_simulation.predict_relaxation(tree, relaxed["start"].values, relaxed["time"].values)
        except UserError as error:
            rows.append(_not_determined(label, "relaxation", str(error)))
        groups[f"relaxation/{label}"], new = comparisons.relaxation.against_theory(label, relaxed, predicted=positions)
        rows += new


def network(network: xr.DataTree, simulations: Sequence[Run], groups: dict[str, xr.Dataset], rows: list[Row]) -> None:
    label = "network"
    profile, relaxed, path = (_of_one_setting(label, network, name, rows) for name in ("profile", "relaxation", "path"))
    force = None if ladder.is_ladder(network) else _of_one_setting(label, network, "mean_force", rows)
    if ladder.is_ladder(network):
        limits, lines = comparisons.mean_force.ladder_limits(label, network["mean_force"].to_dataset())
        groups |= limits
        rows += lines
    length = summaries.arc_length(network)
    twins = {n: t for n, t in simulations if is_twin(t, network, length)}
    if profile is not None:
        groups[f"profile/{label}"] = profile
        rows += [criteria.path_is_flat(label, profile, path), criteria.curvature_rises(label, profile)]
    if profile is not None and "spectrum" in network.children:
        _spectrum(label, network, profile, groups, rows)
    if force is not None:
        predictions = _predictions(network, profile, force, twins, length, rows)
        result, new = comparisons.mean_force.against_theory(label, force, predictions, exact=False)
        groups[f"mean_force/{label}"] = result
        rows += criteria.force_confines(label, result)
        rows += new
        heating = criteria.heating_identity(label, force)
        rows += [heating] if heating is not None else []
        if length is not None:
            potential, new = comparisons.effective_potential.against_theory(label, result, length)
            rows += new
            if potential is not None:
                groups[f"effective_potential/{label}"] = potential
    if relaxed is not None:
        others = {n: d for n, t in twins.items() if (d := summaries.measurement(t, "relaxation")) is not None}
        predicted = _predicted_relaxation(network, profile, relaxed, length, rows)
        found, new = comparisons.relaxation.against_network_theory(label, relaxed, others, predicted)
        groups[f"relaxation/{label}"] = found
        rows += criteria.replicas_return(label, groups[f"relaxation/{label}"]) + new


def _near_the_edge(label: str, tree: xr.DataTree, groups: dict[str, xr.Dataset], rows: list[Row]) -> None:
    """A mean force at several learning rates against its divergence at the edge of stability, where that is known."""
    try:
        found = stability.edge_of_stability(tree)
    except UserError:
        return
    exact = 1 / (1 - found["eta_k"].values / float(found.attrs["stability_limit"]))
    measured = Estimate.independent(found["ratio"].values, found["ratio_stderr"].values)
    form = "over the small-step force, 1 / (1 − ηk / 2(1+β))"
    row, _, _ = formula_row(
        label, "mean_force", form, measured, Estimate.independent(exact, np.zeros_like(exact)), exact=True
    )
    most = f"up to ηk = {float(found['eta_k'].max()):.3g} of {float(found.attrs['stability_limit']):g}"
    rows.append(replace(row, statement=f"{row.statement}; {most}"))
    groups[f"stability/{label}"] = found.assign_attrs(statement=rows[-1].statement)


def _remembered(tree: xr.DataTree, density: xr.Dataset) -> float:
    """Largest deviation from the stationary density that its start has left, over the error there; 0 if not known."""
    try:
        left = predict_simulation.start_remembered(tree, density["s"].values)
    except UserError:
        return 0.0
    error = density["density_stderr"].values
    return float(np.max(np.abs(left[error > 0]) / error[error > 0], initial=0.0))


def _spectrum(
    label: str, network: xr.DataTree, profile: xr.Dataset, groups: dict[str, xr.Dataset], rows: list[Row]
) -> None:
    """The spectral density against the trace of the profile, as one formula where both are of all training samples."""
    spectrum, parameters = network["spectrum"].to_dataset(), network.attrs.get("parameters")
    samples, all_samples = spectrum.attrs.get("samples"), network.attrs.get("training_samples")
    same = samples is not None and all_samples is not None and int(samples) == int(all_samples)
    number = None if parameters is None else float(parameters)
    try:
        found, new = comparisons.spectrum.against_profile(label, spectrum, profile, number, same)
    except UserError as error:
        rows.append(_not_determined(label, "spectrum", str(error)))
        return
    groups[f"spectrum/{label}"] = found
    rows += new


def _of_one_setting(label: str, tree: xr.DataTree, name: str, rows: list[Row]) -> xr.Dataset | None:
    """`summaries.measurement`; for a scan None, and a line that says so, unless something else is about that scan."""
    try:
        return summaries.measurement(tree, name)
    except UserError as error:
        of_barriers = name == "mean_force" and "barrier" in tree.children
        if not of_barriers:
            rows.append(_not_determined(label, name, str(error)))
        return None


def _predictions(
    network: xr.DataTree,
    profile: xr.Dataset | None,
    force: xr.Dataset,
    twins: dict[str, xr.DataTree],
    length: float | None,
    rows: list[Row],
) -> xr.Dataset | None:
    """All forms there are data for, on the force's s; a row for what is missing."""
    s = force["s"].values
    found: list[xr.Dataset] = []
    try:
        settings = _settings(network, profile, force, "mean_force", length)
        found.append(predict.predict_network(s=s, times=_window_times(force), **settings))
        rows += _left_out("mean_force", found[0])
    except UserError as error:
        rows.append(_not_determined("network", "mean_force", str(error)))
    forms = [str(f) for f in found[0]["form"].values] if found else []
    known = predict.estimate(found[0], predict.FINITE_RATE) if predict.FINITE_RATE in forms else None
    for label, twin in twins.items():
        simulated = summaries.measurement(twin, "mean_force")
        if simulated is not None:
            found.append(comparisons.mean_force.simulated_form(label, simulated, s, known))
    if not found:
        return None
    return xr.concat(found, "form", data_vars="minimal", join="override", combine_attrs="override")


def _predicted_relaxation(
    network: xr.DataTree, profile: xr.Dataset | None, relaxed: xr.Dataset, length: float | None, rows: list[Row]
) -> xr.Dataset | None:
    """Every form's relaxation from the run's starts; a row for what is missing."""
    try:
        settings = _settings(network, profile, relaxed, "relaxation", length)
        found = predict_relaxation.predict_network_relaxation(
            starts=relaxed["start"].values, times=relaxed["time"].values, **settings
        )
    except UserError as error:
        rows.append(_not_determined("network", "relaxation", str(error)))
        return None
    rows += _left_out("relaxation", found)
    return found


def _left_out(measurement: str, predicted: xr.Dataset) -> list[Row]:
    """A row for each form that lacks data."""
    each = (text.partition(": ") for text in str(predicted.attrs.get("dropped", "")).split("; ") if text)
    return [
        Row("network", measurement, form, "formula", "not determined", f"not determined: {why}")
        for form, _, why in each
    ]


def _settings(
    network: xr.DataTree, profile: xr.Dataset | None, measured: xr.Dataset, name: str, length: float | None
) -> dict[str, Any]:
    """What `predict` needs besides places: the profile with the noise of this measurement, and its rates. Raises
    UserError, in words, where something is missing."""
    rate = summaries.setting("learning_rate", measured, network.attrs)
    if profile is not None and _of_another_path(network, profile):
        raise UserError(f"the profile is of the straight line alone, the {_WHAT[name]} of another path")
    if profile is None or length is None or rate is None:
        lacking = [n for n, v in (("profile", profile), ("arc_length", length), ("learning_rate", rate)) if v is None]
        raise UserError(f"no prediction without {', '.join(lacking)}")
    noise = measured_settings(network).get(name, {}).get("noise")
    noise = noise if isinstance(noise, dict) else {}
    return {
        "profile": _with_noise(network, profile, noise),
        "arc_length": length,
        "learning_rate": rate,
        "momentum": summaries.setting("momentum", measured, network.attrs) or 0.0,
        "noise_factor": 1.0 if noise.get("type") == "Label" else _noise_factor(network, profile, measured),
    }


_WHAT = {"mean_force": "force", "relaxation": "relaxation"}


def _with_noise(network: xr.DataTree, profile: xr.Dataset, noise: Any) -> xr.Dataset:
    """The profile with the gradient noise that the dynamics added: as measured for minibatches, ``C = (σ²/B) H`` for
    label noise (exactly of the Gauss-Newton matrix, which H is where the labels are fitted; that of the minibatches is
    in the control). Raises UserError for other noise, of which the profile
    tells nothing."""
    kind = noise.get("type", "Minibatch")
    if kind == "Minibatch":
        return profile
    if kind != "Label":
        raise UserError(f"the profile holds the noise of minibatches, the dynamics had {kind} noise")
    batch = noise.get("batch_size") or network.attrs.get("training_samples")
    if not batch or "hessian_trace" not in profile:
        raise UserError("no prediction without the batch size of the label noise and a Hessian trace")
    c = float(noise["strength"]) ** 2 / float(batch)
    pairs = {
        "noise_trace": "hessian_trace",
        "noise_trace_transverse": "hessian_trace_transverse",
        "noise_eigenvalue": "hessian_eigenvalue",
    }
    names = {f"{a}{e}": f"{b}{e}" for a, b in pairs.items() for e in ("", "_stderr")}
    return profile.drop_vars(names, errors="ignore").assign(
        {a: c * profile[b] for a, b in names.items() if b in profile}
    )


def _window_times(force: xr.Dataset) -> np.ndarray | None:
    """Times over which the force was averaged: in each window the middle and ± 0.35 of its width, whose plain mean is
    that over the window to the third order (Chebyshev's rule)."""
    middle = force["time_window"].values.astype(float)
    if len(middle) < 2:
        return None if not (np.isfinite(middle).all() and middle[0] > 0) else middle
    half = 0.5 * float(np.diff(middle)[0])
    return np.concatenate([middle + x * half for x in (-1 / np.sqrt(2), 0.0, 1 / np.sqrt(2))])


def _of_another_path(network: xr.DataTree, profile: xr.Dataset) -> bool:
    """Whether the profile holds only the straight line, while the run's path is none."""
    finder = network["path"].attrs.get("finder") if "path" in network.children else None
    return [str(k) for k in profile["path_kind"].values] == ["line"] and finder not in (None, "StraightLine")


def _noise_factor(network: xr.DataTree, profile: xr.Dataset, force: xr.Dataset) -> float:
    """C of the dynamics over C of the profile: the inverse ratio of their batch sizes (1 if either is not told)."""
    ours = summaries.setting("batch_size", force, network.attrs)
    measured = summaries.setting("batch_size", profile, network.attrs)
    return measured / ours if ours and measured else 1.0


def is_twin(tree: xr.DataTree, network: xr.DataTree, length: float | None) -> bool:
    """On a path of the network's length, and, where it says whose twin it is, made from this network's profile."""
    if not _same_length(summaries.arc_length(tree), length):
        return False
    config = network["profile"].attrs.get("config") if "profile" in network.children else None
    if "twin_of" not in tree.attrs or config is None:
        return True
    return str(tree.attrs["twin_of"]) == config_hash(config)


def _same_length(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and abs(a - b) <= SAME_LENGTH * b


def _not_determined(label: str, measurement: str, reason: str) -> Row:
    return Row(label, measurement, "prediction", "formula", "not determined", f"not determined: {reason}")
