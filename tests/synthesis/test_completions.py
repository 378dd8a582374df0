from dataclasses import replace

import pytest

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Candidate, ImagePart, Message, TextPart, assistant_message, user_message
from lit_vlm.synthesis.completions import (
    check_candidates,
    completion_key,
    distinct_candidates,
    imitation_sample,
    is_empty,
    origin_of,
    reference_completion,
    spoken_candidates,
    total_score,
    trained,
)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([assistant_message("a b")], [assistant_message(" a\n b ")], True),
        ([assistant_message("a b")], [assistant_message("ab")], False),
        ([assistant_message("a")], [Message("assistant", (TextPart("a"),))], True),
        ([assistant_message("a")], [Message("tool", (TextPart("a"),))], False),
        ([assistant_message("a")], [Message("assistant", (ImagePart(0), TextPart("a")))], False),
        ([Message("assistant", (ImagePart(0),))], [Message("assistant", (ImagePart(1),))], False),
        ([assistant_message("a")], [assistant_message("a"), assistant_message("")], False),
    ],
)
def test_completions_are_the_same_if_they_differ_in_white_space_alone(one, other, same):
    assert (completion_key(one) == completion_key(other)) is same


def test_a_completion_is_empty_if_the_assistant_says_nothing():
    assert is_empty(())
    assert is_empty((assistant_message(" \n"),))
    assert is_empty((Message("tool", (TextPart("found"),)),))
    assert not is_empty((Message("tool", ()), assistant_message("a")))


def test_the_assistant_alone_is_trained():
    turns = (Message("assistant", ()), Message("tool", (), train=True), assistant_message("a"))
    assert [turn.train for turn in trained(turns)] == [True, False, True]


def test_the_reference_is_the_last_assistant_turn(graded):
    (turn,) = reference_completion(graded(reference="seven"))
    assert turn.text == "seven"
    assert turn.train
    assert reference_completion(graded(reference=None)) is None
    assert reference_completion(graded(reference="  ")) is None


def test_a_score_is_the_sum_of_finite_grades():
    grades = {"a": 0.1, "b": 0.2, "nan": float("nan"), "infinite": float("inf"), "none": None, "text": "N/A"}
    candidate = Candidate((), grades)
    assert total_score(candidate, ["a", "b"]) == total_score(candidate, ["b", "a"]) == 0.3
    for missing in ("nan", "infinite", "none", "text", "absent"):
        assert total_score(candidate, ["a", missing]) is None


def test_the_first_of_equal_candidates_is_kept(candidate):
    first, other, repeat = candidate("a b", right=1), candidate("c"), candidate("a  b")
    assert distinct_candidates([first, other, repeat]) == [first, other]


def test_empty_candidates_keep_their_places(candidate, graded):
    assert [index for index, _ in spoken_candidates(graded(candidate(" "), candidate("a")))] == [1]


def test_a_sample_without_candidates_is_named_by_its_place(graded):
    sample = graded()
    placed = replace(sample, meta=replace(sample.meta, origin="pairs.jsonl, line 3"))
    with pytest.raises(BadSampleError, match=r"pairs\.jsonl, line 3: has no candidates"):
        check_candidates(placed)
    assert origin_of(sample) == "s"


def test_one_candidate_alone_is_imitated(candidate, graded):
    sample = graded(candidate("a"), candidate("b"))
    earlier = (user_message("Hello?"), assistant_message("Hello."))
    sample = replace(sample, messages=(*earlier, *sample.messages))
    built = imitation_sample(sample, 1, sample.candidates[1].messages)
    assert [message.train for message in built.messages] == [False, False, False, True]
    assert [message.text for message in built.messages] == ["Hello?", "Hello.", "Which digit is this?", "b"]
    assert built.id != sample.id
    assert (built.candidates, built.preferences) == ((), ())
    assert (built.images, built.answer, built.meta) == (sample.images, sample.answer, sample.meta)
