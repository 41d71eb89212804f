"""Runs on disk: written whole or not at all, with their provenance, their configuration as JSON and its hash."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import xarray as xr

from entropy_sim import schema
from entropy_sim.errors import UserError

T = TypeVar("T")


# --- configurations -------------------------------------------------------------------------------------------------


def to_jsonable(value: Any) -> Any:
    """A configuration as plain JSON types; every dataclass carries its class name under "type".

    An object that is not made of plain values (a live network, say) says by its `jsonable()` what is to stand for it.
    """
    if hasattr(value, "jsonable") and not isinstance(value, type):
        return to_jsonable(value.jsonable())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_jsonable(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a configuration cannot hold a {type(value).__name__}")


def config_json(config: Any) -> str:
    """The `config` attribute: `to_jsonable` as text with sorted keys, enough to run the configuration again."""
    return json.dumps(to_jsonable(config), sort_keys=True, allow_nan=True)


def config_hash(config: Any) -> str:
    """SHA-256 of `config_json`, which decides whether an output belongs to a configuration."""
    return hashlib.sha256(config_json(config).encode()).hexdigest()


def from_jsonable(kind: Any, value: Any, where: str = "config") -> Any:
    """Rebuild an object of type `kind` (a dataclass, a union of them, a tuple …) from `to_jsonable`'s form.

    Raises UserError naming the place, what was expected and what was found.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return from_jsonable(arguments[0], value, where)
    if origin in (typing.Union, types.UnionType):
        return _from_union(arguments, value, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _from_dataclass(kind, value, where)
    if origin is tuple or kind is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where}: expected a list, found {value!r}")
        if not arguments:
            return tuple(value)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(from_jsonable(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(value) != len(arguments):
            raise UserError(f"{where}: expected {len(arguments)} values, found {len(value)}")
        pairs = zip(arguments, value, strict=True)
        return tuple(from_jsonable(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(pairs))
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where}: expected one of {', '.join(map(repr, arguments))}, found {value!r}")
        return value
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is Any:
        return value
    if isinstance(kind, type) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise UserError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value


def _from_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in members:
        return None
    if isinstance(value, dict) and "type" in value:
        classes = {
            getattr(m, "__name__", ""): m for m in (typing.get_args(m)[0] if typing.get_args(m) else m for m in members)
        }
        if not isinstance(value["type"], str) or value["type"] not in classes:
            known = ", ".join(n for n in classes if n != "NoneType")
            raise UserError(f"{where}: expected one of {known}, found {value['type']!r}")
        return _from_dataclass(classes[value["type"]], value, where)
    problems = []
    for member in members:
        try:
            return from_jsonable(member, value, where)
        except UserError as error:
            problems.append(error)
    raise problems[0]


def _from_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object of type {kind.__name__}, found {value!r}")
    if value.get("type", kind.__name__) != kind.__name__:
        raise UserError(f"{where}: expected type {kind.__name__}, found {value['type']!r}")
    hints = typing.get_type_hints(kind, include_extras=True)
    names = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(value) - names - {"type"})
    if unknown:
        raise UserError(
            f"{where}: unknown option {', '.join(unknown)}; {kind.__name__} takes {', '.join(sorted(names))}"
        )
    arguments = {n: from_jsonable(hints[n], v, f"{where}.{n}") for n, v in value.items() if n != "type"}
    try:
        return kind(**arguments)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error


def config_from_file(kind: Any, path: Path) -> Any:
    """Read a configuration of type `kind` from a JSON file or from the `config` attribute of a dataset."""
    if not Path(path).is_file():
        raise UserError(f"--config: expected a JSON or netCDF file, found no file at {path}")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = read_tree(path, check=False).attrs.get("config", "")
        if not text:
            raise UserError(f"--config: expected a run with the attribute config, found none in {path}") from None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--config: expected JSON in {path}, found {error}") from error
    if isinstance(value, dict) and value.get("type") == "MergedRun":
        name = getattr(kind, "__name__", "")
        each = value.get("measurements")
        if not (isinstance(each, list) and all(isinstance(v, dict) for v in each)):
            raise UserError(f"--config: expected a list of measurements in {path}, found {each!r}")
        found = [str(v.get("type")) for v in each]
        if name not in found:
            raise UserError(f"--config: expected a configuration of {name} in {path}, found {', '.join(found)}")
        value = each[found.index(name)]
    return from_jsonable(kind, value, "--config")


# --- provenance -----------------------------------------------------------------------------------------------------


@functools.cache
def versions(packages: tuple[str, ...] = ()) -> str:
    """Versions of Python, this package and its numerical dependencies, as JSON; looked up once, which takes 4 ms."""
    found = {"python": platform.python_version()}
    for name in ("entropic-forces", "numpy", "numba", "scipy", "xarray", "netCDF4", *packages):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return json.dumps(found)


@functools.cache
def git_commit() -> str:
    """Commit of the source tree this package runs from, with "+" if it has changes, or "unknown"; asked once, because
    it is the code that was loaded."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # Only when the package's own files are tracked there: site-packages may lie inside somebody else's repository.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def provenance(
    *,
    source: str,
    system: str,
    config: Any,
    noise: str,
    seed: int,
    threads: int,
    device: str = "cpu",
    packages: tuple[str, ...] = (),
    **extra: Any,
) -> dict[str, Any]:
    """The root attributes of a run (see `schema.ROOT_ATTRIBUTES`); `extra` adds e.g. normalization_mode."""
    return {
        "source": source,
        "system": system,
        "config": config if isinstance(config, str) else config_json(config),
        "noise": noise,
        "seed": int(seed),
        "threads": int(threads),
        "schema_version": schema.SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "versions": versions(packages),
        "device": device,
        **extra,
    }


# --- files ----------------------------------------------------------------------------------------------------------


def writable(path: Path | str) -> None:
    """Raise UserError now, before any work, if `path` could not be written at the end."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"--out: expected a file, found the directory {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"--out: expected a writable place, found {path} ({error.strerror})") from error


def write_whole(path: Path | str, write: Callable[[Path], Any]) -> Path:
    """Call `write` on a temporary name beside `path`, then rename: `path` is never half written.

    Raises UserError if the place cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise UserError(f"--out: expected a writable place, found {path} ({error.strerror})") from error
    temporary = Path(name)
    try:
        write(temporary)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"--out: expected a writable place, found {path} ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_tree(tree: xr.DataTree, path: Path | str, *, check: bool = True) -> Path:
    """Write a run to netCDF4, validated, compressed, whole or not at all."""
    if check:
        schema.validate(tree, str(path))

    def write(temporary: Path) -> None:
        encoding = {
            node.path: {
                str(name): {"zlib": True, "complevel": 4}
                for name, variable in node.to_dataset().variables.items()
                if variable.ndim and np.issubdtype(variable.dtype, np.number)
            }
            for node in tree.subtree
        }
        tree.to_netcdf(temporary, engine="netcdf4", encoding={p: e for p, e in encoding.items() if e})

    return write_whole(path, write)


def read_tree(path: Path | str, *, check: bool = True) -> xr.DataTree:
    """Read a run into memory. Raises UserError for a missing, foreign or unreadable file, SchemaError for faults."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected a netCDF file, found {'a directory' if path.is_dir() else 'no such file'}")
    try:
        with xr.open_datatree(path, engine="netcdf4") as opened:
            # Node by node: DataTree.load leaves out a variable that is called like its group (mean_force/mean_force),
            # and touching it once the file is closed crashes the interpreter.
            tree = xr.DataTree.from_dict({n.path: n.to_dataset(inherit=False).load() for n in opened.subtree})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: expected a netCDF4 file, found something else ({_first_line(error)})") from error
    if check:
        schema.validate(tree, str(path))
    return tree


