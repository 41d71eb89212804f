"""Theory and network side by side: `compare` (Python), `entropic compare`, `python -m analysis.compare`.

A comparison is a tree with `source` "analysis". Its groups, each named by the label of the run it is about:

    table                        one row per formula, criterion or result (dim row; `agreement.Row` names the columns)
    profile/<label>              the run's profile as it is
    spectrum/<label>             Tr H from the spectral density and from probes, see `comparisons.spectrum`
    barrier/<label>              entropic heights measured and exact (simulations), as a `_pair.pair`
    mean_force/<label>           s: force, control, net (each with _stderr); form, s: predicted (+ _stderr,
                                 predicted_covariance); forms as in `comparisons._forms`
    effective_potential/<label>  s: potential (+ _stderr, covariance), arc_length; form, s: predicted (+ _stderr) and
                                 forms; barrier_left, barrier_right (+ _stderr), barrier_position
    ladder/<label>               mean force at several strengths of noise: its ratio to theory at zero noise, see
                                 `analysis.ladder.extrapolate`; ladder_formula/<label> over the stationary formula
    ladder_sensitivity/<label>   choice: the limit under other choices of the analysis
    stability/<label>            a mean force scanned over the learning rate, see `analysis.stability`
    vanishing/<label>, scaling/<label>, arrhenius/<label>
                                 what a scan of barriers or escapes says, see `analysis.barriers`
    relaxation/<label>           control, start, time: position (+ _stderr); control, start: displacement (+ _stderr),
                                 own_side, replicas; form, start, time: position_predicted, forms (simulations)
    stationary/<label>           s: density, free_energy (+ _stderr); form, s: density_predicted, …; density_ and
                                 free_energy_ before the names of the forms' variables
    between/<label> and <label>/<measurement>…
                                 two runs held against each other, see `analysis.comparisons._pair.pair`

Against forms of theory: form, s: difference, z, ratio (+ _low, _high); form: formula, overall_ratio (+ _low, _high),
chi_squared, degrees_of_freedom, p_value, verdict. Forces are per arc length (loss / parameter), potentials in loss; two
runs are aligned at the same s, and their forces compared only where their paths have the same length. Intervals hold
68 %.
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

from analysis import agreement, comparisons, one_run, runs, summaries
from analysis.agreement import Row
from analysis.runs import Run
from analysis.uncertainty import SIGMAS
from entropy_sim.errors import UserError, require
from entropy_sim.run_files import output_state, provenance, write_tree


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
        write_report(self.out, tree, simulations, network, figures, files=runs.expand(self.files))
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
        one_run.network(network, simulations, groups, rows)
    for label, tree in one_run.with_profiles(simulations):
        one_run.simulation(label, tree, groups, rows)
    everything = [*([("network", network)] if network is not None else []), *simulations, *others]
    for label, tree in everything:
        found, new = comparisons.barrier.scans(label, tree, one_run.with_related(tree, everything))
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
    trees = [*everything[1:], everything[0]] if network is not None else everything
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
        elif one_run.is_twin(tree, network, length):
            yield ("network", network), (label, tree), tuple(m for m in everything if m != "profile")


def _storable(dataset: xr.Dataset) -> xr.Dataset:
    """Attributes that netCDF can hold."""
    result = dataset.copy()
    result.attrs = {k: int(v) if isinstance(v, (bool, np.bool_)) else v for k, v in dataset.attrs.items()}
    return result


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
