"""Imports point down only, and the command line starts without anything heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE, TESTS = ROOT / "stochx", ROOT / "tests"
LEVELS = {
    "cli": 7,
    "runs": 6,
    "tasks": 5,
    "reports": 5,
    "tables": 5,
    "adapters": 4,
    "loading": 4,
    "ensembles": 4,
    "architectures": 4,
    "classes": 4,
    "facts": 4,
    "network_files": 4,
    "file_parts": 4,
    "presets": 4,
    "factory": 4,
    "fewshot_networks": 4,
    "pretrained": 4,
    "folders": 4,
    "hub": 4,
    "renamed": 4,
    "transformers_networks": 4,
    "attacks": 3,
    "attributions": 3,
    "metrics": 3,
    "models": 3,
    "datasets": 3,
    "noises": 3,
    "heads": 3,
    "guides": 3,
    "lessons": 3,
    "engine": 2,
    "settings": 1,
    "catalog": 1,
    "entries": 1,
    "checked_entries": 1,
    "declarations": 1,
    "background": 0,
    "errors": 0,
    "input_files": 0,
    "installation": 0,
    "interrupts": 0,
    "support": 1,
    "wrapping": 0,
}
FAMILIES = {"attacks", "attributions", "metrics", "models", "datasets", "noises", "heads", "guides", "lessons"}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path):
    """(room, imported room) for every import that runs, those for type checking left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        n
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for n in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node not in skipped and isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stochx."):
            yield room(node.module)


def imported(source):
    """The modules that a source imports, in programs that it holds as text too."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            modules |= set(re.findall(r"^\s*(?:from|import) +(\w+)", node.value, re.MULTILINE))
    return modules


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here not in LEVELS:
        return
    for there in imports(path):
        assert LEVELS[there] <= LEVELS[here], f"{here} imports {there}"
        assert not (here in FAMILIES and there in FAMILIES and here != there), f"{here} imports {there}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_below_the_command_line_prints(path):
    if "cli" in path.parts:
        return
    calls = [
        n.func.id
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    ]
    assert "print" not in calls and "input" not in calls


@pytest.mark.parametrize(
    "args",
    [["--help"], ["--version"], ["explain", "--help"], ["list"], ["explain", "x.jpg", "-m", "smothgrad"], ["explain"]],
    ids=" ".join,
)
def test_the_start_imports_nothing_heavy(args):
    code = (
        "import sys\n"
        f"sys.argv = ['stochx', *{args!r}]\n"
        "from stochx.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda p: p.stem)
def test_no_test_imports_another(path):
    """Shared code is in `support` and `conftest`; an imported test file would run its fixtures twice, or hide them."""
    modules = {test.stem for test in TESTS.rglob("test_*.py")}
    shared = modules & imported(path.read_text())
    assert not shared, f"move what `{path.name}` takes from {sorted(shared)} to `tests/support.py`"


def test_an_import_in_a_program_text_counts_too():
    assert imported("P = 'import sys\\nfrom test_fit import run'") == {"sys", "test_fit"}


def test_the_package_imports_no_torch():
    code = "import sys, stochx; dir(stochx); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
