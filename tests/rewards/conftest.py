"""Builds completions of samples made on the spot."""

import pytest

from lit_vlm.interfaces.records import Answer, Completion, MediaRef, Sample, SampleMeta, Verdict, user_message


def build_completion(text="", value=None, *, correct=None, tokens=0, sample_id="s", size=None, extra=None, **answer):
    """A completion of a sample whose answer has the given value; ``answer`` are other fields of it."""
    sample = Sample(
        id=sample_id,
        messages=(user_message("?"),),
        images=() if size is None else (MediaRef(path="a.png", size=size),),
        answer=None if value is None else Answer(answer.pop("type", "text"), value, **answer),
        meta=SampleMeta(extra=extra or {}),
    )
    verdict = None if correct is None else Verdict(correct, None, False)
    return Completion(sample, "", text, verdict, token_count=tokens)


@pytest.fixture
def complete():
    """The factory of completions."""
    return build_completion


@pytest.fixture
def scored():
    """Scores one answer in tags by a reward."""

    def score(reward, text, value, *, tagged=True, **fields):
        text = f"<think>x</think><answer>{text}</answer>" if tagged else text
        return float(reward([build_completion(text, value, **fields)]).total[0])

    return score
