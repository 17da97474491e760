"""The pictures of a run, read back from its folder; what is missing or damaged is not shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from stochx.reports.maps import file_names

MOST = 2**29  # bytes of arrays


def file_of(folder: Path, image: str, suffix: str) -> Path:
    """Return the file of an image: with a hash in its name where the run had two of that name."""
    plain, hashed = file_names([image])[0], file_names([image, image])[0]
    distinct = folder / f"{hashed}{suffix}"
    return distinct if distinct.exists() else folder / f"{plain}{suffix}"


def within(folder: Path, name: object) -> Path:
    """Return a file of a folder by the name that a record has for it, which leads nowhere else."""
    return folder / Path(str(name)).name


def read_picture(path: Path) -> np.ndarray | None:
    """Return the pixels (H, W, 3) of a picture as bytes, None where it cannot be read."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception:  # malicious bytes: the formats' parsers raise almost anything
        return None


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of an .npz file, None where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if sum(member.file_size for member in file.zip.infolist()) > MOST:
                return None
            return {name: file[name] for name in file.files}
    except Exception:  # malicious bytes: zipfile, zlib and the header's parser raise almost anything
        return None


def split_across(picture: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the equally wide parts of a picture that stand side by side."""
    wide = picture.shape[1] // count
    return [picture[:, k * wide : (k + 1) * wide] for k in range(count)]
