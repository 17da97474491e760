"""An attempt as HTML for notebooks: the adversarial images."""

from __future__ import annotations

from stochx.attacks import Attempt
from stochx.engine.display import SHOWN, gallery
from stochx.engine.io.images import to_picture


def show_images(attempt: Attempt) -> str:
    """Return the first adversarial images, with where in the run they were found and their cost."""
    x = attempt.x if attempt.x.dim() == 4 else attempt.x[None]
    pixels = [to_picture(image) for image in x[:SHOWN]]
    steps, restarts, forwards = (
        part.reshape(-1).tolist() for part in (attempt.step, attempt.restart, attempt.forwards)
    )
    captions = [
        f"step {step:.0f}, restart {restart:.0f}, forward passes: {passes:.0f}"
        for step, restart, passes in zip(steps, restarts, forwards, strict=True)
    ]
    return gallery(pixels, captions[:SHOWN], "adversarial images", len(x))
