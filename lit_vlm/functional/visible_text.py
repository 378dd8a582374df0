"""Text that people may read safely whatever it holds: nothing in it acts on a terminal, a page or its neighbours."""


def visible_text(text: str, space: str = "·") -> str:
    r"""Makes white space visible, and writes what cannot be printed as an escape, so that it does nothing.

    Args:
        text: Any text.
        space: Sign for a space.

    Example:
        >>> visible_text("a b\tc\x1b[2J")
        'a·b→c\\x1b[2J'
    """
    signs = {" ": space, "\n": "↵\n", "\t": "→"}
    return "".join(signs.get(character) or _printable(character) for character in text)


def printable_text(text: str) -> str:
    r"""Writes a text on one line, with what cannot be printed as an escape.

    Example:
        >>> printable_text("no\nfile\x07")
        'no file\\x07'
    """
    return "".join(map(_printable, " ".join(text.split())))


def readable_text(text: str, most: int) -> str:
    r"""Keeps the lines of a text, writes what cannot be printed as an escape, and cuts it where it is too long.

    Args:
        text: Any text.
        most: Characters to keep.

    Example:
        >>> readable_text("one\ntwo\u202e", 100)
        'one\ntwo\\u202e'
        >>> readable_text("abcdef", 4)
        'abcd… (2 more characters)'
    """
    kept = "".join(character if character == "\n" else _printable(character) for character in text[:most])
    return kept if len(text) <= most else f"{kept}… ({len(text) - most:,} more characters)"


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
