"""Entries from outside, as the manual shows them: found, described, made, and held to the contracts of their family."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT
from support import stochx

from stochx.catalog import FAMILIES, Catalog, include
from stochx.errors import InputError

MANUAL = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", MANUAL, re.M | re.S)
FILES = {re.match(r"# (\w+\.py)\n", text)[1]: text for kind, text in BLOCKS if kind == "python"}
ENTRIES = {
    family: (name, file) for file, text in FILES.items() for family, name in re.findall(r'= "(\w+):([\w-]+)"', text)
}
PLUGIN = "stochx.testing.plugin"  # pytest finds it by itself where this version of the package is installed
LINES = [line[2:].split() for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]
SCRIPTS = [[file] for file, text in FILES.items() if "entry: ClassVar" not in text]
MODULES = {"stochx": ["-m", "stochx"], "pytest": ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", PLUGIN]}

BROKEN = {  # what is changed in an entry of the manual, and what the contract tests say then
    "attributions": ("(x - self.level) * gradient(model, x, target)", "x.mean((2, 3))", "return (N, C or 1, H, W)"),
    "attacks": ("ball.project(x + step, x)", "x + 2 * step", "`ball.project(x', x)`"),
    "metrics": ("top.sum(1) / relevance.sum(1)", "top.sum() / relevance.sum()", "one number per image"),
    "models": (
        "return Classifier(network, names, Preparation(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, arch=arch)",
        "return network",
        "return a `Classifier`",
    ),
    "datasets": ("pixels = random", "raise KeyError('here')\n        pixels = random", "or raise `InputError`"),
    "noises": ("return self.width", "return z + self.width", "return the deviation alone"),
    "heads": ("return ProductHead(shape, self.scale)", "return torch.nn.Identity()", "return a `FewShotHead`"),
    "guides": ("scaled(head, [part.detach()", "tuple([3 + part.detach()", "weights leave [0, 2]"),
    "lessons": ("logits_of(teacher, clean)", "clean.flatten(1)[:, :5]", "use `teacher(clean)`"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the manual, included."""
    folder = tmp_path_factory.mktemp("outside")
    for file, text in FILES.items():
        (folder / file).write_text(text)
    for _, file in ENTRIES.values():
        include(folder / file)
    yield folder
    for catalog in FAMILIES.values():
        for file in FILES:
            catalog.discard((folder / file).resolve())


def run(folder, *words):
    """Python with this package, in the folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def contracts(folder, files):
    included = [word for file in files for word in ("--include", str(folder / file))]
    return run(folder, *MODULES["pytest"], "--tb=short", "--pyargs", "stochx.testing", *included)


def test_the_manual_has_an_entry_of_every_family():
    assert set(ENTRIES) == set(FAMILIES) == set(BROKEN)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_entry_of_a_file_is_found_described_and_made(family, folder):
    catalog, (name, _) = FAMILIES[family], ENTRIES[family]
    assert name in list(catalog) and catalog.is_included(name)
    assert catalog.summary(name).endswith(".") and all(field.help for field in catalog.fields(name))
    field = next(f for f in catalog.fields(name) if f.type in ("int", "float"))
    made = catalog.make(f"{name}:{field.key}={field.default}")
    assert type(made).__name__ == catalog.class_name(name) and str(getattr(made, field.name)) == field.default


def test_entries_of_the_manual_keep_the_contracts(folder):
    done = contracts(folder, [file for _, file in ENTRIES.values()])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed > 60, "every family brings its tests"


def test_a_broken_entry_of_every_family_fails_and_says_what_to_mend(tmp_path):
    for family, (old, new, _) in BROKEN.items():
        _, file = ENTRIES[family]
        assert FILES[file].count(old) == 1, family
        (tmp_path / file).write_text(FILES[file].replace(old, new))
    done = contracts(tmp_path, [file for _, file in ENTRIES.values()])
    assert done.returncode == 1, done.stderr
    failures = dict.fromkeys(re.findall(r"^FAILED \S*test_(\w+)\.py", done.stdout, re.M))
    for family, (_, _, said) in BROKEN.items():
        assert family in failures and said in done.stdout, (family, done.stdout[-3000:])


def test_an_unusable_file_ends_the_contract_tests_at_once(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    done = contracts(tmp_path, ["empty.py"])
    assert done.returncode == 4 and "declares no entry" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [*LINES, *SCRIPTS], ids=" ".join)
def test_the_commands_and_scripts_of_the_manual_run(words, folder):
    done = run(folder, *MODULES.get(words[0], words[:1]), *words[1:])
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_blocks_of_the_manual_are_run_here():
    assert {kind for kind, _ in BLOCKS} == {"python", "console", "toml"} and LINES and SCRIPTS


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with the entry points of the manual, and one that names nothing."""
    (points,) = (tomllib.loads(text)["project"]["entry-points"] for kind, text in BLOCKS if kind == "toml")
    (group, names), *_ = points.items()
    (tmp_path / "from_grey.py").write_text(FILES["from_grey.py"])
    about = tmp_path / "from_grey-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: from-grey\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in names.items()), "lost = no_such_module:Lost"]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield Catalog("method", group)
    sys.modules.pop("from_grey", None)


