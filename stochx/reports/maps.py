"""Files of raw maps, and the names of files."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from stochx.engine.seeds import digest
from stochx.reports.arrays import save_arrays
from stochx.tasks.explain import ExplanationRow


def file_names(names: Sequence[str]) -> list[str]:
    """Return short, safe file names for images or methods: the last part of a path, with a hash where two are alike."""
    stems = [re.sub(r"[^\w=,.+-]", "_", _stem(name))[:80] or "image" for name in names]
    counts = Counter(stems)
    return [
        stem if counts[stem] == 1 else f"{stem}-{digest(name):016x}"[:96]
        for stem, name in zip(stems, names, strict=True)
    ]


def _stem(name: str) -> str:
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return re.sub(r"\.(jpe?g|png|webp|tiff?|gif|bmp|ppm|pgm)$", "", last, flags=re.IGNORECASE)


def map_file(image: str, method: str) -> str:
    """Return the name of the file of a map, `IMAGE.METHOD.npz`; a method that names a path, or is long, has a hash."""
    flat = re.sub(r"[/\\]", "_", method)
    alike = 2 if flat != method or len(flat) > 80 else 1
    return f"{image}.{file_names([flat] * alike)[0]}.npz"


def save_map(folder: Path, image: str, row: ExplanationRow, relevance: Tensor) -> Path:
    """Write `IMAGE.METHOD.npz`: `map` (C, H, W), its channel sum `sum` (H, W), signed float32, and the row's fields."""
    path = folder / map_file(image, row.method)
    values = relevance.numpy().astype(np.float32)
    facts: dict[str, Any] = {
        k: np.array(np.nan if v is None else v) for k, v in dataclasses.asdict(row).items() if k != "index"
    }
    save_arrays(path, {"map": values, "sum": values.sum(0), **facts})
    return path
