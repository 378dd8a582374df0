"""Which weights go into which: tied heads, rows of vocabularies, weights that a donor cannot have, and refusals."""

import pytest
import torch

from lit_vlm.functional.weight_coefficients import CoefficientRule
from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.merge_plan import MergePlan, plan_merge
from lit_vlm.merging.merge_settings import Donor, MergeSettings
from tests.merging.material import TOKENS, Added, Mean, MemorySource, Middle, opener, run_plan, text_model, vlm

EVERYWHERE = [CoefficientRule("*", 1.0)]
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def planned(*sources: MemorySource, donors: list[Donor] | None = None, **options) -> MergePlan:
    chosen = donors or [Donor("donor", weight=options.pop("weight", 1.0))]
    settings = MergeSettings(options.pop("operation", Added()), chosen, **options)
    return plan_merge(settings, opener(*sources))


def refused(*sources: MemorySource, **options) -> str:
    with pytest.raises(UserError) as caught:
        planned(*sources, **options)
    return str(caught.value)


# Tied heads: T the target, D the donor, B the base.


@pytest.mark.parametrize("target_tied", [True, False])
@pytest.mark.parametrize("donor_tied", [True, False])
@pytest.mark.parametrize("base_tied", [True, False])
def test_the_written_names_are_the_target_s_own(target_tied: bool, donor_tied: bool, base_tied: bool) -> None:
    target, donor, base = (
        text_model("target", 0, tied=target_tied),
        text_model("donor", 1, tied=donor_tied),
        text_model("base", 2, tied=base_tied),
    )
    weight = [CoefficientRule("embed", 1.0), CoefficientRule("head", 1.0)]
    plan = planned(target, donor, base, target="target", base="base", weight=weight)
    result = run_plan(plan)
    assert list(result) == list(target.names)
    d, b = donor.tensors, base.tensors
    torch.testing.assert_close(result[EMBED], target.tensors[EMBED] + d[EMBED] - b[EMBED])
    if target_tied:
        assert donor_tied or any("head of donor 1 (donor) is left out" in warning for warning in plan.warnings)
    elif donor_tied and not base_tied:
        assert torch.equal(result[HEAD], target.tensors[HEAD])
        assert any("head left out" in warning for warning in plan.warnings)
    else:
        delta = d.get(HEAD, d[EMBED]) - b.get(HEAD, b[EMBED])
        torch.testing.assert_close(result[HEAD], target.tensors[HEAD] + delta)


def test_a_head_that_is_untied_starts_as_the_embedding() -> None:
    target, donor, base = vlm("vlm", 0, tied=True), text_model("donor", 1), text_model("base", 2, tied=True)
    plan = planned(target, donor, base, target="vlm", base="base", weight=EVERYWHERE, tied="untie")
    result = run_plan(plan)
    assert plan.unties
    assert list(result) == [*target.names, "language_model.lm_head.weight"]
    own = target.tensors["language_model.model.embed_tokens.weight"]
    torch.testing.assert_close(result["language_model.lm_head.weight"], own + donor.tensors[HEAD] - base.tensors[EMBED])
    kept = planned(target, donor, base, target="vlm", base="base", tied="untie")
    assert torch.equal(run_plan(kept)["language_model.lm_head.weight"], own)


def test_a_spare_head_of_a_tied_target_is_not_written() -> None:
    target, donor = text_model("target", 0, tied=True), text_model("donor", 1, tied=True)
    target.tensors[HEAD] = target.tensors[EMBED].clone()
    plan = planned(target, donor, base="target")
    assert HEAD not in run_plan(plan)
    assert not plan.unties


def test_untying_an_untied_model_changes_nothing() -> None:
    target, donor = text_model("target", 0), text_model("donor", 1)
    plan = planned(target, donor, base="target", tied="untie")
    assert not plan.unties
    assert list(run_plan(plan)) == list(target.names)


# Vocabularies.


def test_new_tokens_and_padding_stay_the_target_s() -> None:
    tokens = {**TOKENS, "<think>": 3}
    target, base = text_model("target", 0, rows=6, tokens=tokens), text_model("base", 1)
    donor = text_model("donor", 2, rows=4)
    plan = planned(target, base, donor, target="target", base="base", weight=EVERYWHERE)
    result = run_plan(plan)
    for name in (EMBED, HEAD):
        torch.testing.assert_close(
            result[name][:3], target.tensors[name][:3] + donor.tensors[name][:3] - base.tensors[name]
        )
        assert torch.equal(result[name][3:], target.tensors[name][3:])
    assert any(warning.startswith("3 of 6 rows of embedding and head stay the target's") for warning in plan.warnings)


