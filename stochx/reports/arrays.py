"""Write arrays as compressed .npz files, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stochx.engine.io.files import atomic


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays, and numbers and texts as arrays without dimensions; objects that need pickling raise ValueError."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
