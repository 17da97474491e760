"""Pictures as data URIs of WebP, at the size at which they are shown, within a budget."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

LARGE, SMALL = 224, 160  # pixels: the longest side of a picture, with much room for each image and with less
MUCH = 100_000  # bytes for each image from which its pictures are large
CRISP = 64  # pixels: smaller pictures are stored without loss, and enlarged without smoothing
QUALITY = 72
ROOM = 50_000  # bytes of an image with its maps, as base64, on average
FEWEST = 200  # images that there is room for at least: 10 MB


class Album:
    """The pictures of a run of `images` images, which share `room` bytes; `shown` and `left_out` count images."""

    def __init__(self, room: int, limit: int, images: int = 0) -> None:
        self.room, self.limit = room, limit
        self.side = LARGE if room >= MUCH * min(images, limit) else SMALL
        self.shown, self.left_out = 0, 0

    @property
    def why(self) -> str:
        """The reason why images are left out."""
        if not self.left_out:
            return "the files of the others are missing"
        return "there is no room for more in this file" if self.room <= 0 else f"`--limit` is {self.limit}"

    def take(self, pictures: Sequence[np.ndarray]) -> list[str] | None:
        """Return the URIs of an image's pictures, (H, W, 3) in [0, 1]; None, and counted, where there is no room."""
        uris = self.fit(pictures) if self.shown < self.limit else None
        if uris is None:
            self.left_out += 1
        else:
            self.shown += 1
        return uris

    def fit(self, pictures: Sequence[np.ndarray]) -> list[str] | None:
        """Return the URIs of pictures that are not images of a gallery; None where there is no room."""
        if self.room <= 0:
            return None
        uris = [to_uri(picture, self.side) for picture in pictures]
        size = sum(map(len, uris))
        if size > self.room:
            self.room = 0  # the first are shown, not the smallest
            return None
        self.room -= size
        return uris


def room_for(limit: int) -> int:
    """Return the bytes of all pictures of a report."""
    return ROOM * max(limit, FEWEST)


def is_crisp(picture: np.ndarray) -> bool:
    """Return true for a picture that is enlarged, so that its pixels are seen."""
    return max(len(picture), len(picture[0])) <= CRISP


def to_uri(picture: np.ndarray, side: int = LARGE) -> str:
    """Return a picture (H, W, 3) in [0, 1], or of bytes, as a data URI, its longest side at most `side` pixels."""
    pixels = picture if picture.dtype == np.uint8 else (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="WEBP", lossless=is_crisp(picture), quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def size_of(uri: str) -> tuple[int, int]:
    """Return the width and height of a picture in pixels, so that a page has its place before it is loaded."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size
