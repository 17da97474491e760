"""Fonts for the letters of a text, among those that are installed."""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import cache

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

BASE = "DejaVu Sans"  # matplotlib brings it along: most alphabets, Arabic and the smileys, but no Chinese
PREFERRED = ("Noto Sans", "Source Han Sans", "Microsoft", "PingFang", "Hiragino", "WenQuanYi", "Arial Unicode")
PLACEHOLDER = "Last Resort"  # draws a box for every letter

log = logging.getLogger("stochx")


def fit_fonts(figure: Figure) -> bool:
    """Give every text of a figure the fonts that it needs beside the base font; return true if there are any."""
    others = False
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if lacking := _lacking(text.get_text()):
            text.set_fontfamily([BASE, *fonts_for(lacking)])
            others = True
    return others


def escape_missing(text: str) -> str:
    r"""Return a text in which letters that no installed font has are written as `\u732b`; logs a warning for them."""
    lacking = _lacking(text)
    missing = lacking.difference(*(letters_of(_path(name)) for name in fonts_for(lacking)))
    if missing:
        log.warning(
            "no installed font has some letters of the names in figures, which show their codes instead; "
            "install one that has them, such as Noto Sans CJK"
        )
    return "".join(letter.encode("unicode_escape").decode() if letter in missing else letter for letter in text)


def _lacking(text: str) -> frozenset[str]:
    """Return the letters of a text that the base font does not have."""
    return frozenset(letter for letter in text if letter.isprintable()) - letters_of(_path(BASE))


@cache
def fonts_for(letters: frozenset[str]) -> tuple[str, ...]:
    """Return the names of the fewest installed fonts that have the most of these letters, the best first."""
    left, names = set(letters), list[str]()
    candidates = _upright()
    while left:
        best = max(candidates, key=lambda name: (_count(name, left), name.startswith(PREFERRED)), default="")
        if not best or not _count(best, left):
            break
        names.append(best)
        left -= letters_of(_path(best))
    return tuple(names)


def _count(name: str, letters: Collection[str]) -> int:
    return len(letters_of(_path(name)).intersection(letters))


def _upright() -> list[str]:
    """Return the names of all upright fonts of normal weight, each once, in alphabetical order."""
    fonts = font_manager.fontManager.ttflist
    names = {font.name for font in fonts if font.style == "normal" and font.weight in (400, "normal", "regular")}
    return sorted(name for name in names if not name.startswith(PLACEHOLDER))


@cache
def _path(name: str) -> str:
    return str(font_manager.findfont(name, fallback_to_default=False))


@cache
def letters_of(path: str) -> frozenset[str]:
    """Return the letters that a font file has; none if it cannot be read."""
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()
