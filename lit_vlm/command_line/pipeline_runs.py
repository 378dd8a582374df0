"""Runs the stages of a pipeline, each in a process of its own, and remembers which are done."""

from __future__ import annotations

import codecs
import fcntl
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lit_vlm.command_line.pipeline_plan import StageRun
from lit_vlm.interfaces.errors import UserError

MARKER = "stage.json"
LOCK = ".lock"
TAIL_BYTES = 8192
GRACE_SECONDS = 5.0
Launcher = Callable[[StageRun], tuple[int, str]]
"""Runs a stage; returns its exit status and what it last said on stderr."""


def command_of(run: StageRun) -> str:
    """Writes a run as a command that a shell takes."""
    return shlex.join(["lit-vlm", run.stage.verb, *run.words])


def settings_hashes(plan: Sequence[StageRun], resolved: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Hashes what determines each run: its verb, command and resolved configuration, and those of what it is given.

    Args:
        plan: All runs in order.
        resolved: Of each stage by name: its configuration with all defaults, as text.
        folder: The pipeline's, which may be moved.

    Returns:
        SHA-256, hexadecimal, by label.
    """
    hashes: dict[str, str] = {}
    for run in plan:
        given = [hashes[label] for label, _ in run.needs]
        settings = [run.stage.verb, portable_words(run, folder), resolved[run.stage.name], given]
        hashes[run.label] = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    return hashes


def portable_words(run: StageRun, folder: Path) -> list[str]:
    """Returns the words of a run without the place where the pipeline's folder lies."""
    return [word.replace(f"{folder}/", "./") for word in run.words]


def read_marker(run: StageRun) -> dict[str, Any] | None:
    """Reads what a run left when it was done; None where it was not.

    Raises:
        UserError: The file cannot be read.
    """
    path = run.folder / MARKER
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise UserError(f"{path}: this is no JSON; move {str(run.folder)!r} away to run the stage again") from fault
    if not isinstance(content, dict) or "settings" not in content:
        raise UserError(f"{path}: this is no mark of a finished stage; move {str(run.folder)!r} away")
    return content


def first_changed(plan: Sequence[StageRun], hashes: Mapping[str, str], folder: Path) -> tuple[StageRun, str] | None:
    """Finds the first run that is done, but with other settings, and says what differs."""
    for run in plan:
        marker = read_marker(run)
        if marker is not None and marker["settings"] != hashes[run.label]:
            before, now = list(marker.get("words", ())), portable_words(run, folder)
            gone = [word for word in before if word not in now]
            new = [word for word in now if word not in before]
            if gone or new:
                return run, f"{' '.join(gone) or 'nothing'} is now {' '.join(new) or 'nothing'}"
            return run, "its recipe, or what it is given, has changed"
    return None


def run_stage(run: StageRun, settings: str, folder: Path, launch: Launcher) -> None:
    """Runs one stage to its end and marks it as done.

    What an interrupted run has left in the folder is set aside, but for a ledger, which ``predict`` goes on with, and a
    merge, which goes on by itself.

    Raises:
        UserError: It failed; the message has its error, and the command that repeats it.
    """
    _clear(run)
    run.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    status, said = launch(run)
    if status:
        cause = _last_line(said) or f"it ended with exit status {status} and said nothing"
        raise UserError(f"stage {run.label} failed: {cause.rstrip('.;')}; repeat it with: {command_of(run)}")
    for kind in run.hands_over:
        if kind != "folder" and not (run.folder / kind).is_dir():
            raise UserError(
                f"stage {run.label} ended without {str(run.folder / kind)!r}, which later stages are given; see that "
                "its recipe writes it there"
            )
    marker = {
        "label": run.label,
        "verb": run.stage.verb,
        "words": portable_words(run, folder),
        "settings": settings,
        "seconds": round(time.perf_counter() - start, 3),
    }
    partial = run.folder / f".{MARKER}.partial"
    partial.write_text(json.dumps(marker, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.rename(run.folder / MARKER)


def set_aside(folder: Path) -> Path:
    """Renames a folder to the first free of ``NAME.old-1``, ``NAME.old-2``, ..."""
    number = 1
    while (place := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    return folder.rename(place)


@contextmanager
def locked(folder: Path) -> Iterator[IO[str]]:
    """Sees that no other process runs stages in a folder; stages hold the lock too, should they outlive this process.

    Raises:
        UserError: Another one does.
    """
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{str(folder)!r} is in use: this pipeline or one of its stages still runs; wait for it, or end it"
            ) from None
        yield lock


def launcher(lock: IO[str]) -> Launcher:
    """Makes what runs stages in processes of their own, which hold a lock as long as they run."""

    def launch(run: StageRun) -> tuple[int, str]:
        words = [sys.executable, "-m", "lit_vlm", run.stage.verb, *run.words]
        with _termination_as_exit():
            process = subprocess.Popen(words, stderr=subprocess.PIPE, pass_fds=(lock.fileno(),))
            tail = bytearray()
            reader = threading.Thread(target=_pass_on, args=(process.stderr, tail), daemon=True)
            reader.start()
            try:
                status = process.wait()
            except BaseException:
                _end(process)
                raise
            finally:
                # Not for ever: a rank that outlives its stage would hold the stream.
                reader.join(GRACE_SECONDS)
        return status, tail.decode(errors="replace")

    return launch


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a stage with this process; a keyboard's interrupt has reached it by itself, and it may close its files."""
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Lets SIGTERM end this process by an exception, so that it can end its stage."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _pass_on(stream: IO[bytes], tail: bytearray) -> None:
    """Writes what a stage says to stderr, as it comes, and keeps the end of it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with stream:
        while piece := os.read(stream.fileno(), TAIL_BYTES):
            sys.stderr.write(decoder.decode(piece))
            sys.stderr.flush()
            tail += piece
            del tail[:-TAIL_BYTES]


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("lit-vlm: error: ")]
    return errors[-1].removeprefix("lit-vlm: error: ") if errors else lines[-1] if lines else ""


def _clear(run: StageRun) -> None:
    """Makes room for a run that was interrupted or is to be repeated."""
    if not run.folder.exists():
        return
    (run.folder / MARKER).unlink(missing_ok=True)
    if run.stage.verb == "merge":
        return
    if run.stage.verb == "predict":
        # Lightning refuses to write it over; the ledger beside it is gone on with.
        (run.folder / "config.yaml").unlink(missing_ok=True)
        return
    if any(run.folder.iterdir()):
        set_aside(run.folder)
