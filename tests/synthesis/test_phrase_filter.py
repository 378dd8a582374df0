import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.synthesis.phrase_filter import PhraseFilter


def kept(operator, sample):
    return [one.text for found in operator([sample]) for one in found.candidates]


@pytest.fixture
def sample(graded, candidate):
    return graded(*map(candidate, ["Wait, let me\n re-check: 4", "The answer is 5", "Hmm, actually 6. Wait."]))


def test_what_holds_a_phrase_goes_or_stays(sample):
    assert kept(PhraseFilter(("wait",)), sample) == ["The answer is 5"]
    assert len(kept(PhraseFilter(("wait", "answer"), keep="any"), sample)) == 3
    assert kept(PhraseFilter(("wait", "actually"), keep="all"), sample) == ["Hmm, actually 6. Wait."]
    assert kept(PhraseFilter(("let me re-check",), keep="any"), sample) == ["Wait, let me\n re-check: 4"]


def test_case_may_count(sample):
    assert len(kept(PhraseFilter(("wait",), ignore_case=False), sample)) == 3


def test_questions_may_be_looked_at(make_sample):
    found, reasons = PhraseFilter(("digit",), of="questions").with_reasons([make_sample("", "7")])
    assert found == []
    assert reasons == {"questions that hold 'digit'": 1}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"phrases": ()}, "phrases"),
        ({"phrases": ("a", " ")}, "none of them empty"),
        ({"phrases": ("a",), "keep": "most"}, "any, all, none"),
        ({"phrases": ("a",), "of": "answers"}, "candidates, questions"),
    ],
)
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        PhraseFilter(**settings)
