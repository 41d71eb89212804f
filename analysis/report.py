"""The report: figures with computed captions, and one self-contained HTML file to be mailed.

Everything is embedded (figures as data URIs, style inline); nothing is fetched when it is read.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import xarray as xr
from matplotlib.axes import Axes

from analysis import agreement, captions, explanation, plots, summaries
from analysis.ladder import is_ladder
from analysis.uncertainty import SIGMAS
from entropy_sim.run_files import write_whole

Run = tuple[str, xr.DataTree]

#: Panels of a network's profile in the report, as far as measured; `entropic plot` draws all of them.
NETWORK_PANELS = ("loss", "test_error", "hessian_trace", "hessian_trace_normalized", "noise_trace")
SIMULATION_PANELS = ("hessian_trace",)


class Figure(NamedTuple):
    """A figure on disk, the caption that states its finding, its text alternative and the run it belongs to."""

    path: Path
    caption: str
    alt: str
    run: str


def write_figures(
    directory: Path | str,
    simulations: Sequence[Run],
    network: xr.DataTree | None,
    comparison: xr.DataTree,
    formats: Sequence[str] = ("png", "svg"),
) -> list[Figure]:
    """Draw the comparison into `directory`/figures, once per format; the figures of the first format, in order.

    formats: png first (the report embeds it), then any of svg and pdf. The network's figures come first.
    """
    runs = [*([("network", network)] if network is not None else []), *simulations]
    written = []
    for label, tree in runs:
        for name, ax, caption, alt in _figures(label, tree, comparison):
            stem = Path(directory) / "figures" / f"{label}_{name}".replace(" ", "_")
            paths = [plots.save(ax.figure, stem.with_name(f"{stem.name}.{kind}")) for kind in formats]  # type: ignore[arg-type]
            written.append(Figure(paths[0], caption, alt, label))
    return written


def _figures(label: str, tree: xr.DataTree, comparison: xr.DataTree) -> Iterator[tuple[str, Axes, str, str]]:
    """(name, axes, caption, text alternative) of one run."""
    rows = agreement.rows(comparison["table"].to_dataset())

    def group(name: str) -> xr.Dataset | None:
        path = f"{name}/{label}"
        return comparison[path].to_dataset() if name in comparison and label in comparison[name].children else None

    if label == "network" and set(plots.OVERVIEW_GROUPS) <= set(tree.children) and not is_ladder(tree):
        yield (
            "overview",
            plots.plot_overview(tree).axes[0],
            captions.finding(rows)[0],
            "loss, curvature, force, relaxation",
        )
    profile = group("profile")
    if profile is not None:
        for variable in plots.panels(profile, NETWORK_PANELS if label == "network" else SIMULATION_PANELS):
            name = str(profile[variable].attrs["long_name"])
            caption = captions.profile_caption(variable, profile, rows, label)
            yield f"profile_{variable}", plots.plot_profile(profile, variable), caption, f"{name} against s"
    for name in ("ladder", "ladder_formula"):
        limit = group(name)
        if limit is not None:
            yield name, plots.plot_ladder(limit), str(limit.attrs["statement"]), "ratio of forces against the noise"
    force = group("mean_force")
    if force is not None:
        caption = captions.force_caption(rows, label)
        if "control" in force or "predicted" not in force:
            yield "mean_force", plots.plot_mean_force(force), caption, "mean force along the path against s"
        raw = summaries.measurement(tree, "mean_force")
        if label == "network" and raw is not None and raw.sizes["time_window"] > 1:
            alt = "mean force in each time window"
            yield "mean_force_windows", plots.plot_mean_force_windows(raw), captions.windows_caption(raw), alt
        if "predicted" in force:
            caption = captions.comparison_caption(rows, label)
            yield "mean_force_comparison", plots.plot_force_comparison(force), caption, "measured and predicted force"
            if label == "network":
                caption = captions.ratio_caption(force)
                yield "mean_force_ratio", plots.plot_force_ratio(force), caption, "measured over predicted force"
    potential = group("effective_potential")
    if potential is not None:
        caption = captions.potential_caption(rows, label)
        yield "effective_potential", plots.plot_effective_potential(potential), caption, "effective potential against s"
    relaxed = group("relaxation")
    if relaxed is not None:
        raw = summaries.measurement(tree, "relaxation")
        alt = f"position against time; displacement towards the own end {captions.relaxation_table(relaxed)}"
        caption = captions.relaxation_caption(rows, label)
        yield (
            "relaxation",
            plots.plot_relaxation(relaxed if raw is None or "form" in relaxed.dims else raw),
            caption,
            alt,
        )
    yield from plots.further_figures(label, tree, comparison)
    yield from _pairs(label, comparison)
    density = group("stationary")
    if density is not None:
        for variable in ("density", "free_energy"):
            if variable in density:
                caption = captions.stationary_caption(rows, label, variable)
                yield f"stationary_{variable}", plots.plot_stationary(density, variable), caption, f"{variable} of s"


#: Comparisons of two runs that are drawn in the report, where there are any.
PAIRS = ("relaxation", "effective_potential", "escape", "barrier_entropic_barrier")


def _pairs(label: str, comparison: xr.DataTree) -> Iterator[tuple[str, Axes, str, str]]:
    """The run and another one, overlaid."""
    for both, node in comparison["between"].children.items() if "between" in comparison.children else ():
        first, _, second = both.partition(" and ")
        for name in PAIRS if first == label else ():
            if name in node.children:
                ds = node[name].to_dataset()
                ax, caption = plots.draw_between(name, ds, both), captions.between_caption(name, ds, first, second)
                yield f"{name}_and_{second}", ax, caption, f"{name.replace('_', ' ')} of {first} and {second}"


def write_report(
    directory: Path | str,
    comparison: xr.DataTree,
    simulations: Sequence[Run],
    network: xr.DataTree | None,
    figures: Sequence[Figure],
    title: str = "Entropic forces: theory against network",
    files: Sequence[Path] = (),
) -> Path:
    """Write `directory`/report.html, whole or not at all; its path. Links go to the netCDF files beside it, and to
    `files`, those that were compared, relative to it."""
    directory = Path(directory)
    rows = agreement.rows(comparison["table"].to_dataset())
    headline, evidence = captions.finding(rows)
    runs = [*([("network", network)] if network is not None else []), *simulations]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("report.html").render(
        title=title,
        headline=headline,
        evidence=evidence,
        counts=agreement.count(rows),
        what_was_run=captions.what_was_run(simulations, network),
        why=explanation.why_sizes_differ(rows, network),
        figures=[_embedded(f) for f in figures],
        rows=rows,
        sigmas=SIGMAS,
        formulas=_formulas(comparison),
        dropped=_dropped(comparison),
        configurations=[(label, _pretty(tree)) for label, tree in runs],
        provenance=[(label, _provenance(tree)) for label, tree in [*runs, ("comparison", comparison)]],
        files=_links(directory, files),
    )
    path = directory / "report.html"
    return write_whole(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))


def _links(directory: Path, files: Sequence[Path]) -> list[str]:
    """The netCDF files in the directory, and the others, each relative to it and once; none on another drive."""
    found = {p.name: None for p in sorted(directory.glob("*.nc"))}
    for path in files:
        with contextlib.suppress(ValueError):
            found[Path(os.path.relpath(path.resolve(), directory.resolve())).as_posix()] = None
    return list(found)


def _embedded(figure: Figure) -> dict[str, str]:
    kind = {"png": "png", "svg": "svg+xml"}[figure.path.suffix.removeprefix(".")]
    data = base64.b64encode(figure.path.read_bytes()).decode("ascii")
    return {
        "source": f"data:image/{kind};base64,{data}",
        "caption": figure.caption,
        "alt": figure.alt,
        "run": figure.run,
        "name": figure.path.stem,
        "title": figure.path.stem.replace("_", " "),
    }


def _formulas(comparison: xr.DataTree) -> list[tuple[str, str]]:
    """Each form once, with what was evaluated."""
    found: dict[str, str] = {}
    for name in ("mean_force", "stationary"):
        for node in comparison[name].children.values() if name in comparison else ():
            if "formula" in node.coords:
                one = node.to_dataset()
                found |= dict(zip(map(str, one["form"].values), map(str, one["formula"].values), strict=True))
    return list(found.items())


def _dropped(comparison: xr.DataTree) -> list[str]:
    nodes = comparison["mean_force"].children.items() if "mean_force" in comparison else ()
    return [
        f"{label}: {node.attrs['prediction_dropped']}" for label, node in nodes if node.attrs.get("prediction_dropped")
    ]


def _pretty(tree: xr.DataTree) -> str:
    return json.dumps(summaries.configuration(tree.attrs), indent=2, ensure_ascii=False)


def _provenance(tree: xr.DataTree) -> list[tuple[str, str]]:
    names = ("source", "created", "git_commit", "seed", "threads", "device", "normalization_mode", "schema_version")
    found: list[tuple[str, Any]] = [(n.replace("_", " "), tree.attrs[n]) for n in names if n in tree.attrs]
    try:
        versions = json.loads(tree.attrs.get("versions", "{}"))
        found.append(("versions", ", ".join(f"{n} {v}" for n, v in versions.items())))
    except json.JSONDecodeError:
        pass
    return [(n, str(v)) for n, v in found]
