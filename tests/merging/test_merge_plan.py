"""Plans of merges: what goes where, what is read, and what is refused."""

from pathlib import Path

import pytest
import torch

from lit_vlm.functional.shard_writer import TensorSpec
from lit_vlm.functional.weight_coefficients import CoefficientRule
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import ModelReference
from lit_vlm.merging.merge_plan import MergePlan, plan_merge
from lit_vlm.merging.merge_settings import Donor, MergeSettings, NamePair
from lit_vlm.merging.saved_vector import VectorDescription, write_vector
from lit_vlm.merging.slerp import Slerp
from tests.merging.material import TOKENS, Added, Mean, MemorySource, opener, run_plan, text_model, vlm

UP = "layers.1.mlp.up_proj.weight"
EVERYWHERE = [CoefficientRule("*", 1.0)]


def planned(*sources: MemorySource, donors: list[Donor] | None = None, **options) -> MergePlan:
    settings = MergeSettings(options.pop("operation", Added()), donors or [Donor("donor")], **options)
    return plan_merge(settings, opener(*sources))


def small(label: str, numbers: list[float]) -> MemorySource:
    return MemorySource(
        label, {f"model.layers.0.mlp.up_proj.{i}": torch.tensor([float(x)]) for i, x in enumerate(numbers)}
    )


def numbers(result: dict[str, torch.Tensor]) -> list[float]:
    return [tensor.item() for tensor in result.values()]


def test_task_arithmetic_adds_weighted_differences() -> None:
    sources = small("base", [1, 2, 3]), small("a", [1.5, 2, 2]), small("b", [1, 1, 4])
    plan = planned(*sources, base="base", donors=[Donor("a", weight=0.4), Donor("b", weight=1.0)])
    assert numbers(run_plan(plan)) == pytest.approx([1.2, 1.0, 3.6])


def test_a_reasoning_vector_is_added_to_a_third_model() -> None:
    sources = small("sft", [0.8, 0.1, 0.5]), small("grpo", [1.0, 0.5, 0.3]), small("target", [0.2, -0.1, 0.4])
    mask = [CoefficientRule("proj.1", 0.0), CoefficientRule("*", 0.5)]
    plan = planned(*sources, target="target", donors=[Donor("grpo", base="sft", weight=mask)])
    assert numbers(run_plan(plan)) == pytest.approx([0.3, -0.1, 0.3])
    assert plan.outputs[1].reason == "coefficient 0"
    assert list(plan.sources) == ["target", "donor 1", "base of donor 1"]


def test_an_instruction_residual_is_added_to_the_continued_base() -> None:
    sources = small("base", [1, 1]), small("instruct", [1.3, 0.7]), small("continued", [0.9, 1.2])
    plan = planned(*sources, base="base", target="continued", donors=[Donor("instruct", weight=EVERYWHERE)])
    assert numbers(run_plan(plan)) == pytest.approx([1.2, 0.9])


def test_a_text_donor_goes_into_the_decoder_alone() -> None:
    base, donor, target = text_model("base", 0), text_model("donor", 1), vlm("vlm", 2)
    plan = planned(base, donor, target, base="base", target="vlm", donors=[Donor("donor", weight=0.5)])
    result = run_plan(plan)
    assert list(result) == list(target.names)
    delta = donor.tensors[f"model.{UP}"] - base.tensors[f"model.{UP}"]
    name = f"language_model.model.{UP}"
    torch.testing.assert_close(result[name], target.tensors[name] + 0.5 * delta)
    reasons = {output.place.group: output.reason for output in plan.outputs if not output.merged}
    assert reasons == {
        "embed": "coefficient 0",
        "head": "coefficient 0",
        "vision": "not in donor 1",
        "projector": "not in donor 1",
    }
    for output in plan.outputs:
        if not output.merged:
            assert torch.equal(result[output.place.name], target.tensors[output.place.name])


def test_planning_reads_no_weights_but_one_of_each_donor() -> None:
    base, donor, target = text_model("base", 0), text_model("donor", 1), vlm("vlm", 2)
    planned(base, donor, target, base="base", target="vlm")
    assert (len(base.was_read), len(donor.was_read), len(target.was_read)) == (1, 1, 0)


def test_donors_with_coefficient_0_are_not_read() -> None:
    sources = text_model("base", 0), text_model("donor", 1), text_model("other", 2)
    rule = [CoefficientRule("attn", 1.0)]
    plan = planned(*sources, base="base", donors=[Donor("donor"), Donor("other", weight=rule)])
    sources[2].was_read.clear()
    run_plan(plan)
    assert set(sources[2].was_read) == {n for n in sources[2].names if "self_attn" in n}
    by_group = {output.place.group: output.donors for output in plan.outputs}
    assert (by_group["attn"], by_group["mlp"], by_group["embed"]) == ((0, 1), (0,), ())


