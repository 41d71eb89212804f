from __future__ import annotations

import numpy as np
import pytest

from analysis import plots
from entropy_sim import schema
from entropy_sim.errors import UserError


def spectrum(widths=(0.5, 1.0, 2.0, 1.0, 0.5, 0.4, 0.3), seed=0, error=0.02, kinds=("line", "neb"), top=12.0):
    """Exponential densities, of mean `widths` on the path and 3 times that on the line, with relative errors."""
    x = np.linspace(0.0, top, 1201)
    each = np.array([[np.exp(-x / (w * (3 if k == "line" else 1))) for w in widths] for k in kinds])
    each /= np.trapezoid(each, x)[..., None]
    noise = 1 + error * np.random.default_rng(seed).standard_normal(each.shape[:-1])[..., None] * (x / 2 - 0.5)
    return schema.make(
        "spectrum",
        {
            "path_kind": (("path_kind",), np.array(kinds)),
            "s": (("s",), np.linspace(0, 1, len(widths))),
            "eigenvalue": (("eigenvalue",), x),
            "density": (("path_kind", "s", "eigenvalue"), each * noise),
            "density_stderr": (("path_kind", "s", "eigenvalue"), error * each * abs(x / 2 - 0.5)),
        },
        {"gaussian_width": 0.02, "samples": 256},
    )


def test_the_path_is_drawn_not_the_line_at_places_from_end_to_end():
    ds = spectrum()
    ax = plots.plot_spectrum(ds)
    lines = [line for line in ax.get_lines() if line.get_label().startswith("s = ")]
    assert [line.get_label() for line in lines] == ["s = 0", "s = 0.33", "s = 0.5", "s = 0.67", "s = 1"]
    seen = lines[0].get_ydata()
    good = np.isfinite(seen)
    np.testing.assert_allclose(seen[good], ds["density"].sel(path_kind="neb").values[0][good])
    assert ax.get_yscale() == "log"
    assert "parameter² / loss" in ax.get_ylabel()
    with pytest.raises(UserError, match="path_kind: expected one of line, neb, found 'spline'"):
        plots.plot_spectrum(ds, path_kind="spline")


def test_a_file_with_a_spectrum_draws_it(network, tmp_path):
    tree = network(groups=("profile",)).tree()
    tree["spectrum"] = spectrum()
    assert "spectrum" in {p.stem for p in plots.plot_file(tree, tmp_path)}
