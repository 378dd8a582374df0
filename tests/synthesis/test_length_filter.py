import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.synthesis.length_filter import LengthFilter


def kept(operator, sample):
    return [one.text for found in operator([sample]) for one in found.candidates]


def test_words_and_characters_are_counted_without_white_space(graded, candidate):
    sample = graded(*map(candidate, ["", "one", "one  two", "one two three"]))
    assert kept(LengthFilter(), sample) == ["one", "one  two", "one two three"]
    assert kept(LengthFilter(least=0, most=1), sample) == ["", "one"]
    assert kept(LengthFilter(unit="characters", least=4, most=7), sample) == ["one  two"]


def test_questions_may_be_measured(make_sample):
    sample = make_sample("", "7")  # "Which digit is this?"
    assert LengthFilter(of="questions", least=4, most=4)([sample]) == [sample]
    found, reasons = LengthFilter(of="questions", most=3).with_reasons([sample])
    assert found == []
    assert reasons == {"questions of more than 3 words": 1}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"least": -1}, "0 or more"),
        ({"least": 3, "most": 2}, "exchange"),
        ({"unit": "tokens"}, "words, characters"),
        ({"of": "answers"}, "candidates, questions"),
    ],
)
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        LengthFilter(**settings)
