"""Draws the gallery and writes its page: `python -m docs.make_gallery` from the root of the repository.

Small simulations, and the committed results in data/reference; every number in a caption is computed here."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from analysis import agreement, captions, ladder, plots, twin
from analysis.agreement import plus_minus
from analysis.compare import compare
from analysis.plots import _style
from analysis.reproduce import TWIN, channel
from benchmarks.physics.edge_of_stability import variance_ratio
from entropy_sim import theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.landscapes import Barrier, Bump, Channel, Exponential, GeneratedSamples, TwoLayerLinear
from entropy_sim.measurements import BarrierHeights, Escape, MeanForce
from entropy_sim.noise import CurvatureCovariance, Label, Thermal
from entropy_sim.run_files import merge, read_tree
from entropy_sim.scan import Scan

DOCS = Path(__file__).parent
REFERENCE = DOCS.parent / "data" / "reference"
INTRODUCTION = """# Gallery

Made by `python -m docs.make_gallery`, in under a minute on one core: small simulations, and the committed results of
the main job in `data/reference/`. Every number in a caption is computed by that script from what the figure shows.
"""


class Drawn(NamedTuple):
    """A figure and what it says."""

    figure: Figure
    caption: str


# --- simulations ----------------------------------------------------------------------------------------------------


def edge_of_stability() -> Drawn:
    """Mean force of SGD, C = c k, over its small-step form."""
    shares = np.array([0.05, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92])
    stiffest, worst, of = 20.0, 0.0, 0
    with _style.style():
        ax = _style.axes(None)
        fine = np.linspace(0.0, 0.95, 400)
        ax.plot(fine, 1.0 / (1.0 - fine), color="black", label="1 / (1 − ηk / (2 (1 + β))), exact")
        # Large and open, small and filled: the points lie on each other.
        for momentum, colour, marker, size, face in (
            (0.0, _style.BLUE, "o", 10, "none"),
            (0.9, _style.VERMILLION, "s", 4, _style.VERMILLION),
        ):
            limit = float(theory.stability_limit(1.0, momentum))
            dynamics = SGD(shares[-1] * limit / stiffest, momentum)
            channel = Channel(Exponential(1.0, stiffest), transverse_directions=4)
            s = np.log(shares * stiffest / shares[-1]) / np.log(stiffest)
            ratio, stderr = variance_ratio(channel, dynamics, s, 1500)
            enhanced = theory.edge_enhancement(shares * limit, 1.0, momentum)
            ax.errorbar(
                shares, ratio * enhanced, stderr * enhanced, fmt=marker, color=colour, markersize=size,
                markerfacecolor=face, capsize=2.5, label=f"simulated, β = {momentum:g} (± 1 s.e.)",
            )  # fmt: skip
            worst, of = max(worst, float(np.abs((ratio - 1.0) / stderr).max())), of + shares.size
        ax.set_yscale("log")
        ax.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
        ax.minorticks_off()
        ax.set_xlabel("learning rate over its limit, ηk / (2 (1 + β))")
        ax.set_ylabel("mean force / its small-step form")
        _style.legend(ax)
    caption = (
        f"The force of discrete SGD diverges at the edge of stability: at {shares[-1]:g} of the limit it is "
        f"{1 / (1 - shares[-1]):.3g} times the small-step form. Largest deviation from the exact law: {worst:.1f} "
        f"standard errors, of {of} points."
    )
    return Drawn(ax.figure, caption)  # type: ignore[arg-type]


def not_arrhenius() -> Drawn:
    """Escape over an entropic and over an energetic barrier, at several temperatures."""
    soft = Channel(Bump(1.0, 16.0), transverse_directions=1, length=3.0)
    high = Channel(Bump(1.0, 1.0), Barrier(1.0), transverse_directions=1)
    entropic = Escape(soft, Thermal(0.1), Overdamped(4e-3), replicas=3072, duration=250.0, seed=1)
    energetic = Escape(high, Thermal(0.2), Overdamped(1e-3), replicas=1536, duration=100.0, seed=2)
    scans = (
        ("entropic barrier", entropic, (0.05, 0.1, 0.2, 0.4, 0.8)),
        ("energy barrier, ΔU = 1", energetic, (0.2, 0.25, 0.33, 0.5, 0.8)),
    )
    spans = []
    with _style.style():
        figure = Figure(figsize=(1.35 * _style.WIDTH, 1.05 * _style.HEIGHT), layout="constrained")
        for ax, (name, one, temperatures) in zip(figure.subplots(1, 2), scans, strict=True):
            scanned = Escape(
                one.landscape, one.noise, one.dynamics, replicas=one.replicas, duration=one.duration, seed=one.seed,
                scan=Scan("temperature", temperatures),
            )  # fmt: skip
            group = scanned.run()["escape"].to_dataset()
            plots.plot_escape_times(group, ax)
            ax.set_title(name, loc="left", pad=34)
            ax.set_xscale("log")
            ax.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
            if ax.get_yscale() == "log":
                ax.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
            ax.minorticks_off()
            time = group["mean_first_passage_time"].values * group["diffusion_along_path"].values
            error = group["mean_first_passage_time_stderr"].values * group["diffusion_along_path"].values
            ratio = time[0] / time[-1]
            spans.append((ratio, ratio * np.hypot(error[0] / time[0], error[-1] / time[-1])))
    text = [
        f"over the {name.split(',')[0]} τ D changes by a factor {plus_minus(*span)} from T = {t[-1]:g} to {t[0]:g}"
        for (name, _, t), span in zip(scans, spans, strict=True)
    ]
    return Drawn(figure, f"Cooling does not raise an entropic barrier, but an energetic one: {text[0]}; {text[1]}.")


def extensive_barrier() -> Drawn:
    """Height of the entropic barrier against the number of transverse directions."""
    group = (
        BarrierHeights(
            Channel(Bump(1.0, 8.0), transverse_directions=2), Thermal(0.05), Overdamped(0.01), points=33, replicas=2,
            walkers=32, burn_in=4.0, duration=8.0, stride=4, scan=Scan("dimension", (1.0, 3.0, 10.0, 30.0, 100.0)),
        )
        .run()["barrier"]
        .to_dataset()
    )  # fmt: skip
    ax = plots.plot_barrier(group)
    last, exact = group.isel(dimension=-1), group["entropic_barrier_exact"].values
    height = plus_minus(float(last["entropic_barrier"]), float(last["entropic_barrier_stderr"]))
    return Drawn(
        ax.figure,  # type: ignore[arg-type]
        f"An entropic barrier grows with the number of directions that stiffen, here as d (T/2) ln 8: {height} at "
        f"d = 100, exactly {exact[-1]:.4g}, at T = 0.05 and without any energy barrier.",
    )


def balance() -> Drawn:
    """Two-layer linear network under label noise: decay of u² − w²."""
    landscape = TwoLayerLinear(GeneratedSamples(residual=0.0))
    eta, sigma, batch, walkers, steps, records = 0.05, 0.5, 8, 512, 20_000, 40
    start = np.repeat(landscape.path(0.9), walkers, axis=0)
    ensemble = Ensemble(landscape, Label(sigma, batch), SGD(eta), start, seed=3)
    times = np.linspace(0, steps, records + 1).round().astype(int)
    found = np.empty((times.size, walkers))
    for i, step in enumerate(times):
        ensemble.advance_to(int(step))
        found[i] = np.log((ensemble.theta[:, 0] ** 2 - ensemble.theta[:, 1] ** 2) / np.ptp(start[0] ** 2))
    leading = float(theory.balance_rate(landscape.second_moment, sigma**2, eta, batch))
    mean, error = found.mean(1), found.std(1) / np.sqrt(walkers)
    fourth = float((landscape.data.numbers()[0] ** 4).mean())
    b, predicted = float(np.ptp(start[0] ** 2)), np.zeros(times.size)
    for i in range(records):  # d ln b / dn at the point of the valley with that balance
        radius = np.hypot(b * np.exp(predicted[i]), 2.0 * landscape.product)
        u, w = np.sqrt(0.5 * (radius + b * np.exp(predicted[i]) * np.array([1.0, -1.0])))
        rate = theory.balance_rate_with_width(u, w, landscape.second_moment, sigma**2, eta, batch, fourth)
        predicted[i + 1] = predicted[i] + float(rate) * (times[i + 1] - times[i])
    with _style.style():
        ax = _style.axes(None)
        ax.plot(times, found[:, :12], color="0.75", linewidth=0.6)
        ax.plot([], [], color="0.75", label="single runs")
        ax.plot(times, leading * times, "--", color=_style.ORANGE, label="−η²σ²S/B per step")
        ax.plot(times, predicted, color=_style.VERMILLION, label="with the width of the valley")
        _style.band(ax, times, mean, error, color="black", label="mean of 512 runs (± 1 s.e.)")
        ax.set_xlabel("steps")
        ax.set_ylabel("ln of the balance u² − w² over its first value")
        ax.set_xlim(0, steps)
        _style.legend(ax)
    return Drawn(
        ax.figure,  # type: ignore[arg-type]
        f"Label noise balances the layers of u·w·x, along a valley of zero loss: after {steps} steps the logarithm of "
        f"u² − w² has changed by {plus_minus(float(mean[-1]), float(error[-1]))}; leading order "
        f"{plus_minus(leading * steps, 0.0)}, with the width of the valley {plus_minus(predicted[-1], 0.0)}.",
    )


def simulated_ladder() -> Drawn:
    """Measured over predicted force at several learning rates, extrapolated to zero."""
    channel, rates, positions, scale = Channel(), (0.0025, 0.005, 0.0075, 0.01), (0.2, 0.3, 0.7, 0.8), 0.02
    slope = channel.curvature_slope(np.array(positions)).sum(-1)
    runs, formula = [], []
    for seed, rate in enumerate(rates):
        run = MeanForce(
            channel, CurvatureCovariance(scale), SGD(rate), positions=positions, replicas=8, walkers=256, burn_in=10.0,
            duration=400.0 * rate, time_windows=1, stride=1, seed=seed,
        ).run()  # fmt: skip
        runs.append(run["mean_force"].to_dataset())
        formula.append(theory.mean_force_curvature_proportional(slope, scale, rate))
    data = xr.concat(runs, xr.DataArray(list(rates), dims="learning_rate", name="learning_rate"), join="override")
    data["mean_force_formula"] = (("learning_rate", "s"), np.array(formula))
    found = ladder.extrapolate(data, ladder.Extrapolation(denominator="formula"))
    ax = plots.plot_ladder(found)
    ax.set_ylim(0.99, 1.06)
    ax.set_xlabel("learning rate η [parameter² / loss]")
    limit, low, high = (float(found[n]) for n in ("limit", "limit_low", "limit_high"))
    return Drawn(
        ax.figure,  # type: ignore[arg-type]
        f"How a formula for small noise is tested: measured over predicted force at several learning rates, "
        f"extrapolated to zero. On the simulator's channel: limit {plus_minus(limit, 0.5 * (high - low))} (68 %).",
    )


# --- data/reference -------------------------------------------------------------------------------------------------


@cache
def _comparison() -> tuple[xr.DataTree, Sequence[agreement.Row]]:
    """The committed runs, compared again, with what `entropic reproduce` simulates beside them."""
    network, simulation = (read_tree(REFERENCE / f"quick_{name}.nc") for name in ("network", "simulation"))
    simulated = {name: merge({k: m.run() for k, m in channel()[name].items()}) for name in ("simulation_sgd",)}
    simulated[TWIN] = merge({k: m.run() for k, m in twin.measurements(network).items()}, **twin.attributes(network))
    tree = compare([("simulation", simulation), *simulated.items()], network)
    return tree, agreement.rows(tree["table"].to_dataset())


def free_energy() -> Drawn:
    """Free energy of the position, thermal noise."""
    tree, rows = _comparison()
    ax = plots.plot_stationary(tree["stationary/simulation"].to_dataset(), "free_energy")
    return Drawn(ax.figure, captions.stationary_caption(rows, "simulation", "free_energy"))  # type: ignore[arg-type]


def integrated_force() -> Drawn:
    """Effective potential by thermodynamic integration, simulator."""
    tree, rows = _comparison()
    ax = plots.plot_effective_potential(tree["effective_potential/simulation"].to_dataset())
    return Drawn(ax.figure, captions.potential_caption(rows, "simulation"))  # type: ignore[arg-type]


def sgd_force() -> Drawn:
    """Mean force of SGD in the simulator."""
    tree, rows = _comparison()
    ax = plots.plot_force_comparison(tree["mean_force/simulation_sgd"].to_dataset())
    return Drawn(ax.figure, captions.comparison_caption(rows, "simulation_sgd"))  # type: ignore[arg-type]


def network_profile() -> Drawn:
    """Loss and curvature along the path of the network."""
    tree, rows = _comparison()
    profile = tree["profile/network"].to_dataset()
    with _style.style():
        figure = Figure(figsize=(1.35 * _style.WIDTH, 1.05 * _style.HEIGHT), layout="constrained")
        for ax, variable in zip(figure.subplots(1, 2), ("loss", "hessian_trace"), strict=True):
            plots.plot_profile(profile, variable, ax)
    text = [captions.profile_caption(v, profile, rows, "network") for v in ("loss", "hessian_trace")]
    return Drawn(figure, " ".join(text))


def network_force() -> Drawn:
    """Mean force of the network and its predictions."""
    tree, rows = _comparison()
    ax = plots.plot_force_comparison(tree["mean_force/network"].to_dataset())
    text = f"{captions.force_caption(rows, 'network')} {captions.comparison_caption(rows, 'network')}"
    return Drawn(ax.figure, text)  # type: ignore[arg-type]


def network_potential() -> Drawn:
    """Effective potential of the network's path."""
    tree, rows = _comparison()
    ax = plots.plot_effective_potential(tree["effective_potential/network"].to_dataset(), predictions=False)
    return Drawn(ax.figure, captions.potential_caption(rows, "network"))  # type: ignore[arg-type]


