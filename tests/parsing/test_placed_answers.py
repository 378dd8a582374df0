from typing import get_args

import pytest

from lit_vlm.interfaces.records import AnswerPlace
from lit_vlm.parsing.answer_places import find_answer
from lit_vlm.parsing.placed_answers import place_answer


@pytest.mark.parametrize("place", get_args(AnswerPlace))
@pytest.mark.parametrize("text", ["7", "(3, 4.5)", "a red circle", "x_1: knight, x_2: knave", "1.5"])
def test_an_answer_is_found_where_it_was_placed(text, place):
    assert find_answer(place_answer(text, place), place) == text
