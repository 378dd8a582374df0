"""The verb ``recipes``: the catalogue, and one recipe."""

from __future__ import annotations

from lit_vlm.command_line.catalogue import find_config, shipped_recipes
from lit_vlm.interfaces.errors import UserError

COLUMNS = ("recipe", "method", "paradigm", "data", "fidelity", "paper")


def run(verb: str, arguments: list[str]) -> int:
    """Prints the catalogue as a table, as Markdown, only names (``--names``), or one recipe (``show NAME``)."""
    if arguments in (["-h"], ["--help"]):
        print("usage: lit-vlm recipes [--names|--markdown] | lit-vlm recipes show NAME")
    elif not arguments:
        print(_table())
    elif arguments == ["--names"]:
        print("\n".join(recipe.name for recipe in shipped_recipes()))
    elif arguments == ["--markdown"]:
        print(readme(), end="")
    elif arguments[0] == "show" and len(arguments) == 2:
        print(find_config(arguments[1]).read_text(encoding="utf-8"), end="")
    else:
        raise UserError(f"recipes {' '.join(arguments)}: give nothing, '--names', '--markdown' or 'show NAME'")
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


def readme() -> str:
    """Writes ``recipes/README.md``: the same table in Markdown."""
    lines = [
        "# Recipes",
        "",
        "One file a method. Written by `lit-vlm recipes --markdown > recipes/README.md`; a test checks it is current.",
        "Run one with `lit-vlm fit --config NAME`; every value can be overridden, such as "
        "`--model.backbone.checkpoint Qwen/Qwen2.5-VL-3B-Instruct`.",
        "Those without data, whose data are `weights`, run with `lit-vlm merge --config NAME --output FOLDER`.",
        "Those whose data are `stages` are pipelines of several runs: `lit-vlm pipeline --config NAME`.",
        "`models/` holds parts that recipes borrow by path.",
        "",
        f"| {' | '.join(COLUMNS)} | what it does |",
        f"|{' --- |' * (len(COLUMNS) + 1)}",
    ]
    for recipe, cells in zip(shipped_recipes(), rows(), strict=True):
        link = f"[{cells[0]}]({cells[0]}.yaml)"
        lines.append(f"| {' | '.join([link, *cells[1:]])} | {recipe.about.get('summary', '')} |")
    return "\n".join(lines) + "\n"


def _table() -> str:
    lines = [COLUMNS, *rows()]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
