"""Writes and reads ledgers: folders of Parquet in which no kill leaves half a row, a repeated one or a hole.

Every part file holds all completions of its samples, prompt by prompt and in the order of their index. It is written
beside and renamed, so that it is there whole or not at all; what a killed writer leaves begins with a dot and is not
read. Each rank numbers its own parts, so that ranks may share a folder and a later run may have another number of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet

from lit_vlm.functional.media_store import MediaStore
from lit_vlm.functional.sample_json import media_hash, sample_from_json, sample_to_json
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.ledgers import LedgerHeader, LedgerRow
from lit_vlm.interfaces.records import Completion, Sample, Verdict

HEADER, PARTS, MEDIA = "ledger.json", "part-*.parquet", "media"
FORMAT = 1
"""Version of the layout; other ones are refused."""
ROWS_AT_ONCE = 256
SCHEMA = pyarrow.schema(
    [
        ("sample_id", pyarrow.string()),
        ("index", pyarrow.int32()),
        ("task", pyarrow.string()),
        ("prompt", pyarrow.string()),
        ("text", pyarrow.string()),
        ("media_hash", pyarrow.string()),
        ("token_ids", pyarrow.list_(pyarrow.int32())),
        ("log_probs", pyarrow.list_(pyarrow.float32())),
        ("entropies", pyarrow.list_(pyarrow.float32())),
        ("log_prob_sum", pyarrow.float64()),
        ("token_count", pyarrow.int32()),
        ("finish_reason", pyarrow.string()),
        ("correct", pyarrow.bool_()),
        ("parsed", pyarrow.string()),
        ("formatted", pyarrow.bool_()),
        ("rewards", pyarrow.map_(pyarrow.string(), pyarrow.float64())),
        ("model_hash", pyarrow.string()),
        ("config_hash", pyarrow.string()),
        ("seed", pyarrow.uint64()),
        ("seconds", pyarrow.float64()),
        ("time", pyarrow.float64()),
        ("sample", pyarrow.string()),
        ("extra", pyarrow.string()),
    ]
)
"""Columns of a part; ``sample`` and ``extra`` are JSON."""
CHECKED = {
    "model_hash": "other weights",
    "template_hash": "another chat template or tokenizer",
    "completions": "another number of completions",
    "seed": "another seed",
    "sampling": "other sampling",
    "split": "another split",
    "config_hash": "another configuration of model or data",
    "model": "another model",
}
"""Fields of the header in which a run that goes on may not differ, and what a difference means."""


class LedgerWriter:
    """Appends completions to a ledger, begun where there is none.

    Args:
        folder: Of the ledger.
        header: What holds for all rows; a ledger that is there must have been written with the same.
        rank: Of this process. Rank 0 begins the ledger; others come after it.

    Raises:
        UserError: The folder holds something else, a ledger of another model, configuration, template or seed, or one
            that another process writes to.
    """

    def __init__(self, folder: Path, header: LedgerHeader, rank: int = 0) -> None:
        self.folder = folder
        self.header = header
        self.media = MediaStore(folder / MEDIA)
        self._rank = rank
        if rank == 0 and not (folder / HEADER).exists():
            _begin(folder, header)
        check_header(folder, header)
        self._release = weakref.finalize(self, os.close, _locked(folder, rank))
        numbers = [int(path.stem.rsplit("-", 1)[1]) for path in folder.glob(f"part-{rank:04d}-*.parquet")]
        self._next = max(numbers, default=-1) + 1

    def write(self, completions: Sequence[Completion], extra: Mapping[str, Any] | None = None) -> None:
        """Appends completions, which are on disk when this returns; nothing for none.

        Args:
            completions: All completions of their samples, prompt by prompt.
            extra: What else to keep of each, as JSON takes it.

        Raises:
            UserError: A sample cannot be written down; see ``sample_to_json``.
        """
        if not completions:
            return
        now = time.time()
        samples: dict[str, tuple[str, str]] = {}
        for completion in completions:
            sample = completion.sample
            if sample.id not in samples:
                record = sample_to_json(sample, self.media)
                samples[sample.id] = (json.dumps(record, ensure_ascii=False, allow_nan=False), media_hash(record))
        about = {
            "model_hash": self.header.model_hash,
            "config_hash": self.header.config_hash,
            "time": now,
            "extra": json.dumps(dict(extra or {}), ensure_ascii=False, allow_nan=False),
        }
        rows = [_record(completion, *samples[completion.sample.id]) | about for completion in completions]
        target = self.folder / f"part-{self._rank:04d}-{self._next:06d}.parquet"
        partial = target.with_name(f".{target.name}")
        with partial.open("wb") as file:
            parquet.write_table(pyarrow.Table.from_pylist(rows, SCHEMA), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        self._next += 1

    def close(self) -> None:
        """Lets others write."""
        self._release()


def is_ledger(folder: Path) -> bool:
    """Tells whether a folder holds a ledger."""
    return (folder / HEADER).is_file()


def read_header(folder: Path) -> LedgerHeader:
    """Reads what holds for all rows of a ledger.

    Raises:
        UserError: The folder holds no ledger, or one of another layout.
    """
    path = folder / HEADER
    if not path.is_file():
        raise UserError(f"{str(folder)!r} is no ledger: it has no {HEADER}; give a folder that predict has written")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise UserError(f"{path} is no JSON: {fault}; write the ledger anew, or take the file from a copy") from fault
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise UserError(f"{path} is of another layout than {FORMAT}; read it with the version that wrote it")
    known = {field.name for field in fields(LedgerHeader)}
    if set(content) - known or known - set(content) - {"split"}:
        odd = sorted(set(content) ^ known)
        raise UserError(f"{path} does not have the fields of a ledger's header ({', '.join(odd)}); write it anew")
    return LedgerHeader(**content)


def check_header(folder: Path, header: LedgerHeader) -> None:
    """Checks that a ledger may be gone on with.

    Raises:
        UserError: It was written with something else.
    """
    held = read_header(folder)
    for name, meaning in CHECKED.items():
        before, now = (_plain(getattr(item, name)) for item in (held, header))
        if before != now:
            raise UserError(
                f"the ledger {str(folder)!r} was written with {meaning} ({name} {before}, now {now}); give another "
                "CompletionLedger.path, or run as before"
            )


def read_rows(folder: Path, faults: list[UserError] | None = None) -> Iterator[LedgerRow]:
    """Yields the rows of a ledger, part by part; all completions of a sample follow each other by index.

    Samples of neighbouring rows are one object. Their media are references into the ledger's folder.

    Args:
        folder: Of the ledger.
        faults: Takes what is wrong with parts that are truncated or foreign, which are passed by then; None raises it.

    Raises:
        UserError: There is no ledger, a part is truncated or foreign, or a row is of another ledger.
    """
    header = read_header(folder)
    media = MediaStore(folder / MEDIA)
    text, sample = "", None
    for path, number, record in _records(folder, SCHEMA.names, faults):
        if (record["model_hash"], record["config_hash"]) != (header.model_hash, header.config_hash):
            raise _fault(path, f"row {number} was written by another model or configuration than {HEADER} names")
        try:
            if sample is None or record["sample"] != text:
                text = record["sample"]
                sample = sample_from_json(json.loads(text), media)
            yield _row(record, sample)
        except (UserError, ValueError, TypeError) as fault:
            raise _fault(path, f"row {number} is damaged: {fault}") from fault


def read_columns(folder: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields some columns of all rows, in the order of ``read_rows``.

    Raises:
        UserError: There is no ledger, or a part is truncated or foreign.
    """
    read_header(folder)
    for _, _, record in _records(folder, names):
        yield record


