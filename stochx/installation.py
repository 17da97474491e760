"""How this project is installed, what adds an extra, and what another project of the same name has done to it."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from stochx.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import Distribution

PROJECT = "stochx-vision"
NAMESAKE = "stochx"  # the other project on the package index

# What installs into the environment of this interpreter, by the file that its maker left there.
INSTALLERS = {"uv-receipt.toml": "uv tool install", "pipx_metadata.json": "pipx install --force"}


def install_hint(extra: str) -> str:
    """Return the command, in backticks, that adds the packages of an extra to this environment."""
    made_by = (command for file, command in INSTALLERS.items() if (Path(sys.prefix) / file).is_file())
    return f"`{next(made_by, f'{_pip()} install')} {_requirement(extra)}`"


def repair_hint(package: str) -> str:
    """Return the command, in backticks, that installs a package anew, with the versions of others that it fits."""
    return f"`{_pip()} install --force-reinstall {package}`"


def clash() -> InputError | None:
    """Return what is wrong where the other project called `stochx` is, or was, in this environment."""
    other = _distribution(NAMESAKE)
    if other is not None and any(script.value.startswith("stochx.") for script in other.entry_points):
        other = None  # this project itself, under the name that it had at first
    if other is not None:
        state = "is installed over this one" if overwritten() else "has files in the same folder as this one"
        return InputError(
            f"another project called `{NAMESAKE}` ({other.version}) {state}",
            f"`{_pip()} uninstall {NAMESAKE}`, then `{_reinstall()}`",
        )
    if overwritten():
        return InputError("`stochx/__init__.py` is missing, or that of another project", f"`{_reinstall()}`")
    return None


def overwritten() -> bool:
    """Whether another `__init__.py`, or none, is where that of this package belongs."""
    return "load_model" not in getattr(importlib.import_module("stochx"), "__all__", ())


def _pip() -> str:
    return "pip" if util.find_spec("pip") else "uv pip"


def _reinstall() -> str:
    return f"{_pip()} install --force-reinstall --no-deps {_requirement()}"


def _requirement(extra: str = "") -> str:
    """Return this project, with an extra, as installers take it: a checkout, or where the installed files came from.

    Where that is not known any more, the extra's packages by their own names: an index need not have this project.
    """
    root = Path(__file__).parent.parent
    brackets = f"[{extra}]" if extra else ""
    if (root / "pyproject.toml").is_file():
        return f"-e {shlex.quote(f'{root}{brackets}')}"
    distribution = _distribution(PROJECT)
    origin = _origin(distribution)
    if origin or not extra:
        return shlex.quote(f"{PROJECT}{brackets} @ {origin}" if origin else PROJECT)
    return " ".join(shlex.quote(package) for package in _packages(distribution, extra))


def _distribution(name: str) -> Distribution | None:
    from importlib import metadata  # 10 ms, which only an error costs

    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _origin(distribution: Distribution | None) -> str:
    """Return the URL of a direct installation (PEP 610), or nothing if it came from an index or its file is gone."""
    text = distribution.read_text("direct_url.json") if distribution else None
    if not text:
        return ""
    origin = json.loads(text)
    url: str = origin["url"]
    if repository := origin.get("vcs_info"):
        return f"{repository['vcs']}+{url}@{repository['commit_id']}"
    parts = urlsplit(url)
    return "" if parts.scheme == "file" and not Path(unquote(parts.path)).exists() else url


def _packages(distribution: Distribution | None, extra: str) -> list[str]:
    """Return what an extra requires; without metadata the extra itself, which has the name of its main package."""
    requirements = (line.partition(";") for line in (distribution.requires if distribution else None) or [])
    return [name.strip() for name, _, marker in requirements if f'extra == "{extra}"' in marker] or [extra]
