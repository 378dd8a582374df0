"""Makes one form of the forms in which files keep the same structure."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import Any

LONGEST_LITERAL = 1 << 20
"""Characters of a text that is still read as a Python literal."""


def is_empty(value: Any) -> bool:
    """Tells whether a value stands for "nothing here": null, not-a-number, blank text, an empty list or object.

    Example:
        >>> is_empty(float("nan")), is_empty(" "), is_empty(0)
        (True, True, False)
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, str):
        return not value.strip()
    return isinstance(value, (list, tuple, dict, bytes)) and len(value) == 0


def structure(value: Any) -> Any:
    """Reads a list or an object that was written as text: JSON first, then a Python literal; anything else stays.

    Example:
        >>> structure("['a', 'b']"), structure('[1, 2]'), structure("[not a list")
        (['a', 'b'], [1, 2], '[not a list')
    """
    if not isinstance(value, str) or not value.strip().startswith(("[", "{", "(")):
        return value
    text = value.strip()
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        if len(text) > LONGEST_LITERAL:
            return value
        try:
            read = ast.literal_eval(text)  # literals only: no name, call or operator is evaluated
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return value
    return list(read) if isinstance(read, tuple) else read if isinstance(read, (list, dict)) else value


def objects(value: Any) -> list[dict[str, Any]] | None:
    """Reads a list of objects, also from one object, an object of lists (as Arrow keeps a sequence), or text.

    Returns:
        The objects; None where the value is something else.

    Example:
        >>> objects({"from": ["human", "gpt"], "value": ["Hi", "Hello"]})
        [{'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'Hello'}]
        >>> objects(["a"]) is None
        True
    """
    value = structure(value)
    if isinstance(value, Mapping):
        columns = list(value.values())
        if columns and all(isinstance(column, list) for column in columns) and len({len(c) for c in columns}) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
        return [dict(value)]
    if isinstance(value, (list, tuple)):
        items = [structure(item) for item in value]
        return items if all(isinstance(item, dict) for item in items) else None
    return None
