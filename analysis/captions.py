"""What the report says: the finding, what was run, and the captions, all computed from the data and the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from analysis import summaries
from analysis.agreement import Row, number, plus_minus, words
from analysis.predict import path_profile
from entropy_sim.schema import GROUPS


def _find(rows: Sequence[Row], run: str, measurement: str, kind: str | None = None) -> list[Row]:
    return [r for r in rows if r.run == run and r.measurement == measurement and kind in (None, r.kind)]


def between_caption(name: str, ds: xr.Dataset, first: str, second: str) -> str:
    """Two runs overlaid: what is drawn, and what their difference says."""
    drawn = {
        "relaxation": f"Position along the path of {first} (lines) and {second} (dashed), from the starts both have",
        "effective_potential": f"Effective potential of {first} and {second}, the integral of minus the mean force",
        "escape": f"Share of replicas that have not escaped, {first} (lines) and {second} (dashed)",
    }.get(name, f"{name.replace('_', ' ').capitalize()} of {first} and {second}")
    z, ratio = float(ds["overall_z"]), float(ds["overall_ratio"]) if "overall_ratio" in ds else np.nan
    if not np.isfinite(z):
        return f"{drawn}. Whether they differ is not determined."
    words = f"{drawn}. They {'agree' if ds.attrs['verdict'] == 'agrees' else 'differ'} (z = {z:.1f}"
    if np.isfinite(ratio):
        half = 0.5 * (float(ds["overall_ratio_high"]) - float(ds["overall_ratio_low"]))
        return f"{words}; {first}/{second} = {plus_minus(ratio, half)})."
    return f"{words})."


# --- the finding ----------------------------------------------------------------------------------------------------


def finding(rows: Sequence[Row]) -> tuple[str, list[Row]]:
    """The headline, and the rows that carry it: the network's criteria, results and formulas; without a network, the
    simulations' formulas."""
    network = [r for r in rows if r.run == "network"]
    if not network:
        formulas = [r for r in rows if r.kind == "formula"]
        return _simulator_headline(formulas), formulas
    force = [r for r in network if r.measurement == "mean_force" and r.kind == "criterion"]
    relaxed = [r for r in network if r.measurement == "relaxation" and r.kind == "criterion"][:1]
    formulas = [r for r in network if r.measurement == "mean_force" and r.kind == "formula" and np.isfinite(r.ratio)]
    parts = [_force_headline(force, relaxed)]
    predictions = [r for r in formulas if not r.quantity.startswith("stationarity")]
    if predictions:
        parts.append(_theory_headline(predictions))
    return " ".join(parts), [
        *[r for r in network if r.kind != "formula" and r.quantity[:12] != "displacement"],
        *formulas,
    ]


def _force_headline(force: Sequence[Row], relaxed: Sequence[Row]) -> str:
    if force and all(r.verdict == "met" for r in force):
        text = "The noise of SGD pushes this network off the middle of the path, towards both ends"
    elif any(r.verdict == "not met" for r in force):
        text = "A force towards the ends of the path was not established on both sides"
    else:
        text = "The force along the path of this network is not determined"
    if relaxed and relaxed[0].verdict == "met":
        return f"{text}, and SGD released on the path moves towards them."
    if relaxed and relaxed[0].verdict == "not met":
        return f"{text}; SGD released on the path does not return from every start."
    return f"{text}."


def _theory_headline(formulas: Sequence[Row]) -> str:
    agreeing = [r for r in formulas if r.verdict == "agrees"]
    ratios = [r.ratio for r in formulas]
    span = f"{min(ratios):.2g}" if len(ratios) == 1 else f"{min(ratios):.2g} to {max(ratios):.2g}"
    if len(agreeing) == len(formulas):
        return f"Theory predicts its size: measured/predicted = {span}."
    if not agreeing:
        differs = sum(r.verdict == "disagrees" for r in formulas)
        return (
            f"Its size disagrees with {differs} of {len(formulas)} predictions: measured/predicted = {span}."
            if differs
            else f"Its size does not settle any of {len(formulas)} predictions: measured/predicted = {span}."
        )
    names = ", ".join(r.quantity for r in agreeing)
    return (
        f"Its size agrees with {len(agreeing)} of {len(formulas)} predictions ({names}): measured/predicted = {span}."
    )


def _simulator_headline(formulas: Sequence[Row]) -> str:
    agreeing = sum(r.verdict == "agrees" for r in formulas)
    differs = sum(r.verdict == "disagrees" for r in formulas)
    return f"The simulations agree with {agreeing} of {len(formulas)} formulas and disagree with {differs}."


# --- what was run ---------------------------------------------------------------------------------------------------


