"""Every number of every landscape, noise, update rule and measurement: what is not finite, and what is negative where
that has no meaning, is refused by name, in Python and on the command line."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest

import entropy_sim
from analysis import options
from analysis.cli import MEASUREMENTS, main
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Interpolated
from entropy_sim.landscapes.samples import Samples

#: Those that may be negative: exponents, energies, coordinates, data, and stiffnesses that a network was found to have.
MAY_BE_NEGATIVE = {
    *("Barrier.height", "Tilted.drop", "GeneratedSamples.slope", "Interpolated.values", "Interpolated.knots"),
    *("Power.exponent", "Power.centre", "CurvaturePower.exponent", "CurvatureCovariance.exponent"),
    *("Quadratic.hessian", "MullerBrown.points", "LowRankCovariance.factors", "Samples.inputs", "Samples.targets"),
    *("Tabulated.loss", "Tabulated.stiffness", "Tabulated.bulk_stiffness"),
    "Escape.upper",  # on an open line there are positions below 0
    *("CurvedChannel.twist", "CurvedChannel.twist_start"),  # checked below: not with one direction
}
#: Nouns that cannot be made without being told something.
GIVEN = {Interpolated: Interpolated((1.0, 2.0, 1.0)), Samples: Samples((1.0, 2.0), (1.0, 3.0))}


def instance(kind: type) -> Any:
    """One of this kind, or None where it is made from a file."""
    if kind in GIVEN:
        return GIVEN[kind]
    try:
        return kind()
    except TypeError:
        return None


def nouns(kind: type, prefix: str = "", path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """The choices that lead to it, the prefix of its options, and one of it: for every noun that `kind` may hold."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        for name, member in options._members(hints[field.name]).items():
            key = f"{prefix}{options.kebab(field.name)}"
            if (made := instance(member)) is not None:
                chosen = (*path, f"{key}:{name}")
                yield chosen, f"{key}.", made
                yield from nouns(member, f"{key}.", chosen)


def everything() -> dict[str, tuple[str, tuple[str, ...], str, Any]]:
    """Every measurement and every noun: sub-command, choices, prefix, and one of it, by the name of its class."""
    found: dict[str, tuple[str, tuple[str, ...], str, Any]] = {}
    for command, (name, _) in MEASUREMENTS.items():
        kind = getattr(entropy_sim, name)
        found[name] = command, (), "", kind()
        for chosen, prefix, made in nouns(kind):
            found.setdefault(f"{type(made).__name__} as {prefix}", (command, chosen, prefix, made))
    return found


EVERYTHING = everything()


def with_first(value: Any, bad: float) -> Any:
    """The value with its first number replaced, however deep."""
    return (with_first(value[0], bad), *value[1:]) if isinstance(value, tuple) else bad


def numbers(made: Any) -> Iterator[tuple[str, Any]]:
    """Fields that hold numbers."""
    for field in dataclasses.fields(made):
        value = first = getattr(made, field.name)
        while isinstance(first, tuple) and first:
            first = first[0]
        if isinstance(first, (int, float)) and not isinstance(first, bool):
            yield field.name, value


def test_all_nouns_are_looked_at():
    kinds = {type(made).__name__ for _, _, _, made in EVERYTHING.values()}
    assert {"Channel", "Quadratic", "Bump", "Interpolated", "Levy", "Constant", "SGD", "Samples", "Escape"} <= kinds
    shapes = {name for name in EVERYTHING if name.startswith("Bump as ")}
    assert shapes == {"Bump as landscape.stiffness.", "Bump as noise.along-path.", "Bump as noise.across."}


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_is_no_number_or_negative_is_refused_by_name(name):
    made = EVERYTHING[name][3]
    for field, value in numbers(made):
        whole = isinstance(value, int)
        negative = f"{type(made).__name__}.{field}" in MAY_BE_NEGATIVE
        for bad in [-1] if whole else [math.nan, math.inf, -math.inf, *([] if negative else [-1.0])]:
            with pytest.raises(UserError, match=rf"(^|\.){field}\b.*: expected .*, found ") as caught:
                dataclasses.replace(made, **{field: with_first(value, bad)})
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_option_that_was_typed_is_named(name, tmp_path, monkeypatch, capsys):
    command, chosen, prefix, made = EVERYTHING[name]
    monkeypatch.chdir(tmp_path)
    for field, value in numbers(made):
        typed = f"--{prefix}{options.kebab(field)}"
        words = ["-1"] if isinstance(value, int) else ["nan"] * (len(value) if isinstance(value, tuple) else 1)
        needed = [o for o, _ in numbers(made) if o != field] if type(made) in GIVEN else []
        others = [w for o in needed for w in (f"--{prefix}{o}", *map(str, getattr(made, o)))]
        assert main(["simulate", command, *chosen, *others, typed, *words]) == 2
        said = capsys.readouterr().err
        literal = re.match(rf"entropic: error: .* invalid choice '-1' for argument '{typed}'", said)
        assert literal or said.startswith(f"entropic: error: entropic simulate {command}: {typed}: expected "), said
        assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
