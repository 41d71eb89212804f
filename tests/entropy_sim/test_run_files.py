from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import xarray as xr

from entropy_sim import run_files, schema
from entropy_sim.errors import UserError


@dataclass(frozen=True)
class Narrow:
    width: float = 1.0


@dataclass(frozen=True)
class Wide:
    width: float = 2.0
    ends: tuple[float, ...] = (0.0, 1.0)


@dataclass(frozen=True)
class Setup:
    shape: Narrow | Wide = field(default_factory=Narrow)
    steps: int = 3
    scheme: Literal["a", "b"] = "a"
    limit: float | None = None
    pair: tuple[int, int] = (0, 1)


def a_run(config: object = None) -> xr.DataTree:
    path = schema.make("path", {"s": ("s", [0.0, 1.0]), "arc_length": ("s", [0.0, 2.0])})
    tree = xr.DataTree.from_dict({"/path": path})
    tree.attrs = run_files.provenance(
        source="entropy_sim", system="test", config=config or Setup(), noise="none", seed=0, threads=1
    )
    return tree


@pytest.mark.parametrize("setup", [Setup(), Setup(Wide(3.0, (0.5,)), 7, "b", 0.25, (4, 5))])
def test_a_configuration_survives_json(setup):
    assert run_files.from_jsonable(Setup, json.loads(run_files.config_json(setup))) == setup


def test_the_hash_depends_on_every_value_and_only_on_values():
    assert run_files.config_hash(Setup()) == run_files.config_hash(Setup(Narrow(1.0)))
    assert run_files.config_hash(Setup()) != run_files.config_hash(Setup(Narrow(1.5)))
    assert run_files.config_hash(Setup(Narrow(2.0))) != run_files.config_hash(Setup(Wide(2.0)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"type": "Setup", "speed": 1}, "config: unknown option speed; Setup takes limit, pair"),
        ({"type": "Setup", "steps": 1.5}, r"config\.steps: expected int, found 1\.5"),
        ({"type": "Setup", "steps": True}, r"config\.steps: expected int, found True"),
        ({"type": "Setup", "shape": {"type": "Round"}}, r"config\.shape: expected one of Narrow, Wide, found 'Round'"),
        ({"type": "Setup", "scheme": "c"}, r"config\.scheme: expected one of 'a', 'b', found 'c'"),
        ({"type": "Setup", "pair": [1]}, r"config\.pair: expected 2 values, found 1"),
        ({"type": "Other"}, "config: expected type Setup, found 'Other'"),
        (3, "config: expected an object of type Setup, found 3"),
    ],
)
def test_foreign_configurations_are_refused_by_place(value, message):
    with pytest.raises(UserError, match=message):
        run_files.from_jsonable(Setup, value)


def test_config_from_a_json_file_and_from_a_dataset_are_the_same(tmp_path):
    setup = Setup(Wide())
    (tmp_path / "c.json").write_text(run_files.config_json(setup))
    run_files.write_tree(a_run(setup), tmp_path / "run.nc")
    assert run_files.config_from_file(Setup, tmp_path / "c.json") == setup
    assert run_files.config_from_file(Setup, tmp_path / "run.nc") == setup


def test_a_merged_run_keeps_every_configuration(tmp_path):
    merged = run_files.merge({"one": a_run(Setup()), "two": a_run(Wide())}, system="both")
    assert merged.attrs["system"] == "both"
    run_files.write_tree(merged, tmp_path / "both.nc")
    assert run_files.config_from_file(Wide, tmp_path / "both.nc") == Wide()
    with pytest.raises(UserError, match="expected a configuration of Narrow in .*, found Setup, Wide"):
        run_files.config_from_file(Narrow, tmp_path / "both.nc")