def what_was_run(simulations: Sequence[tuple[str, xr.DataTree]], network: xr.DataTree | None) -> list[str]:
    """Paragraphs in plain words, from the attributes of the runs."""
    paragraphs = []
    if network is not None:
        paragraphs.append(_network_words(network))
        paragraphs += [text for text in (_batch_words(network), _objective_words(network)) if text]
    for label, tree in simulations:
        done = ", ".join(name.replace("_", " ") for name in tree.children if name in GROUPS)
        system, noise, dynamics = (tree.attrs.get(name, "unknown") for name in ("system", "noise", "dynamics"))
        text = f"Simulation “{label}”: landscape {system}, noise {noise}, dynamics {dynamics}"
        steps = ", ".join(f"{step:g}" for step in np.atleast_1d(tree.attrs.get("time_step", [])))  # of a scan: several
        step = f" with a time step of {steps}" if steps else ""
        paragraphs.append(f"{text}{step}. Measured: {done}.")
    return paragraphs


def _network_words(network: xr.DataTree) -> str:
    attrs = network.attrs
    done = ", ".join(name.replace("_", " ") for name in network.children if name in GROUPS)
    text = f"Network: {attrs.get('system', 'unknown')}; noise: {attrs.get('noise', 'unknown')}. Measured: {done}."
    length = summaries.arc_length(network)
    if length is not None:
        text += f" The path between the two minima is {length:.3g} long in parameter space."
    for name in ("mean_force", "relaxation"):
        if name in network.children:
            found = network[name].attrs
            settings = [
                f"{title} {found[key]:g}"
                for key, title in (
                    ("learning_rate", "learning rate"),
                    ("momentum", "momentum"),
                    ("weight_decay", "weight decay"),
                    ("batch_size", "batch size"),
                )
                if key in found
            ]
            if settings:
                text += f" {name.replace('_', ' ').capitalize()}: SGD with {', '.join(settings)}."
    return text


def _batch_words(network: xr.DataTree) -> str:
    """What a full batch is, from group_size, normalization_mode and the control's own words."""
    groups = {int(n.attrs["group_size"]) for n in network.children.values() if n.attrs.get("group_size")}
    mode = network.attrs.get("normalization_mode")
    controls = {name: str(n.attrs["control"]) for name, n in network.children.items() if "control" in n.attrs}
    text = ""
    if mode == "batch" and groups:
        size = " or ".join(map(str, sorted(groups)))
        text = (
            f"The network normalises by batch statistics, so its output for one image depends on the others in the "
            f"batch, and the loss is a function of the group size: here images are always normalised in groups of "
            f"{size}. A minibatch averages its groups; a full batch averages all groups of one fixed partition of the "
            f"training set. Every batch size thus estimates the same function."
        )
    elif mode == "batch":
        text = "The network does not normalise over the batch: a full batch is the mean over the training set."
    elif mode == "evaluation":
        text = "BatchNorm is in evaluation mode: a full batch is the mean over the training set."
    for name, control in controls.items():
        if control != "none":
            text += f" The noise-free control of the {name.replace('_', ' ')} is a {control}."
    return text.strip()


def _objective_words(network: xr.DataTree) -> str:
    """Where weight decay entered, if it did not enter everywhere alike: another objective for each stage."""
    config = summaries.configuration(network.attrs)
    if isinstance(config, dict) and "path" not in network.children:
        config = config.get("barrier")  # a scan of barriers trains, finds paths and measures with settings of its own
    stages = {"training": "training", "path": "path finding", "mean_force": "mean force", "relaxation": "relaxation"}
    found = {
        words: float(config[stage]["weight_decay"])
        for stage, words in stages.items()
        if isinstance(config, dict) and "weight_decay" in (config.get(stage) or {})
    }
    if len(set(found.values())) < 2:
        return ""
    decays = ", ".join(f"{words} {value:g}" for words, value in found.items())
    return (
        f"The stages did not all descend the same objective. Weight decay: {decays}. So the trained ends of the path "
        "have a small gradient of the loss alone; the noise-free controls, which have the weight decay of their "
        "measurement, show what it does, and are subtracted. The loss shown never contains the weight-decay penalty."
    )


# --- captions -------------------------------------------------------------------------------------------------------


def profile_caption(variable: str, profile: xr.Dataset, rows: Sequence[Row], run: str) -> str:
    """What one variable does along the path, in numbers."""
    p = path_profile(profile)
    values, s = p[variable].values, p["s"].values
    name = str(p[variable].attrs.get("long_name", variable))
    name = name[0].upper() + name[1:]
    if values.ndim > 1:
        return f"The {values.shape[-1]} largest Hessian eigenvalues along the path."
    if variable == "loss":
        flat = [r for r in _find(rows, run, "profile") if "straight line" in r.quantity and np.isfinite(r.measured)]
        text = f"{name} along the path: {number(np.min(values))} to {number(np.max(values))}."
        return f"{text} The path's {words(flat[0])} of the straight line's barrier." if flat else text
    middle, ends = values[np.argmin(np.abs(s - 0.5))], 0.5 * (values[0] + values[-1])
    text = f"{name}: {number(ends)} at the ends, {number(middle)} at the middle"
    text += f", a factor of {middle / ends:.3g}." if ends > 0 and middle > 0 else "."
    if variable == "hessian_trace":
        rise = [r for r in _find(rows, run, "profile") if r.quantity.startswith("Tr H")]
        text += f" Times the squared norm of the parameters, the factor is {words(rise[0])}." if rise else ""
    return text


