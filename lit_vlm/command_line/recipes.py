"""The verb ``recipes``: the catalogue, and one recipe."""

from __future__ import annotations

from lit_vlm.command_line.catalogue import find_config, shipped_recipes
from lit_vlm.interfaces.errors import UserError

COLUMNS = ("recipe", "method", "paradigm", "data", "fidelity", "paper")


def run(verb: str, arguments: list[str]) -> int:
    """Prints the catalogue as a table, only names (``--names``), or one recipe (``show NAME``)."""
    if arguments in (["-h"], ["--help"]):
        print("usage: lit-vlm recipes [--names] | lit-vlm recipes show NAME")
    elif not arguments:
        print(_table())
    elif arguments == ["--names"]:
        print("\n".join(recipe.name for recipe in shipped_recipes()))
    elif arguments[0] == "show" and len(arguments) == 2:
        print(find_config(arguments[1]).read_text(encoding="utf-8"), end="")
    else:
        raise UserError(f"recipes {' '.join(arguments)}: give nothing, '--names' or 'show NAME'")
    return 0


def rows() -> list[tuple[str, ...]]:
    """Lists the catalogue's cells, in the order of ``COLUMNS``."""
    return [
        (
            recipe.name,
            recipe.about["method"],
            recipe.paradigm,
            recipe.data,
            recipe.about["fidelity"],
            recipe.about["paper"],
        )
        for recipe in shipped_recipes()
    ]


def _table() -> str:
    lines = [COLUMNS, *rows()]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
