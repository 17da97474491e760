"""What is published: versions that agree, distributions that hold what they should, files that other tools read."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import stochx
from stochx.installation import PROJECT

FORMS = [path for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
PROJECT_TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def tracked() -> set[str]:
    """Files below version control, without which nothing here can be compared."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("needs a checkout with git")
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(names.splitlines())


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    released = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert citation["version"] == stochx.__version__
    assert not released or released[0] == stochx.__version__


def test_the_project_has_its_own_name_and_the_command_keeps_its():
    assert PROJECT_TABLE["name"] == PROJECT == "stochx-vision"
    assert PROJECT_TABLE["scripts"] == {"stochx": "stochx.__main__:main"}


def test_the_citation_names_who_where_and_under_which_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == PROJECT_TABLE["license"]
    assert citation["authors"] and citation["title"] and citation["message"]
    assert all(paper["authors"] and paper["title"] and paper["year"] for paper in citation["references"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_the_site_requires(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"]
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["attributes"]["label"] for part in fields)
    assert len({part["id"] for part in fields}) == len(fields) > 0


def test_an_issue_form_knows_every_family():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/method.yml").read_text())
    (field,) = [part for part in form["body"] if part.get("id") == "family"]
    folders = {path.parent.name for path in (ROOT / "stochx").glob("*/__init__.pyi")}
    assert set(field["attributes"]["options"]) == folders


def test_the_documented_extras_are_those_that_exist():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/install.md").read_text(), flags=re.MULTILINE)
    assert rows == [*PROJECT_TABLE["optional-dependencies"]]


def test_the_image_is_built_from_files_that_its_context_has():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"pyproject.toml", "README.md", "LICENSE", "stochx"} <= allowed
    assert all((ROOT / name).exists() for name in allowed)
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert stages[-1] == "cpu" and "cuda" in stages


@pytest.mark.parametrize("goal", ["demo", "test", "audit"])
def test_make_can_take_torch_without_cuda(goal, tmp_path):
    if not shutil.which("make"):
        pytest.skip("needs make")
    for name in ("Makefile", "pyproject.toml", "requirements/dev.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    def commands(*words: str) -> str:
        make = ["make", "-n", goal, *words]
        return subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "whl/cpu torch torchvision" in commands("TORCH=cpu") and "whl/cpu" not in commands()
    assert ("--require-hashes" in commands()) == (goal != "demo") and "--require-hashes" not in commands("TORCH=cpu")
    assert ("audit.py" in commands()) == (goal == "audit") and "audit.py" not in commands("TORCH=cpu")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution of the checkout, and the wheel that is built from it."""
    pytest.importorskip("build", reason="needs build: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--quiet", "--no-isolation", "--outdir", folder, source]
    subprocess.run(build, check=True, capture_output=True)
    (archive,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return archive, wheel


def files_of(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_the_wheel_holds_the_whole_package_and_nothing_else(built):
    names = {name for name in files_of(built[1]) if ".dist-info/" not in name}
    assert names == {name for name in tracked() if name.startswith("stochx/")}
    assert {"stochx/py.typed", "stochx/attacks/__init__.pyi"} <= names


@pytest.mark.slow
def test_the_source_distribution_holds_the_tests_and_documents_whole(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("tests/", "docs/", "stochx/", "completions/", "benchmarks/", "requirements/")
    wanted = {name for name in tracked() if name.startswith(folders)}
    assert wanted <= names and "CHANGELOG.md" in names


@pytest.mark.slow
def test_the_wheel_is_that_of_the_project(built):
    (metadata,) = (name for name in files_of(built[1]) if name.endswith("METADATA"))
    text = zipfile.ZipFile(built[1]).read(metadata).decode()
    assert f"Name: {PROJECT}\nVersion: {stochx.__version__}\n" in text
    assert "License-Expression: MIT" in text and "Provides-Extra: timm" in text
