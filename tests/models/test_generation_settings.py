import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.generation_settings import GenerationSettings


def test_temperature_0_decodes_greedily_without_words_of_sampling():
    assert GenerationSettings(max_new_tokens=5).options() == {
        "max_new_tokens": 5,
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
    }
    assert GenerationSettings(temperature=0.5, top_k=3).options()["do_sample"] is True


def test_equal_completions_are_refused():
    with pytest.raises(UserError, match=r"completions is 2 and generation\.temperature 0"):
        GenerationSettings(completions=2)
