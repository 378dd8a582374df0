import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rewards.answer_coordinates import in_gold_space

BOX = [(0.0, 0.0, 1.0, 1.0)]


def test_each_space_maps_to_each_other(complete):
    same = {"pixel": [50.0, 100.0], "norm1": [0.25, 0.5], "norm1000": [250.0, 500.0]}
    for gold, wanted in same.items():
        completion = complete("", BOX, type="boxes", coords=gold, size=(200, 200))
        for given, numbers in same.items():
            assert in_gold_space(numbers * 2, completion, given) == pytest.approx(wanted * 2)


def test_without_a_space_nothing_changes(complete):
    assert in_gold_space([1, 2], complete("", BOX, type="boxes"), None) == [1, 2]


def test_what_is_not_known_names_the_sample(complete):
    with pytest.raises(UserError, match="'s' does not say in which space"):
        in_gold_space([1, 2], complete("", BOX, type="boxes"), "norm1")
    with pytest.raises(UserError, match="'s': the size of its image is not known"):
        in_gold_space([1, 2], complete("", BOX, type="boxes", coords="pixel"), "norm1")
