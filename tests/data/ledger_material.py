"""Small ledgers, written as predict writes them."""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from lit_vlm.functional.ledger_files import LedgerWriter
from lit_vlm.interfaces.ledgers import LedgerHeader
from lit_vlm.interfaces.records import (
    Answer,
    Completion,
    MediaRef,
    Sample,
    SampleMeta,
    Verdict,
    assistant_message,
    user_message,
)

HEADER = LedgerHeader("tiny", "a" * 32, "c" * 32, "t" * 32, 2, 0, {"temperature": 1.0}, "0", "train")


def question(number: int, *, split="train", answer=None, text=None, category="sum", **extra) -> Sample:
    """A question about a picture of its own."""
    image = Image.new("RGB", (32, 32), (number % 256, 90, 200))
    return Sample(
        id=f"q{number}",
        messages=(user_message(text or f"Which digit is number {number}?", images=1), assistant_message("<think>")),
        images=(MediaRef(pil=image, size=image.size),),
        answer=Answer("number", answer or str(number % 10)),
        meta=SampleMeta(source="test", split=split, category=category, extra=extra),
    )


def completion(sample: Sample, index: int, text: str, correct: bool | None, **fields) -> Completion:
    """One completion of a sample."""
    verdict = None if correct is None else Verdict(correct, None, True)
    known = {"token_ids": (5, 6, 7), "log_probs": (-0.5, -0.25, -0.25), "entropies": (0.5, 1.0, 0.0)}
    known |= {"token_count": 3, "log_prob_sum": -1.0, "finish_reason": "stop", "seed": 1, "rewards": {"total": 0.5}}
    return Completion(sample, "?", text, verdict, index=index, **{**known, **fields})


def write_ledger(folder: Path, completions, rows_a_part=4, **header) -> Path:
    """Writes a ledger of completions, in parts."""
    per_sample = max((one.index + 1 for one in completions), default=1)
    writer = LedgerWriter(folder, replace(HEADER, completions=per_sample, **header))
    for start in range(0, len(completions), rows_a_part):
        writer.write(completions[start : start + rows_a_part])
    writer.close()
    return folder


def solutions(count=8, first=0, right=lambda number, index: (number + index) % 2 == 0, mark="", **about):
    """Two completions of each of some questions, some right."""
    found = []
    for number in range(first, first + count):
        sample = question(number, **about)
        for index in range(2):
            value = sample.answer.value if right(number, index) else "99"
            text = f"<think>{mark}{'so ' * (index + 1)}</think><answer>{value}</answer>"
            found.append(completion(sample, index, text, right(number, index)))
    return found
