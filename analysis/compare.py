"""Theory and network side by side: `compare` (Python), `entropic compare`, `python -m analysis.compare`.

A comparison is a tree with `source` "analysis". Its groups, each named by the label of the run it is about:

    table                        one row per formula, criterion or result (dim row; `agreement.Row` names the columns)
    profile/<label>              the run's profile as it is
    mean_force/<label>           s: force, control, net (each with _stderr); form, s: predicted (+ _stderr,
                                 predicted_covariance), difference, z, ratio, ratio_low, ratio_high; form: formula,
                                 overall_ratio (+ _low, _high), chi_squared, degrees_of_freedom, p_value, verdict
    effective_potential/<label>  s: potential (+ _stderr, covariance), arc_length; form, s: predicted (+ _stderr);
                                 barrier_left, barrier_right (+ _stderr), barrier_position
    ladder/<label>               mean force at several strengths of noise: its ratio to theory at zero noise, see
                                 `analysis.ladder.extrapolate`; ladder_formula/<label> over the stationary formula
    ladder_sensitivity/<label>   choice: the limit under other choices of the analysis
    vanishing/<label>, scaling/<label>, arrhenius/<label>
                                 what a scan of barriers or escapes says, see `analysis.barriers`
    relaxation/<label>           control, start, time: position (+ _stderr); control, start: displacement (+ _stderr),
                                 own_side, replicas; form, start, time: position_predicted (simulations)
    stationary/<label>           s: density, free_energy (+ _stderr); form, s: density_predicted, density_z, …
    between/<label> and <label>/<measurement>…
                                 two runs held against each other, see `analysis.comparisons._pair.pair`

Forces are per arc length (loss / parameter), potentials in loss; two runs are aligned at the same s, and their forces
compared only where their paths have the same length. Intervals hold 68 %.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
import xarray as xr

from analysis import agreement, comparisons, criteria, ladder, predict, predict_simulation, runs, summaries
from analysis.agreement import Row
from analysis.comparisons._pair import SAME_LENGTH
from analysis.runs import Run
from analysis.uncertainty import SIGMAS
from entropy_sim.errors import UserError, require
from entropy_sim.run_files import config_hash, output_state, provenance, write_tree


@dataclass(frozen=True)
class Compare:
    """Compare simulations with a network's run: comparison.nc, figures and report.html.

    Which side a file is on stands in the file. Any measurement may be missing; what lacks data is reported as not
    determined. A simulation on a path of the network's length is taken as its twin (if it says whose it is: of
    this network only), and compared point by point.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("simulation.nc"), Path("network.nc"))
    """simulations and networks, in any order, and patterns ('runs/*/network.nc'): runs that differ in their seeds alone
    are combined; further networks are compared with the first"""
    out: Path = Path("comparison")
    """directory of comparison.nc, figures/ and report.html"""
    overwrite: bool = False
    """replace a comparison of other runs"""
    alignment: comparisons.Alignment = comparisons.Alignment()  # noqa: RUF009 (frozen)
    """how the second of two runs in different units is brought onto the first"""

    def __post_init__(self) -> None:
        require(len(self.files) > 0, "files", "at least one netCDF file", self.files)

    def run(self) -> xr.DataTree:
        """Compare, and write everything into `out`. Raises UserError for files that cannot be compared."""
        from analysis.report import write_figures, write_report

        simulations, networks = runs.read(self.files)
        network = networks[0][1] if networks else None
        tree = compare(simulations, network, networks[1:], self.alignment)
        path = self.out / "comparison.nc"
        output_state(path, json.loads(tree.attrs["config"]), overwrite=self.overwrite)
        write_tree(tree, path)
        figures = write_figures(self.out, simulations, network, tree)
        write_report(self.out, tree, simulations, network, figures)
        return tree


def compare(
    simulations: Sequence[Run],
    network: xr.DataTree | None = None,
    others: Sequence[Run] = (),
    alignment: comparisons.Alignment = comparisons.Alignment(),  # noqa: B008 (frozen)
) -> xr.DataTree:
    """The comparison (see the module's docstring) of (label, run) pairs and a network's run, each a tree of the schema.

    Simulations are held against the exact forms of theory.py for their own noise and dynamics; the network against the
    forms of `predict.predict_network` and against the simulation of its twin. Two runs are held against each other
    measurement by measurement where that means something: the network and its twins, the network and `others` (networks
    too), and, without a network, the first simulation and the rest; with an `alignment` of units, the network and every
    simulation. Raises UserError if there is nothing to compare, or labels repeat or collide with "network".
    """
    labels = [label for label, _ in [*simulations, *others]] + (["network"] if network is not None else [])
    require(len(labels) > 0, "files", "at least one run", labels)
    require(len(set(labels)) == len(labels), "labels", "different labels, none of them 'network'", labels)
    groups: dict[str, xr.Dataset] = {}
    rows: list[Row] = []
    if network is not None:
        _network(network, simulations, groups, rows)
    for label, tree in _with_profiles(simulations):
        _simulation(label, tree, groups, rows)
    for label, tree in [*([("network", network)] if network is not None else []), *simulations, *others]:
        found, new = comparisons.barrier.scans(label, tree)
        groups |= found
        rows += new
    for a, b, measurements in _pairs(simulations, network, others, alignment):
        label = f"{a[0]} and {b[0]}"
        found, new = comparisons.all_between(label, a[1], b[1], alignment, measurements)
        groups |= {f"between/{label}/{name}": dataset for name, dataset in found.items()}
        told = {r.measurement for r in rows if r.quantity == f"simulated: {b[0]}"}
        rows += [r for r in new if r.measurement not in told]
    if not rows:
        raise UserError(
            "files: expected profile, mean_force, relaxation or stationary in one of the runs, or a measurement that "
            "two of them share, found none"
        )
    groups["table"] = agreement.as_dataset(rows)
    trees = [*simulations, *others, *([("network", network)] if network is not None else [])]
    config = {
        "type": "Comparison",
        "sigmas": SIGMAS,
        "runs": {label: summaries.configuration(tree.attrs) for label, tree in trees},
    }
    result = xr.DataTree.from_dict({name: _storable(dataset) for name, dataset in groups.items()})
    result.attrs = provenance(
        source="analysis",
        system="; ".join(f"{label}: {tree.attrs.get('system', 'unknown')}" for label, tree in trees),
        config=config,
        noise="; ".join(f"{label}: {tree.attrs.get('noise', 'unknown')}" for label, tree in trees),
        seed=0,
        threads=1,
    )
    return result


