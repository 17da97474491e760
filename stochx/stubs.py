"""Type stubs of the family packages: `python -m stochx.stubs` writes `__init__.pyi` into each.

At run time a family imports an entry when it is named. Its stub says the same in imports that editors and type
checkers follow: the package's own source, with a line for each entry.
"""

from __future__ import annotations

import ast

from stochx.catalog import FAMILIES
from stochx.entries import built_in, package_file

HEADER = "# Written by `python -m stochx.stubs` from the files of this folder; do not edit.\n"


def stub(family: str) -> str:
    """Return the text of a family's `__init__.pyi`."""
    package = f"stochx.{family}"
    body: list[ast.stmt] = []
    for node in ast.parse(package_file(package).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If):  # TYPE_CHECKING
            body += node.body
        elif not _only_runs(node):
            body.append(node)
    module, _, call = FAMILIES[family].call.partition(":")
    if call:
        body.append(ast.ImportFrom(module, [ast.alias(call)], 0))
    for entry in built_in(package).values():
        name = entry.declaration.name
        body.append(ast.ImportFrom(entry.module, [ast.alias(name, f"_{name}" if call else name)], 0))
        if call:  # the class as it is called, see `Catalog.load`
            body += ast.parse(f"class {name}({call}, _{name}): ...").body
    return HEADER + ast.unparse(ast.Module(body, [])) + "\n"


def _only_runs(node: ast.stmt) -> bool:
    """Return true for what the package needs at run time alone: the catalog, and what it makes."""
    lazy = isinstance(node, ast.ImportFrom) and node.module == "stochx.catalog"
    return lazy or "__getattr__" in ast.unparse(node)


def write() -> None:
    """Write the stubs of all families."""
    for family in FAMILIES:
        package_file(f"stochx.{family}").with_suffix(".pyi").write_text(stub(family), encoding="utf-8")


if __name__ == "__main__":
    write()
