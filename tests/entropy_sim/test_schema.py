from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from entropy_sim import schema
from entropy_sim.run_files import provenance


def path_group() -> xr.Dataset:
    return schema.make("path", {"s": ("s", [0.0, 0.5, 1.0]), "arc_length": ("s", [0.0, 1.0, 2.0])})


def run(**groups: xr.Dataset) -> xr.DataTree:
    tree = xr.DataTree.from_dict({f"/{n}": g for n, g in groups.items()})
    tree.attrs = provenance(source="entropy_sim", system="test", config={}, noise="none", seed=0, threads=1)
    return tree


def test_make_fills_units_and_names_of_variables_and_of_their_standard_errors():
    data = schema.make(
        "relaxation",
        {
            "start": ("start", [0.2]),
            "time": ("time", [0.0, 1.0]),
            "position": (("start", "replica", "time"), np.zeros((1, 3, 2))),
            "position_stderr": (("start", "time"), np.zeros((1, 2))),
            "diverged": (("start", "replica"), np.zeros((1, 3), dtype="int8")),
        },
    )
    assert data["position"].attrs == {"units": "1", "long_name": "position s along the path"}
    assert data["position_stderr"].attrs["units"] == "1"
    assert data["position_stderr"].attrs["long_name"].startswith("standard error of")


def test_a_valid_run_validates():
    schema.validate(run(path=path_group()))


def test_validate_lists_every_fault_at_once():
    tree = run(path=path_group(), mean_force=xr.Dataset({"nonsense": ("s", [1.0, 2.0])}, {"s": [0.0, 2.0]}))
    del tree.attrs["seed"]
    tree["path"]["arc_length"].attrs["units"] = "miles"
    with pytest.raises(schema.SchemaError) as caught:
        schema.validate(tree, "some.nc")
    message = str(caught.value)
    for part in (
        "some.nc",
        "attribute seed: missing",
        "path/arc_length: expected units 'parameter', found 'miles'",
        "mean_force/mean_force: missing",
        "mean_force/time_window: missing",
        "mean_force/nonsense: not a variable",
        "mean_force/s: expected values in 0…1",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        ({"s": ("s", [0.0, 1.0])}, "path/arc_length: missing"),
        ({"s": ("s", [1.0, 0.0]), "arc_length": ("s", [0.0, 1.0])}, "path/s: expected increasing"),
        ({"s": ("s", [0.0, 1.0]), "arc_length": ("t", [0.0, 1.0])}, r"path/arc_length: expected dimensions \('s',\)"),
    ],
)
def test_make_refuses_what_the_contract_does_not_allow(variables, fault):
    with pytest.raises(schema.SchemaError, match=fault):
        schema.make("path", variables)


def test_unknown_groups_are_refused_by_name():
    with pytest.raises(schema.SchemaError, match="expected one of path, profile"):
        schema.make("nonsense", {})


def test_every_group_of_the_vocabulary_is_in_the_contract():
    assert set(schema.GROUPS) >= {"profile", "mean_force", "relaxation", "stationary", "escape", "barrier"}


def test_a_scan_adds_a_dimension_to_any_variable():
    schema.make(
        "stationary",
        {
            "s": ("s", [0.0, 1.0]),
            "temperature": ("temperature", [0.1, 0.2, 0.3]),
            "density": (("temperature", "s"), np.ones((3, 2))),
        },
    )
