"""The theory page: every function and test it names is there, and no closed form is left out."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path

from entropy_sim import theory

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "theory.md").read_text(encoding="utf-8")
LINKS = re.findall(r"\[`([\w.]+)`\]\(([^)#]+\.py)\)", PAGE)


@cache
def defined(path: Path) -> set[str]:
    """Names of the functions, and of the methods as Class.method, that a file defines."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{x.name}" for x in node.body if isinstance(x, ast.FunctionDef)}
    return names


def missing(links: list[tuple[str, str]]) -> list[str]:
    files = [(name, (DOCS / path).resolve()) for name, path in links]
    return [f"{path}: {name}" for name, path in files if not path.is_file() or name not in defined(path)]


def test_every_function_and_test_named_is_there():
    assert len(LINKS) > 100
    assert missing(LINKS) == []
    assert missing([("variance_of_sgd", "../entropy_sim/theory/variance.py"), ("f", "../nowhere.py")]) != []


def test_every_block_of_functions_has_a_test():
    blocks = re.findall(r"(?:^> .*\n?)+", PAGE, flags=re.MULTILINE)
    assert len(blocks) > 25
    assert [b for b in blocks if "](../tests/" not in b] == []


def test_no_closed_form_is_left_out():
    public = {name for name in theory.__all__ if inspect.isfunction(getattr(theory, name))}
    assert public - {name for name, path in LINKS if "entropy_sim/theory/" in path} == set()
