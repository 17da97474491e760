"""Figures and files for people to look at."""

import contextlib
import os

# Our figures need no screen. Matplotlib refuses to be imported where MPLBACKEND names no backend: it is told later.
_backend = os.environ.pop("MPLBACKEND", None)

import matplotlib  # noqa: E402

if _backend is not None:
    os.environ["MPLBACKEND"] = _backend
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = _backend
