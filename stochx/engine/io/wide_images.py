"""Images of more than 8 bits a pixel as 8-bit gray values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, TiffImagePlugin

TIFF_BITS, TIFF_WHITE = 258, 262  # tags: bits per sample; 0 where zero is white


def _from_16_bit(values: np.ndarray) -> np.ndarray:
    """Return round(v / 257), in 16-bit integer arithmetic."""
    scaled = values // 257
    scaled += values % 257 > 128
    return scaled.astype(np.uint8)


def _from_integers(values: np.ndarray) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its values do not fit 16 bits")
    return _from_16_bit(values.astype(np.uint16))


def _from_floats(values: np.ndarray) -> np.ndarray:
    if not (values.min() >= 0 and values.max() <= 1):  # NaN fails too
        raise ValueError("its values are not in [0, 1]")
    return (values * 255).round().astype(np.uint8)


WIDE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "I;16": _from_16_bit,
    "I;16L": _from_16_bit,
    "I;16B": _from_16_bit,
    "I": _from_integers,
    "F": _from_floats,
}


def gray_of(image: Image.Image) -> np.ndarray:
    """Return 8-bit gray values (H, W) of an image of more bits, black at zero."""
    values, tags = np.asarray(image), image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if tags.get(TIFF_BITS) in (12, (12,)):
        values = values << 4 | values >> 8
    grey = WIDE[image.mode](values)
    return 255 - grey if tags.get(TIFF_WHITE) == 0 else grey  # Pillow inverts 8 bits and fewer, but no more
