"""What the tests of results pages share: a page's command as a module, and a page that it writes into a folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from support import ROOT


def paper(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """Return a module of `benchmarks/papers`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "papers"))
    return importlib.import_module(name)


def write_page(command: ModuleType, folder: Path, *options: str) -> str:
    """Run a page's command; return the page, or nothing where there is none yet."""
    page = folder / "page.md"
    command.main(["--output", str(folder / "runs"), "--page", str(page), "--device", "cpu", *options])
    return page.read_text(encoding="utf-8") if page.exists() else ""