def merged_config(configs: Iterable[Any]) -> dict[str, Any]:
    """The configuration of a merged run: what all measurements share (landscape, noise, …), and all of them in full."""
    measurements = [to_jsonable(config) for config in configs]
    first = measurements[0]
    shared = {k: v for k, v in first.items() if k != "type" and all(m.get(k) == v for m in measurements[1:])}
    return {**shared, "type": "MergedRun", "measurements": measurements}


def merge(runs: Mapping[str, xr.DataTree], **attrs: Any) -> xr.DataTree:
    """One run of several single-measurement runs, by the names of their groups; `attrs` replace root attributes.

    Every group keeps the configuration of its own run in its `config` attribute; the root's is `merged_config`.
    """
    first = next(iter(runs.values()))
    groups: dict[str, xr.Dataset] = {}
    for run in runs.values():
        for name, node in run.children.items():
            dataset = node.to_dataset()
            if name not in groups or name in runs:
                groups[name] = dataset.assign_attrs(config=run.attrs["config"])
    config = merged_config(json.loads(run.attrs["config"]) for run in runs.values())
    tree = xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in groups.items()})
    tree.attrs = {**first.attrs, "config": config_json(config), **attrs}
    return tree


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def output_state(path: Path | str, config: Any, *, overwrite: bool = False) -> Literal["absent", "same"]:
    """Whether `path` is free to be written ("absent") or already holds a run of this very configuration ("same").

    Raises UserError if it holds anything else and `overwrite` is off; with `overwrite`, anything counts as absent.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"--out: expected a file, found the directory {path}")
    if overwrite or not path.exists():
        return "absent"
    try:
        tree = read_tree(path, check=False)
        found = tree.attrs.get("config")
    except UserError:
        found = None
    if found == config_json(config):
        if faults := schema.faults(tree):
            raise UserError(f"--out: expected a valid run at {path}, found {'; '.join(faults)} (--overwrite)")
        return "same"
    what = "a run of another configuration" if found else "a file that is not one of our runs"
    raise UserError(f"--out: expected a new file or a run of this configuration, found {what} at {path} (--overwrite)")