def test_an_entry_point_is_an_entry_and_is_not_imported_to_be_listed(installed):
    assert "from-grey" in list(installed) and "ig" in list(installed)
    assert installed.summary("from-grey") == "The gradient times the distance from a grey."
    assert "from_grey" not in sys.modules
    assert installed.make("from-grey:level=0.25").level == 0.25


def test_an_entry_point_without_source_is_left_out_and_says_so_when_it_is_named(installed):
    assert "lost" not in list(installed)
    with pytest.raises(InputError, match="names `no_such_module:Lost`, which has no source"):
        installed.make("lost")


ENTRY = """from dataclasses import dataclass
from typing import ClassVar

from stochx.attributions import Explanation


{head}
class Mine{base}:
    \"\"\"A map.\"\"\"

    entry: ClassVar[str] = "attributions:mine"

    tone: str = "#fff"  # the tone

    def __call__(self, model, x, target, keys=None):
        return {result}
"""


@pytest.fixture
def mine(tmp_path):
    """A function that includes an entry, which is forgotten after the test."""
    file = (tmp_path / "mine.py").resolve()

    def write(head="@dataclass(frozen=True)", base="", result="Explanation(x)"):
        file.write_text(ENTRY.format(head=head, base=base, result=result))
        include(file)
        return FAMILIES["attributions"]

    yield write
    FAMILIES["attributions"].discard(file)


@pytest.mark.parametrize("head", ["@dataclass(kw_only=True, frozen=True)", "@dataclass(frozen=True, slots=True)"])
def test_a_frozen_dataclass_is_one_however_it_is_written(head, mine):
    assert [(field.key, field.help) for field in mine(head).fields("mine")] == [("tone", "the tone")]


def test_inherited_fields_are_refused(mine):
    base = "@dataclass(frozen=True)\nclass _Base:\n    level: float = 0.5  # level\n\n\n@dataclass(frozen=True)"
    with pytest.raises(InputError, match="`Mine` inherits fields from `_Base`"):
        mine(base, "(_Base)")


def test_a_file_without_the_suffix_is_refused(tmp_path):
    (tmp_path / "mine").write_text(ENTRY.format(head="@dataclass(frozen=True)", base="", result="x"))
    with pytest.raises(InputError, match="is not a Python file"):
        include(tmp_path / "mine")


@pytest.mark.parametrize(
    ("result", "message"),
    [("x", "`Mine` returns a Tensor"), ("None", "a NoneType"), ("Explanation(x[:, :, :3])", "`Mine` returns a map (")],
)
def test_what_is_no_map_is_refused_by_its_method(result, message, mine, place, tmp_path):
    mine(result=result)
    words = ("explain", "a.png", "--model", "net.safetensors", "-m", "mine", "-o", tmp_path / "out")
    done = stochx(*words, cwd=place)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
