"""Image files and tensors: safe reading, and preparation for a network."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from stochx.engine.io.wide_images import WIDE, gray_of
from stochx.errors import InputError, printable, reason
from stochx.input_files import open_file
from stochx.settings.values import Size

MAX_PIXELS = 100_000_000
MIN_SIDE = 8
RGB = 3  # channels
COVERED = 128  # of 255, from which a pixel of a resized mask counts as covered
LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B in gray, as Pillow has them
AVIF = features.check_module("avif")  # not in every build of Pillow
SUFFIXES = frozenset(
    {".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"}
    | {".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".apng"}
    | {".pbm", ".pgm", ".pnm", ".ppm"}
    | ({".avif"} if AVIF else set())
)
# Others may run programs: EPS runs Ghostscript.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", *(["AVIF"] if AVIF else []))

Resampling = Literal["bilinear", "bicubic", "lanczos"]
RESAMPLING: dict[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

log = logging.getLogger("stochx")
_header_lock = threading.Lock()


Picture = Image.Image | np.ndarray
"""An 8-bit RGB image, or (H, W, C) uint8 for other numbers of channels."""


def height_and_width(size: Size) -> tuple[int, int]:
    """Return (height, width) of a size."""
    return (size, size) if isinstance(size, int) else size


def size_text(size: Size) -> str:
    """Return a size as text: `224 x 224`."""
    height, width = height_and_width(size)
    return f"{height} x {width}"


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape (C, H, W) as text: `224 x 224`, or `28 x 28 with 1 channel` where it is not RGB."""
    channels, height, width = shape
    return f"{height} x {width}" + ("" if channels == RGB else f" with {channels_text(channels)}")


def channels_text(count: int) -> str:
    """Return `1 channel`, `4 channels`."""
    return f"{count} channel" + ("" if count == 1 else "s")


@dataclass(frozen=True)
class Preparation:
    """Preparation of an image: scale it in proportion, until it just covers `resize`, then take the centre `crop`.

    Each is the side of a square, or (height, width); the shorter side of an image thus becomes that of a square. With
    `whole` nothing is cropped: the image just covers `crop`. `resampling` is the interpolation, which should be the one
    of the network's training. `channels` is what the network takes: 1 makes images gray.
    """

    resize: Size
    crop: Size
    whole: bool = False
    resampling: Resampling = "bilinear"
    channels: int = 3

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):  # one form for each size, so that equal preparations compare equal
            height, width = height_and_width(getattr(self, name))
            object.__setattr__(self, name, height if height == width else (height, width))
        if self.resampling not in RESAMPLING:
            raise InputError(f"unknown resampling `{self.resampling}`", "use " + ", ".join(RESAMPLING))
        (height, width), (high, wide) = map(height_and_width, (self.crop, self.resize))
        if not (0 < height <= high and 0 < width <= wide):
            raise InputError(
                f"cannot crop {size_text(self.crop)} pixels out of {size_text(self.resize)}",
                "use a crop that is not larger than the resized image",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of prepared images."""
        return (self.channels, *height_and_width(self.crop))

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image at its size; for squares with the pixels of torchvision's `resize` and `center_crop`."""
        height, width = height_and_width(self.crop if self.whole else self.resize)
        is_wide = height * image.width >= width * image.height  # so that the height decides
        size, short, long = (height, *image.size[::-1]) if is_wide else (width, *image.size)
        if short != size:
            other = int(size * long / short)
            if size * other > MAX_PIXELS:
                raise InputError(
                    f"{image.width} x {image.height} pixels are too long and thin to be scaled to {size}",
                    "cut the image into shorter pieces",
                )
            image = image.resize((other, size) if is_wide else (size, other), RESAMPLING[self.resampling])
        if self.whole:
            return image
        _, height, width = self.shape
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))

    def tensor(self, picture: Picture) -> Tensor:
        """Return a prepared picture (C, H, W) in [0, 1]; raises `InputError` for one with other channels."""
        fitted = _with_channels(picture, self.channels)
        if isinstance(fitted, Image.Image):
            return to_tensor(self(fitted))
        planes = [np.asarray(self(Image.fromarray(plane))) for plane in np.moveaxis(fitted, 2, 0)]
        return to_tensor(np.stack(planes, 2))


def _with_channels(picture: Picture, channels: int) -> Picture:
    """Return a picture with this number of channels: gray and RGB are made from each other."""
    if isinstance(picture, np.ndarray) and picture.shape[2] in (1, 3):
        picture = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    if isinstance(picture, Image.Image) and channels in (1, 3):
        mode = "L" if channels == 1 else "RGB"
        return picture if picture.mode == mode else picture.convert(mode)
    count = picture.shape[2] if isinstance(picture, np.ndarray) else len(picture.getbands())
    if count != channels:
        raise InputError(
            f"it has {channels_text(count)}, the network takes {channels}",
            f"use data with {channels_text(channels)}, such as arrays in a .npz or HDF5 file",
        )
    return picture


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
        raise InputError(f"`{name}` is damaged: {reason(error)}", "export or download it again") from error


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
        log.warning("`%s` has damaged EXIF data, so its orientation is unknown (%s)", name, reason(error))


def _rgb(name: str, image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB, without a copy if it already is, so that a 90-megapixel photo is in memory once."""
    if image.mode in WIDE:  # Pillow's own conversion clips at 255
        return Image.fromarray(gray_of(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] == 255:
            return image.convert("RGB")
        log.warning("`%s` has transparency; blending it onto white", name)
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_tensor(picture: Picture) -> Tensor:
    """Convert an RGB or gray image, or (H, W, C) uint8, to (C, H, W) float32 in [0, 1]."""
    values = np.array(picture)
    planes = torch.from_numpy(values if values.ndim == 3 else values[:, :, None])
    return planes.permute(2, 0, 1).contiguous().float().div_(255)


def to_image(pixels: Tensor) -> Image.Image:
    """Convert (C, H, W) in [0, 1] to an 8-bit image, rounded: gray for one channel, else RGB, see `visible`."""
    shown = pixels.detach() if len(pixels) == 1 else visible(pixels.detach())
    values = (shown.cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values[0].numpy() if len(values) == 1 else values.permute(1, 2, 0).numpy())


def visible(pixels: Tensor) -> Tensor:
    """Return images (..., C, H, W) in RGB, (..., 3, H, W), to look at.

    One channel is gray, of two the mean is, and of more the first three are red, green and blue.
    """
    if pixels.shape[-3] < RGB:
        return pixels.mean(-3, keepdim=True).expand(*pixels.shape[:-3], RGB, -1, -1)
    return pixels[..., :RGB, :, :]


def to_picture(pixels: Tensor) -> np.ndarray:
    """Return an image (C, H, W) as an array (H, W, 3) to look at."""
    picture: np.ndarray = visible(pixels.detach()).permute(1, 2, 0).cpu().float().numpy()
    return picture


def prepared_image(picture: Picture, prepare: Preparation | None) -> Tensor:
    """Return an image (C, H, W) in [0, 1] as a network sees it; raises `InputError` for one that cannot be used."""
    return to_tensor(picture) if prepare is None else prepare.tensor(picture)


def prepared_mask(mask: np.ndarray, prepare: Preparation | None) -> Tensor:
    """Return a mask (H, W), prepared as its image is."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return torch.from_numpy(np.array(picture if prepare is None else prepare(picture)) >= COVERED)
