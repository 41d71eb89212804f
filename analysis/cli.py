"""The `entropic` command. Every option comes from the frozen dataclass that the Python API takes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from analysis import options
from entropy_sim.errors import UserError

MEASUREMENTS = {
    "profile": ("Profile", "loss, curvature and effective potential along the path"),
    "mean-force": ("MeanForce", "the force along the path, from dynamics constrained to planes normal to it"),
    "relaxation": ("Relaxation", "release walkers on the path and follow them"),
    "stationary": ("Stationary", "the stationary density along the path and its free energy"),
    "escape": ("Escape", "first-passage times: how long walkers stay on their part of the path"),
    "barrier": ("BarrierHeights", "the energetic and the entropic barrier against one parameter"),
}
STAGES = {
    "train": "two minima from different seeds",
    "path": "a path of low loss between them (AutoNEB unless asked otherwise)",
    "profile": "loss, curvature and gradient noise along the path and the straight line",
    "plane": "the loss on the plane through both minima and the path",
    "mean-force": "the force along the path, from SGD constrained to planes normal to it",
    "relaxation": "SGD released on the path, with its noise-free control",
    "escape": "how long SGD released on the path stays on its half (first-passage times)",
    "barrier": "heights of the energetic and the entropic barrier against shared training iterations, and more",
    "all": "train, path, profile, plane, mean-force and relaxation",
}
#: Burn-in, in relaxation times of the slowest mode, below which a run is remarked upon: variances are then within 1e-3.
_ENOUGH_BURN_IN = 3.5
#: How NumPy and Python call a size that no address could reach.
_TOO_LARGE = r"Maximum allowed (size|dimension) exceeded|too large to convert|array is too big"
_NETWORK_PACKAGES = ("torch", "torchvision", "sklearn", "safetensors")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 2 a mistake of the user's (one line on stderr), 130 Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # A polite kill ends like Ctrl-C: temporary files are removed and finished stages kept.
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _dispatch(arguments)
    except UserError as error:
        print(f"entropic: error: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "entropic: stopped; nothing is half-written; the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except MemoryError as error:
        print(f"entropic: error: expected sizes that fit into memory, found too large ones ({error})", file=sys.stderr)
        return 2
    except (OverflowError, ValueError) as error:
        if not re.search(_TOO_LARGE, str(error)):
            raise
        print(f"entropic: error: expected sizes that fit into memory, found too large ones ({error})", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"entropic {version('entropic-forces')}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise UserError(f"command: expected one of {', '.join(COMMANDS)}, found {name!r}")
    try:
        COMMANDS[name][0](rest)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return 0


def _usage() -> str:
    lines = ["usage: entropic COMMAND [options]", "", "Entropic forces in loss landscapes, from toy to real.", ""]
    lines += [f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([*lines, "", "entropic COMMAND --help tells more; entropic --version."])


def _choose(
    rest: list[str], known: dict[str, Any], prog: str, what: str, texts: dict[str, str]
) -> tuple[str, list[str]]:
    if not rest or rest[0] in ("-h", "--help"):
        lines = [f"usage: {prog} {what.upper()} [options]", ""]
        print("\n".join([*lines, *(f"  {name:11} {texts[name]}" for name in known)]))
        raise SystemExit(0)
    if rest[0] not in known:
        raise UserError(f"{prog}: expected one of {', '.join(known)}, found {rest[0]!r}")
    return rest[0], rest[1:]


def _arg(kind: Any, text: str) -> Any:
    import tyro

    return Annotated[kind, tyro.conf.arg(help=text)]


def _flat(kind: Any) -> Any:
    import tyro

    return Annotated[kind, tyro.conf.arg(name="")]


# --- simulate -------------------------------------------------------------------------------------------------------


_TWIN_HELP = "measure on the twin of this network: its landscape, noise and settings; options beside it change them"


def simulate(rest: list[str]) -> None:
    """entropic simulate MEASUREMENT"""
    texts = {name: text for name, (_, text) in MEASUREMENTS.items()}
    measurement, rest = _choose(rest, MEASUREMENTS, "entropic simulate", "measurement", texts)
    import entropy_sim

    kind = getattr(entropy_sim, MEASUREMENTS[measurement][0])
    config, rest = options.split_config(rest)
    network, rest = options.split_config(rest, "--twin")
    extra: dict[str, str] = {}
    if network is None:
        default = options.default_for(kind, config)
    else:
        from analysis import twin

        if config is not None:
            raise UserError("--twin: expected no --config beside it (the network has its own), found both")
        run = twin.read(network)
        default, extra = twin.measurement(run, measurement.replace("-", "_")), twin.attributes(run)
    default = _with_scan_of(rest, default)
    command = dataclasses.make_dataclass(
        "Simulate",
        [
            ("out", _arg(Path, "the netCDF file to write"), Path(f"{measurement.replace('-', '_')}.nc")),
            ("overwrite", _arg(bool, options.OVERWRITE_HELP), False),
            ("plot", _arg(bool, "also draw what was measured, into a directory beside the file"), False),
            ("threads", _arg(int | None, "threads (default: all cores); the numbers do not depend on it"), None),
            ("config", _arg(Path | None, options.CONFIG_HELP), None),
            ("twin", _arg(Path | None, _TWIN_HELP), None),
            ("measurement", _flat(kind), dataclasses.field(default=default)),
        ],
        frozen=True,
    )
    parsed: Any = options.parse(
        command, rest, prog=f"entropic simulate {measurement}", default=command(), description=kind.__doc__ or ""
    )
    from entropy_sim.checkpoint import Checkpoint
    from entropy_sim.run_files import output_state, writable, write_tree

    if output_state(parsed.out, parsed.measurement, overwrite=parsed.overwrite) == "same":
        print(f"{parsed.out}: already there, of this configuration")
        return
    writable(parsed.out)
    if parsed.threads is not None and parsed.threads < 1:
        raise UserError(f"--threads: expected a positive number, found {parsed.threads}")
    checkpoint = Checkpoint.beside(parsed.out, parsed.measurement, overwrite=parsed.overwrite)
    tree = parsed.measurement.run(threads=parsed.threads, progress=True, checkpoint=checkpoint)
    tree.attrs |= extra
    write_tree(tree, parsed.out)
    checkpoint.discard()
    print(f"wrote {parsed.out}")
    print(_summary(tree))
    if parsed.plot:
        from analysis.plots import plot_file

        for figure in plot_file(tree, parsed.out.with_name(f"{parsed.out.stem}_figures")):
            print(f"wrote {figure}")


def _with_scan_of(rest: list[str], default: Any) -> Any:
    """The defaults without the values of their scan, where the options name another parameter to scan, or none."""
    found, _ = options.split_config(rest, "--scan.parameter")
    scan = getattr(default, "scan", None)
    if scan is None or found is None or str(found).replace("-", "_") == scan.parameter:
        return default
    return dataclasses.replace(default, scan=type(scan)())


# --- network --------------------------------------------------------------------------------------------------------


def require_network_packages(command: str) -> None:
    """Raise UserError, naming the extra, unless what the network side needs is installed."""
    missing = [p for p in _NETWORK_PACKAGES if importlib.util.find_spec(p) is None]
    if missing:
        names = ", ".join("scikit-learn" if p == "sklearn" else p for p in missing)
        raise UserError(f'entropic {command}: needs the extra "nn" (missing: {names}): pip install -e ".[nn]"')


def network(rest: list[str]) -> None:
    """entropic network STAGE"""
    stage, rest = _choose(rest, STAGES, "entropic network", "stage", STAGES)
    require_network_packages("network")
    from analysis import network_command

    network_command.run(stage, rest, STAGES[stage])  # type: ignore[arg-type]


# --- reproduce, compare, plot, info -----------------------------------------------------------------------------------


def reproduce(rest: list[str]) -> None:
    """entropic reproduce"""
    from analysis.reproduce import Reproduce

    parsed = options.parse(
        Reproduce, rest, prog="entropic reproduce", default=Reproduce(), description=Reproduce.__doc__ or ""
    )
    require_network_packages("reproduce")
    parsed.run()


def compare(rest: list[str]) -> None:
    """entropic compare SIMULATION NETWORK"""
    from analysis.compare import main as compare_main

    compare_main(rest, prog="entropic compare")


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw every measurement in a dataset."""

    out: Path | None = None
    """Directory of the figures (default: FILE_figures beside the file)."""
    format: str = "png"
    """File format: png, pdf or svg."""