def force_caption(rows: Sequence[Row], run: str) -> str:
    """The mean force and its two criteria (network), or its formulas (simulation)."""
    sides = _find(rows, run, "mean_force", "criterion")
    text = "The mean force along the path (negative: towards s = 0), from dynamics constrained to planes normal to it"
    if not sides:
        return f"{text}."
    parts = (f"{name} half, {words(r)}" for name, r in zip(("left", "right"), sides, strict=False))
    return f"{text}, with noise and without. Control subtracted: {'; '.join(parts)}."


def windows_caption(dataset: xr.Dataset) -> str:
    """How far the size of the force in the last window is from that in the first."""
    mean = abs(dataset["mean_force"].mean("replica", skipna=True)).mean("s", skipna=True).values
    if not (np.isfinite(mean[[0, -1]]).all() and mean[0] > 0):
        return "The force in each time window; no plateau can be judged."
    return (
        f"The force in each time window. Averaged over the positions, its size in the last window is "
        f"{mean[-1] / mean[0]:.2g} times that in the first (1 would be a plateau)."
    )


def comparison_caption(rows: Sequence[Row], run: str, measurement: str = "mean_force") -> str:
    """Every formula with its verdict."""
    found = [r for r in _find(rows, run, measurement, "formula") if not r.quantity.startswith("stationarity")]
    if not found:
        return "No prediction could be made."
    return "Against theory: " + "; ".join(f"{r.quantity} — {r.statement}" for r in found) + "."


def ratio_caption(force: xr.Dataset) -> str:
    """What the ratio's figure shows, and which points it cannot: those without a bounded interval."""
    text = "Measured over predicted force at each position, with 68 % intervals; 1 is agreement."
    missing = []
    for form in map(str, force["form"].values):
        one = force.sel(form=form)
        bounded = np.isfinite([one[name].values for name in ("ratio", "ratio_low", "ratio_high")]).all(0)
        at = force["s"].values[~bounded]
        missing += [f"{form} at s = {', '.join(f'{s:.2g}' for s in at)}"] if at.size else []
    return (
        f"{text} Not shown, as the interval is unbounded or there is no value: {'; '.join(missing)}."
        if missing
        else text
    )


def stationary_caption(rows: Sequence[Row], run: str, variable: str) -> str:
    """The verdicts on the density or the free energy alone."""
    name = variable.replace("_", " ")
    what = {"density": "Stationary density of s", "free_energy": "Free energy, minus the logarithm of the density of s"}
    found = [r for r in _find(rows, run, "stationary", "formula") if r.quantity.startswith(name)]
    against = "; ".join(f"{r.quantity.removeprefix(name + ', ')} — {r.statement}" for r in found)
    return (
        f"{what[variable]}. Against theory: {against}." if found else f"{what[variable]}. No prediction could be made."
    )


def potential_caption(rows: Sequence[Row], run: str) -> str:
    """The barrier's height."""
    found = _find(rows, run, "effective_potential", "result")
    height = words(found[0]) if found else "not determined"
    return f"The effective potential, the integral of minus the mean force. Entropic barrier: {height}."


def relaxation_caption(rows: Sequence[Row], run: str) -> str:
    """Both criteria of the relaxation (network), or its formulas (simulation)."""
    found = _find(rows, run, "relaxation", "criterion")
    if not found:
        return f"Position along the path of replicas released on it. {comparison_caption(rows, run, 'relaxation')}"
    text = f"Replicas released on the path, displacement towards their own end: {words(found[0])}."
    text += f" Without noise: {words(found[1])}." if len(found) > 1 else ""
    vertex = [r for r in _find(rows, run, "relaxation", "result") if r.quantity.startswith("starts on a vertex")]
    return f"{text} From {vertex[0].statement}." if vertex else text


def relaxation_table(relaxed: xr.Dataset) -> str:
    """Displacements from every start, as one phrase (for the figure's text alternative)."""
    noisy = relaxed.sel(control=0)
    return ", ".join(
        f"from s = {start:.2g} by {plus_minus(float(d), float(e))}"
        for start, d, e in zip(
            noisy["start"].values, noisy["displacement"].values, noisy["displacement_stderr"].values, strict=True
        )
        if np.isfinite(d)
    )