def network_relaxation() -> Drawn:
    """SGD released on the path of the network."""
    _, rows = _comparison()
    ax = plots.plot_relaxation(read_tree(REFERENCE / "quick_network.nc")["relaxation"].to_dataset())
    text = (
        f"{captions.relaxation_caption(rows, 'network')} {captions.comparison_caption(rows, 'network', 'relaxation')}"
    )
    return Drawn(ax.figure, text)  # type: ignore[arg-type]


#: Heading, what is drawn; None: a heading of its own.
PAGE: tuple[tuple[str, Callable[[], Drawn] | None], ...] = (
    ("The simulator", None),
    ("A flat valley with a free-energy barrier", free_energy),
    ("The barrier by thermodynamic integration", integrated_force),
    ("The force of SGD has its own form", sgd_force),
    ("Towards the edge of stability", edge_of_stability),
    ("An entropic barrier is not Arrhenius", not_arrhenius),
    ("Barriers are extensive", extensive_barrier),
    ("Label noise balances a two-layer network", balance),
    ("A ladder to zero noise", simulated_ladder),
    ("A network", None),
    ("A flat path with a curved surrounding", network_profile),
    ("The force, and what theory makes of it", network_force),
    ("The effective potential of a network's path", network_potential),
    ("Released on the path", network_relaxation),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figures, all or those named, and write the page when all are drawn."""
    drawings = {draw.__name__: draw for _, draw in PAGE if draw is not None}
    parser = argparse.ArgumentParser(prog="python -m docs.make_gallery", description=__doc__)
    parser.add_argument("--out", type=Path, default=DOCS, help="where gallery.md and figures/gallery/ are written")
    parser.add_argument("--only", nargs="+", choices=list(drawings), help="draw these and leave the page as it is")
    options = parser.parse_args(arguments)
    lines = [INTRODUCTION]
    for heading, draw in PAGE:
        if draw is None:
            lines.append(f"## {heading}\n")
            continue
        if options.only and draw.__name__ not in options.only:
            continue
        figure, caption = draw()
        figure.set_dpi(110)
        path = plots.save(figure, options.out / "figures" / "gallery" / f"{draw.__name__}.png")
        lines.append(f"### {heading}\n\n![{heading}]({path.relative_to(options.out).as_posix()})\n")
        lines.append("\n".join(textwrap.wrap(caption, 120, break_long_words=False, break_on_hyphens=False)) + "\n")
    if not options.only:
        (options.out / "gallery.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
