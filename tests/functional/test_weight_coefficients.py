from dataclasses import replace

import pytest

from lit_vlm.functional.weight_coefficients import (
    CoefficientRule,
    check_coefficient,
    check_filters,
    coefficient_of,
    interpolated,
)
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import WeightPlace


def layer_place(layer: int, layers: int = 9, group: str = "mlp") -> WeightPlace:
    return WeightPlace(f"model.layers.{layer}.{group}.up_proj.weight", group, layer, layers)  # type: ignore[arg-type]


OUTSIDE = {
    group: WeightPlace(name, group, None, 9)  # type: ignore[arg-type]
    for group, name in (
        ("embed", "model.embed_tokens.weight"),
        ("final_norm", "model.norm.weight"),
        ("head", "lm_head.weight"),
        ("vision", "visual.blocks.0.attn.qkv.weight"),
        ("projector", "visual.merger.mlp.0.weight"),
    )
}
PLACES = [*(layer_place(layer) for layer in range(9)), *OUTSIDE.values()]


def test_anchors_are_interpolated_over_the_layers():
    expected = [0.0, 0.25, 0.5, 0.75, 1.0, 0.875, 0.75, 0.625, 0.5]
    assert [coefficient_of([0.0, 1.0, 0.5], layer_place(layer)) for layer in range(9)] == expected


def test_one_layer_has_the_last_anchor_and_one_anchor_holds_for_all():
    assert interpolated([0.2, 0.9], 0, 1) == 0.9
    assert {interpolated([0.3], layer, 4) for layer in range(4)} == {0.3}


@pytest.mark.parametrize("layers", [2, 3, 7, 28, 80])
@pytest.mark.parametrize("anchors", [[1.0, -1.0], [0.0, 0.5, 2.0], [1.0, 0.0, 1.0, 0.0]])
def test_anchors_end_where_they_should_and_never_leave_their_range(layers: int, anchors: list[float]):
    values = [interpolated(anchors, layer, layers) for layer in range(layers)]
    assert (values[0], values[-1]) == (anchors[0], anchors[-1])
    assert min(anchors) <= min(values)
    assert max(values) <= max(anchors)


def test_a_number_leaves_embedding_and_head_out_unless_it_holds_everywhere():
    assert [coefficient_of(0.7, OUTSIDE[group]) for group in OUTSIDE] == [0.0, 0.7, 0.0, 0.7, 0.7]
    assert {coefficient_of(0.7, place, everywhere=True) for place in PLACES} == {0.7}
    assert coefficient_of(1, layer_place(0)) == 1.0


def test_anchors_outside_the_layers():
    assert [coefficient_of([0.2, 0.9], OUTSIDE[group]) for group in OUTSIDE] == [0.0, 0.9, 0.0, 0.0, 0.0]
    at = [coefficient_of([0.2, 0.9], OUTSIDE[group], everywhere=True) for group in OUTSIDE]
    assert at == [0.2, 0.9, 0.9, 0.2, 0.2]


def test_the_first_rule_that_finds_a_weight_holds_and_what_none_finds_has_0():
    rules = [CoefficientRule("layers:2-4", 0.1), CoefficientRule("up_proj", 0.2), CoefficientRule("embed", 0.3)]
    assert [coefficient_of(rules, layer_place(layer)) for layer in (1, 2, 4, 5)] == [0.2, 0.1, 0.1, 0.2]
    assert coefficient_of(rules, OUTSIDE["embed"]) == 0.3
    assert coefficient_of(rules, OUTSIDE["head"]) == coefficient_of(rules, OUTSIDE["vision"], everywhere=True) == 0.0


@pytest.mark.parametrize("always", [None, "*"])
def test_a_rule_for_all_finds_embedding_and_head_too(always: str | None):
    assert {coefficient_of([CoefficientRule(always, 0.4)], place) for place in PLACES} == {0.4}
    assert coefficient_of([CoefficientRule(always, [0.0, 1.0])], OUTSIDE["head"]) == 1.0


def test_a_rule_may_have_anchors():
    rules = [CoefficientRule("attn", 1.0), CoefficientRule("mlp", [0.0, 1.0, 0.5])]
    assert coefficient_of(rules, layer_place(2)) == 0.5
    assert coefficient_of(rules, layer_place(2, group="attn")) == 1.0


def test_a_group_is_no_piece_of_a_name():
    norm = replace(OUTSIDE["final_norm"], name="model.norm.weight")
    assert coefficient_of([CoefficientRule("norm", 1.0)], norm) == 0.0
    assert coefficient_of([CoefficientRule("norm.weight", 1.0)], norm) == 1.0


def test_one_layer_can_be_named():
    assert [CoefficientRule("layers:3", 1.0).finds(layer_place(layer)) for layer in (2, 3, 4)] == [False, True, False]


def test_a_range_may_have_no_end():
    assert [CoefficientRule("layers:3-", 1.0).finds(layer_place(layer)) for layer in (2, 3, 8)] == [False, True, True]


@pytest.mark.parametrize("bad", ["layers:", "layers:5-2", "layers:a-b", "layers:1,2", "layers:-3", ""])
def test_a_filter_that_cannot_be_read_is_refused(bad: str):
    with pytest.raises(UserError, match="layers:12-27|empty"):
        CoefficientRule(bad, 1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), [0.0, float("nan")], []])
def test_what_is_no_coefficient_is_refused(bad: float | list[float]):
    with pytest.raises(UserError):
        coefficient_of(bad, layer_place(0))
    with pytest.raises(UserError, match="attn"):
        CoefficientRule("attn", bad)
    with pytest.raises(UserError, match=r"^model\.mask (is|has)"):
        check_coefficient(bad, "model.mask")


def test_numbers_and_rules_do_not_mix():
    with pytest.raises(UserError, match="mixes"):
        coefficient_of([1.0, CoefficientRule("attn", 1.0)], layer_place(0))  # type: ignore[list-item]
    with pytest.raises(UserError, match=r"^model\.mask mixes"):
        check_coefficient([1.0, CoefficientRule("attn", 1.0)], "model.mask")  # type: ignore[list-item]


@pytest.mark.parametrize("good", [0, -0.5, [0.0, 1.0], [CoefficientRule("attn", [0.1, 0.2]), CoefficientRule("*", 1)]])
def test_what_is_a_coefficient_passes(good):
    check_coefficient(good, "model.mask")


def test_filters_that_find_something_pass():
    check_filters(0.3, PLACES, "weight")
    check_filters([0.1, 0.2], PLACES, "weight")
    rules = [CoefficientRule(name, 1.0) for name in ("mlp", "layers:0-8", "layers:8", "merger", None, "*")]
    check_filters(rules, PLACES, "weight")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("mpl", "mlp"),
        ("up_porj", "up_proj"),
        ("embed_token.", "embed_tokens"),
        ("layers:9-12", "layers 0 to 8"),
        ("attn", "attn"),
        ("zzzz", "groups of this model are embed, final_norm"),
    ],
)
def test_a_filter_that_finds_nothing_is_refused_with_what_is_close(wrong: str, hint: str):
    places = [place for place in PLACES if place.group != "attn"]
    with pytest.raises(UserError, match=rf"donors\[1\]\.weight: filter '{wrong}' finds no weight.*{hint}"):
        check_filters([CoefficientRule("mlp", 1.0), CoefficientRule(wrong, 1.0)], places, "donors[1].weight")


def test_without_layers_the_message_says_so():
    with pytest.raises(UserError, match="no decoder layers"):
        check_filters([CoefficientRule("layers:0-1", 1.0)], [], "weight")
