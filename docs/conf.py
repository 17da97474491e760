"""Sphinx settings of the manual: `make docs` builds it from plain Markdown, without any request to the network."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

HERE = Path(__file__).parent
SOURCE = HERE.parent / "stochx" / "__init__.py"  # read, not imported: the manual is built without torch

project = "stochx"
version = release = re.findall(r'^__version__ = "(.+)"', SOURCE.read_text(), re.M)[0]
extensions = ["myst_parser"]
myst_heading_anchors = 4
nitpicky = True

highlight_language = "sh"  # of blocks that name none,
suppress_warnings = ["misc.highlighting_failure"]  # and may be drawings

html_theme = "furo"
html_title = f"stochx {version}"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"footer_icons": []}

SECTIONS = {
    "Start": ["install", "usage", "commands/index"],
    "Bring your own": ["models", "data", "extending"],
    "Work with it": ["cookbook", "python", "ci", "json"],
    "Choices": ["entries/*"],
    "Theory": ["theory/*"],
    "Evidence": ["results/*", "checks", "statistics", "repeatable", "reliability"],
    "Project": ["architecture"],
}
"""The site's menu; pages that it does not name come last."""


LOADS = (
    r"""<(?:script|img|iframe)[^>]*src=["']https?:[^"']*"""
    r"""|<link[^>]*stylesheet[^>]*https?:[^"']*|@import|url\(["']?https?:"""
)


def menu() -> str:
    """Return the menu, as directives of Sphinx."""
    left = sorted(path.relative_to(HERE).with_suffix("").as_posix() for path in HERE.rglob("*.md"))
    left.remove("index")
    parts = []
    for section, patterns in SECTIONS.items():
        names = [name for pattern in patterns for name in left if re.fullmatch(pattern.replace("*", "[^/]+"), name)]
        parts.append(_toctree(section, names))
        left = [name for name in left if name not in names and not name.startswith("commands/")]
    return "\n".join([*parts, _toctree("More", left)] if left else parts)


def _toctree(caption: str, names: list[str]) -> str:
    heading = [f":caption: {caption}"] if caption else []
    return "\n".join(["```{toctree}", ":hidden:", *heading, "", *names, "```", ""])


def _source_read(app: Sphinx, name: str, source: list[str]) -> None:
    """Add the menu, and turn links to files outside the manual into their names."""
    source[0] = re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?:[\w.-]+/)*[\w.-]+\)", _within(name), source[0])
    if name == "index":
        source[0] += "\n" + menu()
    if name == "commands/index":
        source[0] += "\n" + _toctree("", re.findall(r"\((\S+)\.md\)", source[0]))


def _within(name: str) -> Callable[[re.Match[str]], str]:
    """Return what keeps links that stay in the manual."""

    def keep(match: re.Match[str]) -> str:
        target = match[0].rpartition("(")[2].rstrip(")")
        inside = (HERE / name).parent.joinpath(target).resolve().is_relative_to(HERE)
        return match[0] if inside else match[1]

    return keep


def _check_requests(app: Sphinx, error: Exception | None) -> None:
    """Refuse a site that would load anything from elsewhere."""
    for path in Path(app.outdir).rglob("*"):
        if path.suffix in (".html", ".css") and (asked := re.search(LOADS, path.read_text(encoding="utf-8"))):
            raise ExtensionError(f"{path.name} loads from the network: {asked[0]}")


def setup(app: Sphinx) -> None:
    """Register what is done to each source, and to the site."""
    app.connect("source-read", _source_read)
    app.connect("build-finished", _check_requests)
