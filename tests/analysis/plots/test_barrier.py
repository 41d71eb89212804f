from __future__ import annotations

import numpy as np
import pytest

from analysis import plots
from entropy_sim import schema
from entropy_sim.errors import UserError


def heights(parameter="temperature", values=(0.1, 0.2, 0.3), energy=0.0):
    """A `barrier` group of made-up heights, equal to the parameter."""
    x = np.array(values)
    variables = {
        parameter: ((parameter,), x),
        "energy_barrier": ((parameter,), np.full(x.size, energy)),
        "entropic_barrier": ((parameter,), 1.01 * x),
        "entropic_barrier_stderr": ((parameter,), 0.02 * x),
        "entropic_barrier_exact": ((parameter,), x),
    }
    return schema.make("barrier", variables)


def test_the_drawn_numbers_are_the_data():
    ds = heights()
    ax = plots.plot_barrier(ds)
    exact = next(line for line in ax.get_lines() if line.get_label() == "entropic, exact")
    np.testing.assert_array_equal(exact.get_ydata(), ds["entropic_barrier_exact"])
    for label, name in (("entropic (integrated", "entropic_barrier"), ("energetic", "energy_barrier")):
        container = next(c for c in ax.containers if c.get_label().startswith(label))
        np.testing.assert_array_equal(container[0].get_ydata(), ds[name])
    assert ax.get_xlabel() == "temperature [loss]"
    assert ax.get_ylabel() == "height of the barrier [loss]"
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "linear")


def test_axes_show_an_entropic_height_as_the_straight_line_it_is():
    assert plots.plot_barrier(heights("stiffness_ratio", (2.0, 4.0, 8.0))).get_xscale() == "log"
    assert plots.plot_barrier(heights("dimension", (1.0, 10.0, 100.0))).get_xscale() == "linear"
    wide = plots.plot_barrier(heights("dimension", (1.0, 10.0, 100.0), energy=3.0))
    assert (wide.get_xscale(), wide.get_yscale()) == ("log", "log")


def test_names_stand_side_by_side_in_their_order():
    names = ("sgd", "adam:learning_rate=0.003", "muon")
    x = np.array([1.0, 3.0, 100.0])
    dims = ("optimizer",)
    variables = {"optimizer": (dims, np.array(names)), "energy_barrier": (dims, x), "entropic_barrier": (dims, 2 * x)}
    ax = plots.plot_barrier(schema.make("barrier", variables))
    assert [label.get_text().split(":")[0] for label in ax.get_xticklabels()] == ["sgd", "adam", "muon"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "log")
    container = next(c for c in ax.containers if c.get_label() == "energetic")
    np.testing.assert_array_equal(container[0].get_xdata(), [0, 1, 2])
    np.testing.assert_array_equal(container[0].get_ydata(), x)


def test_one_height_alone_is_no_figure():
    one = heights().isel(temperature=0, drop=True)
    with pytest.raises(UserError, match="barrier: expected a scan over one parameter"):
        plots.plot_barrier(one)
