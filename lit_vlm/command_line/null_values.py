"""Makes ``null`` reach options that lie deep.

The parser reads the value of ``--model.backbone.adapter null`` once and hands it on as text, so that deeper parsers
meet the word ``None``. As part of a value given for ``--model.backbone`` it is read once only.
"""

from __future__ import annotations

NULLS = ("null", "~")
READ_DIRECTLY = 2
"""Names of an option, as ``model.backbone``, whose value is still read as it stands."""


def deepen_nulls(words: list[str]) -> list[str]:
    """Rewrites options that are set to null, however their value is attached.

    Example:
        >>> deepen_nulls(["--model.backbone.adapter", "null", "--data.batch_size=4"])
        ['--model.backbone={adapter: null}', '--data.batch_size=4']
    """
    rewritten: list[str] = []
    rest = iter(range(len(words)))
    for index in rest:
        option, equals, value = words[index].partition("=")
        follows = not equals and index + 1 < len(words)
        names = [name for name in option.removeprefix("--").split(".") if name != "init_args"]
        is_null = (words[index + 1] if follows else value) in NULLS
        if option.startswith("--") and is_null and len(names) > READ_DIRECTLY:
            rewritten.append(f"--{'.'.join(names[:READ_DIRECTLY])}={_nested(names[READ_DIRECTLY:])}")
            if follows:
                next(rest)
        else:
            rewritten.append(words[index])
    return rewritten


def _nested(names: list[str]) -> str:
    return f"{{{names[0]}: {_nested(names[1:])}}}" if names else "null"
