"""A document as JUnit XML, which Jenkins, GitLab and others show as tests.

A run is one suite. Its cases are its rows, which pass; its gates, which fail where they are missed; the checks of
`attack`, which fail with the verdict `fail`; and the images that could not be used, which are errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from stochx.errors import printable
from stochx.tables.view import Document, View

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


@dataclass(frozen=True)
class Case:
    """A test case: its group and name, its output, and its failure or error, if any."""

    group: str
    name: str
    output: str = ""
    seconds: float = 0.0
    outcome: Literal["passed", "failure", "error"] = "passed"
    message: str = ""


def to_junit(document: Document, view: View) -> str:
    """Return the document as JUnit XML; control characters in names become text."""
    cases, suite = list(_cases(document, view)), f"stochx {document['command']}"
    counts = {"tests": str(len(cases))}
    for outcome in ("failure", "error"):
        counts[f"{outcome}s"] = str(sum(case.outcome == outcome for case in cases))
    time = f"{document['seconds']:.3f}"
    root = ElementTree.Element("testsuites", {"name": suite, **counts, "time": time})
    inner = ElementTree.SubElement(root, "testsuite", {"name": suite, **counts, "skipped": "0", "time": time})
    properties = ElementTree.SubElement(inner, "properties")
    for name, value in {"version": document["version"], **document["args"]}.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        ElementTree.SubElement(properties, "property", {"name": printable(name), "value": printable(text)})
    for case in cases:
        _append(inner, case, f"stochx.{document['command']}")
    ElementTree.indent(root)
    return DECLARATION + ElementTree.tostring(root, encoding="unicode") + "\n"


def _cases(document: Document, view: View) -> Iterator[Case]:
    rows, columns = document["results"], view.columns(document["results"])
    for label, row in zip(view.labels(rows), rows, strict=True):
        lines = [f"{column.name}: {printable(column.cell(row))}" for column in columns if column.cell(row)]
        yield Case("results", label or document["command"], "\n".join(lines), row.get("seconds") or 0.0)
    for gate in view.gates(document):
        if gate.missed:
            yield Case("gates", gate.option, outcome="failure", message=gate.text)
        else:
            yield Case("gates", gate.option, gate.text)
    for check in document.get("checks", []):
        if check["verdict"] == "fail":
            message = f"{check['text']}: {check['advice']}"
            yield Case("checks", check["name"], outcome="failure", message=message)
        else:
            advice = f": {check['advice']}" if check["verdict"] == "warn" else ""
            yield Case("checks", check["name"], f"{check['verdict']}: {check['text']}{advice}")
    for failure in document.get("failed", []):
        yield Case("images", str(failure["image"]), failure["hint"], outcome="error", message=failure["error"])


def _append(suite: ElementTree.Element, case: Case, prefix: str) -> None:
    facts = {"name": printable(case.name), "classname": f"{prefix}.{case.group}", "time": f"{case.seconds:.3f}"}
    element = ElementTree.SubElement(suite, "testcase", facts)
    if case.outcome != "passed":
        message = printable(case.message)
        ElementTree.SubElement(element, case.outcome, {"type": case.group, "message": message}).text = message
    if case.output:
        lines = map(printable, case.output.split("\n"))
        ElementTree.SubElement(element, "system-out").text = "\n".join(lines)
