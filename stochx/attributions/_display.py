"""An explanation as HTML for notebooks: its maps, with what is known of their accuracy."""

from __future__ import annotations

from collections.abc import Iterator

from stochx.attributions import Explanation
from stochx.engine.colours import colours_of, scale_of
from stochx.engine.display import SHOWN, gallery
from stochx.engine.maps import maps_of


def show_maps(explanation: Explanation) -> str:
    """Return the maps of the first images; red speaks for the class, blue against it; purple is strength alone."""
    maps, _ = maps_of(explanation)
    values = maps[:SHOWN].sum(1).float().cpu().numpy()
    pictures = [colours_of(relevance, scale_of(relevance), explanation.signed) for relevance in values]
    captions = [", ".join(_facts(explanation, n)) or f"image {n}" for n in range(len(pictures))]
    return gallery(pictures, captions, explanation.method or "explanation", len(maps))


def _facts(explanation: Explanation, n: int) -> Iterator[str]:
    """Yield the gap, the error and the samples of the map of an image, where they exist."""
    patterns = {"gap": "gap {:+.3f}", "error": "error {:.3f}", "used": "n = {:.0f}"}
    for name, pattern in patterns.items():
        values = getattr(explanation, name)
        if values is not None:
            yield pattern.format(float(values.reshape(-1)[n]))