def test_rows_that_stay_do_so_under_any_operation() -> None:
    target, donor = text_model("target", 0, rows=5), text_model("donor", 1)
    # The operation doubles what it is given.
    plan = planned(target, donor, target="target", operation=Mean(), weight=2.0)
    result = run_plan(plan)
    assert torch.equal(result[EMBED][3:], target.tensors[EMBED][3:])
    torch.testing.assert_close(result[EMBED][:3], 2 * donor.tensors[EMBED])


def test_rows_are_gathered_by_token() -> None:
    target, base = text_model("target", 0), text_model("base", 1)
    donor = text_model("donor", 2, tokens={"c": 0, "a": 1, "b": 2})
    plan = planned(target, base, donor, target="target", base="base", weight=EVERYWHERE, vocabulary="by_token")
    order = [1, 2, 0]
    torch.testing.assert_close(
        run_plan(plan)[EMBED], target.tensors[EMBED] + donor.tensors[EMBED][order] - base.tensors[EMBED]
    )


def test_tokens_in_other_rows_are_refused_where_rows_are_merged() -> None:
    sources = text_model("base"), text_model("donor", 2, tokens={"c": 0, "a": 1, "b": 2})
    assert "give vocabulary by_token, or embed and head the coefficient 0" in refused(
        *sources, base="base", weight=EVERYWHERE
    )
    assert planned(*sources, base="base").outputs


def test_without_tokenizers_rows_are_taken_as_they_stand() -> None:
    sources = text_model("base", tokens=None), text_model("donor", 2, tokens=None)
    plan = planned(*sources, base="base", weight=EVERYWHERE)
    torch.testing.assert_close(run_plan(plan)[EMBED], sources[1].tensors[EMBED])
    assert any("taken as they stand: no tokenizer of" in warning for warning in plan.warnings)


def test_another_width_is_refused() -> None:
    donor = text_model("donor", 1)
    donor.tensors[EMBED] = torch.zeros(3, 7)
    told = refused(text_model("base"), donor, base="base", weight=EVERYWHERE)
    assert told == (
        "donor 1 (donor) has other shapes than target (base) (give models of one size, or coefficient 0): "
        f"{EMBED} (3, 7) against (3, 4)"
    )


# Weights that only some of the models have.


def test_a_text_donor_beside_a_vlm_leaves_the_vision_side_to_it() -> None:
    target, other, text = vlm("target", 0), vlm("other", 1), text_model("text", 2)
    donors = [Donor("other", weight=0.5), Donor("text", weight=0.25, base="target")]
    plan = planned(target, other, text, base="target", donors=donors)
    vision = next(output for output in plan.outputs if output.place.group == "vision")
    assert vision.donors == (0,)
    name = vision.place.name
    torch.testing.assert_close(run_plan(plan)[name], (target.tensors[name] + other.tensors[name]) / 2)


def test_a_text_base_keeps_the_vision_side() -> None:
    target, donor, base = vlm("target", 0), vlm("donor", 1), text_model("base", 2)
    plan = planned(target, donor, base, target="target", base="base")
    assert {output.reason for output in plan.outputs if output.place.group == "vision"} == {"not in base"}


def test_an_operation_on_two_models_keeps_what_only_one_has() -> None:
    donors = [Donor("vlm"), Donor("text")]
    plan = planned(vlm("vlm", 0), text_model("text", 1), operation=Middle(), donors=donors)
    groups = {output.place.group: output.merged for output in plan.outputs}
    assert groups["vision"] is False
    assert groups["attn"] is True


def test_an_operation_on_two_models_is_given_both_where_one_has_coefficient_0() -> None:
    donors = [Donor("first", weight=0.0), Donor("second")]
    plan = planned(text_model("first", 0), text_model("second", 1), operation=Middle(), donors=donors)
    assert {output.donors for output in plan.outputs} == {(0, 1)}


def test_constants_are_kept() -> None:
    base, donor = text_model("base", 0), text_model("donor", 1)
    base.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    base.tensors["vision_tower.position_ids"] = torch.arange(3)
    donor.tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    plan = planned(base, donor, base="base")
    reasons = {output.place.name.split(".")[-1]: output.reason for output in plan.outputs if output.reason}
    assert reasons["inv_freq"] == reasons["position_ids"] == "no weight but a constant"


def test_a_donor_s_vision_side_is_left_out_of_a_text_model() -> None:
    plan = planned(text_model("text", 0), vlm("donor", 1), base="text")
    assert plan.warnings == ["2 weights of donor 1 (donor) outside the decoder are left out: the target has none"]


# What does not match is refused, all of it at once.


