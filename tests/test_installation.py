"""Hints install from where the project came, and another project of the same name is noticed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

import stochx
from stochx import installation
from stochx.installation import clash, install_hint

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STRANGER = '"""Stochastic processes."""\n__version__ = "0.2.0"\n__all__ = ["stochastic"]\n'


def distribution(folder: Path, name: str, version: str, **files: str) -> None:
    """Write the metadata of an installed project."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(files.pop("metadata", "") or f"Name: {name}\nVersion: {version}\n")
    for file, text in files.items():
        (info / file.replace("__", ".")).write_text(text)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages from which this one seems to run, with nothing else in it."""
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "stochx/installation.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(installation, "_pip", lambda: "pip")
    return tmp_path


def test_a_checkout_installs_from_itself():
    assert install_hint("timm").endswith(f" -e '{ROOT}[timm]'`")


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ({"url": "file://{here}/a%20b.whl", "archive_info": {}}, "file://{here}/a%20b.whl"),
        (
            {"url": "https://example.org/x", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
            "git+https://example.org/x@c0ffee",
        ),
    ],
    ids=["wheel", "repository"],
)
def test_an_installation_from_a_file_or_repository_installs_from_there(site, origin, source):
    (site / "a b.whl").touch()
    distribution(site, "stochx-vision", "0.1.0", direct_url__json=json.dumps(origin).replace("{here}", str(site)))
    assert install_hint("timm") == f"`pip install 'stochx-vision[timm] @ {source.format(here=site)}'`"


def test_the_packages_are_named_where_the_source_is_gone_or_an_index(site):
    metadata = (
        'Name: stochx-vision\nVersion: 0.1.0\nRequires-Dist: torch>=2\nRequires-Dist: timm>=1.0; extra == "timm"\n'
    )
    gone = json.dumps({"url": f"file://{site}/gone.whl", "archive_info": {}})
    distribution(site, "stochx-vision", "0.1.0", metadata=metadata, direct_url__json=gone)
    assert install_hint("timm") == "`pip install 'timm>=1.0'`"


def test_files_without_metadata_name_the_package_of_an_extra(site):
    assert install_hint("transformers") == "`pip install transformers`"


@pytest.mark.parametrize("file", installation.INSTALLERS)
def test_a_tool_of_uv_or_pipx_is_told_its_own_command(site, file):
    (site / file).touch()
    assert install_hint("timm") == f"`{installation.INSTALLERS[file]} timm`"


def test_every_hint_names_an_extra_that_is_declared():
    asked = {
        name
        for path in (ROOT / "stochx").rglob("*.py")
        for name in re.findall(r"install_hint\(['\"](\w+)['\"]\)", path.read_text())
    }
    assert asked == {"timm", "hub", "transformers"} <= PYPROJECT["project"]["optional-dependencies"].keys()


def test_no_clash_in_an_environment_of_its_own(site):
    distribution(site, "stochx-vision", "0.1.0")
    assert clash() is None


def test_this_project_under_its_first_name_is_no_clash(site):
    script = "[console_scripts]\nstochx = stochx.__main__:main\n"
    distribution(site, "stochx", "0.1.0", entry_points__txt=script)
    assert clash() is None


def test_another_project_in_the_same_folder_is_a_clash(site):
    distribution(site, "stochx", "0.2.0")
    problem = clash()
    assert str(problem) == "another project called `stochx` (0.2.0) has files in the same folder as this one"
    assert problem.hint == ("`pip uninstall stochx`, then `pip install --force-reinstall --no-deps stochx-vision`")


@pytest.mark.parametrize("present", [True, False], ids=["installed over it", "and uninstalled again"])
def test_a_command_says_that_another_project_replaced_a_file(tmp_path, present):
    package = tmp_path / "stochx"
    package.mkdir()
    for path in Path(stochx.__file__).parent.iterdir():
        if path.name != "__init__.py":
            (package / path.name).symlink_to(path)
    if present:
        (package / "__init__.py").write_text(STRANGER)
        distribution(tmp_path, "stochx", "0.2.0")
    start = (
        "import sys; from pathlib import Path\n"
        "sys.path[1:] = [folder for folder in sys.path[1:] if not (Path(folder) / 'stochx/__init__.py').is_file()]\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from stochx.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", start, "list"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    what = "another project called `stochx` (0.2.0) is installed over" if present else "`stochx/__init__.py` is missing"
    assert done.stderr.startswith(f"error: {what}") and "--force-reinstall --no-deps" in done.stderr
