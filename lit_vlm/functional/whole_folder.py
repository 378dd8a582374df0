"""Puts a folder in place complete or not at all, also where another one is to be replaced."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_vlm.functional.shard_writer import check_output, sync_to_disk
from lit_vlm.interfaces.errors import UserError

MODEL_FILES = ("config.json", "adapter_config.json")
"""One of these lies in every exported model."""


def check_replaceable(output: Path, overwrite: bool) -> None:
    """Refuses a place that holds something, unless it is a model that may be replaced.

    Raises:
        UserError: It does.
    """
    if not overwrite:
        check_output(output)
        return
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UserError(f"{str(output)!r} is no folder, and is not replaced; give another one or move it away")
    holds = {path.name for path in output.iterdir()} if output.exists() else set()
    if holds and (not holds & set(MODEL_FILES) or any(path.suffix == ".ckpt" for path in output.rglob("*"))):
        raise UserError(f"{str(output)!r} holds something else than an exported model, and is not replaced; move it")


@contextmanager
def whole_folder(output: Path, overwrite: bool = False) -> Iterator[Path]:
    """Gives the place where a folder may be made, and moves it to its own when the block ends well.

    Args:
        output: Where it will lie.
        overwrite: Whether a model that lies there is replaced.

    Yields:
        A path beside it, where nothing is.

    Raises:
        UserError: Something else lies there.
    """
    check_replaceable(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    made, former = (output.with_name(f".{output.name}.{state}") for state in ("exporting", "replaced"))
    for path in (made, former):
        shutil.rmtree(path, ignore_errors=True)
    try:
        yield made
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    for path in made.rglob("*"):
        sync_to_disk(path)
    if output.exists():
        output.rename(former)
    made.rename(output)
    sync_to_disk(output.parent)
    shutil.rmtree(former, ignore_errors=True)
