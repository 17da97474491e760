"""The locks that development and CI install from, and what compares an environment with one."""

from __future__ import annotations

import base64
import hashlib
import re
import runpy
import tomllib
from importlib.metadata import distributions

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

AUDIT = runpy.run_path(str(ROOT / "requirements" / "audit.py"))
LOCKS = {name: (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8") for name in ("dev", "docs")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def wanted(extra: str) -> list[Requirement]:
    """What an extra asks for, the extras of the project that it names among it."""
    found = list[Requirement]()
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if canonicalize_name(requirement.name) == PROJECT["name"]:
            found += [inner for name in requirement.extras for inner in wanted(name)]
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_versions_and_hashes_and_no_address(name):
    lock = AUDIT["locked"](LOCKS[name])
    for requirement, hashes in lock:
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)) and requirement.url is None
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for digest in hashes)
    lines = [line for line in LOCKS[name].splitlines() if not line.startswith(("#", "    "))]
    assert len(lines) == len(lock) and all(re.match(r"[a-z0-9-]+==", line) for line in lines)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_covers_what_the_project_asks_for(name):
    lock = AUDIT["locked"](LOCKS[name])
    pins = [(canonicalize_name(pinned.name), str(pinned.specifier).removeprefix("==")) for pinned, _ in lock]
    direct = wanted(name) + (list(map(Requirement, PROJECT["dependencies"])) if name == "dev" else [])
    assert len(direct) >= 3
    for requirement in direct:
        versions = [version for package, version in pins if package == canonicalize_name(requirement.name)]
        assert versions and all(version in requirement.specifier for version in versions), "run `make lock`"


def test_a_lock_serves_several_systems():
    hashes = {pinned.name: len(found) for pinned, found in AUDIT["locked"](LOCKS["dev"])}
    assert hashes["numpy"] > 10 and hashes["torch"] > 10  # wheels of Linux, macOS and Windows


@pytest.fixture
def installed(tmp_path):
    """Two packages as an installer leaves them."""
    for name in ("alpha", "beta"):
        content, information = f"{name}\n".encode(), tmp_path / f"{name}-1.0.dist-info"
        information.mkdir()
        (tmp_path / f"{name}.py").write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (information / "RECORD").write_text(f"{name}.py,sha256={digest},6\n{information.name}/RECORD,,\n")
    return tmp_path


def audited(folder, lock: str) -> list[str]:
    return AUDIT["faults"](AUDIT["locked"](lock), [*distributions(path=[str(folder)])])


def test_an_audit_finds_nothing_in_what_the_lock_names(installed):
    lock = "# by hand\nalpha==1.0 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\nbeta==1.0 \\\n    --hash=sha256:3\n"
    elsewhere = 'alpha==2.0 ; sys_platform == "none" \\\n    --hash=sha256:4\n'
    assert audited(installed, lock + elsewhere) == []
    assert [hashes for _, hashes in AUDIT["locked"](lock)] == [["sha256:1", "sha256:2"], ["sha256:3"]]


def test_an_audit_names_every_difference(installed):
    (installed / "alpha.py").write_text("import os\n")
    (installed / "alpha-1.0.dist-info/direct_url.json").write_text('{"url": "https://example.org/alpha.zip"}')
    assert audited(installed, "alpha==1.1\ngamma==2.0\n") == [
        "alpha does not come from the index, but from https://example.org/alpha.zip",
        "alpha is 1.0, and the lock says ==1.1",
        "beta is installed, but not in the lock",
        "gamma is in the lock, but not installed",
        f"{installed / 'alpha.py'} is not as it was installed",
    ]


def test_an_audit_takes_a_file_that_two_packages_bring(installed):
    lock, record = "alpha==1.0\nbeta==1.0\n", installed / "beta-1.0.dist-info/RECORD"
    record.write_text(f"alpha.py,sha256=other,6\n{record.read_text()}")
    assert audited(installed, lock) == []
    (installed / "alpha.py").unlink()
    assert audited(installed, lock) == [f"{installed / 'alpha.py'} is not as it was installed"]
