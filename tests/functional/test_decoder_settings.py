"""Settings under which weights cannot be compared."""

import pytest

from lit_vlm.functional.decoder_settings import unlike_settings

QWEN = {"rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu"}


def test_equal_settings_are_not_told() -> None:
    assert unlike_settings(QWEN, dict(QWEN)) == []


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({**QWEN, "rope_theta": 10000}, "rope_theta 1000000.0 against 10000.0"),
        ({**QWEN, "rms_norm_eps": 1e-5}, "rms_norm_eps 1e-06 against 1e-05"),
        ({**QWEN, "hidden_act": "gelu"}, "hidden_act silu against gelu"),
    ],
)
def test_each_setting_is_compared(other: dict, told: str) -> None:
    assert unlike_settings(QWEN, other) == [told]


def test_settings_are_found_in_all_places() -> None:
    rotary = {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000}}
    inner = {"text_config": {**rotary, "rms_norm_eps": 1e-6, "hidden_activation": "silu"}}
    # The settings of the vision side beside it must not count.
    assert unlike_settings(QWEN, {**inner, "vision_config": {"hidden_act": "gelu"}, "hidden_act": "quick"}) == []
    assert unlike_settings(QWEN, {"text_config": {}, "rope_theta": 5.0}) == ["rope_theta 1000000.0 against 5.0"]


def test_rotary_positions_may_differ_by_kind_of_layer() -> None:
    def kinds(local: float) -> dict:
        return {"rope_parameters": {"full": {"rope_theta": 1e6}, "sliding": {"rope_theta": local}}}

    assert unlike_settings(kinds(1e4), kinds(1e4)) == []
    assert len(unlike_settings(kinds(1e4), kinds(1e5))) == 1


def test_what_is_not_said_is_not_compared() -> None:
    assert unlike_settings(QWEN, {}) == unlike_settings({}, QWEN) == []