def test_all_coefficients_0_give_the_target_bit_for_bit() -> None:
    base, donor = text_model("base", 0, dtype=torch.bfloat16), text_model("donor", 1, dtype=torch.bfloat16)
    plan = planned(base, donor, base="base", donors=[Donor("donor", weight=0.0)])
    assert plan.warnings == ["all coefficients are 0: the result is the target"]
    result = run_plan(plan)
    assert all(torch.equal(result[name], base.tensors[name]) for name in base.names)


def test_arithmetic_is_float32_and_the_type_the_target_s() -> None:
    base, donor = text_model("base", 0, dtype=torch.bfloat16), text_model("donor", 1, dtype=torch.float16)
    plan = planned(base, donor, base="base")
    output = next(output for output in plan.outputs if output.merged)
    tensors = plan.tensors(output)
    assert tensors.target.dtype == tensors.deltas[0].dtype == torch.float32
    assert {output.dtype for output in plan.outputs} == {torch.bfloat16}
    wide = planned(base, donor, base="base", dtype="float32")
    assert {output.dtype for output in wide.outputs} == {torch.float32}
    assert {tensor.dtype for tensor in run_plan(wide).values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_read_leaves_the_sources_as_they_are(dtype: torch.dtype) -> None:
    class Lent(MemorySource):
        def read(self, name: str) -> torch.Tensor:
            return self.tensors[name]

    base, donor = text_model("base", 0, dtype=dtype), text_model("donor", 1, dtype=dtype)
    base, donor = (Lent(source.label, source.tensors, {}, TOKENS) for source in (base, donor))
    before = {name: tensor.clone() for name, tensor in donor.tensors.items()}
    plan = planned(base, donor, base="base", donors=[Donor("donor"), Donor("donor", weight=2.0)])
    first, second = run_plan(plan), run_plan(plan)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(donor.tensors[name], value) for name, value in before.items())


def test_seeds_follow_name_and_donor_and_nothing_else() -> None:
    def seeds(target: MemorySource, seed: int = 0) -> list[int]:
        donors = [Donor("donor", base="base"), Donor("donor", base="base", weight=2.0)]
        sources = text_model("base", 0), text_model("donor", 1), target
        plan = planned(*sources, target=target.label, donors=donors, seed=seed)
        output = next(output for output in plan.outputs if output.place.name.endswith(UP))
        return [donor.seed for donor in plan.tensors(output).donors]

    # The same decoder under other names has the same seeds.
    assert seeds(text_model("text", 3)) == seeds(vlm("vlm", 4))
    assert len({*seeds(vlm("vlm")), *seeds(vlm("vlm"), seed=1)}) == 4


def test_values_are_read_where_the_operation_mixes_weights() -> None:
    first, second = text_model("first", 0), text_model("second", 1)
    plan = planned(first, second, operation=Mean(), donors=[Donor("first", weight=0.25), Donor("second", weight=0.75)])
    result = run_plan(plan)
    # Without a base a number holds for embedding and head too.
    for name in first.names:
        torch.testing.assert_close(result[name], 0.25 * first.tensors[name] + 0.75 * second.tensors[name])
    assert all(output.merged for output in plan.outputs)
    tensors = plan.tensors(plan.outputs[0])
    assert (len(tensors.values), len(tensors.deltas)) == (2, 0)


def test_an_adapter_adds_what_it_changes() -> None:
    start = text_model("start", 0)
    adapted = MemorySource("start with adapter", start.tensors, start.configuration, TOKENS)
    adapted.tensors[f"model.{UP}"] = start.tensors[f"model.{UP}"] + 1
    target = text_model("target", 1)
    donor = Donor(ModelReference("start", adapter="adapter"))
    plan = planned(start, adapted, target, target="target", donors=[donor])
    output = next(output for output in plan.outputs if output.place.name.endswith(UP))
    torch.testing.assert_close(plan.tensors(output).deltas[0], torch.ones(8, 4))


def saved_vector(folder: Path, weights: dict[str, torch.Tensor], layers: int = 2) -> str:
    specs = [TensorSpec(name, value.dtype, tuple(value.shape)) for name, value in weights.items()]
    write_vector(folder, specs, weights.__getitem__, VectorDescription("plus", "minus", layers))
    return str(folder)


