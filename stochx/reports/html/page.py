"""The page: one HTML file that asks for nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from stochx.errors import printable
from stochx.reports.html.blocks import Page
from stochx.reports.html.pictures import size_of

TEMPLATES = "stochx.reports.html"


def render(page: Page) -> str:
    """Return the HTML of a report."""
    style, script = _read("report.css"), _read("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html")
        .render(page=page, style=Markup(style), script=Markup(script), digest=digest, data=as_data(page.documents))
    )


def as_data(documents: Sequence[Mapping[str, Any]]) -> Markup:
    r"""Return documents as JSON that no name in them can leave: `<`, `>` and `&` are `\u003c` and the like."""
    text = json.dumps(documents, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _read(name: str) -> str:
    return resources.files(TEMPLATES).joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    """Return the templates; every text is escaped, and its control characters are shown as text."""
    environment = Environment(
        loader=PackageLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters |= {"jointed": jointed, "size": size_of}
    return environment


def jointed(label: str) -> Markup:
    """Return a label such as `pgd:steps=20,eot=4` that may break into lines behind its `:` and `,`."""
    return Markup(re.sub("([:,])", r"\1<wbr>", str(escape(printable(label)))))
