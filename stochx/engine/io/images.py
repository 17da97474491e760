"""Image files and tensors: read safely, prepare as a network wants them."""

from __future__ import annotations

import logging
import stat
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from stochx.errors import InputError, printable

MAX_PIXELS = 100_000_000
MIN_SIDE = 8
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # others may start programs: EPS runs Ghostscript

Resampling = Literal["bilinear", "bicubic", "lanczos"]
RESAMPLING: dict[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

log = logging.getLogger("stochx")
_header_lock = threading.Lock()


@dataclass(frozen=True)
class Preparation:
    """How an image becomes an input: its short side to `resize`, then the centre `crop` (pixels).

    With `whole` nothing is cut off: the short side goes to `crop` and the rest of the long side stays. `resampling` is
    how pixels are interpolated: a network knows the one it was trained with.
    """

    resize: int
    crop: int
    whole: bool = False
    resampling: Resampling = "bilinear"

    def __post_init__(self) -> None:
        if self.resampling not in RESAMPLING:
            raise InputError(f"no resampling is called `{self.resampling}`", "use " + ", ".join(RESAMPLING))
        if not 0 < self.crop <= self.resize:
            raise InputError(f"cannot crop {self.crop} pixels out of {self.resize}", "let the crop be the smaller one")

    def __call__(self, image: Image.Image) -> Image.Image:
        """The prepared image; the same pixels as torchvision's `resize` and `center_crop`."""
        size = self.crop if self.whole else self.resize
        short, long = sorted(image.size)
        if short != size:
            other = int(size * long / short)
            if size * other > MAX_PIXELS:
                raise InputError(
                    f"{image.width} x {image.height} pixels are too long and thin to be scaled to {size}",
                    "cut the image into shorter pieces",
                )
            shape = (size, other) if image.width <= image.height else (other, size)
            image = image.resize(shape, RESAMPLING[self.resampling])
        if self.whole:
            return image
        left, top = (round((side - self.crop) / 2) for side in image.size)
        return image.crop((left, top, left + self.crop, top + self.crop))


def open_file(path: Path) -> BinaryIO:
    """A regular file, opened for reading; raises `InputError` for one that is absent, a directory or locked."""
    name = printable(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"`{name}` is a directory, not a file", f"use what is in it with `--data {name}`")
        if not stat.S_ISREG(mode):  # a pipe would block, a device may never end
            raise InputError(f"`{name}` is not a regular file", "save it to a file first")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no such file: `{name}`", "check the path") from None
    except PermissionError:
        raise InputError(f"`{name}` may not be read", "check its permissions") from None
    except (OSError, ValueError) as error:
        raise InputError(f"`{name}` cannot be opened: {_reason(error)}", "check the path") from None


def read(source: Path | str | BinaryIO, name: str = "") -> Image.Image:
    """An image file as upright 8-bit RGB; `name` stands for an open file in messages.

    EXIF rotation is applied, CMYK and 16-bit images are converted, transparency is laid on white, and of an
    animation the first frame is taken (each said in the log where it loses something).

    Raises `InputError` for anything that is no image, is damaged, has a side under 8 or more than 100 million pixels.
    """
    if isinstance(source, Path | str):
        with open_file(Path(source)) as file:
            return read(file, name or printable(source))
    try:
        if not source.read(1):
            raise InputError(f"`{name}` is empty", "export or download it again")
        source.seek(0)
        with _open(source) as image:
            _check_size(name, image)
            if getattr(image, "is_animated", False) and image.format != "MPO":  # phones add previews as MPO frames
                log.warning("`%s` has several frames: the first is used", name)
            image.load()
            _turn_upright(name, image)
            return _rgb(name, image)
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    except UnidentifiedImageError:
        raise InputError(f"`{name}` is not an image", "use a JPEG, PNG, WebP, TIFF, GIF or BMP file") from None
    except Exception as error:  # hostile bytes make the decoders raise about anything: struct.error, IndexError, ...
        raise InputError(f"`{name}` is damaged: {_reason(error)}", "export or download it again") from error


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(text.splitlines()[0]) if text else type(error).__name__


def _open(file: BinaryIO) -> Image.Image:
    """The image's header; Pillow's warnings stay quiet, as the size is checked here. They are global: hence a lock."""
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(file, formats=FORMATS)


def _too_large(name: str) -> InputError:
    return InputError(f"`{name}` has more than {MAX_PIXELS // 10**6} million pixels", "scale it down first")


def _check_size(name: str, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name)
    if min(image.size) < MIN_SIDE:
        raise InputError(
            f"`{name}` is only {image.width} x {image.height} pixels",
            f"use an image of at least {MIN_SIDE} x {MIN_SIDE}",
        )


def _turn_upright(name: str, image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception as error:  # the pixels are sound: a note that cannot be parsed must not lose them
        log.warning("`%s` has damaged EXIF data: its orientation is unknown (%s)", name, _reason(error))


def _from_16_bit(values: np.ndarray) -> np.ndarray:
    """round(v / 257), in 16-bit integers."""
    scaled = values // 257
    scaled += values % 257 > 128
    return scaled.astype(np.uint8)


def _from_integers(values: np.ndarray) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its values are not within 16 bits")
    return _from_16_bit(values.astype(np.uint16))


def _from_floats(values: np.ndarray) -> np.ndarray:
    if not (values.min() >= 0 and values.max() <= 1):  # NaN fails too
        raise ValueError("its values are not within 0 and 1")
    return (values * 255).round().astype(np.uint8)


WIDE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "I;16": _from_16_bit,
    "I;16L": _from_16_bit,
    "I;16B": _from_16_bit,
    "I": _from_integers,
    "F": _from_floats,
}


def _rgb(name: str, image: Image.Image) -> Image.Image:
    """8-bit RGB; no copy is made of what is RGB already, so that a 90-megapixel photo is held once."""
    if image.mode in WIDE:  # Pillow's own conversion clips at 255
        return Image.fromarray(WIDE[image.mode](np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] == 255:
            return image.convert("RGB")
        log.warning("`%s` has transparency: it is laid on white", name)
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] as an 8-bit RGB image, rounded."""
    values = (pixels.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())
