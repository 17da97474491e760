"""Default location of data sets."""

from __future__ import annotations

import os
from pathlib import Path

from stochx.errors import InputError, printable


def data_root(root: str) -> Path:
    """Return the folder `root`, else that of the variable `STOCHX_DATA`, else the cache folder, which may not exist."""
    path = root or os.environ.get("STOCHX_DATA", "")
    if not path:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stochx" / "data"
    folder = Path(path).expanduser()
    if not folder.is_dir():  # not created: a typo in a path must not start a download
        raise InputError(f"no such folder: `{printable(path)}`", "check `root`, or the variable STOCHX_DATA")
    return folder