def _pairs(
    simulations: Sequence[Run],
    network: xr.DataTree | None,
    others: Sequence[Run],
    alignment: comparisons.Alignment,
) -> Iterator[tuple[Run, Run, tuple[str, ...]]]:
    """Which runs to hold against each other, and in what: a network's profile and its twin's are the same."""
    everything = comparisons.MEASUREMENTS
    if network is None:
        for other in simulations[1:]:
            yield simulations[0], other, everything
        return
    length = summaries.arc_length(network)
    for other in others:
        yield ("network", network), other, everything
    for label, tree in simulations:
        if alignment != comparisons.Alignment():
            yield ("network", network), (label, tree), everything
        elif _is_twin(tree, network, length):
            yield ("network", network), (label, tree), tuple(m for m in everything if m != "profile")


def _with_profiles(simulations: Sequence[Run]) -> list[Run]:
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
        elif {"mean_force", "stationary", "relaxation"} & set(tree.children):
            tree = predict_simulation.with_profile(tree)
        result.append((label, tree))
    return result


def _storable(dataset: xr.Dataset) -> xr.Dataset:
    """Attributes that netCDF can hold."""
    result = dataset.copy()
    result.attrs = {k: int(v) if isinstance(v, (bool, np.bool_)) else v for k, v in dataset.attrs.items()}
    return result


# --- one run --------------------------------------------------------------------------------------------------------


def _simulation(label: str, tree: xr.DataTree, groups: dict[str, xr.Dataset], rows: list[Row]) -> None:
    profile, force, relaxed, density = (
        summaries.measurement(tree, name) for name in ("profile", "mean_force", "relaxation", "stationary")
    )
    length = summaries.arc_length(tree)
    if profile is not None:
        groups[f"profile/{label}"] = profile
    if force is not None:
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
            groups[f"stationary/{label}"], new = comparisons.stationary.against_theory(label, density, predicted)
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


def _network(network: xr.DataTree, simulations: Sequence[Run], groups: dict[str, xr.Dataset], rows: list[Row]) -> None:
    label = "network"
    profile, relaxed, path = (summaries.measurement(network, name) for name in ("profile", "relaxation", "path"))
    force = None if ladder.is_ladder(network) else summaries.measurement(network, "mean_force")
    if ladder.is_ladder(network):
        limits, lines = comparisons.mean_force.ladder_limits(label, network["mean_force"].to_dataset())
        groups |= limits
        rows += lines
    length = summaries.arc_length(network)
    twins = {n: t for n, t in simulations if _is_twin(t, network, length)}
    if profile is not None:
        groups[f"profile/{label}"] = profile
        rows += [criteria.path_is_flat(label, profile, path), criteria.curvature_rises(label, profile)]
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
        groups[f"relaxation/{label}"], new = comparisons.relaxation.against_theory(label, relaxed, others)
        rows += criteria.replicas_return(label, groups[f"relaxation/{label}"]) + new


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
    rate = summaries.setting("learning_rate", force, network.attrs)
    if profile is None or length is None or rate is None:
        lacking = [n for n, v in (("profile", profile), ("arc_length", length), ("learning_rate", rate)) if v is None]
        rows.append(_not_determined("network", "mean_force", f"no prediction without {', '.join(lacking)}"))
    else:
        try:
            found.append(
                predict.predict_network(
                    profile,
                    arc_length=length,
                    learning_rate=rate,
                    momentum=summaries.setting("momentum", force, network.attrs) or 0.0,
                    noise_factor=_noise_factor(network, profile, force),
                    s=s,
                )
            )
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


def _noise_factor(network: xr.DataTree, profile: xr.Dataset, force: xr.Dataset) -> float:
    """C of the dynamics over C of the profile: the inverse ratio of their batch sizes (1 if either is not told)."""
    ours = summaries.setting("batch_size", force, network.attrs)
    measured = summaries.setting("batch_size", profile, network.attrs)
    return measured / ours if ours and measured else 1.0


def _is_twin(tree: xr.DataTree, network: xr.DataTree, length: float | None) -> bool:
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


def main(arguments: Sequence[str], prog: str = "python -m analysis.compare") -> None:
    """Parse `Compare` from the command line, run it and print the table."""
    from analysis.options import parse

    parsed: Any = parse(Compare, arguments, prog=prog, default=Compare(), description=Compare.__doc__ or "")
    tree = parsed.run()
    for row in agreement.rows(tree["table"].to_dataset()):
        print(f"{row.run:12} {row.measurement:20} {row.quantity}: {row.statement}")
    print(f"wrote {parsed.out / 'comparison.nc'}, {parsed.out / 'report.html'}")


if __name__ == "__main__":
    from analysis.cli import main as command_line

    sys.exit(command_line(["compare", *sys.argv[1:]]))
