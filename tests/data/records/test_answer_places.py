import pytest

from lit_vlm.data.records.answer_places import AnswerSource, is_free_text, tell_source
from lit_vlm.interfaces.records import Answer, Sample, assistant_message, user_message

FORMS = {"tags": "<answer>{}</answer>", "boxed": r"So \boxed{{{}}}.", "stated": "Answer: {}", "whole": "{}"}
FREE = "A long description of what there is to see in the picture and beyond."


def samples(form, count=10, *, answered=True, first=0):
    return [
        Sample(
            str(n),
            (user_message("?"), assistant_message(form.format(n))),
            answer=Answer("number", str(n)) if answered else None,
        )
        for n in range(first, first + count)
    ]


@pytest.mark.parametrize("place", FORMS)
def test_the_place_is_told_from_completions_that_agree_or_have_one(place):
    assert tell_source(samples(FORMS[place])).place == place
    alone = tell_source(samples(FORMS[place], answered=False))
    assert (alone.place, alone.from_completions) == (place, True)


@pytest.mark.parametrize("place", ["tags", "boxed", "stated"])
def test_most_completions_decide(place):
    assert tell_source(samples(FORMS[place], 7) + samples(FORMS["whole"], 3)).place == place
    # Without answers nearly all must have one: a few boxes in a chat are no answers.
    assert tell_source(samples(FORMS[place], 7, answered=False) + samples(FREE, 3, answered=False)).place == "none"


def test_completions_that_are_wrong_still_show_the_place():
    wrong = [
        Sample(s.id, s.messages, answer=Answer("number", "99"))  # not what the completion says
        for s in samples(FORMS["boxed"])
    ]
    assert tell_source(wrong).place == "boxed"


def test_free_text_is_not_compared_unless_that_is_wanted():
    chat = samples(FREE, answered=False)
    assert tell_source(chat).place == "none"
    assert tell_source(chat, free_text=True) == AnswerSource("whole", True)
    described = [Sample(s.id, s.messages, answer=Answer("text", s.messages[-1].text)) for s in chat]
    assert tell_source(described).place == "none"
    assert tell_source(described, free_text=True).place == "whole"
    assert is_free_text(described[0].answer)
    assert not is_free_text(Answer("text", "a red cup"))


def test_without_completions_any_place_counts():
    asked = [Sample("1", (user_message("?"),), answer=Answer("number", "1"))]
    assert tell_source(asked).place == "any"
    assert tell_source([]).place == "any"


def test_an_answer_that_only_a_judge_could_check_shows_no_place():
    judged = [Sample(s.id, s.messages, answer=Answer("open", None)) for s in samples("Well: {}")]
    assert tell_source(judged).place == "none"


def test_it_says_what_it_does():
    assert "in <answer></answer>" in AnswerSource().describe()
    assert "taken from there" in AnswerSource("boxed", True).describe()
    assert AnswerSource("none", reason="so").describe() == "answers are not checked: so"
