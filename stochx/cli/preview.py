"""Small pictures on a colour terminal: two pixels a character."""

from __future__ import annotations

import torch
from rich.text import Text
from torch import Tensor
from torch.nn import functional as F

from stochx.cli import output
from stochx.reports.colours import diverging, scale_of
from stochx.tasks.explain import Explained

WIDTH = 28  # characters a picture


def preview(explained: Explained) -> None:
    """Draw the image and its maps side by side on stderr; says so where the terminal cannot."""
    if not output.stderr().is_terminal or output.stderr().color_system in (None, "standard"):
        output.stderr().print("[bold]note:[/] `--show` needs a colour terminal", highlight=False)
        return
    pictures = [explained.image]
    for row in explained.rows:
        values = explained.maps[row.method].sum(0)
        pictures.append(torch.from_numpy(diverging(values.numpy(), scale_of(values.numpy()))).permute(2, 0, 1))
    output.stderr().print(Text(f"{explained.name}: {', '.join(r.method for r in explained.rows)}"))
    small = torch.cat([_small(p) for p in pictures], dim=2)
    pixels = (small.clamp(0, 1) * 255).round().int().permute(1, 2, 0).tolist()
    for upper, lower in zip(pixels[0::2], pixels[1::2], strict=True):
        line = Text()
        for (r, g, b), (s, h, c) in zip(upper, lower, strict=True):
            line.append("▀", style=f"rgb({r},{g},{b}) on rgb({s},{h},{c})")
        output.stderr().print(line)


def _small(picture: Tensor) -> Tensor:
    return F.interpolate(picture[None].float(), (WIDTH, WIDTH), mode="area")[0]
