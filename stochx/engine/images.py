"""Image files and tensors: read safely, prepare as a network wants them."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from stochx.errors import InputError

MAX_PIXELS = 100_000_000
MIN_SIDE = 8
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Preparation:
    """How an image becomes an input: its short side to `resize`, then the centre `crop` (pixels).

    With `whole` nothing is cut off: the short side goes to `crop` and the rest of the long side stays.
    """

    resize: int
    crop: int
    whole: bool = False

    def __call__(self, image: Image.Image) -> Image.Image:
        """The prepared image; the same pixels as torchvision's `resize` and `center_crop`."""
        size = self.crop if self.whole else self.resize
        short, long = sorted(image.size)
        if short != size:
            other = int(size * long / short)
            shape = (size, other) if image.width <= image.height else (other, size)
            image = image.resize(shape, Image.Resampling.BILINEAR)
        if self.whole:
            return image
        left, top = (round((side - self.crop) / 2) for side in image.size)
        return image.crop((left, top, left + self.crop, top + self.crop))


def read(path: Path | str) -> Image.Image:
    """An image file as upright 8-bit RGB.

    EXIF rotation is applied, CMYK and 16-bit grey are converted, transparency is laid on white, and of an
    animation the first frame is taken (each said in the log where it loses something).

    Raises `InputError` for anything that is no image, is damaged, has less than 8 or more than 100 million pixels.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            _check_size(path, image)
            if getattr(image, "n_frames", 1) > 1:
                log.warning("`%s` is animated: its first frame is used", path)
            image.load()
            return _rgb(path, ImageOps.exif_transpose(image))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"no such image: `{path}`", "check the path") from None
    except IsADirectoryError:
        raise InputError(
            f"`{path}` is a directory, not an image", f"explain what is in it with `--data {path}`"
        ) from None
    except PermissionError:
        raise InputError(f"`{path}` may not be read", "check its permissions") from None
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except UnidentifiedImageError:
        raise InputError(f"`{path}` is not an image", "use a JPEG, PNG, WebP, TIFF, GIF or BMP file") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"`{path}` is damaged: {reason}", "export or download it again") from None


def _too_large(path: Path) -> InputError:
    return InputError(f"`{path}` has more than {MAX_PIXELS // 10**6} million pixels", "scale it down first")


def _check_size(path: Path, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path)
    if min(image.size) < MIN_SIDE:
        raise InputError(
            f"`{path}` is only {image.width} x {image.height} pixels",
            f"use an image of at least {MIN_SIDE} x {MIN_SIDE}",
        )


def _rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey and wider: scale, do not clip
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise InputError(f"`{path}` holds values that are not finite", "export it as an 8-bit image")
        top = 65535.0 if values.max() > 255 else 255.0
        return Image.fromarray((values.clip(0, top) / top * 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            log.warning("`%s` has transparency: it is laid on white", path)
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] as an 8-bit RGB image, rounded."""
    values = (pixels.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())
