"""Image files and tensors: safe reading, and preparation for a network."""

from __future__ import annotations

import logging
import shlex
import stat
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, features
from torch import Tensor

from stochx.errors import InputError, printable

MAX_PIXELS = 100_000_000
MIN_SIDE = 8
AVIF = features.check_module("avif")  # not in every build of Pillow
SUFFIXES = frozenset(
    {".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"}
    | {".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".apng"}
    | {".pbm", ".pgm", ".pnm", ".ppm"}
    | ({".avif"} if AVIF else set())
)
# Others may run programs: EPS runs Ghostscript.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", *(["AVIF"] if AVIF else []))
TIFF_BITS, TIFF_WHITE = 258, 262  # tags: bits per sample; 0 where zero is white

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
    """Preparation of an image: scale the shorter side to `resize` pixels, then take the centre `crop`.

    With `whole` nothing is cropped: the shorter side becomes `crop`, and the longer one keeps its proportion.
    `resampling` is the interpolation, which should be the one of the network's training.
    """

    resize: int
    crop: int
    whole: bool = False
    resampling: Resampling = "bilinear"

    def __post_init__(self) -> None:
        if self.resampling not in RESAMPLING:
            raise InputError(f"unknown resampling `{self.resampling}`", "use " + ", ".join(RESAMPLING))
        if not 0 < self.crop <= self.resize:
            raise InputError(
                f"cannot crop {self.crop} pixels out of {self.resize}",
                "use a crop that is not larger than the resized image",
            )

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the prepared image, with the same pixels as torchvision's `resize` and `center_crop`."""
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
    """Open a regular file for reading; raises `InputError` for one that is absent, a directory or not readable."""
    name = printable(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            hint = f"use its images with `--data {shlex.quote(name)}`"
            raise InputError(f"`{name}` is a directory, not a file", hint)
        if not stat.S_ISREG(mode):  # a pipe would block, and a device may never end
            raise InputError(f"`{name}` is not a regular file", "save it to a file first")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no such file: `{name}`", "check the path") from None
    except PermissionError:
        raise InputError(f"`{name}` cannot be read: permission denied", "check its permissions") from None
    except (OSError, ValueError) as error:
        raise InputError(f"`{name}` cannot be opened: {_reason(error)}", "check the path") from None


def read(source: Path | str | BinaryIO, name: str = "") -> Image.Image:
    """Read an image file as upright 8-bit RGB; `name` denotes an open file in messages.

    EXIF rotation is applied, CMYK and 16-bit images are converted, also where zero is white, transparency is blended
    onto white, and the first frame of an animation is used (with a warning if information is lost).

    Raises `InputError` for files that are not images, are damaged, have a side under 8 or over 100 million pixels.
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
                log.warning("`%s` has several frames; using the first", name)
            image.load()
            _turn_upright(name, image)
            return _rgb(name, image)
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    except UnidentifiedImageError:
        raise InputError(f"`{name}` is not an image", "use a JPEG, PNG, WebP, TIFF, GIF or BMP file") from None
    except Exception as error:  # malicious bytes make decoders raise almost anything: struct.error, IndexError, ...
        raise InputError(f"`{name}` is damaged: {_reason(error)}", "export or download it again") from error


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(text.splitlines()[0]) if text else type(error).__name__


def _open(file: BinaryIO) -> Image.Image:
    """Open an image without decoding it; Pillow's size warnings, with global filters, are silenced under a lock."""
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
    except Exception as error:  # damaged metadata must not lose intact pixels
        log.warning("`%s` has damaged EXIF data, so its orientation is unknown (%s)", name, _reason(error))


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


def _from_wide(image: Image.Image) -> np.ndarray:
    """Return 8-bit grey values (H, W) of an image of more bits, black at zero."""
    values, tags = np.asarray(image), image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if tags.get(TIFF_BITS) in (12, (12,)):
        values = values << 4 | values >> 8
    grey = WIDE[image.mode](values)
    return 255 - grey if tags.get(TIFF_WHITE) == 0 else grey  # Pillow inverts 8 bits and fewer, but no more


def _rgb(name: str, image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB, without a copy if it already is, so that a 90-megapixel photo is in memory once."""
    if image.mode in WIDE:  # Pillow's own conversion clips at 255
        return Image.fromarray(_from_wide(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] == 255:
            return image.convert("RGB")
        log.warning("`%s` has transparency; blending it onto white", name)
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)


def to_image(pixels: Tensor) -> Image.Image:
    """Convert (3, H, W) in [0, 1] to an 8-bit RGB image, rounded."""
    values = (pixels.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())
