import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rewards.class_name_reward import ClassNameReward

GOLD = "great white shark"


def test_spelling_does_not_matter_but_words_do(scored):
    assert scored(ClassNameReward(), "Great_White-Shark.", GOLD) == 1
    assert scored(ClassNameReward(), "shark", GOLD) == 0
    assert scored(ClassNameReward(), "Carcharodon", GOLD, accept=("carcharodon",)) == 1
    assert scored(ClassNameReward("contains"), "shark", GOLD) == 1


@pytest.mark.parametrize("mode", ["equal", "contains"])
def test_an_empty_answer_and_a_list_of_all_classes_earn_nothing(scored, mode):
    assert scored(ClassNameReward(mode), "", GOLD) == 0
    assert scored(ClassNameReward(mode), "-_.", GOLD) == 0
    assert scored(ClassNameReward(mode), f"tench, goldfish, {GOLD}, tiger shark, hammerhead, stingray, cock", GOLD) == 0


def test_a_sample_without_a_name_is_named(scored):
    with pytest.raises(UserError, match="sample 's': a class name"):
        scored(ClassNameReward(), "x", "-")


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match="mode is 'near'"):
        ClassNameReward("near")
