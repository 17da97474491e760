"""Results as HTML for notebooks: pictures side by side with captions, whose texts are escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from stochx.errors import printable

SHOWN = 8  # pictures
SIDE = 160  # pixels of the longer side of a small picture


def gallery(pictures: Sequence[np.ndarray], captions: Sequence[str], heading: str, total: int) -> str:
    """Return pictures (H, W, 3) in [0, 1] under a heading, each above its caption; they are the first of `total`."""
    cells = "".join(map(_cell, pictures, captions))
    more = f"<div>... and {total - len(pictures)} more</div>" if total > len(pictures) else ""
    row = f'<div style="display:flex;flex-wrap:wrap;gap:8px">{cells}</div>'
    return f"<div><div><b>{escape(heading)}</b></div>{row}{more}</div>"


def escape(text: str) -> str:
    """Return a text for HTML, in which control characters are shown as codes."""
    return html.escape(printable(text))


def _cell(picture: np.ndarray, caption: str) -> str:
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{_png(picture)}"/>'
    return f'<figure style="margin:0">{image}<figcaption><small>{escape(caption)}</small></figcaption></figure>'


def _png(picture: np.ndarray) -> str:
    """Return a picture as PNG in base64; pixels of a small one are enlarged to squares."""
    pixels = Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))
    times = max(1, SIDE // max(pixels.size))
    file = io.BytesIO()
    pixels.resize((pixels.width * times, pixels.height * times), Image.Resampling.NEAREST).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
