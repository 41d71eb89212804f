"""Hooks of `mkdocs build`: the pages that are made from the repository, its links, and mathematics as MathML.

Nothing of the site is loaded from elsewhere: equations are turned into MathML, which browsers draw themselves."""

from __future__ import annotations

import ast
import html
import importlib.util
import io
import posixpath
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from griffe import Docstring, Extension
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[1]
#: Files of the repository that are pages of the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "data/README.md": "data.md",
    "benchmarks/README.md": "benchmarks.md",
}
#: Reference pages: title, and the package or module whose files they describe.
API = {
    "theory": ("Theory", "entropy_sim/theory"),
    "landscapes": ("Landscapes", "entropy_sim/landscapes"),
    "noise": ("Noise", "entropy_sim/noise"),
    "dynamics": ("Dynamics", "entropy_sim/dynamics"),
    "measurements": ("Measurements of the simulator", "entropy_sim/measurements"),
    "base": ("Dataset, files, statistics", "entropy_sim"),
    "networks": ("Networks", "nn_experiments/networks"),
    "datasets": ("Data sets", "nn_experiments/datasets"),
    "paths": ("Paths", "nn_experiments/paths"),
    "curvature": ("Curvature of networks", "nn_experiments/curvature"),
    "network_measurements": ("Measurements of networks", "nn_experiments/measurements"),
    "experiments": ("Training and running networks", "nn_experiments"),
    "analysis": ("Analysis", "analysis"),
    "comparisons": ("Comparisons", "analysis/comparisons"),
    "plots": ("Plots", "analysis/plots"),
}
LINK = re.compile(r"(\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s]+)(\))")
#: Where MathML needs help to look as TeX's: primes of full size, signs close to what follows them, space after ln.
AS_TEX = (
    (r"<msup>(<mi>[^<]+</mi>)<mi>(&#x0203[2-4];)</mi></msup>", r"<mrow>\1<mi>\2</mi></mrow>"),
    (
        r"<msubsup>(<mi>[^<]+</mi><mi>[^<]+</mi>)<mi>(&#x0203[2-4];)</mi></msubsup>",
        r"<mrow><msub>\1</msub><mi>\2</mi></mrow>",
    ),
    (r"(<mo>(?:=|&#x0003D;|&#x0221D;|&#x0003C;)</mo>)<mo>&#x02212;</mo>", r'\1<mo form="prefix">&#x02212;</mo>'),
    (r"<mi>(ln|exp)</mi>(?!<mo|</)", r'\g<0><mspace width="0.167em"/>'),
)
CODE = re.compile(r"(```.*?```|``.+?``|`[^`]*`)", re.DOTALL)


# --- pages ----------------------------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add the repository's own pages, the reference, and every source file that a page links to."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    for name in API:
        files.append(File.generated(config, f"api/{name}.md", content=reference(name)))
    for path in sorted(sources()):
        files.append(File.generated(config, f"source/{path}.md", content=listing(path)))
    light, dark = (HtmlFormatter(style=s).get_style_defs(".highlight") for s in ("default", "github-dark"))
    colours = f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    files.append(File.generated(config, "pygments.css", content=colours))
    files.append(File.generated(config, "math.woff", content=math_font()))
    return files


def reference(name: str) -> str:
    """A page of the reference: the public modules of a folder."""
    title, folder = API[name]
    modules = [p.stem for p in sorted((ROOT / folder).glob("*.py")) if not p.stem.startswith("_")]
    package = folder.replace("/", ".")
    return f"# {title}\n\n" + "\n".join(f"::: {package}.{module}\n" for module in modules)


def sources() -> set[str]:
    """Files, neither pages nor figures, that pages link to."""
    texts = {f"docs/{p.name}": p for p in (ROOT / "docs").glob("*.md")} | {p: ROOT / p for p in PAGES}
    found = {
        target.split("#")[0]
        for path, file in texts.items()
        for _, link, _ in LINK.findall(file.read_text(encoding="utf-8"))
        if (target := from_root(path, link)) is not None
    }
    files = {t for t in found if (ROOT / t).is_file() and not t.endswith((".md", ".png"))}
    return {t for t in files if anchor_in_api(t, "") is None}


def listing(path: str) -> str:
    """A source file as a page."""
    text = (ROOT / path).read_text(encoding="utf-8")
    language = {"py": "python", "json": "json"}.get(path.rsplit(".", 1)[-1], "text")
    return f"# {path}\n\n``````{language}\n{text}``````\n"


