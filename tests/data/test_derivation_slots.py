import re

import pytest

from lit_vlm.data.derivation_slots import Slot, derived, sign_between

SUM = Slot(
    re.compile("([0-9]) is ([0-9])"),
    "1 is 1",
    lambda said: "knowledge" if said[1] == "1" else "reasoning",
    lambda said: said[1] == said[2],
    lambda said: f"{said[1]} is {said[1]}",
)


def said(sentence):
    return SUM.form.fullmatch(sentence)


@pytest.mark.parametrize(("sentence", "is_right"), [("1 is 1", True), ("2 is 2", True), ("1 is 2", False)])
def test_a_sentence_is_right_if_expected_or_if_it_agrees(sentence, is_right):
    assert SUM.is_right(said(sentence)) is is_right


def test_the_error_and_what_should_stand_there_follow_from_what_was_said():
    assert (SUM.error_of(said("1 is 2")), SUM.mended(said("1 is 2"))) == ("knowledge", "1 is 1")
    assert (SUM.error_of(said("3 is 2")), SUM.mended(said("3 is 2"))) == ("reasoning", "3 is 3")
    plain = Slot(re.compile("[ab]"), "a", "reasoning")
    assert (plain.error_of(re.match("b", "b")), plain.mended(re.match("b", "b"))) == ("reasoning", "a")


def test_a_derivation_without_a_fault():
    def two():
        found = yield Slot(re.compile("[0-9]"), "1", "reasoning")
        found = yield Slot(re.compile("[0-9]"), str(int(found[0]) + 1), "reasoning")
        return f"so {found[0]}"

    assert derived(two()) == (["1", "2"], "so 2")


def test_a_slot_whose_right_sentence_has_another_form_is_refused():
    def broken():
        yield Slot(re.compile("[0-9]"), "one", "reasoning")
        return ""

    with pytest.raises(ValueError, match="'one' is not of the form"):
        derived(broken())


def test_signs():
    assert [sign_between(1, 2), sign_between(2, 1), sign_between(2, 2)] == ["<", ">", "="]