def test_a_saved_vector_needs_no_base_and_may_hold_a_part(tmp_path: Path) -> None:
    target = vlm("vlm", 0)
    vector = saved_vector(tmp_path / "vector", {UP: torch.full((8, 4), 2.0, dtype=torch.bfloat16)})
    plan = planned(target, target="vlm", donors=[Donor(vector=vector, weight=-0.5)])
    assert {output.place.name for output in plan.outputs if output.merged} == {f"language_model.model.{UP}"}
    result = run_plan(plan)
    name = f"language_model.model.{UP}"
    torch.testing.assert_close(result[name], target.tensors[name] - 1)
    assert all(torch.equal(result[other], target.tensors[other]) for other in result if other != name)
    (tensors,) = (plan.tensors(output) for output in plan.outputs if output.merged)
    assert tensors.donors[0].value is None


def test_vectors_and_models_go_together(tmp_path: Path) -> None:
    base, donor = text_model("base", 0), text_model("donor", 1)
    vector = saved_vector(tmp_path / "vector", {UP: torch.ones(8, 4), "embed_tokens.weight": torch.ones(3, 4)})
    plan = planned(base, donor, base="base", donors=[Donor("donor"), Donor(vector=vector, weight=EVERYWHERE)])
    result = run_plan(plan)
    torch.testing.assert_close(result[f"model.{UP}"], donor.tensors[f"model.{UP}"] + 1)
    torch.testing.assert_close(result["model.norm.weight"], donor.tensors["model.norm.weight"])
    torch.testing.assert_close(result["model.embed_tokens.weight"], base.tensors["model.embed_tokens.weight"] + 1)
    # A vector without a head says nothing of the head.
    assert torch.equal(result["lm_head.weight"], base.tensors["lm_head.weight"])


def test_a_vector_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    target = text_model("target")
    deep = Donor(vector=saved_vector(tmp_path / "deep", {UP: torch.ones(8, 4)}, layers=12))
    with pytest.raises(UserError, match="has 12 decoder layers, target .target. has 2"):
        planned(target, target="target", donors=[deep])
    fits = Donor(vector=saved_vector(tmp_path / "fits", {UP: torch.ones(8, 4)}))
    with pytest.raises(UserError, match="Mean mixes whole weights, but donor 1 .* holds differences; give a model"):
        planned(target, target="target", donors=[fits], operation=Mean())


def test_names_of_another_family_are_mapped() -> None:
    base, donor = text_model("base", 0), text_model("donor", 1)
    for source in (base, donor):
        source.tensors = {name.replace("model.layers", "transformer.h"): t for name, t in source.tensors.items()}
    pairs = [NamePair(r"^transformer\.h\.", "model.layers.")]
    plan = planned(base, donor, vlm("vlm", 2), target="vlm", base="base", names=pairs)
    assert sum(output.merged for output in plan.outputs) == 9
    with pytest.raises(UserError, match="names: 'nowhere' is found in no name of a donor, such as model.embed_tokens"):
        planned(base, donor, vlm("vlm", 2), target="vlm", base="base", names=[*pairs, NamePair("nowhere", "x")])


def test_settings_that_differ_are_told_loudly() -> None:
    base, donor = text_model("base", 0, rope_theta=10000.0), text_model("donor", 1, rope_theta=1e6)
    (warning,) = planned(base, donor, base="base").warnings
    assert warning == (
        "target (base) and donor 1 (donor) compute differently with the same weights: rope_theta 10000.0 against "
        "1000000.0"
    )


def test_tokenizers_that_differ_are_told_where_no_rows_are_merged() -> None:
    donor = text_model("donor", 1, tokens={"b": 0, "a": 1, "c": 2})
    (warning,) = planned(text_model("base"), donor, base="base").warnings
    assert "tokens in different rows: 'a' (0 and 1), 'b' (1 and 0)" in warning


def test_a_donor_that_names_another_ancestor_is_told() -> None:
    base, donor = text_model("base", 0, _name_or_path="start"), text_model("donor", 1, _name_or_path="elsewhere")
    (warning,) = planned(base, donor, base="base").warnings
    assert warning == "donor 1 (donor) does not name base (base) as what it was trained from; is that its base?"


def test_a_filter_of_the_operation_that_finds_nothing_is_refused() -> None:
    models = small("a", [1, 2]), small("b", [2, 3])
    rules = [CoefficientRule("proj.7", 0.5), CoefficientRule("*", 0.1)]
    with pytest.raises(UserError, match=r"operation\.t: filter 'proj\.7' finds no weight"):
        planned(*models, operation=Slerp(t=rules), donors=[Donor("a"), Donor("b")])