# --- links ----------------------------------------------------------------------------------------------------------


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links into the repository to the pages made of it."""
    origin = {page_: path for path, page_ in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    if page.file.src_uri.startswith(("api/", "source/")):
        return markdown

    def moved(match: re.Match[str]) -> str:
        target = from_root(origin, match[2])
        return match[0] if target is None else f"{match[1]}{place(target, match[1], page.file.src_uri)}{match[3]}"

    return LINK.sub(moved, markdown)


def from_root(origin: str, link: str) -> str | None:
    """The path of a relative link from the root of the repository; None for links to elsewhere or within the page."""
    if re.match(r"[a-z]+:|#", link):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def place(target: str, text: str, page: str) -> str:
    path, hash_, fragment = target.partition("#")
    name = text.strip("[]()`")
    if path in PAGES:
        found = PAGES[path] + hash_ + fragment
    elif path.startswith("docs/"):
        found = path.removeprefix("docs/") + hash_ + fragment
    elif (anchor := anchor_in_api(path, name)) is not None:
        found = anchor
    else:
        line = lines(path).get(name) if path.endswith(".py") else None
        found = f"source/{path}.md" + (f"#line-0-{line}" if line else "")
    return posixpath.relpath(found, posixpath.dirname(page) or ".")


def anchor_in_api(path: str, name: str) -> str | None:
    """Where the reference describes a name that a source file defines."""
    folder, _, file = path.rpartition("/")
    for page, (_, described) in API.items():
        if folder == described and not file.startswith("_") and file.endswith(".py"):
            module = path.removesuffix(".py").replace("/", ".")
            return f"api/{page}.md#{module}" + (f".{name}" if name in lines(path) else "")
    return None


@cache
def lines(path: str) -> dict[str, int]:
    """The line at which a Python file defines each of its functions and classes."""
    found = {}
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node.lineno
            members = node.body if isinstance(node, ast.ClassDef) else []
            found |= {f"{node.name}.{m.name}": m.lineno for m in members if isinstance(m, ast.FunctionDef)}
    return found


# --- mathematics ----------------------------------------------------------------------------------------------------


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Equations, marked by arithmatex, as MathML."""

    def replaced(display: str) -> Callable[[re.Match[str]], str]:
        return lambda match: mathml(html.unescape(match[1]), display, page.file.src_uri)

    content = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', replaced("inline"), content, flags=re.DOTALL)
    return re.sub(r'<div class="arithmatex">\s*\\\[(.*?)\\\]</div>', replaced("block"), content, flags=re.DOTALL)


def math_font() -> bytes:
    """STIX Two Math (SIL Open Font Licence), as far as equations of ours can need it: few Linux systems have a font
    for mathematics, and without one roots and brackets do not grow."""
    from fontTools import subset

    options = subset.Options(flavor="woff", layout_features=["*"], notdef_outline=True)
    package = importlib.util.find_spec("ziamath")
    assert package is not None
    assert package.origin is not None
    font = subset.load_font(str(Path(package.origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"), options)
    subsetter = subset.Subsetter(options)
    # Latin, Greek, punctuation, arrows and operators, brackets, italic letters.
    ranges = ((0x20, 0x17F), (0x391, 0x3F6), (0x2010, 0x2063), (0x2190, 0x22FF), (0x27E6, 0x27EB), (0x1D400, 0x1D7FF))
    subsetter.populate(unicodes=[code for a, b in ranges for code in range(a, b + 1)])
    subsetter.subset(font)
    found = io.BytesIO()
    subset.save_font(font, found, options)
    return found.getvalue()


def mathml(latex: str, display: str, where: str) -> str:
    """MathML of LaTeX. Raises PluginError for a command that the converter does not know, and would print as it is."""
    try:
        found: str = convert(latex, display=display)
    except Exception as error:  # of many kinds
        raise PluginError(f"{where}: expected LaTeX, found {latex.strip()} ({type(error).__name__})") from error
    if "\\" in found:
        raise PluginError(f"{where}: expected LaTeX that latex2mathml knows, found {latex.strip()}")
    for pattern, text in AS_TEX:
        found = re.sub(pattern, text, found)
    return f'<div class="equation">{found}</div>' if display == "block" else found


# --- docstrings -----------------------------------------------------------------------------------------------------


class PlainDocstrings(Extension):
    """Docstrings are plain text with code in backticks: <x²> is no HTML, and a star no emphasis."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if isinstance(obj.docstring, Docstring):
            parts = CODE.split(obj.docstring.value)
            parts[::2] = [re.sub(r"([*$_\[\]])", r"\\\1", p.replace("<", "&lt;")) for p in parts[::2]]
            obj.docstring.value = "".join(parts)