def test_all_shapes_that_differ_are_listed() -> None:
    donor = text_model("donor", 1)
    for layer in (0, 1):
        donor.tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = torch.zeros(2, 2)
    told = refused(text_model("base"), donor, base="base")
    assert told == (
        "donor 1 (donor) has other shapes than target (base) (give models of one size, or coefficient 0): "
        "model.layers.0.mlp.up_proj.weight (2, 2) against (8, 4), "
        "model.layers.1.mlp.up_proj.weight (2, 2) against (8, 4)"
    )
    no_mlp = [CoefficientRule("attn", 1.0)]
    assert planned(text_model("base"), donor, base="base", weight=no_mlp).outputs


def test_all_missing_and_homeless_weights_are_listed() -> None:
    donor, base = text_model("donor", 1, layers=12), text_model("base", layers=12)
    for layer in range(12):
        donor.tensors[f"model.layers.{layer}.q_norm"] = donor.tensors.pop(f"model.layers.{layer}.self_attn.q_proj.bias")
    told = refused(base, donor, base="base")
    missing, homeless = told.split("; ")
    assert missing.startswith("donor 1 (donor) lacks weights that target (base) has")
    assert "model.layers.9.self_attn.q_proj.bias and 2 more" in missing
    assert homeless.startswith("donor 1 (donor) has weights that target (base) has no place for: layers.0.q_norm,")


def test_another_vision_side_is_refused_unless_its_coefficient_is_0() -> None:
    target, donor = vlm("target", 0), vlm("donor", 1)
    donor.tensors["vision_tower.other"] = donor.tensors.pop("vision_tower.encoder.layers.0.mlp.fc1.weight")
    told = refused(target, donor, base="target")
    assert "(give vision and projector the coefficient 0 to keep the target's): vision_tower.encoder" in told
    without = [CoefficientRule("vision", 0.0), CoefficientRule("projector", 0.0), CoefficientRule("*", 1.0)]
    assert planned(target, donor, base="target", weight=without).outputs


def test_another_number_of_layers_is_refused() -> None:
    told = refused(text_model("base"), text_model("donor", 1, layers=3), base="base")
    assert told == "donor 1 (donor) has 3 decoder layers, target (base) has 2; give models of one size"


def test_models_without_a_name_in_common_are_refused() -> None:
    donor = MemorySource("donor", {"transformer.h.0.weight": torch.zeros(1)})
    told = refused(text_model("base"), donor, base="base")
    assert "donor 1 (donor) and target (base) have no weight in common (transformer.h.0.weight against model." in told


def test_a_merge_that_merges_nothing_is_refused() -> None:
    vision = [CoefficientRule("vision", 1.0)]
    target, base, donor = vlm("vlm", 0), text_model("base", 1), text_model("donor", 2)
    told = refused(target, base, donor, target="vlm", base="base", weight=vision)
    assert told.startswith("nothing would be merged: vision_tower")
    assert "not in donor 1" in told
    assert "donor 1 (donor) has model.embed_tokens.weight" in told


def test_a_filter_that_finds_nothing_is_refused() -> None:
    told = refused(text_model("base"), text_model("donor", 1), base="base", weight=[CoefficientRule("mpl", 1.0)])
    assert told.startswith("merge.donors[0].weight: filter 'mpl' finds no weight; did you mean mlp")


def test_a_missing_base_is_refused() -> None:
    assert "Added needs what donor 1 (donor) differs from; give base" in refused(text_model("donor"))


def test_a_donor_that_is_its_base_is_refused() -> None:
    assert "donor 1 (donor) is its own base" in refused(text_model("donor"), base="donor")
    same = text_model("copy", 0)
    assert "donor 1 (copy) and base (base) are the same files" in refused(
        text_model("base", 0), same, base="base", donors=[Donor("copy")]
    )


@pytest.mark.parametrize("density", [0.0, -0.5, 1.5])
def test_a_density_lies_above_0_and_up_to_1(density: float) -> None:
    donors = [Donor("donor", density=density)]
    assert f"is {density}; give one above 0 and up to 1" in refused(
        text_model("base"), text_model("donor", 1), base="base", donors=donors
    )


def test_densities_follow_rules_and_are_1_elsewhere() -> None:
    donors = [Donor("donor", density=[CoefficientRule("attn", 0.25)])]
    plan = planned(text_model("base"), text_model("donor", 1), base="base", donors=donors)
    found = {o.place.group: plan.tensors(o).donors[0].density for o in plan.outputs if o.merged}
    assert found == {"attn": 0.25, "mlp": 1.0, "norm": 1.0, "final_norm": 1.0}
