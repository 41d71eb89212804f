"""Command-line options from frozen dataclasses: tyro parses, this module adds the house rules.

One line per mistake, choices of every noun (`landscape:channel`) anywhere on the line, `--config FILE` as defaults.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from entropy_sim.errors import UserError
from entropy_sim.run_files import config_from_file

T = TypeVar("T")

_CHOICE = re.compile(
    r"^(?![^:]*\.py:|(?:cuda|xpu|mps):)[a-z][a-z0-9_.-]*:[a-z0-9-]+$"
)  # `shape.py:name`, `cuda:0` are values
_CONFIG = "--config"
CONFIG_HELP = "take the configuration of this dataset or JSON file; options given beside it change it"
OVERWRITE_HELP = "replace what another configuration made"


def kebab(name: str) -> str:
    """ClassName or field_name as it is written on the command line."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).replace("_", "-").lower()


def _members(hint: Any) -> dict[str, type]:
    """The dataclasses a union of dataclasses (or of one and None) may be, by name; nothing for any other type."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return {}
    members: list[Any] = [m for m in typing.get_args(hint) if m is types.NoneType or dataclasses.is_dataclass(m)]
    return {_name(m): m for m in members} if len(members) > 1 else {}


def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return () if kind is types.NoneType else dataclasses.fields(kind)


def _name(kind: type) -> str:
    return "none" if kind is types.NoneType else kebab(kind.__name__)


def choices(kind: type, default: Any, given: dict[str, str], prefix: str = "") -> list[str]:
    """The sub-command tokens that select every noun of `kind`: the given choice, or else that of `default`.

    Naming them all makes every option of the selection reachable, and `--help` complete. Hyphens are optional: in
    `given`, which is corrected, `network:wideresnet` becomes `network:wide-res-net`.
    Raises UserError for a choice that does not exist.
    """
    tokens: list[str] = []
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in _fields(kind):
        key = prefix + kebab(field.name)
        present = getattr(default, field.name, None) if default is not None else None
        hint = hints[field.name]
        members = _members(hint)
        if members:
            chosen = given.get(key) or _name(type(present))
            chosen = next((n for n in members if n.replace("-", "") == chosen.replace("-", "")), chosen)
            if chosen not in members:
                raise UserError(f"{key}: expected one of {', '.join(members)}, found {chosen!r}")
            if key in given:
                given[key] = chosen
            tokens.append(f"{key}:{chosen}")
            tokens += choices(*_chosen(members[chosen], present), given, f"{key}.")
        elif dataclasses.is_dataclass(present):
            tokens += choices(type(present), present, given, "" if _flattened(hint) else f"{key}.")
    return tokens


def option_names(kind: type, default: Any, given: dict[str, str], prefix: str = "") -> list[str]:
    """Every option of the selection, as it is written on the command line without its dashes."""
    names: list[str] = []
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in _fields(kind):
        key = prefix + kebab(field.name)
        present = getattr(default, field.name, None) if default is not None else None
        if members := _members(hints[field.name]):
            names += option_names(*_chosen(members[given.get(key) or _name(type(present))], present), given, f"{key}.")
        elif dataclasses.is_dataclass(present):
            names += option_names(type(present), present, given, "" if _flattened(hints[field.name]) else f"{key}.")
        else:
            names.append(key)
    return names


def in_options(message: str, names: Sequence[str]) -> str:
    """A message about a field, `stiffness.end: expected …`, with the option that a user typed in the field's place.

    tyro says before it where the dataclass stands that refused the field, `Error parsing noise.along-path: `, though
    with the names of flattened fields in front: a shape calls itself a stiffness wherever it is used."""
    found = re.match(r"(?:Error parsing ([\w.-]+): )?(?:--)?([a-z_][\w.]*)(?=(\[\d+\])?: expected )", message)
    if found is None:
        return message
    rest, field = message[found.end() :], kebab(found[2])
    parts, last = (found[1] or "").split("."), field.rpartition(".")[2]
    places = [".".join(parts[i:]) for i in range(len(parts))]
    for place in places:
        if f"{place}.{last}" in names:
            return f"--{place}.{last}{rest}"
    fitting = [n for n in names if n == field]
    if not fitting and len(parts) == 1:
        fitting = [n for n in names if n.endswith(f".{field}")]
    if len(fitting) == 1:
        return f"--{fitting[0]}{rest}"
    # A noun, or a field of a part that has no option of its own: where it stands.
    known = [p for p in places if p != last and not field.startswith(p) and any(n.startswith(f"{p}.") for n in names)]
    return f"{known[0]}.{last}{rest}" if known else f"{found[2]}{rest}"


def _flattened(hint: Any) -> bool:
    return any(getattr(note, "name", None) == "" for note in getattr(hint, "__metadata__", ()))


def _chosen(kind: type, present: Any) -> tuple[type, Any]:
    """A member of a union, and what its options begin with: what is there already, or the member's own defaults."""
    if isinstance(present, kind) or kind is types.NoneType:
        return kind, present if isinstance(present, kind) else None
    try:
        return kind, kind()
    except TypeError:
        return kind, None


