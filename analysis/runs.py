"""Runs from files: several of them and patterns, one after the other or combined along `run`, lazily where large."""

from __future__ import annotations

import glob
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from entropy_sim import schema
from entropy_sim.errors import UserError
from entropy_sim.run_files import merged_config, read_tree
from entropy_sim.survival import exponential_rate

Run = tuple[str, xr.DataTree]

LARGE = 500_000_000  # bytes of a file from which it is analysed piece by piece
_PIECE = "32MiB"
_MANY = 8  # runs whose scatter is the standard error
#: Groups that grow with the number of replicas and times; the others are read at once.
_GROWING = ("relaxation", "escape")


def expand(patterns: Sequence[Path | str]) -> list[Path]:
    """The files that names and patterns (`runs/*/network.nc`) stand for, in order, each once.

    Raises UserError for a pattern without a match, and for a file that is named twice."""
    found: list[Path] = []
    for pattern in map(str, patterns):
        if not glob.has_magic(pattern) or Path(pattern).exists():
            matches = [Path(pattern)]
        else:
            matches = [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]
            if not matches:
                raise UserError(f"files: expected files that match {pattern}, found none")
        for path in matches:
            if path.resolve() in [p.resolve() for p in found]:
                raise UserError(f"files: expected different files, found {path} twice")
            found.append(path)
    return found


def open_run(path: Path | str, large: int | None = None, *, check: bool = True) -> xr.DataTree:
    """A run or a comparison, validated (with `check`). Of a file of `large` bytes (default: `LARGE`) or more the groups
    that grow are opened with Dask, in pieces.

    Raises UserError as `read_tree` does, naming the version of the schema where it is another; and for a large file
    without Dask."""
    path = Path(path)
    limit = LARGE if large is None else large
    tree = _opened(path) if path.is_file() and path.stat().st_size >= limit else read_tree(path, check=False)
    if check:
        _check(tree, path)
    return tree


def _opened(path: Path) -> xr.DataTree:
    if importlib.util.find_spec("dask") is None:
        size = path.stat().st_size / 1e9
        raise UserError(f'{path}: expected Dask for a file of {size:.1f} GB (pip install -e ".[large]"), found none')
    import dask

    with dask.config.set({"array.chunk-size": _PIECE}):
        try:
            opened = xr.open_datatree(path, engine="netcdf4", chunks="auto")
        except (OSError, ValueError, KeyError) as error:
            first = str(error).splitlines()[0][:120]
            raise UserError(f"{path}: expected a netCDF4 file, found something else ({first})") from error
    groups = {
        node.path: node.to_dataset(inherit=False) if node.name in _GROWING else node.to_dataset(inherit=False).load()
        for node in opened.subtree
    }
    return xr.DataTree.from_dict(groups)


def _check(tree: xr.DataTree, path: Path) -> None:
    version = tree.attrs.get("schema_version")
    if version is not None and str(version) != schema.SCHEMA_VERSION:
        raise UserError(
            f"{path}: expected version {schema.SCHEMA_VERSION} of the dataset, found version {version} "
            "(measure again, or read it with the package that wrote it)"
        )
    schema.validate(tree, str(path))
    for group, node in tree.children.items() if tree.attrs["source"] != "analysis" else ():
        indexes = node.to_dataset().indexes
        for name in ("start", *schema.GROUPS[group].extra_dims):
            if name in indexes and not indexes[name].is_unique:
                raise UserError(f"{path}: {group}/{name}: expected different values, found some of them twice")
    relaxed = tree["relaxation"].to_dataset() if "relaxation" in tree.children else xr.Dataset()
    if "time" in relaxed and not bool((relaxed["time"].diff("time") > 0).all()):
        raise UserError(f"{path}: relaxation/time: expected rising times, found others")


def read(patterns: Sequence[Path | str]) -> tuple[list[Run], list[Run]]:
    """Simulations and networks in the files, with labels that differ; runs that differ in their seeds alone are
    combined along `run`. Raises UserError for comparisons, and files that are not runs."""
    simulations: list[Run] = []
    networks: list[Run] = []
    for path in expand(patterns):
        tree = open_run(path)
        source = tree.attrs["source"]
        if source == "analysis":
            raise UserError(f"{path}: expected a simulation or a network run, found a comparison")
        side = networks if source == "nn_experiments" else simulations
        names = [name for name, _ in side]
        # Many runs have files of one name, each in its own directory.
        stem = path.stem if path.stem not in names else f"{path.stem} {path.resolve().parent.name}"
        side.append((stem if stem not in names else f"{stem} {1 + len(names)}", tree))
    return combined(simulations), combined(networks)


def combined(runs: Sequence[Run]) -> list[Run]:
    """Runs of one configuration but for the seeds, joined along `run`; the others as they are, in order."""
    kinds: dict[str, list[Run]] = {}
    for label, tree in runs:
        key = json.dumps(_without_seeds(_configuration(tree)), sort_keys=True) + "".join(
            sorted(map(str, tree.children))
        )
        kinds.setdefault(key if _configuration(tree) else f"{key} {label}", []).append((label, tree))
    return [same[0] if len(same) == 1 else (same[0][0], concatenated(same)) for same in kinds.values()]


