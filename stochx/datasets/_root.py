"""Where a data set lies that is found by itself."""

from __future__ import annotations

import os
from pathlib import Path

from stochx.errors import InputError, printable


def data_root(root: str) -> Path:
    """The folder `root`, else that of the variable `STOCHX_DATA`, else the cache folder, which need not exist."""
    given = root or os.environ.get("STOCHX_DATA", "")
    if not given:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stochx" / "data"
    folder = Path(given).expanduser()
    if not folder.is_dir():  # not made here: a slip in a path should not start a download
        raise InputError(f"no such folder: `{printable(given)}`", "check `root`, or the variable STOCHX_DATA")
    return folder
