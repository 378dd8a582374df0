import pytest

from lit_vlm.interfaces.critiques import CRITIQUE_VERDICTS
from lit_vlm.parsing.critique_verdict import conclude, is_complete, read_verdict


@pytest.mark.parametrize("verdict", CRITIQUE_VERDICTS)
def test_what_is_concluded_is_read_back(verdict):
    text = f"The sum is 5, not 6. {conclude(verdict)}"
    assert read_verdict(text) == verdict
    assert is_complete(text)


@pytest.mark.parametrize(
    "text",
    [
        "Conclusion: wrong [END]",
        "conclusion:wrong",
        "**Conclusion:** wrong [END]",
        "**Conclusion**: **Wrong** [END]",
        "Conclusion: `wrong`. [END] and on",
        "Conclusion: right [END]\nConclusion: wrong [END]",
        "Conclusion:\nwrong [END]",
        "Conclusion: wrong\nThe sum is 5.",
    ],
)
def test_spellings_of_one_verdict(text):
    assert read_verdict(text) == "wrong"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wrong [END]",
        "Conclusion: right/wrong [END]",
        "Conclusion: mostly right [END]",
        "Conclusion: correct [END]",
        "Conclusion: wrongly read [END]",
        "Conclusion: right, I think [END]",
        "Conclusion: wrong [END] Conclusion:",
        "Inconclusion: wrong [END]",
    ],
)
def test_anything_else_is_no_verdict(text):
    assert read_verdict(text) is None


def test_the_cards_critiques_are_told_apart():
    critiques = ["The sum is 5. Conclusion: wrong [END]", "The sum is (cut", "It adds up. Conclusion: right [END]"]
    assert [is_complete(text) for text in critiques] == [True, False, True]
    assert [read_verdict(text) for text in critiques] == ["wrong", None, "right"]


def test_hostile_texts_take_linear_time():
    for piece in ("Conclusion: ", "Conclusion: right" + " " * 50 + "x", "Conclusion:" + "*" * 50, " " * 50):
        assert read_verdict(piece * 20_000) is None
