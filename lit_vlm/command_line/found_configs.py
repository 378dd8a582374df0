"""The recipes that a command line names after ``--config``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_vlm.command_line.catalogue import find_config, read_yaml
from lit_vlm.interfaces.errors import UserError

MERGE, PIPELINE = "merge", "pipeline"
STAGES = "stages"
"""What the recipe of a pipeline holds."""


def with_found_configs(verb: str, arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Replaces recipe names after ``--config`` by their files.

    Returns:
        The words of the command line, and the files in their order.

    Raises:
        UserError: A recipe does not exist, is for another verb, or names further ones.
    """
    words: list[str] = []
    configs: list[Path] = []
    pending = False
    for word in arguments:
        option, equals, value = word.partition("=")
        if pending or (option == "--config" and equals):
            path = find_config(word if pending else value)
            configs.append(path)
            words.append(str(path) if pending else f"--config={path}")
            pending = False
        else:
            words.append(word)
            pending = word in ("--config", "-c")
    if pending:
        raise UserError("--config: a file or the name of a recipe must follow")
    for path in configs:
        _check(verb, path)
    return words, configs


def _check(verb: str, path: Path) -> None:
    content = read_yaml(path)
    if "config" in content:
        raise UserError(f"{path}: a recipe may not hold 'config'; borrow parts by path, or pass --config twice")
    if verb != PIPELINE and STAGES in content:
        start = f"lit-vlm pipeline --config {path}"
        raise UserError(f"{path}: this recipe is a pipeline of several runs; start it with '{start}'")
    if verb == PIPELINE and STAGES not in content:
        start = f"lit-vlm {MERGE if MERGE in content else 'fit'} --config {path}"
        raise UserError(f"{path}: this recipe is no pipeline, since it has no stages; start it with '{start}'")
    if verb == MERGE and MERGE not in content and {"model", "data", "trainer"} & set(content):
        raise UserError(f"{path}: this recipe is a run and no merge; start it with 'lit-vlm fit --config {path}'")
    if verb != MERGE and MERGE in content:
        start = f"lit-vlm merge --config {path} --output FOLDER"
        raise UserError(f"{path}: this recipe is a merge; start it with '{start}'")