def done_samples(folder: Path) -> set[str]:
    """Returns the ids of the samples whose completions a ledger holds.

    Raises:
        UserError: There is no ledger, a part is truncated or foreign, or a sample has too few completions or too many.
    """
    wanted = read_header(folder).completions
    counts = Counter(record["sample_id"] for record in read_columns(folder, ["sample_id"]))
    for sample_id, count in counts.items():
        if count != wanted:
            raise UserError(
                f"the ledger {str(folder)!r} holds {count} completions of sample {sample_id!r} in the place of "
                f"{wanted}; a part file was copied or edited: put back what was there, or write the ledger anew"
            )
    return set(counts)


def _begin(folder: Path, header: LedgerHeader) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if others:
        raise UserError(
            f"{str(folder)!r} holds {others[0]!r} and no {HEADER}; give CompletionLedger.path a folder of its own"
        )
    partial = folder / f".{HEADER}"
    partial.write_text(json.dumps({"format": FORMAT, **asdict(header)}, indent=2, default=dict), encoding="utf-8")
    os.replace(partial, folder / HEADER)


def _locked(folder: Path, rank: int) -> int:
    """Opens a file that this process alone holds, until it closes it or ends, however it ends.

    The kind of lock is one that processes forked off (a loader's workers) do not share: they may outlive a kill.
    """
    descriptor = os.open(folder / f".rank-{rank:04d}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as fault:
        os.close(descriptor)
        raise UserError(
            f"another run writes to the ledger {str(folder)!r}; wait for it, or give another CompletionLedger.path"
        ) from fault
    return descriptor


def _plain(value: Any) -> Any:
    """Makes of a header's value what comes back from JSON."""
    return json.loads(json.dumps(value, default=dict))


def _record(completion: Completion, sample: str, hash_of_media: str) -> dict[str, Any]:
    verdict = completion.verdict
    return {
        "sample_id": completion.sample.id,
        "task": completion.sample.meta.category,
        "media_hash": hash_of_media,
        "sample": sample,
        "correct": None if verdict is None else verdict.correct,
        "parsed": None if verdict is None else verdict.parsed,
        "formatted": None if verdict is None else verdict.formatted,
        "rewards": list(completion.rewards.items()),
        **{
            name: getattr(completion, name)
            for name in ("index", "prompt", "text", "token_ids", "log_probs", "entropies", "log_prob_sum")
            + ("token_count", "finish_reason", "seed", "seconds")
        },
    }


def _row(record: dict[str, Any], sample: Sample) -> LedgerRow:
    judged = record["correct"] is not None
    completion = Completion(
        sample=sample,
        prompt=record["prompt"],
        text=record["text"],
        verdict=Verdict(record["correct"], record["parsed"], record["formatted"]) if judged else None,
        log_prob_sum=record["log_prob_sum"],
        token_count=record["token_count"],
        seconds=record["seconds"],
        index=record["index"],
        token_ids=tuple(record["token_ids"]),
        log_probs=tuple(record["log_probs"]),
        entropies=tuple(record["entropies"]),
        finish_reason=record["finish_reason"],
        seed=record["seed"],
        rewards=dict(record["rewards"]),
    )
    about = {name: record[name] for name in ("media_hash", "model_hash", "config_hash", "time")}
    return LedgerRow(completion, **about, extra=json.loads(record["extra"]))


def _records(
    folder: Path, names: Sequence[str], faults: list[UserError] | None = None
) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Yields file, number from 1 and columns of every row; see ``read_rows``."""
    for path in sorted(folder.glob(PARTS)):
        try:
            for number, record in enumerate(_records_of(path, names), 1):
                yield path, number, record
        except UserError as fault:
            if faults is None:
                raise
            faults.append(fault)


def _records_of(path: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields columns of every row of a part."""
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(names)):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as fault:
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise _fault(path, f"it is truncated or no Parquet: {reason}") from fault


def _check_columns(path: Path, held: pyarrow.Schema) -> None:
    missing = [name for name in SCHEMA.names if name not in held.names]
    if missing:
        raise _fault(path, f"it has no column {', '.join(missing[:3])}, so that it is no part of a ledger")
    other = [name for name in SCHEMA.names if not _same_type(held.field(name).type, SCHEMA.field(name).type)]
    if other:
        raise _fault(path, f"its column {other[0]} is {held.field(other[0]).type}, so that it is no part of a ledger")


def _same_type(held: pyarrow.DataType, wanted: pyarrow.DataType) -> bool:
    # The names of a list's items differ between versions of the format.
    if pyarrow.types.is_list(held) and pyarrow.types.is_list(wanted):
        return bool(held.value_type == wanted.value_type)
    return bool(held == wanted)


def _fault(path: Path, reason: str) -> UserError:
    match = re.match(r"part-\d+-\d+", path.name)
    mend = (
        "move it out of the folder and run predict again with the same CompletionLedger.path, which writes its "
        "samples anew and keeps all others"
        if match
        else "move it out of the folder"
    )
    return UserError(f"{path}: {reason}; {mend}")