def concatenated(runs: Sequence[Run]) -> xr.DataTree:
    """Runs of the same measurements joined along the dimension `run`, group by group; of planes, the first one.

    Raises UserError, naming the group, where their coordinates differ, or they are the very same run."""
    seeds = [json.dumps(_configuration(tree), sort_keys=True) for _, tree in runs]
    if len(set(seeds)) < len(seeds):
        names = ", ".join(label for label, _ in runs)
        raise UserError(f"files: expected runs with different seeds to combine, found the same run twice ({names})")
    groups = {}
    for name in runs[0][1].children:
        parts = [tree[name].to_dataset() for _, tree in runs]
        if name == "plane":  # each pair of minima has a plane and coordinates of its own
            groups["plane"] = parts[0].assign_attrs(plane_of=runs[0][0])
            continue
        try:
            groups[str(name)] = xr.concat(
                parts,
                "run",
                data_vars="all",
                coords="minimal",
                compat="override",
                join="exact",
                combine_attrs="drop_conflicts",
            )
            if all("effective_bins" in part.attrs for part in parts):
                groups[str(name)].attrs["effective_bins"] = float(np.mean([p.attrs["effective_bins"] for p in parts]))
        except ValueError as error:
            labels = ", ".join(label for label, _ in runs)
            raise UserError(f"{name}: expected the same coordinates in {labels} to combine, found others") from error
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {**runs[0][1].attrs, "config": json.dumps(merged_config([_configuration(t) for _, t in runs]))}
    return tree


def over_runs(name: str, dataset: xr.Dataset) -> xr.Dataset:
    """A group with several runs as one: their replicas side by side where it has replicas, else the mean over runs with
    the standard error of their scatter, which contains that of a single run. The scatter of fewer than 8 runs is itself
    too uncertain to divide by: there the errors of the single runs are taken, if they state any, times the ratio of the
    scatter to them, pooled over all places, where it exceeds 1."""
    if "run" not in dataset.dims:
        return dataset
    if name in ("mean_force", "relaxation", "escape"):
        return _side_by_side(name, dataset)
    count = dataset.sizes["run"]
    result = {}
    for key, variable in dataset.data_vars.items():
        if "run" not in variable.dims:
            result[key] = variable
        elif name == "path" and key == "loss_between":
            result[key] = variable.max("run", keep_attrs=True)
        elif not str(key).endswith("_stderr") and np.issubdtype(variable.dtype, np.number):
            result[key] = variable.mean("run", skipna=False, keep_attrs=True)
            if count > 1 and name != "path":
                error = variable.std("run", ddof=1, skipna=False) / np.sqrt(count)
                if count < _MANY and f"{key}_stderr" in dataset and "run" in dataset[f"{key}_stderr"].dims:
                    error = _pooled(error, (dataset[f"{key}_stderr"] ** 2).sum("run", skipna=False) ** 0.5 / count)
                # Values that are equal but for rounding are known exactly.
                error = error.where(~(error < 1e-12 * abs(result[key])), 0.0)
                error.attrs = {
                    **variable.attrs,
                    "long_name": f"standard error of {variable.attrs.get('long_name', key)}",
                }
                result[f"{key}_stderr"] = error
    return xr.Dataset(result, attrs={**dataset.attrs, "runs": count})


def _pooled(scatter: xr.DataArray, stated: xr.DataArray) -> xr.DataArray:
    """The stated errors of a mean, times the pooled ratio of the scatter to them where it exceeds 1; the scatter itself
    where nothing is stated."""
    good = (stated > 0) & np.isfinite(stated) & np.isfinite(scatter)
    if not bool(good.any()):
        return scatter
    ratio = float(np.sqrt(((scatter / stated) ** 2).where(good).mean()))
    return (stated * max(1.0, ratio)).where(good, scatter)


def _side_by_side(name: str, dataset: xr.Dataset) -> xr.Dataset:
    parts = [dataset.isel(run=i, drop=True) for i in range(dataset.sizes["run"])]
    result = parts[0]
    replaced: dict[str, Any] = {}
    for key, variable in dataset.data_vars.items():
        dim = next((d for d in ("replica", "control_replica") if d in variable.dims), None)
        if dim is not None:
            each = [p[key].drop_vars(dim, errors="ignore") for p in parts]
            replaced[str(key)] = xr.concat(each, dim, join="override", combine_attrs="override")
        elif not str(key).endswith("_stderr") and np.issubdtype(variable.dtype, np.number) and "run" in variable.dims:
            replaced[str(key)] = variable.mean("run", keep_attrs=True)
    drop = [d for d in ("replica", "control_replica") if d in result.coords]
    result = xr.Dataset(replaced, {n: c for n, c in result.coords.items() if n not in drop}, attrs=dataset.attrs)
    result.attrs["runs"] = len(parts)
    if name == "escape" and "rate" in result and result["rate"].ndim == 0:
        time = xr.where(result["escaped"] > 0, result["first_passage_time"], result.get("duration", np.nan))
        kept = np.isfinite(time.values) & ~(result["diverged"].values > 0 if "diverged" in result else False)
        rate = exponential_rate(time.values[kept], result["escaped"].values[kept] > 0) if kept.any() else None
        result["rate"] = ((), np.nan if rate is None else rate.rate, result["rate"].attrs)
    return result


def _configuration(tree: xr.DataTree) -> Any:
    try:
        return json.loads(tree.attrs.get("config", "{}"))
    except (json.JSONDecodeError, TypeError):
        return {}


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seeds(v) for k, v in value.items() if k not in ("seed", "seeds")}
    return [_without_seeds(v) for v in value] if isinstance(value, list) else value
