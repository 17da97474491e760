"""Long names on several lines: broken where they have a joint, and measured in places of a fixed-width font."""

from __future__ import annotations

import re
import unicodedata

JOINTS = (r"[\s,:/]+", r"[=_\-]+|\.(?!\d)")  # a name breaks after these: the later ones only where it must


def width(text: str) -> int:
    """Return the places that a line takes; Chinese letters and emoji take two, accents none."""
    return sum(map(_places, text))


def _places(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def shorten(text: str, places: int) -> str:
    """Cut a line to a width; the last place is an ellipsis."""
    return text if width(text) <= places else _head(text, places - 1) + "…"


def wrap(text: str, places: int) -> list[str]:
    """Break a text into lines of a maximum width, after a joint where there is one."""
    lines = [""]
    for piece in _pieces(text, places, JOINTS):
        if lines[-1] and width(lines[-1] + piece.rstrip()) > places:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def longest_piece(text: str) -> int:
    """Return the places of the longest part between two joints: narrower than that, a name is broken anywhere."""
    return max((width(piece.rstrip()) for piece in _split_all(_split_all([text], JOINTS[0]), JOINTS[1])), default=0)


def _pieces(text: str, places: int, joints: tuple[str, ...]) -> list[str]:
    """Return the parts of a text between joints, each of a maximum width."""
    if width(text.rstrip()) <= places:
        return [text]
    if not joints:
        head = _head(text, max(1, places)) or text[:1]
        return [head, *_pieces(text[len(head) :], places, ())] if head != text else [text]
    return [part for piece in _split_all([text], joints[0]) for part in _pieces(piece, places, joints[1:])]


def _split_all(texts: list[str], joint: str) -> list[str]:
    """Split texts after every joint."""
    return [piece for text in texts for piece in re.findall(rf".+?(?:{joint}|$)", text)]


def _head(text: str, places: int) -> str:
    """Return the longest beginning that fits a width."""
    used = 0
    for end, letter in enumerate(text):
        used += _places(letter)
        if used > places:
            return text[:end]
    return text