def test_writing_is_whole_or_not_at_all(tmp_path):
    target = tmp_path / "kept.txt"
    target.write_text("old")

    def killed_half_way(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_files.write_whole(target, killed_half_way)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_a_run_reads_back_as_written_with_plain_xarray_too(tmp_path):
    tree = a_run()
    run_files.write_tree(tree, tmp_path / "run.nc")
    assert run_files.read_tree(tmp_path / "run.nc").identical(tree)
    with xr.open_dataset(tmp_path / "run.nc", group="path") as path:
        assert path["arc_length"].attrs["units"] == "parameter"


def test_an_invalid_run_is_not_written(tmp_path):
    tree = a_run()
    del tree.attrs["seed"]
    with pytest.raises(schema.SchemaError, match="attribute seed: missing"):
        run_files.write_tree(tree, tmp_path / "run.nc")
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_ours_are_refused_in_one_line(tmp_path):
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(UserError, match=r"text\.nc: expected a netCDF4 file"):
        run_files.read_tree(tmp_path / "text.nc")
    with pytest.raises(UserError, match="no such file"):
        run_files.read_tree(tmp_path / "absent.nc")
    xr.Dataset({"x": ("t", [1.0])}).to_netcdf(tmp_path / "foreign.nc")
    with pytest.raises(schema.SchemaError, match="attribute source: missing; .*no measurement"):
        run_files.read_tree(tmp_path / "foreign.nc")


def test_outputs_of_another_configuration_are_refused_without_overwrite(tmp_path):
    target = tmp_path / "run.nc"
    assert run_files.output_state(target, Setup()) == "absent"
    run_files.write_tree(a_run(Setup()), target)
    assert run_files.output_state(target, Setup()) == "same"
    with pytest.raises(UserError, match="another configuration"):
        run_files.output_state(target, Setup(steps=4))
    assert run_files.output_state(target, Setup(steps=4), overwrite=True) == "absent"
    target.write_text("a letter")
    with pytest.raises(UserError, match="not one of our runs"):
        run_files.output_state(target, Setup())
    assert target.read_text() == "a letter"


def test_places_that_cannot_be_written_are_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out: expected a writable place"):
        run_files.writable(tmp_path / "file" / "run.nc")
    with pytest.raises(UserError, match="--out: expected a file, found the directory"):
        run_files.writable(tmp_path)


def test_reading_loads_every_variable_also_one_called_like_its_group(tmp_path):
    dataset = xr.Dataset({"mean_force": ("s", np.arange(3.0)), "other": ("s", np.arange(3.0))})
    tree = xr.DataTree.from_dict({"mean_force": dataset})
    tree.attrs["mark"] = "kept"
    path = run_files.write_tree(tree, tmp_path / "run.nc", check=False)
    found = run_files.read_tree(path, check=False)
    path.unlink()
    assert found.attrs["mark"] == "kept"
    assert all(v._in_memory for node in found.subtree for v in node.to_dataset().variables.values())
    np.testing.assert_array_equal(found["mean_force"]["mean_force"], np.arange(3.0))


def test_a_damaged_output_does_not_count_as_done(tmp_path):
    tree = a_run(Setup())
    tree["path"] = xr.DataTree(tree["path"].to_dataset().drop_vars("arc_length"))
    run_files.write_tree(tree, tmp_path / "run.nc", check=False)
    with pytest.raises(UserError, match=r"expected a valid run at .*path/arc_length: missing"):
        run_files.output_state(tmp_path / "run.nc", Setup())


def test_a_directory_is_no_output_file(tmp_path):
    with pytest.raises(UserError, match="--out: expected a file, found the directory"):
        run_files.output_state(tmp_path, Setup(), overwrite=True)


@pytest.mark.parametrize("kind", [{}, [], None, 3])
def test_a_type_that_is_no_name_is_refused(kind):
    """JSON that a person edited: an unhashable type ended in a traceback."""
    with pytest.raises(UserError, match=r"config\.shape: expected one of .*, found"):
        run_files.from_jsonable(Setup, {"type": "Setup", "shape": {"type": kind}})


@pytest.mark.parametrize("measurements", [None, "all", [3]])
def test_a_merged_configuration_without_measurements_is_refused(tmp_path, measurements):
    path = tmp_path / "merged.json"
    path.write_text(json.dumps({"type": "MergedRun", "measurements": measurements}))
    with pytest.raises(UserError, match="--config: expected a list of measurements in .*, found"):
        run_files.config_from_file(Setup, path)
