"""What every figure shares: Okabe–Ito colours, axes with units, error bands, saving."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Okabe & Ito (2008), colours that differ for every kind of colour vision; yellow is left out (too light on white).
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
#: Predictions differ in colour and in dash, so that they can be told apart in grey.
DASHES = ("-", "--", "-.", (0, (1, 1.2)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 3)))

WIDTH, HEIGHT = 6.4, 3.6  # inches

PARAMETERS: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNITS = {
    "1": "",
    "loss": "loss",
    "parameter": "parameter",
    "loss / parameter": "loss / parameter",
    "loss / parameter^2": "loss / parameter²",
    "loss / parameter^3": "loss / parameter³",
    "loss^2 / parameter^2": "loss² / parameter²",
    "parameter^2 / loss": "parameter² / loss",
}


@contextmanager
def style() -> Iterator[None]:
    """The figures' settings, for as long as the context lasts."""
    with mpl.rc_context(PARAMETERS):
        yield


def axes(ax: Axes | None, width: float = WIDTH, height: float = HEIGHT) -> Axes:
    """`ax`, or the axes of a new figure that belongs to no window."""
    if ax is not None:
        return ax
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure.add_subplot()


def label(variable: xr.DataArray, name: str | None = None) -> str:
    """The text of an axis: the variable's long name with its units in brackets."""
    text = name or str(variable.attrs.get("long_name", variable.name))
    units = str(variable.attrs.get("units", "1"))
    shown = _UNITS.get(units, units)
    return f"{text} [{shown}]" if shown else text


def places(ax: Axes, coordinate: xr.DataArray) -> np.ndarray:
    """Where the values of a scan stand on the x axis: numbers where they are, names side by side, in their order."""
    if np.issubdtype(coordinate.dtype, np.number):
        return coordinate.values
    at = np.arange(coordinate.size)
    names = [textwrap.fill(re.sub(r"(?<=[:,])", " ", str(name).replace("_", " ")), 16) for name in coordinate.values]
    ax.set_xticks(at, names)
    ax.set_xlim(-0.5, coordinate.size - 0.5)
    return at


def value_axis(ax: Axes, variable: xr.DataArray, name: str | None = None) -> None:
    """The y axis: its label wrapped, and a power of ten in the units instead of an offset in the corner."""
    text = label(variable, name)
    largest = max(map(abs, ax.get_ylim()))
    exponent = int(np.floor(np.log10(largest) + 1e-9)) if largest > 0 else 0
    if ax.get_yscale() == "linear" and not -2 <= exponent < 4:
        power = f"10{str(exponent).translate(_SUPERSCRIPTS)}"
        text = text.replace(" [", f" [{power} ") if text.endswith("]") else f"{text} [{power}]"
        ax.yaxis.set_major_formatter(lambda value, _: f"{value / 10.0**exponent:.4g}")
    name, bracket, units = text.partition(" [")
    if len(text) > 40:
        # Of even length: a last line of one word is not one.
        wrapper = textwrap.TextWrapper(break_long_words=False, break_on_hyphens=False)
        tried: list[list[str]] = []
        for wrapper.width in range(40, 11, -1):
            tried.append(wrapper.wrap(name))
        lines = [found for found in tried if len(found) == len(tried[0])][-1]
        text = "\n".join([*lines, f"[{units}"] if bracket else lines)
    ax.set_ylabel(text)


def position_axis(ax: Axes) -> None:
    """The axis of s, 0…1 along the path."""
    ax.set_xlabel("position along the path, s (normalised arc length)")
    ax.set_xlim(-0.02, 1.02)


def band(ax: Axes, x: Any, value: Any, stderr: Any, **options: Any) -> Any:
    """A line with a band of one standard error; returns the line."""
    (line,) = ax.plot(x, value, **options)
    stderr = np.nan_to_num(np.asarray(stderr, float))
    if np.any(stderr > 0):
        ax.fill_between(x, value - stderr, value + stderr, color=line.get_color(), alpha=0.2, linewidth=0)
    return line


def legend(ax: Axes, most: int = 5) -> None:
    """A legend above the axes, never on the data, in as many columns as fit (up to `most`)."""
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    inches = ax.get_window_extent().width / ax.figure.dpi
    characters = 17.0 * inches

    def width(columns: int) -> int:
        """Characters of a legend, which is filled column by column, the first ones longer by one where it must be."""
        rows, longer = divmod(len(labels), columns)
        starts = [i * rows + min(i, longer) for i in range(columns + 1)]
        return sum(max(map(len, labels[a:b])) + 6 for a, b in pairwise(starts))

    columns = max(c for c in range(1, min(most, len(handles)) + 1) if c == 1 or width(c) <= characters)
    ax.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure whole or not at all, without a date, so that equal data give equal files."""
    from entropy_sim.run_files import write_whole

    path = Path(path)
    kind = path.suffix.removeprefix(".")
    metadata: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind, {"Software": None})
    with style():
        return write_whole(path, lambda temporary: figure.savefig(temporary, format=kind, metadata=metadata))


def sequence(count: int) -> list[str]:
    """Colours of an ordered set (starts, positions), from one end of the path to the other."""
    if count <= 1:
        return [BLUE][:count]
    colours = mpl.colormaps["cividis"](np.linspace(0.0, 0.82, count))
    return [mpl.colors.to_hex(colour) for colour in colours]
