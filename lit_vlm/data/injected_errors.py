"""Plausible wrong completions of the embedded tasks, made from the truth by a slip of the eye or of the conclusion."""

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, get_args

from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.records import Sample, Split
from lit_vlm.parsing.answers import check_answer

ErrorKind = Literal["perception", "reasoning"]
ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)
MOST_READINGS = 200
"""Misreadings that are tried before a question is left without an error of a kind."""
_LAST_SENTENCE = re.compile(r"(?<=\. )[^.]+\.$")


class MisreadsTasks(Protocol):
    """A generator that can misread its own pictures."""

    def misreadings(self, split: Split, index: int, stream: random.Random) -> Iterator[tuple[str, str]]:
        """Yields thought and answer of ever other misreadings of example ``index``."""


def inject_errors(
    generator: MisreadsTasks, sample: Sample, split: Split, index: int, kinds: Sequence[ErrorKind] = ERROR_KINDS
) -> dict[ErrorKind, str]:
    """Makes wrong completions of a question, at most one of each kind.

    - ``perception``: something in the picture is taken for something else, and the thought goes on from there without
      a fault;
    - ``reasoning``: the thought reads the picture rightly up to its last sentence, which concludes as from a
      misreading. A thought of one sentence concludes nothing, so that it has no such error.

    Args:
        generator: What made the sample.
        sample: The sample, with its reference completion and its answer.
        split: Its split.
        index: Its index within the split.
        kinds: What to make.

    Returns:
        Well-formed completions by kind, wrong by ``check_answer`` and unlike one another; the same ones at each call.
        Rarely a kind is missing, where no misreading that was tried changes the answer.
    """
    truth, _, conclusion = sample.messages[-1].text.removeprefix("<think>").partition("</think>")
    errors: dict[ErrorKind, str] = {}
    for kind in kinds:
        if kind == "reasoning" and not _LAST_SENTENCE.search(truth):
            continue
        stream = random_stream("injected_errors", kind, sample.id)
        for thought, answer in itertools.islice(generator.misreadings(split, index, stream), MOST_READINGS):
            if conclusion == f"<answer>{answer}</answer>" or not answer:
                continue
            if kind == "reasoning":
                thought = _concluding_as(thought, truth)
            text = f"<think>{thought}</think><answer>{answer}</answer>"
            if text not in errors.values() and _is_wrong(text, sample):
                errors[kind] = text
                break
    return errors


def _concluding_as(thought: str, truth: str) -> str:
    """Puts the last sentence of one thought in place of that of another."""
    found = _LAST_SENTENCE.search(thought)
    return truth if found is None else _LAST_SENTENCE.sub(lambda _: found.group(), truth)


def _is_wrong(text: str, sample: Sample) -> bool:
    if sample.answer is None:
        raise ValueError(f"{sample.id} has no answer, so that nothing is wrong")
    return not check_answer(text, sample.answer).correct
