"""The file of a model's own completions on an embedded task: xz-compressed JSON lines, a header first.

``lit_vlm.command_line.own_candidates`` writes it. Questions, pictures and truths are not in it: the generator makes
them anew from the split and the index.
"""

import hashlib
import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Split
from lit_vlm.interfaces.roles import TaskGenerator

FORMAT = "lit-vlm own completions 1"
BUNDLED_FOLDER = Path(__file__).parent / "bundled"
_PRESET = 9 | lzma.PRESET_EXTREME


@dataclass(frozen=True)
class Origin:
    """What made a file of completions; its first line."""

    generator: Mapping[str, Any]
    """Name and settings of the generator, see ``describe_generator``."""
    model: str
    """Name of the checkpoint, without the folder it lay in."""
    weights: str
    """Fingerprint of its weights."""
    version: str
    """Version of lit-vlm."""
    system_prompt: str
    """What stood before each question; empty for nothing."""
    sampling: Mapping[str, float]
    """Temperature, longest completion in tokens, completions of a question, seed."""
    questions: Mapping[str, str]
    """Fingerprint of each split's questions, see ``questions_fingerprint``."""


@dataclass(frozen=True)
class OwnCompletions:
    """A model's completions of the first questions of some splits."""

    origin: Origin
    """What made them."""
    texts: Mapping[Split, Sequence[Sequence[str]]]
    """By split and index: the completions of a question, in the order they were sampled."""

    def size(self, split: Split) -> int:
        """Counts the questions of a split that have completions."""
        return len(self.texts.get(split, ()))


def describe_generator(generator: TaskGenerator) -> dict[str, Any]:
    """Returns name and settings of a generator that is a dataclass, as JSON would give them back."""
    described: dict[str, Any] = json.loads(json.dumps({"name": generator.name, **asdict(generator)}))  # type: ignore[call-overload]
    return described


def questions_fingerprint(generator: TaskGenerator, split: Split, size: int) -> str:
    """Hashes questions, reference completions and true answers of the first ``size`` samples of a split."""
    digest = hashlib.blake2b(digest_size=16)
    for index in range(size):
        sample = generator.sample(split, index)
        words = [sample.id, *(message.text for message in sample.messages), repr(sample.answer)]
        digest.update("\x1f".join([*words, ""]).encode())
    return digest.hexdigest()


def write_completions(path: Path, completions: OwnCompletions) -> None:
    """Writes the header, then one line a question.

    Raises:
        UserError: The file cannot be written.
    """
    lines: list[dict[str, Any]] = [{"format": FORMAT, **asdict(completions.origin)}]
    for split, of_split in completions.texts.items():
        lines.extend({"split": split, "index": index, "texts": texts} for index, texts in enumerate(of_split))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    try:
        path.write_bytes(lzma.compress(text.encode(), preset=_PRESET))
    except OSError as fault:
        raise UserError(f"{path} cannot be written: {fault.strerror}; name a file in a folder that exists") from fault


def read_completions(path: Path) -> OwnCompletions:
    """Reads what ``write_completions`` wrote.

    Raises:
        UserError: The file cannot be read or has another form; the message names the line.
    """
    try:
        with lzma.open(path, "rt", encoding="utf-8", newline="\n") as file:
            lines = file.read().split("\n")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as fault:
        raise UserError(f"{path} cannot be read as completions ({fault}); make it with {_MAKER}") from fault
    origin = _origin(path, lines[0])
    texts: dict[Split, list[tuple[str, ...]]] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        record = _record(path, number, line)
        of_split = texts.setdefault(_split(path, number, record.get("split")), [])
        given = record.get("texts")
        if record.get("index") != len(of_split):
            raise _misformed(path, number, f"index is {record.get('index')!r}, where {len(of_split)} comes next")
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise _misformed(path, number, "texts is no list of texts")
        of_split.append(tuple(given))
    return OwnCompletions(origin, texts)


_MAKER = "python -m lit_vlm.command_line.own_candidates"


def _origin(path: Path, line: str) -> Origin:
    header = _record(path, 1, line)
    if header.pop("format", None) != FORMAT:
        raise _misformed(path, 1, f"it is not the header of {FORMAT!r}")
    wanted = {name: field.type for name, field in Origin.__dataclass_fields__.items()}
    if set(header) != set(wanted):
        raise _misformed(path, 1, f"it holds {', '.join(sorted(header))}, where {', '.join(wanted)} are wanted")
    for name, kind in wanted.items():
        if isinstance(header[name], str) != (kind is str) or not isinstance(header[name], str | dict):
            raise _misformed(path, 1, f"{name} is {header[name]!r}")
    return Origin(**header)


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as fault:
        raise _misformed(path, number, f"it is no JSON ({fault})") from fault
    if not isinstance(record, dict):
        raise _misformed(path, number, "it is no JSON object")
    return record


def _split(path: Path, number: int, name: object) -> Split:
    for split in get_args(Split):
        if split == name:
            found: Split = split
            return found
    raise _misformed(path, number, f"split is {name!r}")


def _misformed(path: Path, number: int, reason: str) -> UserError:
    return UserError(f"{path}, line {number}: {reason}; make the file anew with {_MAKER}")