def plot(rest: list[str]) -> None:
    """entropic plot FILE"""
    path, rest = _file(rest, "plot", Plot)
    parsed = options.parse(Plot, rest, prog="entropic plot FILE", default=Plot(), description=Plot.__doc__ or "")
    if parsed.format not in ("png", "pdf", "svg"):
        raise UserError(f"--format: expected one of png, pdf, svg, found {parsed.format!r}")
    from analysis.plots import plot_file
    from analysis.runs import open_run

    tree = open_run(path)
    directory = parsed.out or path.with_name(f"{path.stem}_figures")
    for figure in plot_file(tree, directory, format=parsed.format):
        print(f"wrote {figure}")


@dataclasses.dataclass(frozen=True)
class Info:
    """Say what a dataset holds and how it was made."""


def info(rest: list[str]) -> None:
    """entropic info FILE"""
    path, rest = _file(rest, "info", Info)
    options.parse(Info, rest, prog="entropic info FILE", default=Info(), description=Info.__doc__ or "")
    from analysis.runs import open_run
    from entropy_sim import schema

    tree = open_run(path, check=False)
    print(f"{path} ({path.stat().st_size / 1e6:.2g} MB)")
    print(_summary(tree))
    faults = schema.faults(tree)
    print("valid" if not faults else "not a valid run: " + "; ".join(faults))
    if faults:
        raise UserError(f"{path}: {len(faults)} fault{'s' if len(faults) > 1 else ''} against the schema")


