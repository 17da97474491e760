"""The options of the contract tests, and the entries that they choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from stochx.catalog import FAMILIES, include
from stochx.errors import StochxError


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare `--include` and `--spec`."""
    group = parser.getgroup("stochx", "contract tests of stochx (pytest --pyargs stochx.testing)")
    group.addoption(
        "--include",
        action="append",
        default=[],
        metavar="FILE.py",
        help="Test the entries that this Python file declares, and no others; repeatable.",
    )
    group.addoption(
        "--spec",
        action="append",
        default=[],
        metavar="FAMILY:NAME:KEY=VALUE,...",
        help="Settings that an entry is tested with, in place of its own examples; repeatable.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Include the files before tests are collected; an error of theirs ends the session."""
    try:
        for file in config.getoption("include"):
            include(Path(file))
        for text in config.getoption("spec"):
            family, _, spec = text.partition(":")
            if family not in FAMILIES:
                raise pytest.UsageError(f"--spec {text}: the families are {', '.join(FAMILIES)}")
            FAMILIES[family].parse(spec)
    except StochxError as error:
        raise pytest.UsageError(f"{error}; {error.hint}") from None
