import pytest

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Answer, Candidate, ImagePart, MediaRef, Sample, assistant_message, user_message
from lit_vlm.parsing.judge_prompts import read_judge_request
from lit_vlm.synthesis.critique_prompts import CritiquePrompts


def candidate(text, **scores):
    return Candidate((assistant_message(text),), scores)


SAMPLE = Sample(
    "q1",
    (user_message("How many?", images=1), assistant_message("2")),
    images=(MediaRef(path="a.png"),),
    answer=Answer("number", "2"),
    candidates=tuple(
        candidate(text, **({} if correct is None else {"correct": correct}))
        for text, correct in (("2", 1.0), (" ", None), ("2 ", None), ("3", 0.0), ("4", None))
    ),
)


def test_each_distinct_solution_is_asked_about():
    asked = CritiquePrompts()(SAMPLE)
    assert [one.id for one in asked] == ["q1#0", "q1#3", "q1#4"]
    assert [one.critique.verdict for one in asked] == ["right", "wrong", None]
    assert [(one.meta.extra["parent"], one.meta.extra["candidate"]) for one in asked] == [
        ("q1", 0),
        ("q1", 3),
        ("q1", 4),
    ]
    for one, solution in zip(asked, ("2", "3", "4"), strict=True):
        assert read_judge_request(one.question) == ("How many?", solution)
        assert one.messages[-1].role == "user"
        assert ImagePart(0) in one.messages[-1].content
        assert one.images == SAMPLE.images
        assert one.answer is None
        assert not one.candidates


def test_evaluation_asks_about_the_first():
    transform = CritiquePrompts("Judge.")
    assert transform.for_evaluation(SAMPLE).id == "q1#0"
    plain = Sample("q2", SAMPLE.messages[:1])
    assert transform.for_evaluation(plain) is plain


def test_bad_input():
    with pytest.raises(BadSampleError, match="no candidates"):
        CritiquePrompts()(Sample("q2", SAMPLE.messages[:1]))
    with pytest.raises(UserError, match="rubric is empty"):
        CritiquePrompts(" ")