def parse(kind: type[T], arguments: Sequence[str], *, prog: str, default: T, description: str = "") -> T:
    """Parse `arguments` into a `kind`. Raises UserError, on one line, for anything that does not parse."""
    import tyro

    options = [a for a in arguments if not _CHOICE.match(a)]
    pairs = [a.split(":", 1) for a in arguments if _CHOICE.match(a)]
    given = dict(pairs)
    if len(given) < len(pairs):
        twice = next(noun for noun in given if [p[0] for p in pairs].count(noun) > 1)
        found = ", ".join(choice for noun, choice in pairs if noun == twice)
        raise UserError(f"{twice}: expected one choice, found {found}")
    nouns = choices(kind, default, given)
    if unknown := set(given) - {n.split(":", 1)[0] for n in nouns}:
        known = ", ".join(n.split(":", 1)[0] for n in nouns) or "none here"
        raise UserError(f"{prog}: unknown choice {', '.join(sorted(unknown))} (expected one of: {known})")
    errors, shown = io.StringIO(), _Shown(sys.stdout)
    names = option_names(kind, default, given)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(shown):
            return tyro.cli(
                kind,
                args=[*nouns, *options],
                prog=prog,
                default=default,
                description=description or None,
                config=(tyro.conf.CascadeSubcommandArgs,),
                registry=_registry(),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            print(_help(shown.getvalue(), prog, _preface(kind, default, description), bool(nouns)), end="")
            raise
        raise UserError(f"{prog}: {in_options(_one_line(errors.getvalue()), names)}") from None
    except UserError as error:
        raise UserError(f"{prog}: {in_options(str(error), names)}") from None


def _registry() -> Any:
    """What tyro cannot read by itself: rows of numbers, `--noise.covariance "2 0.5; 0.5 1"`."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def rows_of_numbers(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if type_info.type != tuple[tuple[float, ...], ...]:
            return None
        return PrimitiveConstructorSpec(
            nargs="*",
            metavar="ROW; ROW…",
            instance_from_str=_rows,
            is_instance=lambda value: isinstance(value, tuple) and all(isinstance(row, tuple) for row in value),
            str_from_instance=lambda rows: ["; ".join(" ".join(map(str, row)) for row in rows)],
        )

    return registry


def _rows(words: list[str]) -> tuple[tuple[float, ...], ...]:
    text = " ".join(words)
    try:
        return tuple(tuple(map(float, row.replace(",", " ").split())) for row in text.split(";"))
    except ValueError:
        raise ValueError(f"Could not find valid parse for arguments: {words}") from None


def nouns_of(kind: type, default: Any, prefix: str = "") -> dict[str, list[str]]:
    """Every noun and its choices, the default's first."""
    found: dict[str, list[str]] = {}
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in _fields(kind):
        key, present = prefix + kebab(field.name), getattr(default, field.name, None)
        if members := _members(hints[field.name]):
            chosen = _name(type(present))
            found[key] = sorted(members, key=lambda n: n != chosen)
            for name in found[key]:  # what two choices share begins with that of the default
                inner = nouns_of(*_chosen(members[name], present), f"{key}.")
                found |= {noun: names for noun, names in inner.items() if noun not in found}
        elif dataclasses.is_dataclass(present):
            found |= nouns_of(type(present), present, "" if _flattened(hints[field.name]) else f"{key}.")
    return found


class _Shown(io.StringIO):
    """What tyro prints, in the colours and characters of the stream that it is meant for."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"


def _help(shown: str, prog: str, preface: str, nouns: bool) -> str:
    """tyro's help with a beginning of our own: it names every noun in its usage, and describes the last of them."""
    usage, _, rest = shown.partition("\n\n")
    if nouns:
        usage = f"usage: {prog} [NOUN:CHOICE …] [options]"
    box = re.search(r"^[^\n╭]*╭|^[^\n]+\n *-{10,}", rest, flags=re.MULTILINE)
    return "\n\n".join([usage, preface.rstrip(), rest if box is None else rest[box.start() :]])


def _preface(kind: type, default: Any, description: str) -> str:
    """What is run, and the choices, which may stand anywhere on the line; tyro's help has the options of the chosen."""
    lines = [inspect.cleandoc(description), ""] if description else []
    if nouns := nouns_of(kind, default):
        lines += ["choices, e.g. " + " ".join(f"{n}:{c[-1]}" for n, c in list(nouns.items())[:1]) + " (default first):"]
        lines += [f"  {noun}: {', '.join(names)}" for noun, names in nouns.items()]
        lines.append("")
    return "\n".join(lines)


def _one_line(box: str) -> str:
    """tyro's message without its box and its help text (which says nothing an error needs)."""
    lines: list[str] = []
    if "╭" not in box:  # drawn with dashes where stdout is not UTF-8: the title, a rule, the message, a rule
        box = re.sub(r"\A.*?\n *-{5,} *\n", "", box, flags=re.DOTALL)
    for line in box.splitlines():
        text = line.strip("│ ").strip()
        if re.match(r"^[─╭╰]|^-{5,}", text):
            if lines and not text.startswith("╭"):
                break
            continue
        if text:
            lines.append(text)
    text = re.sub(r"\s+", " ", " ".join(lines))
    # Python's own words for a number that is none.
    text = re.sub(
        r"^Error parsing (--\S+): invalid literal for int\(\) .*: (.*)$", r"\1: expected a whole number, found \2", text
    )
    text = re.sub(
        r"^Error parsing (--\S+): could not convert string to float: (.*)$", r"\1: expected a number, found \2", text
    )
    text = re.sub(
        r"^Error parsing (--\S+): Could not find valid parse for arguments: (.*)$",
        r"\1: expected numbers, found \2",
        text,
    )
    text = re.sub(
        r"^Error parsing (--\S+): no type matching (\S+) could be instantiated from (\[.*?\])\..*$",
        lambda m: f"{m[1]}: expected {m[2].replace('{None}', 'None').replace('|', ' or ')}, found {m[3]}",
        text,
    )
    text = re.sub(r"^Missing from [^:]*(?::\S[^:]*)*: (--\S+) .*$", r"\1: expected a value, found nothing", text)
    # What a dataclass does not know names its option itself; `in_options` reads where one stands that it refuses.
    text = re.sub(r"^Error parsing [\w.-]+: (?=[\w.-]+: unknown )", "", text)
    return text or "options could not be read (see --help)"


def split_config(arguments: Sequence[str], option: str = _CONFIG) -> tuple[Path | None, list[str]]:
    """Take `--config FILE` (or `--config=FILE`, or another option that names a file) out of the arguments."""
    rest, found = [], None
    remaining = iter(arguments)
    for argument in remaining:
        if argument == option:
            found = next(remaining, None)
            if found is None:
                raise UserError(
                    f"{option}: expected a {'JSON or ' if option == _CONFIG else ''}netCDF file, found nothing"
                )
        elif argument.startswith(f"{option}="):
            found = argument.removeprefix(f"{option}=")
        else:
            rest.append(argument)
    return (Path(found) if found is not None else None), rest


def default_for(kind: type[T], config: Path | None) -> T:
    """The defaults that options change: those of the class, or the configuration in a file."""
    return kind() if config is None else config_from_file(kind, config)
