"""Text set into a given width."""

from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont

ELLIPSIS = "..."
_LONGEST = 3000


@lru_cache
def sans_font(size: int) -> FreeTypeFont:
    """Returns DejaVu Sans, which comes with matplotlib and has letters of Latin, Greek, Cyrillic and mathematics.

    Args:
        size: Height in pixels.
    """
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def set_text(text: str, size: int, width: float, most_lines: int) -> list[str]:
    """Breaks text into lines, leaving out its middle where there are too many.

    The end is kept since questions ask, and completions answer, at their end. White space of any kind counts as one
    space; a word wider than a line is broken.

    Args:
        text: What to set.
        size: Font size in pixels.
        width: Of a line in pixels.
        most_lines: Lines to return at most, at least 1.

    Returns:
        The lines; none for blank text.
    """
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} {ELLIPSIS} {text[-_LONGEST // 2 :]}"
    lines = _break(text, sans_font(size), width)
    if len(lines) <= most_lines:
        return lines
    first = (most_lines + 1) // 2
    kept = [*lines[:first], *lines[len(lines) - (most_lines - first) :]]
    kept[first - 1] = _with_ellipsis(kept[first - 1], sans_font(size), width)
    return kept


def _break(text: str, font: FreeTypeFont, width: float) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *whole, line = _pieces(word, font, width)
        lines.extend(whole)
    return [*lines, line] if line else lines


def _pieces(word: str, font: FreeTypeFont, width: float) -> list[str]:
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def _with_ellipsis(line: str, font: FreeTypeFont, width: float) -> str:
    while line and font.getlength(f"{line} {ELLIPSIS}") > width:
        line = line[:-1]
    return f"{line.rstrip()} {ELLIPSIS}".lstrip()
