import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rewards.choice_reward import ChoiceReward

OPTIONS = ("a red car", "a blue car", "a green car", "none")


@pytest.mark.parametrize("text", ["B", "(B)", "b.", "B. a blue car", "a blue car", "The answer is B"])
def test_the_right_choice_earns_one(scored, text):
    assert scored(ChoiceReward(), text, "B", type="choice", options=OPTIONS) == 1
    assert scored(ChoiceReward(), text, "C", type="choice", options=OPTIONS) == 0


def test_listing_all_choices_earns_nothing(scored):
    for gold in "ABCD":
        for text in ("A, B, C, D", "A B C D", "(A) (B) (C) (D)", "A. a red car B. a blue car", " or ".join(OPTIONS)):
            assert scored(ChoiceReward(), text, gold, type="choice", options=OPTIONS) == 0
        blocks = "".join(f"<answer>{letter}</answer>" for letter in "ABCD")
        assert scored(ChoiceReward(), blocks, gold, tagged=False, type="choice", options=OPTIONS) == 0


def test_published_modes_compare_characters(scored):
    assert scored(ChoiceReward("first_char"), "B because", "B", type="choice") == 1
    assert scored(ChoiceReward("first_char"), "A because", "B", type="choice") == 0
    assert scored(ChoiceReward("exact"), " B ", "B", type="choice") == 1
    assert scored(ChoiceReward("exact"), "(B)", "B", type="choice") == 0


def test_no_answer_earns_nothing(scored):
    for mode in ("robust", "first_char", "exact"):
        assert scored(ChoiceReward(mode), "", "A", type="choice") == 0
        assert scored(ChoiceReward(mode), "A", "A", tagged=False, type="choice") == 0


def test_a_true_choice_that_is_no_option_names_the_sample(scored):
    with pytest.raises(UserError, match="sample 'bad-one'.*letters ABCD"):
        scored(ChoiceReward(), "A", "E", type="choice", options=OPTIONS, sample_id="bad-one")


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match="mode is 'fuzzy'"):
        ChoiceReward("fuzzy")