def _file(rest: list[str], command: str, kind: type) -> tuple[Path, list[str]]:
    if rest and not rest[0].startswith("-"):
        return Path(rest[0]), rest[1:]
    if {"-h", "--help"} & set(rest):
        options.parse(kind, ["--help"], prog=f"entropic {command} FILE", default=kind(), description=kind.__doc__ or "")
    raise UserError(f"entropic {command}: expected a netCDF file, found {rest[0] if rest else 'nothing'}")


def _summary(tree: Any) -> str:
    from entropy_sim import schema

    lines = []
    for name in (
        "source",
        "system",
        "noise",
        "dynamics",
        "timescale_ratio",
        "normalization_mode",
        "device",
        "seed",
        "threads",
        "created",
        "git_commit",
    ):
        if name in tree.attrs:
            value = tree.attrs[name]
            lines.append(f"  {name:18} {_numbers(value) if isinstance(value, float) else value}")
    for group, node in tree.children.items():
        dataset = node.to_dataset()
        sizes = ", ".join(f"{d} {n}" for d, n in dataset.sizes.items())
        lines.append(f"  {group:18} {', '.join(map(str, dataset.data_vars))} ({sizes})")
        if tree.attrs.get("source") != "analysis" and schema.group_faults(group, dataset):
            continue  # no numbers of what is not what it says; the faults are told below
        missing = {str(n): int(v.isnull().sum()) for n, v in dataset.data_vars.items() if v.dtype.kind == "f"}
        if any(missing.values()):
            found = (f"{n} {count} of {dataset[n].size}" for n, count in missing.items() if count)
            lines.append(f"  {'':18} without a value (NaN): {', '.join(found)}")
        waited = dataset.attrs.get("burn_in_relaxation_times", float("inf"))
        if (burn_in := min(waited) if hasattr(waited, "__len__") else waited) < _ENOUGH_BURN_IN:
            lines.append(
                f"  {'':18} note: the burn-in is {burn_in:.2g} relaxation times of the slowest transverse mode: "
                f"averages may still remember the start (from {_ENOUGH_BURN_IN:g} on they do not)"
            )
        sizes_of = [n for n in ("autocorrelation_time", "effective_sample_size") if n in dataset.attrs]
        if sizes_of:
            lines.append(f"  {'':18} {', '.join(f'{n} {_numbers(dataset.attrs[n])}' for n in sizes_of)}")
        lines += [f"  {'':18} {found}" for found in _results(dataset)]
        if "diverged" in dataset.attrs:
            lines.append(f"  {'':18} diverged: {dataset.attrs['diverged']}")
        if "diverged" in dataset:
            diverged = int((dataset["diverged"] > 0).sum())
            lines.append(f"  {'':18} diverged: {diverged} of {int(dataset['diverged'].notnull().sum())}")
    if "versions" in tree.attrs:
        lines.append(f"  {'versions':18} {_versions(tree.attrs['versions'])}")
    return "\n".join(lines)


def _versions(text: Any) -> str:
    """What is not the JSON of `run_files.versions` is shown as it stands."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        found = None
    return ", ".join(f"{n} {v}" for n, v in found.items()) if isinstance(found, dict) else str(text)


def _results(dataset: Any) -> list[str]:
    """Single numbers with their standard errors (one for each value of a scan), who was censored, who was outside."""
    found = []
    for name in (str(n) for n in dataset.data_vars if f"{n}_stderr" in dataset):
        value, stderr = dataset[name], dataset[f"{name}_stderr"]
        if value.ndim == 0 or (value.ndim == 1 and value.size <= 8 and "s" not in value.dims):
            from analysis.agreement import plus_minus  # not for densities alone: scipy takes a quarter of a second

            each = zip(value.values.ravel(), stderr.values.ravel(), strict=True)
            units = f" {value.attrs['units']}" if value.attrs.get("units", "1") != "1" else ""
            found.append(f"{name} {', '.join(plus_minus(float(v), float(e)) for v, e in each)}{units}")
    if "censored" in dataset.attrs:
        found.append(f"censored: {_counts(dataset.attrs['censored'])} of {dataset.sizes['replica']}")
    if dataset.attrs.get("outside", 0.0) > 0.0:
        found.append(f"outside 0 < s < 1, not in the density: {100 * dataset.attrs['outside']:.3g} % of the time")
    return found


def _counts(value: Any) -> str:
    return ", ".join(map(str, value)) if hasattr(value, "__len__") else str(value)


def _numbers(value: Any) -> str:
    """A number, or one for each value of a scan."""
    return ", ".join(f"{v:.3g}" for v in value) if hasattr(value, "__len__") else f"{value:.3g}"


COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "reproduce": (reproduce, "the main job: theory and network, compared, with a report"),
    "simulate": (simulate, "a theory run on the CPU"),
    "network": (network, "the same measurements on a trained network"),
    "compare": (compare, "simulation against network: comparison.nc, figures, report.html"),
    "plot": (plot, "figures of everything in a dataset"),
    "info": (info, "what a dataset holds and how it was made"),
}

if __name__ == "__main__":
    sys.exit(main())
